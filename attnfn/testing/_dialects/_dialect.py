"""What a known implementation does: inputs, options and result over the one core."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ..._attention import attention_with_lse
from ..._typing import Array
from .._subject import Subject
from ._conventions import Conventions
from ._translate import translated

__all__ = ["Dialect"]


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """
    What one implementation of attention does, where implementations differ.

    It is data, and it computes: inputs and options are turned into attnfn's, attention is
    attnfn's, and the result is turned back. What differs by rounding alone is not in it.

    Parameters
    ----------
    name : str
        Its name in `DIALECTS`.
    title : str
        Its full name, as it is imported or written in its specification.
    conventions : Conventions
        Its answers to the questions on which implementations differ.
    signature : function
        The adapter that turns a function of its signature into a `Subject`.
    evidence : {"verified", "from source"}
        Whether its package was run beside this, or its source was read.
    source : str
        The package and version that was run, or the file and commit that was read.
    features : frozenset of str
        What it has, whatever it calls it: names among `OPTIONS`, "groups", for fewer key heads
        than query heads, and "lse", for returning the log-sum-exp.
    notes : tuple of str, optional
        What no convention says.

    See Also
    --------
    DIALECTS : Those that are known.
    check_attention : Holds a function to one.

    Examples
    --------
    A query that may attend to nothing, as `jax.nn.dot_product_attention` answers it:

    >>> import numpy as np
    >>> from attnfn.testing import DIALECTS
    >>> query, key, value = np.zeros((1, 2)), np.zeros((2, 2)), np.asarray([[1.0], [3.0]])
    >>> nothing = np.asarray([False, False])
    >>> DIALECTS["jax_nn"].attention(query, key, value, mask=nothing).item()
    2.0
    >>> DIALECTS["torch_sdpa"].attention(query, key, value, mask=nothing).item()
    0.0
    """

    name: str
    title: str
    conventions: Conventions
    signature: Callable[..., Subject]
    evidence: Literal["verified", "from source"]
    source: str
    features: frozenset[str]
    notes: tuple[str, ...] = ()

    def attention(self, query: Array, key: Array, value: Array, /, **options: Any) -> Array:
        """
        Attention as this implementation computes it, in attnfn's axes.

        Parameters
        ----------
        query, key, value : array
            As `attnfn.attention` takes them, of any array library.
        **options
            The options of `attnfn.attention` and ``lengths``, how many keys each sequence has;
            they mean what they mean to this implementation.

        Returns
        -------
        array
            The output.
        """
        out, _ = self.attention_with_lse(query, key, value, **options)
        return out

    def attention_with_lse(
        self, query: Array, key: Array, value: Array, /, **options: Any
    ) -> tuple[Array, Array]:
        """
        Attention and its log-sum-exp as this implementation computes them.

        Parameters
        ----------
        query, key, value : array
            As `attnfn.attention` takes them, of any array library.
        **options
            As for `attention`.

        Returns
        -------
        out, lse : array
            The output and the log-sum-exp of each row.
        """
        return translated(attention_with_lse, self.conventions)(query, key, value, **options)
