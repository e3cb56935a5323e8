"""What a known implementation does: inputs, options and result over the one core."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from .._attention import attention_with_lse
from .._typing import Array
from ._conventions import Conventions
from ._subject import Subject
from ._translate import translated

__all__ = ["Dialect"]


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """What one implementation of attention does, where implementations differ."""

    name: str
    #: Its full name, as it is imported or written in its specification.
    title: str
    conventions: Conventions
    #: The adapter that turns a function of its signature into a `Subject`.
    signature: Callable[..., Subject]
    #: Whether its package was run beside this, or its source was read.
    evidence: Literal["verified", "from source"]
    #: The package and version that was run, or the file and commit that was read.
    source: str
    #: What it has, whatever it calls it: names among `OPTIONS`, "groups", for fewer key heads
    #: than query heads, and "lse", for returning the log-sum-exp.
    features: frozenset[str]
    #: What no option says.
    notes: tuple[str, ...] = ()

    def attention(self, query: Array, key: Array, value: Array, /, **options: Any) -> Array:
        """Attention as this implementation computes it, in attnfn's axes."""
        out, _ = self.attention_with_lse(query, key, value, **options)
        return out

    def attention_with_lse(
        self, query: Array, key: Array, value: Array, /, **options: Any
    ) -> tuple[Array, Array]:
        """Attention and its log-sum-exp as this implementation computes them."""
        return translated(attention_with_lse, self.conventions)(query, key, value, **options)
