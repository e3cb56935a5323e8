"""How far from the oracle an answer may be: what the plain formula in a dtype is off by."""

from typing import NamedTuple

import numpy as np

from ._simulate import Trace

__all__ = ["UNITS", "Tolerance", "tolerance_of"]

#: Half the distance from 1 to the next number.
UNITS = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}

_FACTOR, _FACTOR_OF_DERIVED = 2, 3


class Tolerance(NamedTuple):
    """Greatest difference that counts as rounding."""

    out: float
    lse: float
    gradients: float  # of the greatest among them


def tolerance_of(trace: Trace, dtype: str) -> Tolerance:
    """Return what is allowed for the rounding of a dtype."""
    unit = UNITS[dtype]
    scores = np.where(trace.allowed & np.isfinite(trace.scores), trace.scores, 0.0)
    largest = float(np.abs(scores).max(initial=0.0))
    values = float(np.abs(trace.v[np.isfinite(trace.v)]).max(initial=0.0))
    values *= max(1.0, float(trace.factor[np.isfinite(trace.factor)].max(initial=1.0)))
    error = _plain_error(trace, dtype)
    # Sums are of more than eight terms only where weights are small.
    floor = unit * values * (2 if dtype in ("float16", "bfloat16") else 8 * (1 + largest))
    steep = 1 + largest
    return Tolerance(
        out=_FACTOR * error + floor,
        lse=_FACTOR_OF_DERIVED * unit * 2 * steep,
        gradients=_FACTOR_OF_DERIVED * unit * 4 * steep,
    )


def _plain_error(trace: Trace, dtype: str) -> float:
    """Return the error of the plain formula that rounds scores, weights and output."""
    if dtype in ("float32", "float64") or not trace.scores.size:
        return 0.0
    with np.errstate(all="ignore"):
        kept = trace.softmax.weights * trace.factor
        s = np.where(trace.allowed, rounded(trace.scores, dtype), -np.inf)
        m = np.max(s, axis=-1, keepdims=True)
        e = rounded(np.exp(s - np.where(np.isfinite(m), m, 0.0)), dtype)
        total = e.sum(-1, keepdims=True)
        total += trace.softmax.sink_part[..., None]
        w = rounded(e / np.where(total == 0, 1.0, total), dtype) * trace.factor
        v = np.where(np.isfinite(trace.v), trace.v, 0.0)[..., trace.heads, :, :]
        off = np.abs((w - kept) @ v)
    return float(off[np.isfinite(off)].max(initial=0.0)) if not np.isnan(off).all() else 0.0


def rounded(x: np.ndarray, dtype: str) -> np.ndarray:
    """Round to a half, without its bounds."""
    digits = {"float16": 11, "bfloat16": 8}[dtype]
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.round(mantissa * 2**digits) / 2**digits, exponent)
