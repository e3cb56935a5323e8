"""The steps in which a careless order would lose digits or make NaN."""

import math
from typing import Any, NamedTuple

from ._backend import constant, exp_or_zero, is_small, known_finite, lowered, row_max, row_sum
from ._typing import Array, Namespace

__all__ = [
    "Exponentials",
    "cast",
    "computed_in",
    "exponentials",
    "finite_vectors",
    "nonfinite_vectors",
    "sum_to",
    "without",
]


def cast(x: Array, dtype: Any, /, *, xp: Namespace) -> Array:
    """Return `x` in `dtype`, itself if that is what it has."""
    return x if x.dtype == dtype else xp.astype(x, dtype)


def computed_in(dtype: Any, /, *, xp: Namespace) -> Any:
    """Return the dtype to compute in: float32 for halves, else their own."""
    if dtype in (xp.float32, xp.float64):
        return dtype
    return xp.float32 if xp.finfo(dtype).bits < 32 else dtype


def nonfinite_vectors(x: Array, /, *, xp: Namespace) -> Array | None:
    """Return which vectors (axis -1) hold a NaN or an inf; None if it is known: none."""
    return None if known_finite(x) else ~xp.all(xp.isfinite(x), axis=-1)


def finite_vectors(x: Array, dtype: Any, /, *, xp: Namespace) -> tuple[Array, Array | None]:
    """Cast `x`, zero its bad vectors, and return which these are; None: there are none."""
    x = cast(x, dtype, xp=xp)
    bad = nonfinite_vectors(x, xp=xp)
    return (x, None) if bad is None else (without(x, bad, xp=xp), bad)


def without(x: Array, bad: Array | None, /, *, xp: Namespace) -> Array:
    """Zero the bad vectors of `x`, so that nothing comes through them in either direction.

    0 * NaN is NaN: what is hidden must not enter a product, whatever its weight.
    """
    return x if bad is None else xp.where(bad[..., None], 0.0, x)


#: In a small call nothing is subtracted from a row whose peak is no farther from 0. It is each
#: row's own affair: whatever another one holds, not a bit of its weights is different.
NEAR = 40.0


class Exponentials(NamedTuple):
    """Rows of scores, and their sinks, relative to the greatest of each row.

    A row in which every score is -inf is empty: its weights are zeros, sink or no sink.
    False instead of an array says that no row is.
    """

    exp: Array  # of the scores: the weights, times the total
    sink_exp: Array | None  # (..., q_len, 1), as all that follows
    total: Array
    peak: Array  # what was subtracted
    empty: Array | bool
    nothing: Array | bool  # rows that are empty, and have no sink

    def lse(self, *, xp: Namespace) -> Array:
        """Return the log-sum-exp of each row."""
        lse = xp.log(self.total) + self.peak
        return _replaced(lse, self.nothing, -math.inf, xp=xp)


def exponentials(
    scores: Array,
    sinks: Array | None,
    /,
    *,
    xp: Namespace,
    bound: float = math.inf,
    may_overwrite: bool = False,
) -> Exponentials:
    """Return the weights of scores and sinks before they are divided by their total.

    No score but -inf is farther from 0 than the `bound`. Where they may be overwritten, NumPy
    needs no memory for the weights.
    """
    has_near_peaks = sinks is None and is_small(scores)
    if has_near_peaks and bound <= NEAR:
        exp = xp.exp(scores)
        total = row_sum(exp, xp)
        empty = False if xp.count_nonzero(total) == total.size else total == 0.0
        total = _replaced(total, empty, 1.0, xp=xp)
        return Exponentials(exp, None, total, 0.0, empty, empty)
    if 0 in scores.shape:
        peak = xp.sum(scores, axis=-1, keepdims=True) - math.inf
    else:
        peak = constant(row_max(scores, xp))
    nothing = empty = _lowest(peak)
    if sinks is not None:
        peak = xp.maximum(peak, constant(sinks))
        nothing = _lowest(peak)
    # A row of -inf has peak -inf, and -inf - -inf is NaN.
    peak = _replaced(peak, nothing, 0.0, xp=xp)
    if has_near_peaks:
        peak = xp.where(xp.abs(peak) <= NEAR, 0.0, peak)

    below = lowered(scores, peak) if may_overwrite else scores - peak
    exp = exp_or_zero(below, xp)
    total = row_sum(exp, xp)
    sink_exp = None if sinks is None else xp.exp(sinks - peak)
    if sink_exp is not None:
        total = total + sink_exp
    # The peak's own exponential is no zero, so only nothing at all adds up to 0.
    total = _replaced(total, nothing, 1.0, xp=xp)
    return Exponentials(exp, sink_exp, total, peak, empty, nothing)


def sum_to(x: Array, shape: tuple[int, ...], /, *, xp: Namespace) -> Array:
    """Sum over the axes along which an array of `shape` was broadcast."""
    surplus = x.ndim - len(shape)
    axes = tuple(range(surplus)) + tuple(
        surplus + i for i, n in enumerate(shape) if n == 1 != x.shape[surplus + i]
    )
    x = xp.sum(x, axis=axes, keepdims=True) if axes else x
    return x if tuple(x.shape) == tuple(shape) else xp.reshape(x, shape)


def _lowest(x: Array, /) -> Array | bool:
    """Return where `x` is -inf; False if it is known: nowhere."""
    return False if known_finite(x) else x == -math.inf


def _replaced(x: Array, where: Array | bool, by: float, /, *, xp: Namespace) -> Array:
    """Put a number into some places; False is none of them."""
    return x if where is False else xp.where(where, by, x)
