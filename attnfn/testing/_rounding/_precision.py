"""Precisions: their units of rounding, and NumPy arrays rounded as if they had them."""

from typing import NamedTuple

import numpy as np

from ..._checks import check_choice

__all__ = ["PRECISIONS", "Precision", "precision_of", "rounded"]


class Precision(NamedTuple):
    """A floating dtype, as far as it rounds."""

    name: str
    unit: float  # half the distance from 1 to the next number
    least: float  # what is lost where a result becomes too small
    least_weight: float  # and where a weight does
    greatest: float
    held_in: type[np.floating]  # NumPy's dtype that has at least its numbers

    @property
    def sums(self) -> "Precision":
        """Return what sums are kept in: halves are added up in float32."""
        return PRECISIONS["float32"] if self.unit > PRECISIONS["float32"].unit else self


# Devices flush float32's denormal numbers to zero, and compute with those of float16. Kernels
# stop at weights of e^-80, since products with denormal numbers take long; and where nothing
# is subtracted from scores near 0, an exponential of 2^-126 is still to be divided by a sum. In
# float64 the limit is ours: the square of a unit must not vanish.
_FLOAT32 = (2.0**-126, 2.0**-64)
PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("float16", 2.0**-11, 2.0**-25, 2.0**-25, 65504.0, np.float32),
        Precision("bfloat16", 2.0**-8, *_FLOAT32, 2.0**127 * (2 - 2**-7), np.float32),
        Precision("float32", 2.0**-24, *_FLOAT32, 2.0**127 * (2 - 2**-23), np.float32),
        Precision(
            "float64", 2.0**-53, 2.0**-500, 2.0**-500, float(np.finfo(float).max), np.float64
        ),
    )
}


def precision_of(name: str, dtype: str, /) -> Precision:
    """Return a precision by the name of its dtype, which is argument `name`."""
    check_choice(name, dtype, tuple(PRECISIONS))
    return PRECISIONS[dtype]


def rounded(x: np.ndarray, precision: Precision, /) -> np.ndarray:
    """Round to the nearest number of a precision, of two to the even one; inf if too large."""
    with np.errstate(over="ignore"):
        x = x.astype(precision.held_in, copy=False)
        if precision.name == "float16":
            return x.astype(np.float16).astype(np.float32)
    if precision.name != "bfloat16":
        return x
    # A bfloat16 is the upper half of a float32's bits.
    bits = np.ascontiguousarray(x).view(np.uint32)
    with np.errstate(over="ignore"):
        up = bits + (((bits >> 16) & 1) + 0x7FFF)
    upper = (np.where(np.isnan(x), bits, up) & 0xFFFF0000).astype(np.uint32)
    return upper.view(np.float32).reshape(x.shape)
