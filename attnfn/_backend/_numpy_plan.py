"""The plan of the kernel for NumPy arrays: what is to be done, cut into pieces."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from .._typing import Array
from ._numpy_masks import Segments, Window

__all__ = ["LIMITS", "MANY_ROWS", "Evaluate", "Piece", "Plan", "norms"]

#: Asks for a mask, bias or dropout mask that is a function: (name, first row, how many, first
#: key, how many). The answer has at most as many axes as the scores.
Evaluate = Callable[[str, int, int, int, int], Array]

#: Of a tile, whose scores should fit into the cache of a core. With few rows the keys are more.
ROWS, KEYS, MOST_KEYS = 512, 256, 8192
#: Twice the rows, for which a product is cut up half as often, where so many units are left.
#: It may not depend on the workers, of whose number the result knows nothing.
LONG_ROWS, MANY_UNITS = 1024, 8
#: Where some rows of a tile see keys that others do not: less is computed in vain, more often.
EDGE_KEYS = 128
#: In a window narrower than this more rows would see too many keys that most of them do not.
NARROW_WINDOW, NARROW_ROWS = 1024, 128
#: Heads are taken together up to so many scores, or numbers in their keys and values; the
#: latter is what counts where rows are few, and each number is used but once.
TOGETHER, TOGETHER_FEW = 3 * 2**16, 2**22
#: Sizes of tiles are multiples of this, the numbers in a line of the cache.
LINE = 16
#: Rows from which on a product takes longer than a look at all the keys beforehand.
MANY_ROWS = 32
#: Of a function's values that are held at once.
MOST_VALUES = 2**21


class _Limits(NamedTuple):
    """How far numbers may go in a dtype."""

    no_maximum: float  # exp of scores within this needs no maximum subtracted
    headroom: float  # how far the peak of a row is above what is subtracted
    least: float  # exp of this is a normal number, and so is its product with a value
    most_total: float  # sums of weights up to here leave room for values
    most_value: float  # and values up to here make nothing of the least weight


LIMITS = {
    np.dtype(np.float32): _Limits(50.0, 24.0, -80.0, 1e25, 1e20),
    np.dtype(np.float64): _Limits(300.0, 64.0, -700.0, 1e200, 1e200),
}


class Piece(NamedTuple):
    """Rows of some query heads, and the keys that they may see."""

    batch: tuple[int, ...]
    kv_heads: slice
    heads: slice  # those of the query that these serve, or some of them if it is one
    rows: slice
    offset: int
    keys: tuple[int, int, int, int]  # from where seen by some row, by all; to where by each

    @property
    def num_kv_heads(self) -> int:
        return self.kv_heads.stop - self.kv_heads.start

    @property
    def group(self) -> int:
        return (self.heads.stop - self.heads.start) // self.num_kv_heads


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

        self.head_dim, self.value_dim = problem.q.shape[-1], problem.v.shape[-1]
        kv = (self.num_kv_heads, self.kv_len)
        self.q = whole(problem.q, num_heads, self.q_len, self.head_dim)
        self.k = whole(_for_blas(problem.k, self.dtype), *kv, self.head_dim)
        self.v = whole(_for_blas(problem.v, self.dtype), *kv, self.value_dim)
        self.out = np.empty((*batch, num_heads, self.q_len, self.value_dim), self.dtype)
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
        self.sinks = None if problem.sinks is None else whole(problem.sinks, num_heads, 1, 1)
        self.bad = {
            name: None if x is None else whole(x, num_heads, *axes)
            for name, x, axes in (
                ("queries", problem.bad_queries, (self.q_len, 1)),
                ("keys", problem.bad_keys, (1, self.kv_len)),
                ("values", problem.bad_values, (1, self.kv_len)),
            )
        }

        self._kv_heads_at_once, self._group_at_once, self._rows_at_once = self._sizes(
            problem.window
        )
        left, right = problem.window
        self.window = None
        if (left, right) != (None, None):
            self.window = Window(left, right, self._rows_at_once)
        self.segments = self._segments(problem.segments)
        self._offsets = self._each_offset(problem.q_offset)
        self._known: dict[tuple[Any, ...], float] = {}
        # The longest first, so that no thread is left with one of them at the end.
        self.units = sorted(self._units(), key=self._seconds, reverse=True)
        self.seconds = sum(map(self._seconds, self.units))

    def _sizes(self, window: tuple[int | None, int | None]) -> tuple[int, int, int]:
        """Return how many heads of keys, query heads for each, and rows there are in a tile."""
        left, right = window
        heads = _equal(self.group, ROWS)
        rows, seen = LONG_ROWS // heads, self.kv_len
        num_units = math.prod(self.batch) * (self.num_heads // heads) * -(-self.q_len // rows)
        if self.functions or num_units < MANY_UNITS:
            rows = ROWS // heads
        if left is not None and right is not None and left + right < NARROW_WINDOW:
            rows = min(rows, NARROW_ROWS)
            seen = min(seen, left + right + rows)
        if self.functions:
            # A function of positions answers for all heads or for one: ask for one pair.
            one = slice(0, 1)
            answers = max(self._answer(name, one, one).size for name in self.functions)
            rows = min(rows, max(8, MOST_VALUES // (answers * KEYS)))
        rows = _equal(self.q_len, rows, LINE)
        if heads < self.group:
            return 1, heads, rows
        dims = self.head_dim + self.value_dim
        each = max(1, min(seen, _most_keys(heads * rows))) * max(heads * rows, dims)
        together = TOGETHER if heads * rows >= MANY_ROWS else TOGETHER_FEW
        return _equal(self.num_kv_heads, max(1, together // each)), heads, rows

    def ask(self, rows: slice, keys: slice) -> dict[str, tuple[int, int, Array]]:
        """Call the given functions; return the first row and key, and the whole answer."""
        axes = (*self.batch, self.num_heads, rows.stop - rows.start, keys.stop - keys.start)
        return {
            name: (
                rows.start,
                keys.start,
                np.broadcast_to(self._answer(name, rows, keys), axes),
            )
            for name in self.functions
        }

    def _answer(self, name: str, rows: slice, keys: slice) -> Array:
        spans = (rows.start, rows.stop - rows.start, keys.start, keys.stop - keys.start)
        with np.errstate(**self.errors):
            return self._evaluate(name, *spans)

    def _segments(self, ids: tuple[Array, Array] | None) -> dict[tuple[int, ...], Segments]:
        if ids is None:
            return {}
        q_ids = np.broadcast_to(ids[0], (*self.batch, 1, self.q_len, 1))
        kv_ids = np.broadcast_to(ids[1], (*self.batch, 1, 1, self.kv_len))
        return {
            at: Segments(q_ids[at][0, :, 0], kv_ids[at][0, 0, :])
            for at in np.ndindex(self.batch)
        }

    def _each_offset(self, q_offset: Any) -> dict[tuple[int, ...], int]:
        if isinstance(q_offset, int):
            return dict.fromkeys(np.ndindex(self.batch), q_offset)
        offsets = np.broadcast_to(q_offset, (*self.batch, 1, 1, 1))
        return {at: int(offsets[at].item()) for at in np.ndindex(self.batch)}

    def _units(self) -> Iterator[list[Piece]]:
        """Yield the work in pieces that do not depend on each other."""
        step = self._rows_at_once
        for start in range(0, self.q_len, step):
            rows = slice(start, min(start + step, self.q_len))
            pieces = [
                piece for at in np.ndindex(self.batch) for piece in self._pieces(at, rows)
            ]
            # What a function says of these rows is asked once, for all heads.
            yield from [pieces] if self.functions else ([piece] for piece in pieces)

    def _pieces(self, at: tuple[int, ...], rows: slice) -> Iterator[Piece]:
        offset, keys = self._offsets[at], (0, 0, self.kv_len, self.kv_len)
        if self.window is not None:
            keys = self.window.keys(rows, offset, self.kv_len)
        if at in self.segments:
            first, end = self.segments[at].keys(rows)
            some, all_first, all_end, stop = (min(max(x, first), end) for x in keys)
            keys = some, all_first, all_end, stop
        few = self._kv_heads_at_once
        for kv_head in range(0, self.num_kv_heads, few):
            kv_heads = slice(kv_head, min(kv_head + few, self.num_kv_heads))
            for start in range(0, self.group, self._group_at_once):
                stop = min(start + self._group_at_once, self.group)
                heads = slice(
                    kv_heads.start * self.group + start,
                    (kv_heads.stop - 1) * self.group + stop,
                )
                yield Piece(at, kv_heads, heads, rows, offset, keys)

    def tiles(self, pieces: list[Piece]) -> Iterator[slice]:
        """Cut the keys that pieces of the same rows may see into tiles."""
        most = _most_keys(max((x.rows.stop - x.rows.start) * x.group for x in pieces))
        first, all_first, all_end, end = (
            choose(bound)
            for choose, bound in zip(
                (min, max, min, max), zip(*(x.keys for x in pieces), strict=True), strict=True
            )
        )
        edge = min(most, EDGE_KEYS)
        # Few keys are not worth a tile; and in a narrow window there is none that all rows see.
        if all_first - first <= edge or all_first >= all_end:
            all_first = first
        if end - all_end <= edge or all_first >= all_end:
            all_end = end
        for start, stop, size in (
            (first, all_first, edge),
            (all_first, all_end, most),
            (all_end, end, edge),
        ):
            step = _equal(stop - start, size, LINE)
            for at in range(start, stop, step):
                yield slice(at, min(at + step, stop))

    def _seconds(self, unit: list[Piece]) -> float:
        """Return about how long one thread takes."""
        dims, seconds = self.head_dim + self.value_dim, 0.0
        for piece in unit:
            # Of the keys that not every row sees about half are not computed.
            keys = (sum(piece.keys[2:]) - sum(piece.keys[:2])) / 2
            rows = (piece.rows.stop - piece.rows.start) * piece.group
            each = keys * max(rows * (dims * 2e-11 + 1e-9), dims * 4e-10)
            seconds += 2e-5 + piece.num_kv_heads * each
        return seconds

    def greatest_norm(self, at: tuple[int, ...], kv_head: int) -> float:
        """Return the greatest norm of a head's keys; NaN or inf if a key is not finite."""
        name = ("key", at, kv_head)
        if name not in self._known:
            # Two threads may both compute it: they find the same.
            found = norms(self.k[at][kv_head])
            self._known[name] = float(found.max(initial=0.0))
        return self._known[name]

    def greatest_value(self, at: tuple[int, ...], kv_head: int) -> float:
        """Return the greatest of a head's values, without its sign."""
        name = ("value", at, kv_head)
        if name not in self._known:
            v = self.v[at][kv_head]
            self._known[name] = float(max(v.max(initial=0.0), -v.min(initial=0.0)))
        return self._known[name]


def norms(x: Array, /) -> Array:
    """Return the norms of vectors; NaN or inf if a number is one."""
    return np.sqrt(np.einsum("...i,...i->...", x, x))


def _most_keys(rows: int, /) -> int:
    return max(KEYS, min(MOST_KEYS, ROWS * KEYS // max(1, rows)))


def _equal(total: int, most: int, line: int = 1, /) -> int:
    """Return the size of the fewest parts of equal size that are not larger than `most`.

    Where it is larger than a line, it is a multiple of it, and the last part smaller.
    """
    size = max(1, -(-total // max(1, -(-total // most))))
    return size if size <= line else min(most, -(-size // line) * line)


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
