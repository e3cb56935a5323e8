"""One plain value: a number, a name, a pair, a function."""

import math
from collections.abc import Collection, Sequence
from typing import Any

from .._backend import is_bool, is_integer, is_real
from ._words import listed, shown

__all__ = [
    "check_above",
    "check_activation",
    "check_bool",
    "check_choice",
    "check_epsilon",
    "check_even",
    "check_function",
    "check_integer",
    "check_map",
    "check_options",
    "check_pair",
    "check_real",
    "check_rng",
    "check_shape",
    "check_share",
    "check_text",
]


def check_options(function: str, given: Collection[str], known: Collection[str], /) -> None:
    for name in given:
        if name not in known:
            msg = f"{function}() has no option `{name}`; it takes {listed(sorted(known))}."
            raise TypeError(msg)


def check_choice(name: str, choice: Any, known: Sequence[str], /) -> None:
    if not isinstance(choice, str) or choice not in known:
        msg = f"`{name}` must be one of {', '.join(map(repr, known))}; got {choice!r}."
        raise ValueError(msg)


def check_activation(activation: Any, known: Sequence[str], /) -> None:
    if not callable(activation) and activation not in known:
        names = ", ".join(map(repr, known))
        msg = (
            f"`activation` must be one of {names}, or a function of one array; "
            f"got {shown(activation)}. SwiGLU is 'silu' with parameters that have a w_gate."
        )
        raise ValueError(msg)


def check_epsilon(epsilon: Any, /) -> None:
    check_real("epsilon", epsilon)
    if not 0 <= epsilon < math.inf:
        msg = f"`epsilon` must be 0 or more, and finite; got {epsilon}."
        raise ValueError(msg)


def check_bool(name: str, x: Any, /) -> None:
    if not is_bool(x):
        msg = f"`{name}` must be True or False; got {shown(x)}."
        raise TypeError(msg)


def check_integer(name: str, x: Any, /, *, least: int | None = None, also: str = "") -> None:
    if not is_integer(x):
        msg = f"`{name}` must be an int{also and f' or {also}'}; got {shown(x)}."
        raise TypeError(msg)
    if least is not None and x < least:
        msg = f"`{name}` must be {least} or more; got {x}."
        raise ValueError(msg)


def check_real(name: str, x: Any, /, *, also: str = "") -> None:
    if not is_real(x):
        msg = f"`{name}` must be a number{also and f' or {also}'}; got {shown(x)}."
        raise TypeError(msg)


def check_above(name: str, x: Any, bound: float, /) -> None:
    check_real(name, x)
    if not bound < x < math.inf:
        msg = f"`{name}` must be finite and greater than {bound}; got {x}."
        raise ValueError(msg)


def check_even(name: str, x: Any, /) -> None:
    """Check a number of features that come in pairs."""
    check_integer(name, x, least=2)
    if x % 2:
        msg = f"`{name}` must be even, since features come in pairs; got {x}."
        raise ValueError(msg)


def check_shape(name: str, x: Any, /) -> None:
    """Check what gives some axes: their sizes, or one."""
    for n in x if isinstance(x, tuple | list) else (x,):
        if not is_integer(n):
            msg = f"`{name}` must be an int or a tuple of ints; got {shown(x)}."
            raise TypeError(msg)
        if n < 0:
            msg = f"`{name}` must hold sizes of 0 or more; got {x}."
            raise ValueError(msg)


def check_text(name: str, x: Any, /) -> None:
    if not isinstance(x, str):
        msg = f"`{name}` must be a str; got {shown(x)}."
        raise TypeError(msg)


def check_pair(name: str, x: Any, /) -> None:
    if len(x) != 2:
        msg = (
            f"`{name}` must be one array of ids, or a pair of them for queries and keys; "
            f"got a {type(x).__name__} of {len(x)}."
        )
        raise ValueError(msg)


def check_function(name: str, x: Any, /) -> None:
    if x is not None and not callable(x):
        msg = (
            f"`{name}` must be a function of (scores, q_pos, kv_pos); got {shown(x)}. "
            f"To add an array to the scores, use `bias`."
        )
        raise TypeError(msg)


def check_share(name: str, x: Any, /) -> None:
    check_real(name, x)
    if not 0 <= x <= 1:
        msg = f"`{name}` must be in [0, 1]; got {x}."
        raise ValueError(msg)


def check_map(name: str, x: Any, /) -> None:
    if x is not None and not callable(x):
        msg = f"`{name}` must be a function of one array; got {shown(x)}."
        raise TypeError(msg)


def check_rng(rng: Any, kind: type, /) -> None:
    if not isinstance(rng, kind):
        msg = (
            f"`rng` must be a numpy.random.Generator; got {shown(rng)}. "
            f"Make one with numpy.random.default_rng(seed)."
        )
        raise TypeError(msg)
