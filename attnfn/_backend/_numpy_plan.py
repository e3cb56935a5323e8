"""The plan of the kernel for NumPy arrays: what is to be done, cut into pieces."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from .._typing import Array
from ._numpy_masks import Form, Segments, Window

__all__ = ["LIMITS", "MANY_ROWS", "Evaluate", "Piece", "Plan", "greatest_norm", "tiles"]

#: Asks for a mask, bias or dropout mask that is a function: (name, first row, how many, first
#: key, how many). The answer has at most as many axes as the scores.
Evaluate = Callable[[str, int, int, int, int], Array]

#: Rows of a tile, and what they are multiplied by. With few rows the keys are more.
ROWS, SCORES = 256, 3 * 2**16
LEAST_KEYS, MOST_KEYS = 768, 4096
#: In a window narrower than this more rows would see too many keys that most of them do not.
NARROW_WINDOW, NARROW_ROWS = 1024, 128
#: Rows from which on a product takes longer than a look at all the keys beforehand.
MANY_ROWS = 32
#: Of a function's values that are held at once.
MOST_VALUES = 2**21


class _Limits(NamedTuple):
    """How far numbers may go in a dtype."""

    no_maximum: float  # scores within this need no maximum subtracted
    least: float  # exp of this is a normal number, and so is its product with a value
    most_value: float  # and this large a value does not make a contribution of it


LIMITS = {
    np.dtype(np.float32): _Limits(30.0, -80.0, 1e20),
    np.dtype(np.float64): _Limits(300.0, -700.0, 1e200),
}


class Piece(NamedTuple):
    """Rows of some heads that share a key/value head, and the keys that they may see."""

    batch: tuple[int, ...]
    kv_head: int
    heads: slice
    rows: slice
    offset: int
    first: int
    end: int


class Plan:
    """One call: every array with every axis, and the work cut into units."""

    def __init__(self, problem: Any, evaluate: Evaluate, *, is_clean: bool) -> None:
        self.is_clean, self._evaluate, self.errors = is_clean, evaluate, np.geterr()
        self.dtype = np.dtype(problem.dtype)
        self.limits = LIMITS[self.dtype]
        *batch, num_heads, self.q_len, self.kv_len = (
            problem.shape if len(problem.shape) > 2 else (1, *problem.shape)
        )
        self.batch, self.num_heads = tuple(batch), num_heads
        self.num_kv_heads, self.group = problem.num_kv_heads, problem.group

        def whole(x: Array, *axes: int) -> Array:
            return np.broadcast_to(x, (*batch, *axes))

        dims = problem.q.shape[-1], problem.v.shape[-1]
        self.q = whole(problem.q, num_heads, self.q_len, dims[0])
        self.k = whole(
            _for_blas(problem.k, self.dtype), self.num_kv_heads, self.kv_len, dims[0]
        )
        self.v = whole(
            _for_blas(problem.v, self.dtype), self.num_kv_heads, self.kv_len, dims[1]
        )
        self.out = np.empty((*batch, num_heads, self.q_len, dims[1]), self.dtype)
        self.lse = np.empty((*batch, num_heads, self.q_len), self.dtype)

        self.softcap = problem.softcap
        # The cap divides before tanh, and what is in the query need not be done to the scores.
        self.scale = float(problem.scale) / (self.softcap or 1.0)
        self.keep_rate = problem.keep_rate
        scores = (num_heads, self.q_len, self.kv_len)
        given = {name: getattr(problem, name) for name in ("mask", "bias", "dropout_mask")}
        self.functions = [name for name, x in given.items() if callable(x)]
        self.arrays = {
            name: whole(x, *scores)
            for name, x in given.items()
            if x is not None and not callable(x)
        }
        self.has_bias = given["bias"] is not None
        self.bias_bound = _bound(given["bias"], math.prod(batch) * math.prod(scores))
        self.sinks = (
            None if problem.sinks is None else whole(problem.sinks, num_heads, 1, 1)[..., 0]
        )
        self.bad = {
            name: None if x is None else whole(x, num_heads, *axes)
            for name, x, axes in (
                ("queries", problem.bad_queries, (self.q_len, 1)),
                ("keys", problem.bad_keys, (1, self.kv_len)),
                ("values", problem.bad_values, (1, self.kv_len)),
            )
        }

        self.heads_at_once, self.rows_at_once = self._sizes(problem.window)
        self.windows = self._windows(problem.window)
        self.segments = self._segments(problem.segments)
        self.offsets = self._offsets(problem.q_offset)
        self.known: dict[tuple[Any, ...], float] = {}
        self.units = self._units()
        self.seconds = self._seconds(sum(dims))

    def _sizes(self, window: tuple[int | None, int | None]) -> tuple[int, int]:
        """Return how many heads and query rows there are in a tile, of equal sizes."""
        heads = _equal(self.group, ROWS)
        rows = ROWS // heads
        left, right = window
        if left is not None and right is not None and left + right < NARROW_WINDOW:
            rows = min(rows, NARROW_ROWS)
        if self.functions:
            # A function of positions answers for all heads or for one: ask for one pair.
            one = slice(0, 1)
            answers = max(self._answer(name, one, one).size for name in self.functions)
            rows = min(rows, max(8, MOST_VALUES // (answers * LEAST_KEYS)))
        return heads, _equal(self.q_len, rows)

    def ask(self, rows: slice, keys: slice) -> dict[str, tuple[int, Array]]:
        """Call the given functions; return the first key, and the answer with every axis."""
        axes = (*self.batch, self.num_heads, rows.stop - rows.start, keys.stop - keys.start)
        return {
            name: (keys.start, np.broadcast_to(self._answer(name, rows, keys), axes))
            for name in self.functions
        }

    def _answer(self, name: str, rows: slice, keys: slice) -> Array:
        spans = (rows.start, rows.stop - rows.start, keys.start, keys.stop - keys.start)
        with np.errstate(**self.errors):
            return self._evaluate(name, *spans)

    def _windows(self, window: tuple[int | None, int | None]) -> dict[Form, Window] | None:
        if window == (None, None):
            return None
        forms: tuple[Form, ...] = ("bool",) if self.is_clean else ("factor", "term")
        return {
            form: Window(
                *window, self.rows_at_once, form, bool if form == "bool" else self.dtype
            )
            for form in forms
        }

    def _segments(self, ids: tuple[Array, Array] | None) -> dict[tuple[int, ...], Segments]:
        if ids is None:
            return {}
        q_ids = np.broadcast_to(ids[0], (*self.batch, 1, self.q_len, 1))
        kv_ids = np.broadcast_to(ids[1], (*self.batch, 1, 1, self.kv_len))
        return {
            at: Segments(q_ids[at][0, :, 0], kv_ids[at][0, 0, :])
            for at in np.ndindex(self.batch)
        }

    def _offsets(self, q_offset: Any) -> dict[tuple[int, ...], int]:
        if isinstance(q_offset, int):
            return dict.fromkeys(np.ndindex(self.batch), q_offset)
        offsets = np.broadcast_to(q_offset, (*self.batch, 1, 1, 1))
        return {at: int(offsets[at].item()) for at in np.ndindex(self.batch)}

    def _units(self) -> list[list[Piece]]:
        """Return the work in pieces that do not depend on each other.

        Those with many keys come before those with few of the same head, so that no thread
        is left with a long one at the end.
        """
        units = []
        step = self.rows_at_once
        for start in reversed(range(0, self.q_len, step)):
            rows = slice(start, min(start + step, self.q_len))
            pieces = [
                piece for at in np.ndindex(self.batch) for piece in self._pieces(at, rows)
            ]
            # What a function says of these rows is asked once, for all heads.
            units += [pieces] if self.functions else [[piece] for piece in pieces]
        return units

    def _pieces(self, at: tuple[int, ...], rows: slice) -> Iterator[Piece]:
        offset = self.offsets[at]
        first, end = 0, self.kv_len
        if self.windows is not None:
            first, end = next(iter(self.windows.values())).range(rows, offset, self.kv_len)
        for kv_head in range(self.num_kv_heads):
            for start in range(0, self.group, self.heads_at_once):
                stop = min(start + self.heads_at_once, self.group)
                heads = slice(kv_head * self.group + start, kv_head * self.group + stop)
                yield Piece(at, kv_head, heads, rows, offset, first, max(first, end))

    def _seconds(self, dims: int) -> float:
        """Return about how long one thread takes."""
        seconds = 0.0
        for unit in self.units:
            for piece in unit:
                keys = piece.end - piece.first
                rows = (piece.heads.stop - piece.heads.start) * (
                    piece.rows.stop - piece.rows.start
                )
                seconds += 2e-6 + keys * max(rows * (dims * 2e-11 + 1e-9), dims * 4e-10)
        return seconds

    def greatest_norm(self, piece: Piece) -> float:
        """Return the greatest norm of a head's keys; NaN or inf if a key is not finite."""
        at = ("key", piece.batch, piece.kv_head)
        if at not in self.known:
            # Two threads may both compute it: they find the same.
            self.known[at] = greatest_norm(self.k[piece.batch][piece.kv_head])
        return self.known[at]

    def greatest_value(self, piece: Piece) -> float:
        """Return the greatest of a head's values, without its sign."""
        at = ("value", piece.batch, piece.kv_head)
        if at not in self.known:
            v = self.v[piece.batch][piece.kv_head]
            self.known[at] = float(max(v.max(initial=0.0), -v.min(initial=0.0)))
        return self.known[at]


