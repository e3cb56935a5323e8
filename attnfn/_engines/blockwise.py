"""A few rows at a time, against the keys that they may see: memory linear in the length.

Each row's softmax is whole, so that nothing has to be rescaled and the numbers are those of
the definition. What causal order, windows and segments rule out is not touched.
"""

import math

from .._backend import (
    bounds,
    clipped,
    compiled,
    heads_at_once,
    map_rows,
    most_tiles,
    span_between,
    working_set,
)
from .._problem import AttentionProblem, Span, narrow, narrow_heads
from .._rows import attend
from .._scores import clean
from .._typing import Array

__all__ = ["compute"]

#: Fewer rows make a slow product, more do not make it faster.
LEAST_ROWS, MOST_ROWS = 16, 512
#: Into how many pieces queries are cut whose rows are mapped over in one loop: each piece
#: has its keys sliced for its last row.
PIECES = 8


def compute(problem: AttentionProblem) -> tuple[Array, Array]:
    """Return the output and the lse, both in the compute dtype."""
    # What a function captured may have changed by the next call.
    return compiled(_compute, problem) if problem.is_of_arrays else _compute(problem)


def _compute(problem: AttentionProblem, /) -> tuple[Array, Array]:
    problem = clean(problem)
    few = heads_at_once(problem.q)
    if len(problem.shape) < 3 or few >= problem.num_kv_heads or not problem.is_of_arrays:
        return _in_rows(problem)
    heads = [
        _in_rows(narrow_heads(problem, Span(h, min(few, problem.num_kv_heads - h))))
        for h in range(0, problem.num_kv_heads, few)
    ]
    return _joined(problem, heads, axis=-3)


def _in_rows(problem: AttentionProblem, /) -> tuple[Array, Array]:
    size = _rows_at_once(problem)
    parts = [part for piece in _pieces(problem, size) for part in _piece(problem, piece, size)]
    return _joined(problem, parts, axis=-2)


def _joined(
    problem: AttentionProblem, parts: list[tuple[Array, Array]], /, *, axis: int
) -> tuple[Array, Array]:
    """Put outputs together along an axis, and the lses, which have no value_dim after it."""
    if len(parts) == 1:
        return parts[0]
    outs, lses = zip(*parts, strict=True)
    return problem.xp.concat(outs, axis=axis), problem.xp.concat(lses, axis=axis + 1)


def _piece(problem: AttentionProblem, piece: Span, size: int, /) -> list[tuple[Array, Array]]:
    """Return the results of consecutive rows, `size` at a time."""

    def rows(start: int | Array) -> tuple[Array, Array]:
        at_hand = Span(start, min(size, piece.size))
        keys = _visible(problem, at_hand if isinstance(start, int) else piece)
        return attend(narrow(problem, at_hand, _window(problem, at_hand, keys)))

    return map_rows(rows, piece.start, max(1, piece.size // size), size, problem.q)


def _pieces(problem: AttentionProblem, size: int, /) -> list[Span]:
    """Cut the queries into spans of whole tiles, and one for the rest."""
    q_len = problem.shape[-2]
    tiles, rest = divmod(q_len, size)
    each = -(-tiles // PIECES) * size if problem.window != (None, None) else tiles * size
    spans = [
        Span(start, min(each, tiles * size - start))
        for start in range(0, tiles * size, each or 1)
    ]
    return [*spans, Span(tiles * size, rest)] if rest or not tiles else spans


def _visible(problem: AttentionProblem, rows: Span, /) -> Span:
    """Return the keys that some of the rows may see, as far as is known without tracing."""
    kv_len = problem.shape[-1]
    first, end = 0, kv_len
    offsets = bounds(problem.q_offset)
    if offsets is not None and rows.size:
        left, right = problem.window
        if left is not None:
            first = max(first, rows.start + offsets[0] - left)
        if right is not None:
            end = min(end, rows.start + rows.size + offsets[1] + right)
    if problem.segments is not None and rows.size:
        q_segments, kv_segments = problem.segments
        ids = bounds(q_segments[..., rows.start : rows.start + rows.size, :])
        least, most = span_between(kv_segments, ids) or (0, kv_len)
        first, end = max(first, least), min(end, most)
    return Span(min(first, kv_len), max(0, end - first))


def _window(problem: AttentionProblem, rows: Span, keys: Span, /) -> Span:
    """Return the keys in the window of rows whose position is traced: as many at each."""
    left, right = problem.window
    if isinstance(rows.start, int) and bounds(problem.q_offset) is not None:
        return keys
    if left is None or right is None or getattr(problem.q_offset, "ndim", 0) > 0:
        return keys
    width = rows.size + left + right
    if width >= keys.size:
        return keys
    start = clipped(
        rows.start + problem.q_offset - left, keys.start, keys.start + keys.size - width
    )
    return keys if start is None else Span(start, width)


def _rows_at_once(problem: AttentionProblem, /) -> int:
    """Return how many rows fit into the budget, with all the keys that one row may see."""
    *batch, q_len, kv_len = problem.shape
    left, right = problem.window
    seen = kv_len
    if left is not None and right is not None:
        seen = min(kv_len, left + right + MOST_ROWS)
    item = 3 * problem.xp.finfo(problem.dtype).bits // 8
    rows = working_set(problem.q) // max(1, item * seen * math.prod(batch))
    rows = max(LEAST_ROWS, min(MOST_ROWS, rows // LEAST_ROWS * LEAST_ROWS))
    return max(rows, -(-q_len // most_tiles(problem.q)))
