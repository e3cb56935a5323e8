"""Attention functions with one mistake each, such as people make."""

from . import (  # noqa: F401  each file enters its mutants
    dropout,
    further,
    gradients,
    heads,
    masks,
    precision,
    scores,
    softmaxes,
    tiles,
    tutorials,
)
from ._mutant import GALLERY, Mutant

__all__ = ["GALLERY", "Mutant"]