def tiles(first: int, end: int, num_rows: int, /) -> Iterator[slice]:
    """Cut a range of keys into parts of about equal size, for so many rows."""
    most = max(LEAST_KEYS, min(MOST_KEYS, SCORES // max(1, num_rows)))
    size = _equal(end - first, most)
    for start in range(first, end, size):
        yield slice(start, min(start + size, end))


def greatest_norm(x: Array, /) -> float:
    """Return the greatest norm of the rows of a matrix; NaN or inf if a number is one."""
    squares = np.einsum("ij,ij->i", x, x)
    return math.sqrt(squares.max()) if squares.size else 0.0


def _equal(total: int, most: int, /) -> int:
    """Return the size of the fewest parts of equal size that are not larger than `most`."""
    return max(1, -(-total // max(1, -(-total // most))))


def _bound(bias: Any, num_scores: int, /) -> float:
    """Return how far a bias moves scores at most; inf if that takes too long to find out."""
    if bias is None:
        return 0.0
    if callable(bias) or bias.size == 0 or 4 * bias.size > num_scores:
        return math.inf
    bound = float(max(bias.max(), -bias.min()))
    return bound if bound < math.inf else math.inf


def _for_blas(x: Array, dtype: Any, /) -> Array:
    """Return `x` in a dtype, with the last two axes as BLAS takes them."""
    if x.dtype != dtype:
        return x.astype(dtype)
    item, (row, column) = x.itemsize, x.strides[-2:]
    is_fit = column == item and row % item == 0 and row >= x.shape[-1] * item
    return x if is_fit and x.flags.aligned else np.ascontiguousarray(x)
