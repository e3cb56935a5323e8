"""What is known of numbers without waiting for them."""

import math
from typing import Any

import numpy as np

from .._typing import Array
from ._library import special_library

__all__ = [
    "SMALL",
    "bounds",
    "clipped",
    "greatest",
    "is_bool",
    "is_integer",
    "is_real",
    "is_small",
    "known_bound",
    "known_finite",
    "plain",
    "span_between",
]

#: So few numbers that a look at them takes longer than whatever it can spare.
SMALL = 4096


def greatest(x: int | Array) -> int | None:
    """Return the greatest of some integers if their values are at hand, else None."""
    if isinstance(x, int):
        return x
    if isinstance(x, np.ndarray):
        return int(x.max()) if x.size else 0
    library = special_library(x)
    return None if library is None else library.greatest(x)


def bounds(x: int | Array) -> tuple[int, int] | None:
    """Return the least and the greatest of some integers, None where that is not known.

    As with `known_finite`, only NumPy's arrays are asked.
    """
    if isinstance(x, int):
        return x, x
    if isinstance(x, np.ndarray) and x.size:
        return int(x.min()), int(x.max())
    return None


def span_between(x: Array, between: tuple[int, int] | None) -> tuple[int, int] | None:
    """Return the span of the last axis outside of which no integer is between two bounds."""
    if between is None or not isinstance(x, np.ndarray):
        return None
    inside = (x >= between[0]) & (x <= between[1])
    (found,) = np.nonzero(inside.any(axis=tuple(range(x.ndim - 1))))
    return (int(found[0]), int(found[-1]) + 1) if found.size else (0, 0)


def clipped(x: Array, least: int, most: int) -> Array | None:
    """Return a position between two bounds, None unless a `block` may start there."""
    library = special_library(x)
    return None if library is None else library.clipped(x, least, most)


def known_finite(x: Array) -> bool:
    """Return True if `x` was seen to hold no NaN and no inf; False says nothing.

    Only arrays whose values are at hand are asked. Elsewhere the answer would be baked into a
    trace, or wait for a device.
    """
    if isinstance(x, np.ndarray):
        return math.isfinite(known_bound(x)) or bool(np.isfinite(x).all())
    library = special_library(x)
    return False if library is None else library.known_finite(x)


def known_bound(x: Array) -> float:
    """Return what no number in `x` is farther from 0 than, NaN or inf if that is not known.

    As with `known_finite`, only NumPy's arrays are asked.
    """
    if not isinstance(x, np.ndarray):
        return math.inf
    # A sum of squares is finite only if every number is. It may overflow though all are.
    flat = x.ravel("K")
    return math.sqrt(flat.dot(flat))


def is_small(x: Array) -> bool:
    """Return whether calls of NumPy take longest, not what they do to the numbers in `x`."""
    return isinstance(x, np.ndarray) and x.size <= SMALL


def is_bool(x: Any) -> bool:
    """Return whether `x` is one truth value, Python's or NumPy's."""
    return isinstance(x, bool | np.bool_)


def is_integer(x: Any) -> bool:
    """Return whether `x` is one whole number: Python's, NumPy's, or a size in a trace."""
    if isinstance(x, bool | np.bool_):
        return False
    if isinstance(x, int | np.integer):
        return True
    # torch.SymInt, and the dimensions of an exported JAX function.
    return hasattr(x, "__index__") and not hasattr(x, "dtype")


def plain(n: Any) -> Any:
    """Turn NumPy's integers into Python's, which have no width to force on a result."""
    return n.item() if isinstance(n, np.integer) else n


def is_real(x: Any) -> bool:
    """Return whether `x` is one real number, Python's or NumPy's."""
    if isinstance(x, bool | np.bool_):
        return False
    if isinstance(x, int | float | np.integer | np.floating):
        return True
    # torch.SymFloat and torch.SymInt.
    return type(x).__module__ == "torch" and type(x).__name__ in ("SymFloat", "SymInt")
