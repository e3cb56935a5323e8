"""For authors of kernels: what any attention does, and whether it is right."""

from ._conventions import Conventions
from ._dialect import Dialect
from ._dialects import DIALECTS
from ._oracle import oracle, oracle_vjp, oracle_weights, oracle_with_lse

__all__ = [
    "DIALECTS",
    "Conventions",
    "Dialect",
    "oracle",
    "oracle_vjp",
    "oracle_weights",
    "oracle_with_lse",
]
