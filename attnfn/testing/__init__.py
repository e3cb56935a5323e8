"""For authors of kernels: what any attention does, and whether it is right."""

from ._cases import FEATURES
from ._conformance import check_attention
from ._conventions import Conventions
from ._dialect import Dialect
from ._dialects import DIALECTS
from ._oracle import oracle, oracle_vjp, oracle_weights, oracle_with_lse
from ._report import ConformanceReport

__all__ = [
    "DIALECTS",
    "FEATURES",
    "ConformanceReport",
    "Conventions",
    "Dialect",
    "check_attention",
    "oracle",
    "oracle_vjp",
    "oracle_weights",
    "oracle_with_lse",
]
