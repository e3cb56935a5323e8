"""What is given for a derivative beside the arguments."""

from typing import Any

from .._backend import namespace
from .._typing import Array
from ._words import agree, shape_of, shown_kind

__all__ = [
    "check_pair_saved",
    "check_primals",
    "check_tangent_shape",
    "check_tangents",
    "check_upstream",
]


def check_pair_saved(saved: Any, /) -> None:
    if not isinstance(saved, tuple | list) or len(saved) != 2:
        msg = (
            f"`saved` must be a pair (out, lse), as attention_with_lse() returns it; "
            f"got {shown_kind(saved)}."
        )
        raise TypeError(msg)


def check_upstream(gradients: Any, /, **above: Any) -> None:
    """Check that gradients come with those that they were computed from."""
    if gradients is not None and above["d_out"] is None:
        msg = (
            "`gradients` must come with `d_out`, the gradient of the output that they were "
            "computed from; got None."
        )
        raise ValueError(msg)
    for name, x in above.items():
        if gradients is None and x is not None:
            msg = f"`{name}` must be None without `gradients`; got {shown_kind(x)}."
            raise ValueError(msg)
    if gradients is not None and not (
        isinstance(gradients, tuple | list) and 1 <= len(gradients) <= 5
    ):
        msg = (
            f"`gradients` must be a tuple (query, key, value, bias, sinks), or the first of "
            f"them; got {shown_kind(gradients)}."
        )
        raise TypeError(msg)


def check_primals(primals: Any, /) -> None:
    if not isinstance(primals, tuple | list) or len(primals) != 3:
        msg = (
            f"`primals` must be a tuple (query, key, value); got {shown_kind(primals)}. "
            f"`bias` and `sinks` are options, as in attention()."
        )
        raise TypeError(msg)


def check_tangents(tangents: Any, /) -> None:
    if not isinstance(tangents, tuple | list) or not 3 <= len(tangents) <= 5:
        msg = (
            f"`tangents` must be a tuple (query, key, value), with bias and sinks after them "
            f"if these change, too; got {shown_kind(tangents)}. What does not change is ()."
        )
        raise TypeError(msg)


def check_tangent_shape(name: str, x: Array, argument: str, given: Any, /) -> None:
    """Check that a tangent has an argument to change, and its shape."""
    if given is None or callable(given):
        got = "not given" if given is None else "a function"
        msg = (
            f"`{name}` must be () unless there is an array `{argument}` to change; got shape "
            f"{shape_of(x)} where `{argument}` is {got}."
        )
        raise ValueError(msg)
    own, wanted = shape_of(x), () if namespace(given) is None else shape_of(given)
    if len(own) != len(wanted) or not all(map(agree, own, wanted)):
        msg = f"`{name}` must have the shape of `{argument}`, here {wanted}; got shape {own}."
        raise ValueError(msg)
