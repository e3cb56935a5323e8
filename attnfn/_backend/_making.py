"""Arrays made, cut and written, on a device."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .._typing import Array, Namespace
from ._library import namespace, special_library

__all__ = [
    "add_block",
    "arange",
    "block",
    "device",
    "from_numpy",
    "full",
    "scalar",
    "share_device",
    "vector",
    "write",
]


def device(x: Array) -> Any:
    """Return where to make a new array that is to meet `x`; None is the library's default."""
    if isinstance(x, np.ndarray):
        return None
    library = special_library(x)
    return _device(x) if library is None else library.device(x)


def _device(x: Array) -> Any:
    # MLX arrays have no device.
    return getattr(x, "device", None)


def share_device(x: Array, /, *others: Array) -> bool:
    """Return whether arrays of one class are all on the same device, as `device` tells it."""
    library = special_library(x)
    where = _device if library is None else library.device
    first = where(x)
    # Not `all` of a generator, which a small call would feel.
    for other in others:  # noqa: SIM110
        if where(other) != first:
            return False
    return True


def arange(n: int, xp: Namespace, device: Any) -> Array:
    """Return 0, 1, ..., n - 1, in the library's default integer type."""
    # MLX and others take no `device=`, so it is passed only where there is one.
    return xp.arange(n) if device is None else xp.arange(n, device=device)


def scalar(value: float, dtype: Any, xp: Namespace, device: Any) -> Array:
    """Return one number as a 0-d array."""
    if device is None:
        return xp.asarray(value, dtype=dtype)
    return xp.asarray(value, dtype=dtype, device=device)


def vector(values: Sequence[float], dtype: Any, xp: Namespace, device: Any) -> Array:
    """Return some numbers as an array of one axis."""
    if device is None:
        return xp.asarray(list(values), dtype=dtype)
    return xp.asarray(list(values), dtype=dtype, device=device)


def from_numpy(x: Array, xp: Namespace, dtype: Any, device: Any) -> Array:
    """Copy a float64 NumPy array to another library, rounding once for float32 and wider."""
    # Where x64 is off, JAX has no array to put a float64 into.
    x = x if dtype == xp.float64 else x.astype(np.float32)
    out = xp.asarray(x) if device is None else xp.asarray(x, device=device)
    return out if out.dtype == dtype else xp.astype(out, dtype)


def full(shape: tuple[int, ...], value: float, dtype: Any, xp: Namespace, device: Any) -> Array:
    """Return an array of one number everywhere."""
    if device is None:
        return xp.full(shape, value, dtype=dtype)
    return xp.full(shape, value, dtype=dtype, device=device)


def block(x: Array, start: int | Array, size: int, axis: int) -> Array:
    """Return `size` positions along an axis (counted from the last), wherever they start."""
    if isinstance(start, int):
        return x[(..., slice(start, start + size), *[slice(None)] * (-axis - 1))]
    library = special_library(x)
    assert library is not None, "only a traced start is not an int, and only JAX traces one"
    return library.block(x, start, size, axis)


def add_block(x: Array, part: Array, row: int | Array, column: int | Array) -> Array:
    """Return `x` with `part` added to a block of its last two axes; `x` itself is given up."""
    library = special_library(x)
    if library is not None:
        return library.add_block(x, part, row, column)
    height, width = part.shape[-2:]
    x[..., row : row + height, column : column + width] += part
    return x


def write(x: Array, new: Array, start: Array, is_donated: bool) -> Array:
    """Return `x` with `new` in the positions from `start` on, along axis -2.

    `start` is 0-d or has the axes of `x` before the last three. It may be anything: what falls
    outside of `x` is dropped. `new` has no more positions than `x`. Only if `is_donated` may
    `x` itself be written to.
    """
    if isinstance(x, np.ndarray):
        return _write_numpy(x, new, start, is_donated)
    library = special_library(x)
    if library is not None:
        return library.write(x, new, start, is_donated)
    xp = namespace(x)
    assert xp is not None
    n, where = new.shape[-2], device(x)
    # Which of the new ones belongs into each position: (..., 1, length, 1).
    which = xp.astype(arange(x.shape[-2], xp, where), start.dtype) - start[..., None]
    found = new
    if n > 1 and start.ndim:
        at = xp.broadcast_to(xp.clip(which, 0, n - 1)[..., None, :, None], x.shape)
        found = xp.take_along_axis(new, at, axis=-2)
    elif n > 1:
        found = xp.take(new, xp.clip(which, 0, n - 1), axis=-2)
    is_new = ((which >= 0) & (which < n))[..., None, :, None]
    return xp.where(is_new if start.ndim else is_new[0, ...], found, x) if n else x


def _write_numpy(x: Array, new: Array, start: Array, is_donated: bool) -> Array:
    out = x if is_donated and x.flags.writeable else x.copy()
    n, length = new.shape[-2], x.shape[-2]
    for at in np.ndindex(start.shape):
        first = int(start[at])
        here = slice(min(max(first, 0), length), min(max(first + n, 0), length))
        there = slice(here.start - first, here.stop - first)
        if here.stop > here.start:
            out[(*at, ..., here, slice(None))] = new[(*at, ..., there, slice(None))]
    return out
