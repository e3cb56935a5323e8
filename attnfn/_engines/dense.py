"""The definition: every score in memory at once.

The other engines are right exactly when they agree with this one.
"""

from .._problem import AttentionProblem
from .._rows import attend
from .._scores import clean
from .._typing import Array

__all__ = ["compute"]


def compute(problem: AttentionProblem) -> tuple[Array, Array]:
    """Return the output and the lse, both in the compute dtype."""
    return attend(clean(problem))
