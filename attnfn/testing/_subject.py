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

    Parameters
    ----------
    attention : function of (query, key, value)
        Takes options by name and returns the output.
    options : frozenset of str
        The names among `OPTIONS` that its signature has a place for.
    attention_with_lse : function of (query, key, value), optional
        Returns the output and the log-sum-exp, where the function returns one. Default: None.
    vjp : function of (query, key, value, d_out), optional
        Returns the gradients of query, key and value and, where given, of bias and sinks.
        Default: None, those that its library finds.
    name : str, optional
        What it is called in a report. Default: "attention".

    See Also
    --------
    attnfn_like : Makes one of a function with attnfn's axes; each other signature has its own.

    Examples
    --------
    >>> import attnfn as af
    >>> from attnfn.testing import attnfn_like
    >>> subject = attnfn_like(af.attention)
    >>> subject.name, "softcap" in subject.options, subject.attention_with_lse
    ('attention', True, None)
    """

    attention: Callable[..., Array]
    options: frozenset[str]
    attention_with_lse: Callable[..., tuple[Array, Array]] | None = None
    vjp: Callable[..., tuple[Any, ...]] | None = None
    name: str = "attention"
