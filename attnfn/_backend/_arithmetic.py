"""Arithmetic for which a library has a better way than the standard, or none."""

import math

import numpy as np

from .._typing import Array, Namespace
from ._known import SMALL
from ._library import special_library
from ._normal_cdf import normal_cdf_by_polynomial

__all__ = [
    "affine",
    "divided",
    "exp_or_zero",
    "few_rows_product",
    "lowered",
    "normal_cdf",
    "row_max",
    "row_sum",
    "running_sum",
    "sees_any",
    "sigmoid",
    "transposed",
]

#: exp of less than this is a denormal number, or zero.
_LEAST = {np.dtype(t): math.log(np.finfo(t).smallest_normal) for t in (np.float32, np.float64)}
#: So few rows by so many columns had better be multiplied the other way round.
FEW_ROWS, MANY_COLUMNS = 16, 1024


def row_max(x: Array, xp: Namespace) -> Array:
    """Return the greatest number of each row (axis -1), and keep the axis."""
    # NumPy's functions take twice as long as this where arrays are small.
    if isinstance(x, np.ndarray):
        return np.maximum.reduce(x, axis=-1, keepdims=True)
    return xp.max(x, axis=-1, keepdims=True)


def row_sum(x: Array, xp: Namespace) -> Array:
    """Return the sum of each row (axis -1), and keep the axis."""
    if isinstance(x, np.ndarray):
        return np.add.reduce(x, axis=-1, keepdims=True)
    return xp.sum(x, axis=-1, keepdims=True)


def sees_any(allowed: Array, bad: Array, xp: Namespace) -> Array:
    """Return which rows of `allowed` are True at a key that is `bad`: (..., q_len, 1)."""
    library = special_library(allowed)
    if library is None:
        return xp.any(allowed & bad, axis=-1, keepdims=True)
    return library.sees_any(allowed, bad)


def transposed(x: Array, xp: Namespace) -> Array:
    """Return `x` with its last two axes exchanged."""
    if isinstance(x, np.ndarray):
        return x.mT
    # Not matrix_transpose, which torch.autograd cannot batch.
    *batch, a, b = range(x.ndim)
    return xp.permute_dims(x, (*batch, b, a))


def few_rows_product(rows: Array, columns: Array) -> Array:
    """Return ``rows @ columns``, fast also for a few rows and many columns on NumPy.

    BLAS takes three to seven times as long for them as for as many rows and few columns.
    """
    is_numpy = isinstance(rows, np.ndarray)
    if is_numpy and 1 < rows.shape[-2] <= FEW_ROWS and columns.shape[-1] >= MANY_COLUMNS:
        return np.ascontiguousarray((columns.mT @ rows.mT).mT)
    return rows @ columns


def affine(x: Array, weight: Array, bias: Array) -> Array:
    """Return ``x @ weight + bias``: in one step where the library has one."""
    library = special_library(x)
    return x @ weight + bias if library is None else library.affine(x, weight, bias)


def exp_or_zero(x: Array, xp: Namespace) -> Array:
    """Return exp(x) of what is at most 0, and 0 where that would be a denormal number.

    Products with denormal numbers take ten times as long and more. `x` itself is given up.
    """
    if isinstance(x, np.ndarray):
        least = _LEAST.get(x.dtype)
        if least is None or x.size <= SMALL or not x.min() < least:
            return np.exp(x, out=x)
        # A product with truth values is much faster than any selection by them.
        is_normal = x >= least
        np.exp(np.maximum(x, x.dtype.type(least), out=x), out=x)
        return np.multiply(x, is_normal, out=x)
    library = special_library(x)
    return xp.exp(x) if library is None else library.exp_or_zero(x)


def running_sum(x: Array, axis: int, xp: Namespace) -> Array:
    """Return the sums up to each position of an axis, its own included."""
    library = special_library(x)
    return xp.cumulative_sum(x, axis=axis) if library is None else library.running_sum(x, axis)


def sigmoid(x: Array, xp: Namespace) -> Array:
    """Return 1 / (1 + exp(-x)), with derivatives of any order and without overflow."""
    library = special_library(x)
    if library is not None:
        return library.sigmoid(x)
    exp = xp.exp(-xp.abs(x))
    return xp.where(x < 0, exp, 1.0) / (1 + exp)


def normal_cdf(x: Array, xp: Namespace) -> Array:
    """Return the probability that a standard normal number is less than each of `x`."""
    library = special_library(x)
    return normal_cdf_by_polynomial(x, xp) if library is None else library.normal_cdf(x)


def divided(x: Array, by: Array) -> Array:
    """Return x / by; `x` itself is given up, which spares NumPy an array of its size."""
    return np.divide(x, by, out=x) if isinstance(x, np.ndarray) else x / by


def lowered(x: Array, by: Array) -> Array:
    """Return x - by; `x` itself is given up, as in `divided`."""
    in_place = isinstance(x, np.ndarray) and x.shape[:-1] == by.shape[:-1]
    return np.subtract(x, by, out=x) if in_place else x - by
