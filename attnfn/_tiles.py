"""A few rows at a time, against the keys that they may see: memory linear in the length.

Each row's softmax is whole, so that nothing has to be rescaled and the numbers are those of
the definition. What causal order, windows and segments rule out is not touched.
"""

import math
from collections.abc import Callable
from functools import partial, reduce
from operator import add
from typing import Any

from ._backend import (
    add_block,
    block,
    bounds,
    clipped,
    compiled,
    heads_at_once,
    if_any,
    looks_once,
    map_each,
    map_heads,
    map_rows,
    maps_heads,
    most_tiles,
    span_between,
    working_set,
)
from ._closed_forms import Differentials, clean_tangent, pull_back, push_forward
from ._problem import (
    AttentionProblem,
    Span,
    narrow,
    narrow_heads,
    turned,
    with_arrays,
    without_leading_axis,
)
from ._rows import attend
from ._scores import allowed_of, clean
from ._typing import Array, Namespace

__all__ = ["compute_by_rows", "compute_jvp", "compute_vjp", "visible"]

#: How many arrays of the size of the scores at hand there are at once: in the forward pass,
#: and in a derivative.
FORWARD_ARRAYS, DERIVATIVE_ARRAYS = 3, 5
#: Fewer rows make a slow product, more do not make it faster.
LEAST_ROWS, MOST_ROWS = 16, 512
#: Into how many pieces queries are cut whose rows are mapped over in one loop: each piece
#: has its keys sliced for its last row.
PIECES = 4


def compute_by_rows(problem: AttentionProblem, /) -> tuple[Array, Array]:
    """Return the output and the lse, both in the compute dtype."""
    problem = problem._replace(wants_lse=True)
    # What a function captured may have changed by the next call.
    return compiled(_compute, problem) if problem.is_of_arrays else _compute(problem)


def _compute(problem: AttentionProblem, /) -> tuple[Array, Array]:
    problem = clean(problem)
    if not looks_once(problem.q):
        return _by_heads(problem)
    blind = problem._replace(bad_keys=None, bad_values=None)
    out, lse = _by_heads(turned(blind))
    sees_bad_key, sees_bad_value = _bad_rows(problem)
    where = problem.xp.where
    return (
        where(sees_bad_key | sees_bad_value, math.nan, out),
        where(sees_bad_key[..., 0], math.nan, lse),
    )


def _bad_rows(problem: AttentionProblem, /) -> list[Array]:
    """Return which rows may attend to a bad key, and which to a bad value: (..., q_len, 1)."""
    xp = problem.xp

    def look(rows: Span, keys: Span) -> tuple[tuple[Array, ...], tuple[()]]:
        part = narrow(problem, rows, keys)
        allowed = allowed_of(part)

        def seen(bad: Any) -> Array:
            found = xp.any(bad if allowed is None else bad & allowed, axis=-1, keepdims=True)
            return xp.broadcast_to(found, (*found.shape[:-2], rows.size, 1))

        return (seen(part.bad_keys), seen(part.bad_values)), ()

    bad: Any = (problem.bad_keys, problem.bad_values)
    return if_any(bad, lambda: _collected(problem, look, FORWARD_ARRAYS))


def _by_heads(problem: AttentionProblem, /) -> tuple[Array, Array]:
    if problem.is_of_arrays and 0 not in problem.shape and maps_heads(problem.q):
        return _one_by_one(problem)
    heads = _few_heads(problem)
    if not heads:
        return _in_rows(problem)
    found = map_each(lambda h: _in_rows(narrow_heads(problem, h)), heads, problem)
    outs, lses = zip(*found, strict=True)
    return problem.xp.concat(outs, axis=-3), problem.xp.concat(lses, axis=-2)


def _one_by_one(problem: AttentionProblem, /) -> tuple[Array, Array]:
    """Return the results of a problem whose batch and key/value heads are mapped over."""
    if len(problem.shape) < 3 or problem.num_kv_heads == 1 < problem.group:
        return _in_rows(problem)
    one, varying = without_leading_axis(problem)
    if varying:
        out, lse = map_heads(lambda arrays: _one_by_one(with_arrays(one, arrays)), varying)
    else:
        out, lse = _one_by_one(one)
    reshape, rows = problem.xp.reshape, problem.shape[:-1]
    return reshape(out, (*rows, out.shape[-1])), reshape(lse, rows)


def _few_heads(problem: AttentionProblem, /) -> list[Span]:
    """Return the key/value heads to work on one after the other, none where it is on all."""
    few, num_kv_heads = heads_at_once(problem.q), problem.num_kv_heads
    if len(problem.shape) < 3 or few >= num_kv_heads or not problem.is_of_arrays:
        return []
    return [Span(h, min(few, num_kv_heads - h)) for h in range(0, num_kv_heads, few)]


