"""The steps in which a careless order would lose digits or make NaN."""

import math
from typing import Any

from ._backend import constant, exp_or_zero, known_finite, row_max, row_sum
from ._typing import Array, Namespace

__all__ = [
    "cast",
    "computed_in",
    "exponentials",
    "finite_vectors",
    "nonfinite_vectors",
    "softmax",
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


def softmax(
    scores: Array, sinks: Array | None, /, *, xp: Namespace
) -> tuple[Array, Array, Array | bool]:
    """
    Return the weights of each row of scores, its lse, and whether it is empty.

    A row in which every score is -inf is empty: its weights are zeros, sink or no sink.
    False instead of an array says that no row is.
    """
    exp, _, total, lse, empty = exponentials(scores, sinks, xp=xp)
    return exp / total, lse, empty


def exponentials(
    scores: Array, sinks: Array | None, /, *, xp: Namespace
) -> tuple[Array, Array | None, Array, Array, Array | bool]:
    """Return what the weights are of scores and sinks over their total; then the same."""
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

    exp = exp_or_zero(scores - peak, xp)
    total = row_sum(exp, xp)
    sink_exp = None if sinks is None else xp.exp(sinks - peak)
    if sink_exp is not None:
        total = total + sink_exp
    # Whatever is not empty holds exp(peak - peak), so only nothing at all adds up to 0.
    total = _replaced(total, nothing, 1.0, xp=xp)
    lse = _replaced(xp.log(total) + peak, nothing, -math.inf, xp=xp)
    return exp, sink_exp, total, lse, empty


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
