"""Which keys the rows of a tile may see, in the form in which a tile is masked fastest."""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import as_strided

from .._typing import Array

__all__ = ["Form", "Segments", "Term", "Tile", "Window", "cut", "mask_term"]

#: Selecting by an unstructured bool mask takes ten times as long as adding or multiplying, so
#: a mask is made into numbers: "factor" is 1 or 0, "term" 0 or -inf. "bool" selects.
Form: TypeAlias = Literal["bool", "factor", "term"]

#: Some columns of a tile, and what is to be done to them.
Term: TypeAlias = tuple[slice, Array]

EVERYWHERE = slice(None)


class Tile(NamedTuple):
    """Some queries and some keys, of some heads at one place in the batch."""

    batch: tuple[int, ...]
    heads: slice
    rows: slice
    keys: slice


class Window:
    """The bounds on ``kv_pos - q_pos``, for tiles of at most so many rows.

    Whether a key is inside depends on that difference alone: each row of a tile is the one
    above, moved by one place, and every tile a view of the same line of numbers.
    """

    def __init__(
        self, left: int | None, right: int | None, most_rows: int, form: Form, dtype: Any
    ) -> None:
        self._left, self._right, self._most = left, right, most_rows
        line = np.arange(3 * most_rows)
        # [i, j] of a triangle is 1 where j <= i - most_rows, or where j >= i - most_rows.
        self._below, self._above = (
            _triangle(_in_form(inside, form, np.empty(inside.shape, dtype)), most_rows)
            for inside in (line <= most_rows, line >= most_rows)
        )

    def range(self, rows: slice, offset: int, kv_len: int, /) -> tuple[int, int]:
        """Return the first key that some row may see, and the end of those keys."""
        first, end = 0, kv_len
        if self._left is not None:
            first = max(first, rows.start + offset - self._left)
        if self._right is not None:
            end = min(end, rows.stop + offset + self._right)
        return first, end

    def terms(self, rows: slice, keys: slice, offset: int, /) -> Iterator[Term]:
        """Yield what hides keys in a tile that has only keys in the range of its rows."""
        size = rows.stop - rows.start
        first = rows.start + offset  # position of the first row
        if self._left is not None:
            # From here on every row sees every key.
            width = min(keys.stop, first + size - 1 - self._left) - keys.start
            if width > 0:
                shift = self._most - (keys.start - first + self._left)
                yield slice(0, width), self._above[shift : shift + size, :width]
        if self._right is not None:
            # Up to here every row sees every key.
            start = max(keys.start, first + self._right + 1)
            if start < keys.stop:
                shift = self._most - (start - first - self._right)
                part = self._below[shift : shift + size, : keys.stop - start]
                yield slice(start - keys.start, None), part


class Segments:
    """Equal ids see each other: (q_len,) of the queries, (kv_len,) of the keys."""

    BLOCK = 64

    def __init__(self, q_ids: Array, kv_ids: Array) -> None:
        self._q, self._kv = q_ids, kv_ids
        starts = np.arange(0, kv_ids.size, self.BLOCK)
        self._least = np.minimum.reduceat(kv_ids, starts) if kv_ids.size else kv_ids
        self._most = np.maximum.reduceat(kv_ids, starts) if kv_ids.size else kv_ids

    def range(self, rows: slice, /) -> tuple[int, int]:
        """Return where the keys start and end whose id is between those of the rows."""
        ids = self._q[rows]
        (found,) = np.nonzero((self._most >= ids.min()) & (self._least <= ids.max()))
        if not found.size:
            return 0, 0
        return int(found[0]) * self.BLOCK, (int(found[-1]) + 1) * self.BLOCK

    def allowed(self, rows: slice, keys: slice, /) -> Array | bool:
        """Return who sees whom, a single answer if it is the same for all."""
        q_ids, kv_ids = self._q[rows], self._kv[keys]
        q_least, q_most = q_ids.min(), q_ids.max()
        kv_least, kv_most = kv_ids.min(), kv_ids.max()
        if q_most < kv_least or kv_most < q_least:
            return False
        if q_least == q_most == kv_least == kv_most:
            return True
        return q_ids[None, :, None] == kv_ids


def mask_term(
    allowed: Array | bool, form: Form, scratch: Callable[[tuple[int, ...]], Array], /
) -> Term | bool:
    """Return what a bool mask does to a tile; False if it hides all of it, True if nothing."""
    if isinstance(allowed, bool):
        return allowed
    if not allowed.any():
        return False
    if allowed.all():
        return True
    return EVERYWHERE, _in_form(allowed, form, scratch(allowed.shape))


def cut(x: Array, tile: Tile, /) -> Array:
    """Return what belongs to a tile, with size 1 along the axes where it is all the same."""
    part = x[tile.batch][tile.heads, tile.rows, tile.keys]
    return part[tuple(slice(0, 1) if step == 0 else EVERYWHERE for step in part.strides)]


def _in_form(allowed: Array, form: Form, out: Array, /) -> Array:
    if form == "bool":
        return allowed
    if form == "factor":
        np.copyto(out, allowed)
        return out
    # All bits of -1 are set, those of 0 are not: what is left of -1 are the bits of -inf.
    bits = out.view(f"i{out.itemsize}")
    np.copyto(bits, np.subtract(allowed.view(np.int8), 1))
    np.bitwise_and(bits, np.asarray(-np.inf, out.dtype).view(bits.dtype), out=bits)
    return out


def _triangle(line: Array, size: int, /) -> Array:
    """Return (2 * size, size) of which each row is the one above moved one place right."""
    (step,) = line.strides
    return as_strided(line[2 * size :], (2 * size, size), (-step, step))