def _in_rows(problem: AttentionProblem, /) -> tuple[Array, Array]:
    def results(rows: Span, keys: Span) -> tuple[tuple[Array, Array], tuple[()]]:
        out, lse = attend(narrow(problem, rows, keys))
        return (out, lse[..., None]), ()

    out, lse = _collected(problem, results, FORWARD_ARRAYS)
    return out, lse[..., 0]


def compute_vjp(
    problem: AttentionProblem,
    d_out: Array,
    d_lse: Array | None = None,
    saved: tuple[Array, Array] | None = None,
    /,
) -> Differentials:
    """Return the gradients of the arrays of a problem, in the compute dtype.

    `d_out`, `d_lse` and what was saved, (out, lse), are in it, too, with all axes written out.
    """
    results = (d_out, d_lse, *(saved or (None, None)))
    if problem.is_of_arrays:
        return compiled(_vjp, problem, *results)
    return _vjp(problem, *results)


def compute_jvp(
    problem: AttentionProblem, tangent: Differentials, /
) -> tuple[Array, Array, Array, Array]:
    """Return output and lse, and how they change along a tangent, in the compute dtype."""
    return compiled(_jvp, problem, tangent) if problem.is_of_arrays else _jvp(problem, tangent)


def _vjp(
    problem: AttentionProblem,
    d_out: Array,
    d_lse: Array | None,
    out: Array | None,
    lse: Array | None,
    /,
) -> Differentials:
    problem = clean(problem)
    if problem.bias is not None and not callable(problem.bias) and problem.bias.ndim == 1:
        problem = problem._replace(bias=problem.bias[None, :])
    results = (d_out, _as_column(d_lse), out, _as_column(lse))
    heads = _few_heads(problem)
    if not heads:
        return _vjp_in_rows(problem, results)

    def gradients(h: Span) -> Differentials:
        served = Span(h.start * problem.group, h.size * problem.group)
        own = tuple(_block_of(x, served, -3, problem.shape[-3]) for x in results)
        return _vjp_in_rows(narrow_heads(problem, h), own)

    parts = map_each(gradients, heads, problem)
    return Differentials(
        *(
            _of_heads(like, list(found), xp=problem.xp)
            for like, found in zip(
                _differentiable(problem), zip(*parts, strict=True), strict=True
            )
        )
    )


def _of_heads(
    like: Array | None, parts: list[Array | None], /, *, xp: Namespace
) -> Array | None:
    """Line up the gradients of an array that was cut into heads; else they are of it all."""
    if like is None or parts[0] is None:
        return None
    if like.ndim > 2 and like.shape[-3] > 1:
        return xp.concat(parts, axis=-3)
    return reduce(add, parts)


def _vjp_in_rows(
    problem: AttentionProblem, results: tuple[Array | None, ...], /
) -> Differentials:
    def gradients(rows: Span, keys: Span) -> tuple[tuple[Array], Differentials]:
        d_out, d_lse, out, lse = (_block_of(x, rows, -2, problem.shape[-2]) for x in results)
        saved = None if out is None else (out, lse)
        found = pull_back(narrow(problem, rows, keys), d_out, d_lse, saved)
        return (found.q,), found._replace(q=None)

    def added(
        sums: Differentials, part: Differentials, rows: Span, keys: Span
    ) -> Differentials:
        return Differentials(
            k=_added(sums.k, part.k, keys.start, 0),
            v=_added(sums.v, part.v, keys.start, 0),
            bias=_added(sums.bias, part.bias, rows.start, keys.start),
            sinks=None if part.sinks is None else sums.sinks + part.sinks,
        )

    _, *others = _differentiable(problem)
    zeros = (None if x is None else problem.xp.zeros_like(x) for x in others)
    start = Differentials(None, *zeros)
    sums, (d_q,) = _tiled(problem, gradients, added, start, DERIVATIVE_ARRAYS)
    return sums._replace(q=d_q)


def _differentiable(problem: AttentionProblem, /) -> Differentials:
    """Return the arrays of a problem that have a gradient."""
    bias = None if callable(problem.bias) else problem.bias
    return Differentials(problem.q, problem.k, problem.v, bias, problem.sinks)


