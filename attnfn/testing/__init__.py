"""For authors of kernels: what any attention does, and whether it is right."""

from ._conventions import Conventions
from ._dialect import Dialect
from ._dialects import DIALECTS

__all__ = [
    "DIALECTS",
    "Conventions",
    "Dialect",
]
