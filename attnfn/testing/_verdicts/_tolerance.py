"""How far from the oracle an answer may be: what the plain formula in a dtype is off by."""

from typing import NamedTuple

import numpy as np

from .._questions._case import Case
from .._rounding._precision import PRECISIONS
from .._simulation._model import Model
from .._simulation._simulate import Trace
from .._simulation._simulated_gradients import simulate_gradients

__all__ = ["UNITS", "Tolerance", "tolerance_of"]

#: Half the distance from 1 to the next number.
UNITS = {name: precision.unit for name, precision in PRECISIONS.items()}

_FACTOR, _FACTOR_OF_DERIVED = 2, 3
_HALVES = ("float16", "bfloat16")


class Tolerance(NamedTuple):
    """Greatest difference that counts as rounding."""

    out: float
    lse: float
    gradients: float  # where the greatest of them is 1


def tolerance_of(case: Case, model: Model, trace: Trace, dtype: str) -> Tolerance:
    """Return what is allowed for the rounding of a dtype."""
    unit = UNITS[dtype]
    is_seen = trace.allowed & np.isfinite(trace.scores)
    largest = float(np.abs(np.where(is_seen, trace.scores, 0.0)).max(initial=0.0))
    values = float(np.abs(trace.v[np.isfinite(trace.v)]).max(initial=0.0))
    values *= max(1.0, float(trace.factor[np.isfinite(trace.factor)].max(initial=1.0)))
    if dtype not in _HALVES or not trace.scores.size:
        steep = unit * (1 + largest)
        return Tolerance(8 * steep * values, 6 * steep, 12 * steep)
    with np.errstate(all="ignore"):
        plain = _rounded_within(trace, dtype)
        gradients = _error_of_gradients(case, model, trace, plain)
        lse = _greatest(plain.lse - trace.lse)
        out = _greatest(plain.out - trace.out)
    return Tolerance(
        _FACTOR * out + 2 * unit * values,
        _FACTOR_OF_DERIVED * lse + 2 * unit,
        _FACTOR_OF_DERIVED * gradients + 6 * unit,
    )


def _rounded_within(trace: Trace, dtype: str) -> Trace:
    """Return what comes of rounding scores, exponentials and weights."""
    is_empty, sink = trace.softmax.is_empty[..., None], trace.softmax.sink_part[..., None]
    s = np.where(trace.allowed, _rounded(trace.scores, dtype), -np.inf)
    m = trace.softmax.maximum[..., None]
    e = _rounded(np.exp(s - m), dtype)
    total = e.sum(-1, keepdims=True) + sink
    w = _rounded(e / np.where(is_empty, 1.0, total), dtype)
    w = np.where(is_empty, trace.softmax.weights, w)
    v = np.where(np.isfinite(trace.v), trace.v, 0.0)[..., trace.heads, :, :]
    out = ((w * trace.factor) @ v).reshape(trace.out.shape)
    lse = (np.log(total) + m).reshape(trace.lse.shape)
    return trace._replace(out=out, lse=lse, softmax=trace.softmax._replace(weights=w))


def _error_of_gradients(case: Case, model: Model, trace: Trace, plain: Trace) -> float:
    """Return the error of gradients by rounded weights, where the greatest of them is 1."""
    if case.d_out is None:
        return 0.0
    exact = simulate_gradients(case, model, trace) or {}
    found = simulate_gradients(case, model, plain) or {}
    greatest = max((_greatest(x) for x in exact.values()), default=0.0)
    error = max((_greatest(found[name] - x) for name, x in exact.items()), default=0.0)
    return error / max(greatest, 1.0)


def _greatest(x: np.ndarray) -> float:
    return float(np.abs(x[np.isfinite(x)]).max(initial=0.0))


def _rounded(x: np.ndarray, dtype: str) -> np.ndarray:
    """Round to a half, without its bounds."""
    digits = {"float16": 11, "bfloat16": 8}[dtype]
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.round(mantissa * 2**digits) / 2**digits, exponent)