def _jvp(
    problem: AttentionProblem, tangent: Differentials, /
) -> tuple[Array, Array, Array, Array]:
    tangent = clean_tangent(problem, tangent)
    problem = clean(problem)
    # The tangent is cut as the problem is; of the rest there is nothing to cut.
    along = problem._replace(
        **tangent._asdict(),
        mask=None,
        dropout_mask=None,
        segments=None,
        q_offset=0,
        bad_queries=None,
        bad_keys=None,
        bad_values=None,
    )
    heads = _few_heads(problem)
    if not heads:
        found = _jvp_in_rows(problem, along)
    else:
        parts = map_each(
            lambda h: _jvp_in_rows(narrow_heads(problem, h), narrow_heads(along, h)),
            heads,
            problem,
        )
        found = [problem.xp.concat(x, axis=-3) for x in zip(*parts, strict=True)]
    out, lse, d_out, d_lse = found
    return out, lse[..., 0], d_out, d_lse[..., 0]


def _jvp_in_rows(problem: AttentionProblem, along: AttentionProblem, /) -> list[Array]:
    def changes(rows: Span, keys: Span) -> tuple[tuple[Array, ...], tuple[()]]:
        part = _differentiable(narrow(along, rows, keys))
        return push_forward(narrow(problem, rows, keys), part), ()

    return _collected(problem, changes, DERIVATIVE_ARRAYS)


def _collected(
    problem: AttentionProblem,
    body: Callable[[Span, Span], tuple[tuple[Array, ...], tuple[()]]],
    arrays: int,
    /,
) -> list[Array]:
    """Do as `_tiled` where there is nothing to add up."""
    return _tiled(problem, body, lambda sums, *_: sums, (), arrays)[1]


def _tiled(
    problem: AttentionProblem,
    body: Callable[[Span, Span], tuple[tuple[Array, ...], Any]],
    plus: Callable[[Any, Any, Span, Span], Any],
    sums: Any,
    arrays: int,
    /,
) -> tuple[Any, list[Array]]:
    """Call `body` for a few rows at a time, and the keys that they may see.

    Of what it returns, the first arrays are lined up along the rows, the others added. It holds
    so many `arrays` of the size of the scores at once.
    """
    size = _rows_at_once(problem, arrays)
    collected = []
    for piece in _pieces(problem, size):
        spans = partial(_spans, problem, piece, size)
        sums, rows = map_rows(
            partial(_at, spans, body),
            partial(_added_at, spans, plus),
            piece.start,
            max(1, piece.size // size),
            size,
            sums,
            problem.q,
        )
        collected += rows
    if len(collected) == 1:
        return sums, list(collected[0])
    return sums, [problem.xp.concat(tiles, axis=-2) for tiles in zip(*collected, strict=True)]


def _at(spans: Any, body: Any, start: int | Array, /) -> Any:
    return body(*spans(start))


def _added_at(spans: Any, plus: Any, sums: Any, part: Any, start: int | Array, /) -> Any:
    return plus(sums, part, *spans(start))


def _added(x: Array | None, part: Array | None, row: Any, column: Any, /) -> Array | None:
    """Add a part where it belongs: an axis of the same size has been cut nowhere."""
    if x is None or part is None:
        return None
    row = 0 if part.shape[-2] == x.shape[-2] else row
    return add_block(x, part, row, 0 if part.shape[-1] == x.shape[-1] else column)


def _block_of(x: Array | None, span: Span, axis: int, whole: int, /) -> Array | None:
    return x if x is None or span.size == whole else block(x, span.start, span.size, axis)


def _as_column(x: Array | None, /) -> Array | None:
    return None if x is None else x[..., None]


def _spans(
    problem: AttentionProblem, piece: Span, size: int, start: int | Array, /
) -> tuple[Span, Span]:
    """Return the rows of a piece from `start` on, and the keys that they may see."""
    rows = Span(start, min(size, piece.size))
    keys = visible(problem, rows if isinstance(start, int) else piece)
    return rows, _window(problem, rows, keys)


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


def visible(problem: AttentionProblem, rows: Span, /) -> Span:
    """Return the keys that some of the rows may see, as far as is known without tracing."""
    kv_len = problem.shape[-1]
    first, end = 0, kv_len
    offsets = bounds(problem.q_offset - problem.kv_start)
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


def _rows_at_once(problem: AttentionProblem, arrays: int, /) -> int:
    """Return how many rows fit into the budget, with all the keys that one row may see."""
    *batch, q_len, kv_len = problem.shape
    left, right = problem.window
    seen = kv_len
    if left is not None and right is not None:
        seen = min(kv_len, left + right + MOST_ROWS)
    item = arrays * problem.xp.finfo(problem.dtype).bits // 8
    rows = working_set(problem.q) // max(1, item * seen * math.prod(batch))
    rows = max(LEAST_ROWS, min(MOST_ROWS, rows // LEAST_ROWS * LEAST_ROWS))
    return max(rows, -(-q_len // most_tiles(problem.q)))
