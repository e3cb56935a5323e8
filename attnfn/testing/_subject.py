"""A function under test, as every check calls it."""

from collections.abc import Callable
from typing import Any, NamedTuple

from .._typing import Array

__all__ = ["OPTIONS", "Subject"]

#: The options that a case may use: attnfn's, and ``lengths``, how many keys each sequence has.
OPTIONS = frozenset(
    {
        "mask",
        "bias",
        "is_causal",
        "window_size",
        "q_offset",
        "segment_ids",
        "lengths",
        "scale",
        "softcap",
        "score_mod",
        "sinks",
        "dropout_mask",
        "dropout_rate",
    }
)


class Subject(NamedTuple):
    """
    A function under test behind attnfn's axes and option names, made by an adapter.

    Arrays are of the function's own library; what an option *means* is up to the function: a
    `Dialect` says so.
    """

    #: ``(query, key, value, /, **options) -> out``
    attention: Callable[..., Array]
    #: The names among `OPTIONS` that its signature has a place for.
    options: frozenset[str]
    #: ``(query, key, value, /, **options) -> (out, lse)``, where it returns an lse.
    attention_with_lse: Callable[..., tuple[Array, Array]] | None = None
    #: ``(query, key, value, d_out, /, **options)`` -> the gradients of query, key, value and,
    #: where given, bias and sinks; without it, those that its library finds.
    vjp: Callable[..., tuple[Any, ...]] | None = None
    #: What it is called in a report.
    name: str = "attention"
