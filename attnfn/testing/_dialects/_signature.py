"""Stands where an adapter for a signature is not written yet."""

from collections.abc import Callable
from typing import Any

from .._subject import OPTIONS, Subject

__all__ = ["same"]


def same(function: Callable[..., Any]) -> Subject:
    """Take a function that has attnfn's own signature already."""
    return Subject(function, OPTIONS)
