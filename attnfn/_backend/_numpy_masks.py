"""Which keys the rows of a tile may see, as arrays that broadcast to its scores.

The scores of a tile have the axes (heads of keys, rows, query heads for each, keys).
"""

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import as_strided

from .._typing import Array

__all__ = [
    "EVERYWHERE",
    "Segments",
    "Term",
    "Tile",
    "Window",
    "cut",
    "mask_term",
    "minus_inf_where_not",
]

#: Some rows and some columns of a tile, and which of the scores there are allowed.
Term: TypeAlias = tuple[slice, slice, Array]

EVERYWHERE = slice(None)


class Tile(NamedTuple):
    """Some queries and some keys, of some heads at one place in the batch."""

    batch: tuple[int, ...]
    heads: slice  # of queries
    group: int  # of them for each head of keys
    rows: slice
    keys: slice


class Window:
    """The bounds on ``kv_pos - q_pos``, for tiles of at most so many rows.

    Whether a key is inside depends on that difference alone: each row of a tile is the one
    above, moved by one place, and every tile a view of the same line of truth values.
    """

    def __init__(self, left: int | None, right: int | None, most_rows: int) -> None:
        self._left, self._right, self._most = left, right, most_rows
        line = np.arange(3 * most_rows)
        # [i, j] of a triangle is 1 where j <= i - most_rows, or where j >= i - most_rows.
        self._below = _triangle(line <= most_rows, most_rows)
        self._above = _triangle(line >= most_rows, most_rows)

    def keys(self, rows: slice, offset: int, kv_len: int, /) -> tuple[int, int, int, int]:
        """Return what keys are seen: from where by some row, by all, and to where each."""
        first, all_first, all_end, end = 0, 0, kv_len, kv_len
        if self._left is not None:
            first = rows.start + offset - self._left
            all_first = rows.stop - 1 + offset - self._left
        if self._right is not None:
            all_end = rows.start + 1 + offset + self._right
            end = rows.stop + offset + self._right
        first = min(max(first, 0), kv_len)
        end = max(min(end, kv_len), first)
        all_first = min(max(all_first, first), end)
        return first, all_first, max(min(all_end, end), all_first), end

    def rows(self, rows: slice, keys: slice, offset: int, /) -> slice:
        """Return those rows that see some of the keys."""
        start, stop = rows.start, rows.stop
        if self._right is not None:
            start = max(start, keys.start - self._right - offset)
        if self._left is not None:
            stop = min(stop, keys.stop + self._left - offset)
        return slice(start, max(start, stop))

    def terms(self, rows: slice, keys: slice, offset: int, /) -> Iterator[Term]:
        """Yield what hides keys in a tile of which every row sees some."""
        size = rows.stop - rows.start
        first = rows.start + offset  # position of the first row
        if self._left is not None:
            # From here on every row sees every key, and so does each row before that one.
            width = min(keys.stop, first + size - 1 - self._left) - keys.start
            row = keys.start - first + self._left + 1
            if width > 0:
                part = self._above[self._most + 1 : self._most + 1 + size - row, None, :width]
                yield slice(row, None), slice(0, width), part
        if self._right is not None:
            # Up to here every row sees every key, and so does each row from that one on.
            start = max(keys.start, first + self._right + 1)
            row = min(size, keys.stop - 1 - first - self._right)
            if start < keys.stop:
                shift = self._most - (start - first - self._right)
                part = self._below[shift : shift + row, None, : keys.stop - start]
                yield slice(0, row), slice(start - keys.start, None), part


class Segments:
    """Equal ids see each other: (q_len,) of the queries, (kv_len,) of the keys."""

    BLOCK = 64

    def __init__(self, q_ids: Array, kv_ids: Array) -> None:
        self._q, self._kv = q_ids, kv_ids
        starts = np.arange(0, kv_ids.size, self.BLOCK)
        self._least = np.minimum.reduceat(kv_ids, starts) if kv_ids.size else kv_ids
        self._most = np.maximum.reduceat(kv_ids, starts) if kv_ids.size else kv_ids

    def keys(self, rows: slice, /) -> tuple[int, int]:
        """Return where the keys start and end whose id is between those of the rows."""
        ids = self._q[rows]
        (found,) = np.nonzero((self._most >= ids.min()) & (self._least <= ids.max()))
        if not found.size:
            return 0, 0
        end = min((int(found[-1]) + 1) * self.BLOCK, self._kv.size)
        return int(found[0]) * self.BLOCK, end

    def allowed(self, rows: slice, keys: slice, /) -> Array | bool:
        """Return who sees whom, a single answer if it is the same for all."""
        q_ids, kv_ids = self._q[rows], self._kv[keys]
        q_least, q_most = q_ids.min(), q_ids.max()
        kv_least, kv_most = kv_ids.min(), kv_ids.max()
        if q_most < kv_least or kv_most < q_least:
            return False
        if q_least == q_most == kv_least == kv_most:
            return True
        return q_ids[None, :, None, None] == kv_ids


def mask_term(allowed: Array | bool, /) -> Term | bool:
    """Return what a bool mask does to a tile; False if it hides all of it, True if nothing."""
    if isinstance(allowed, bool):
        return allowed
    # Mostly the first row says it all: that it hides some keys and not others.
    for part in (allowed[:, :1], allowed):
        is_any, is_all = part.any(), part.all()
        if is_any and not is_all:
            return EVERYWHERE, EVERYWHERE, allowed
    return bool(is_all)


def minus_inf_where_not(allowed: Array, out: Array, /) -> Array:
    """Write 0 where something is allowed, else -inf: adding it is faster than selecting."""
    # All bits of -1 are set, those of 0 are not: what is left of -1 are the bits of -inf.
    bits = out.view(f"i{out.itemsize}")
    np.subtract(allowed.view(np.int8), 1, out=bits)
    np.bitwise_and(bits, np.asarray(-np.inf, out.dtype).view(bits.dtype), out=bits)
    return out


def cut(x: Array, tile: Tile, /) -> Array:
    """Return what belongs to a tile, with size 1 along the axes where it is all the same."""
    part = x[tile.batch][tile.heads, tile.rows, tile.keys]
    heads, rows, keys = part.shape
    part = part.reshape(heads // tile.group, tile.group, rows, keys).transpose(0, 2, 1, 3)
    return part[tuple(slice(0, 1) if step == 0 else EVERYWHERE for step in part.strides)]


def _triangle(line: Array, size: int, /) -> Array:
    """Return (2 * size, size) of which each row is the one above moved one place right."""
    (step,) = line.strides
    return as_strided(line[2 * size :], (2 * size, size), (-step, step))
