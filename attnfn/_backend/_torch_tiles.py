"""Attention in place on a CPU, for what PyTorch's own kernel cannot do, or does slowly.

Some rows of one head at a time, in buffers that are made once: a fresh array costs more than
what is computed in it. Scores are logarithms to the base 2, of which powers are cheapest.
"""

import math
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import torch

from .._typing import Array

__all__ = [
    "LOG2_E",
    "as_term",
    "attend",
    "form_of",
    "greatest",
    "makes_denormals",
    "of_head",
    "powers",
    "pull_back",
]

LOG2_E = math.log2(math.e)
#: Scores of a tile: they stay in the cache, and are enough for two threads.
TILE = 2**19
LEAST_ROWS, MOST_ROWS = 64, 512


def greatest(problem: Any, /) -> float:
    """Return what no product of query and key exceeds; not finite if one of them is not."""
    norm = torch.linalg.vector_norm
    q, k = (norm(x.detach(), dim=-1).amax().item() for x in (problem.q, problem.k))
    return float(q * k * abs(problem.scale))


def makes_denormals(dtype: Any, most: float, /) -> bool:
    """Return whether scores up to `most` may have weights below the smallest normal number."""
    return not 2.0 * most < -math.log(torch.finfo(dtype).smallest_normal)


def attend(definition: Any, problem: Any, most: float, /) -> tuple[Array, Array]:
    """Return the output and the lse, given `greatest`; not finite where values are not."""
    form = form_of(problem, most)
    q = problem.q * form.factor
    out = q.new_empty((*problem.shape[:-1], problem.v.shape[-1]))
    lse = q.new_empty((*problem.shape[:-1], 1))
    rooms = _rooms(problem, 1)
    for tile in _tiles(definition, problem):
        if tile.keys.start == tile.keys.stop:
            out[tile.head][tile.rows] = 0.0
            lse[tile.head][tile.rows] = -math.inf if tile.sink is None else tile.sink
            continue
        (scores,) = _views(rooms, tile)
        k, v = (of_head(x, tile.served)[tile.keys] for x in (problem.k, problem.v))
        torch.mm(of_head(q, tile.head)[tile.rows], k.mT, out=scores)
        _bend(form, scores)
        peak, total = _exponentials(form, tile, scores, scores)
        here = lse[tile.head][tile.rows]
        torch.log2(total, out=here)
        here.add_(peak).sub_(form.excess).div_(LOG2_E)
        _without_empty(tile, total)
        if tile.keep is not None:
            scores.mul_(tile.keep)
            total.mul_(problem.keep_rate)
        torch.mm(scores, v, out=out[tile.head][tile.rows])
        out[tile.head][tile.rows].div_(total)
    return out, lse[..., 0]


def pull_back(
    definition: Any, problem: Any, most: float, d_out: Array, delta: Array, /
) -> dict[str, Array]:
    """Return the gradients by name, but for the sinks'; `delta` has an axis of 1 at the end."""
    form = form_of(problem, most)
    q = problem.q * form.factor
    sums = {"q": torch.zeros_like(problem.q)}
    if problem.bias is not None:
        sums["bias"] = torch.zeros_like(problem.bias)
    # Transposed, since the other way round a product takes 1.4 times as long.
    for name, x in (("k", problem.k), ("v", problem.v)):
        sums[name] = x.new_zeros(x.mT.shape)
    rooms = _rooms(problem, 2 if form.bend is None else 3)
    for tile in _tiles(definition, problem):
        if tile.keys.start == tile.keys.stop:
            continue
        d_q = of_head(sums["q"], tile.head)[tile.rows]
        d_k, d_v = (of_head(sums[name], tile.served)[:, tile.keys] for name in ("k", "v"))
        k, v = (of_head(x, tile.served)[tile.keys] for x in (problem.k, problem.v))
        rows = of_head(q, tile.head)[tile.rows]
        exp, d_scores, *bent = _views(rooms, tile)
        scores = bent[0] if bent else exp
        torch.mm(rows, k.mT, out=scores)
        _bend(form, scores)
        _, total = _exponentials(form, tile, scores, exp)
        _without_empty(tile, total)

        scaled = d_out[tile.head][tile.rows] / total
        torch.mm(scaled, v.mT, out=d_scores)
        if tile.keep is not None:
            scaled.div_(problem.keep_rate)
            d_scores.mul_(tile.keep).div_(problem.keep_rate)
        d_scores.sub_(delta[tile.head][tile.rows] / total).mul_(exp)
        d_v.addmm_(scaled.mT, exp if tile.keep is None else exp.mul_(tile.keep))
        if tile.bias is not None:
            d_bias = _of_bias(sums["bias"], tile)
            d_bias += d_scores.sum_to_size(d_bias.shape)
        _unbend(form, d_scores, scores)
        d_q.addmm_(d_scores, k)
        d_k.addmm_(rows.mT, d_scores)
    sums["q"].mul_(form.factor * form.unit)
    sums["k"].mul_(form.unit)
    return sums | {name: sums[name].mT.contiguous() for name in ("k", "v")}


class _Form(NamedTuple):
    """How scores are found from the products of queries and keys."""

    factor: float  # of the queries
    unit: float  # what a gradient is to be multiplied by where a factor is not counted
    bend: str | None = None  # "sigmoid" or "tanh"
    gain: float = 1.0  # of what has been bent
    excess: float = 0.0  # of what is computed over the score: no weight feels it
    is_bounded: bool = False  # whether powers of 2 neither overflow nor vanish


def form_of(problem: Any, most: float, /) -> _Form:
    """Return how the scores of a problem are found, given `greatest`."""
    scale, cap, reach = float(problem.scale), problem.softcap, most * LOG2_E
    # Room for a sum over the keys, and for small values.
    limit = 0.8 * math.log2(torch.finfo(problem.dtype).max)
    has_bound = problem.bias is None and problem.sinks is None
    is_small = has_bound and 2.0 * reach < limit
    if cap is None:
        return _Form(scale * LOG2_E, 1.0 / LOG2_E, is_bounded=is_small)
    top = cap * LOG2_E
    if 2.0 * most < cap:
        # A sigmoid is off by some part of 1, which shows where scores are far below the cap.
        return _Form(scale / cap, cap, "tanh", top, is_bounded=is_small)
    # cap * tanh(s / cap) is cap * (2 * sigmoid(2 * s / cap) - 1), in a sixth of the time.
    is_bounded = has_bound and top + min(top, reach) < limit
    return _Form(2.0 * scale / cap, 2.0 * cap, "sigmoid", 2.0 * top, top, is_bounded)


def _bend(form: _Form, scores: Array, /) -> None:
    if form.bend == "sigmoid":
        scores.sigmoid_()
    elif form.bend == "tanh":
        scores.tanh_()


def _unbend(form: _Form, d_scores: Array, bent: Array, /) -> None:
    if form.bend == "sigmoid":
        torch.ops.aten.sigmoid_backward.grad_input(d_scores, bent, grad_input=d_scores)
    elif form.bend == "tanh":
        torch.ops.aten.tanh_backward.grad_input(d_scores, bent, grad_input=d_scores)


def _exponentials(
    form: _Form, tile: "_Tile", scores: Array, out: Array, /
) -> tuple[Array | float, Array]:
    """Put powers of 2 of bent scores into `out`; return what was taken off, and their sums."""
    if form.bend is not None:
        torch.mul(scores, form.gain, out=out)
    if tile.bias is not None:
        out.add_(tile.bias, alpha=LOG2_E)
    for columns, term in tile.terms:
        out[:, columns].add_(term)
    sink = None if tile.sink is None else tile.sink * LOG2_E + form.excess
    return powers(form, out, sink)


def powers(form: _Form, out: Array, sink: Array | None, /) -> tuple[Array | float, Array]:
    """Put powers of 2 of `out` into itself; return what was taken off, and their sums."""
    if form.is_bounded:
        out.exp2_()
        return 0.0, out.sum(-1, keepdim=True)
    peak = out.amax(-1, keepdim=True)
    if sink is not None:
        peak = torch.maximum(peak, sink)
    # -inf - -inf is NaN.
    peak.masked_fill_(peak == -math.inf, 0.0)
    # Products with numbers that are not normal take ten times as long.
    least = math.log2(torch.finfo(out.dtype).smallest_normal)
    torch.nn.functional.threshold_(out.sub_(peak), least, -math.inf).exp2_()
    total = out.sum(-1, keepdim=True)
    return peak, total if sink is None else total + torch.exp2(sink - peak)


def _without_empty(tile: "_Tile", total: Array, /) -> None:
    """Let the weights of a row be 0 in which there is nothing."""
    if tile.terms or tile.bias is not None:
        total.masked_fill_(total == 0.0, 1.0)


class _Tile(NamedTuple):
    """Some rows of a head, and the keys that they may see."""

    head: tuple[int, ...]  # an index into what belongs to query heads
    served: tuple[int, ...]  # and to key/value heads
    rows: slice
    keys: slice
    terms: list[tuple[slice, Array]]  # columns, and what is added: -inf where a key is hidden
    bias: Array | None
    keep: Array | None  # 1 where a weight is not dropped
    sink: Array | None


def _tiles(definition: Any, problem: Any, /) -> Iterator[_Tile]:
    *batch, num_heads = problem.shape[:-2] or (1,)
    q_len, size = problem.shape[-2], _rows_at_once(problem)
    starts = range(0, q_len, size)
    is_masked = problem.mask is not None or problem.segments is not None
    is_shared = is_masked and (problem.mask is None or _has_one_head(problem.mask))
    for entry in product(*map(range, batch)):
        heads = [(*entry, h)[: len(problem.shape) - 2] for h in range(num_heads)]
        ones = [(head, _one(problem, head)) for head in heads]
        # Keys stay in the cache if one head is done before the next. But a mask of all heads
        # is made once.
        order = (
            product(starts, ones) if is_shared else ((s, one) for one in ones for s in starts)
        )
        masks: dict[Any, Array] = {}
        terms, last = None, None
        for start, (head, one) in order:
            rows = (start, min(size, q_len - start))
            keys = definition.visible(one, *rows)
            if not is_shared or start != last:
                terms, last = _terms(definition, one, rows, keys, masks), start
            part = one
            if one.bias is not None or one.dropout_mask is not None:
                part = definition.narrow(one, rows, keys)
            keep = part.dropout_mask
            yield _Tile(
                head=head,
                served=(*head[:-1], head[-1] // problem.group) if head else (),
                rows=slice(start, start + rows[1]),
                keys=slice(keys[0], keys[0] + keys[1]),
                terms=terms or [],
                bias=part.bias,
                keep=None if keep is None else keep.to(problem.dtype),
                sink=one.sinks,
            )


def _has_one_head(x: Array, /) -> bool:
    return bool(x.ndim < 3 or x.shape[-3] == 1)


def _rows_at_once(problem: Any, /) -> int:
    left, right = problem.window
    kv_len = problem.shape[-1]
    seen = kv_len
    if left is not None and right is not None:
        seen = min(kv_len, left + right + MOST_ROWS)
    return max(LEAST_ROWS, min(MOST_ROWS, TILE // max(1, seen)))


def _one(problem: Any, head: tuple[int, ...], /) -> Any:
    """Return the problem of one head, of which positions, masks and bias are asked."""

    def own(x: Any) -> Any:
        return None if x is None else of_head(x, head)

    offset, segments = problem.q_offset, problem.segments
    return problem._replace(
        q=(),
        k=(),
        v=(),
        shape=problem.shape[-2:],
        num_kv_heads=1,
        group=1,
        bias=own(problem.bias),
        mask=own(problem.mask),
        segments=None if segments is None else tuple(own(x) for x in segments),
        q_offset=int(own(offset)) if isinstance(offset, torch.Tensor) else offset,
        sinks=own(problem.sinks),
        dropout_mask=own(problem.dropout_mask),
    )


def _terms(
    definition: Any, one: Any, rows: tuple[int, int], keys: tuple[int, int], masks: Any, /
) -> list[tuple[slice, Array]]:
    """Return what hides keys from some rows of a head; only where one is hidden, if known."""
    (start, count), (first, size) = rows, keys
    left, right = one.window
    by_position = one.mask is None and one.segments is None
    columns = [(0, size)]
    if by_position:
        # The first row sees the least of what is on the right, the last of what is left.
        shift = start + one.q_offset - one.kv_start - first
        seen = size if right is None else max(0, min(size, shift + right + 1))
        gone = 0 if left is None else max(0, min(size, shift + count - 1 - left))
        columns = [(0, gone), (seen, size)] if gone <= seen else columns
    terms = []
    for begin, end in columns:
        if begin == end:
            continue
        at = (count, end - begin, first + begin - start)
        if not by_position or at not in masks:
            part = definition.narrow(one, rows, (first + begin, end - begin))
            allowed = definition.allowed(part)
            if allowed is None:
                continue
            masks[at] = as_term(allowed, one.dtype)
        terms.append((slice(begin, end), masks[at]))
    return terms


def as_term(allowed: Array, dtype: Any, /) -> Array:
    """Return 0 where something is allowed, -inf elsewhere: made of bits, four times as fast."""
    if dtype != torch.float32:
        return torch.where(allowed, 0.0, -math.inf).to(dtype)
    # All bits of -1 are set, those of 0 are not: what is left of -1 are the bits of -inf.
    return (allowed.to(torch.int32) - 1).bitwise_and_(-(2**23)).view(torch.float32)


def of_head(x: Array, head: tuple[int, ...], /) -> Array:
    """Return what belongs to a head of an array that may lack axes, or have axes of 1."""
    if x.ndim < 3:
        return x
    own = x.shape[:-2]
    return x[tuple(i if n > 1 else 0 for i, n in zip(head[-len(own) :], own, strict=True))]


def _of_bias(x: Array, tile: _Tile, /) -> Array:
    x = of_head(x, tile.head)
    x = x if x.shape[-1] == 1 else x[..., tile.keys]
    return x if x.ndim < 2 or x.shape[-2] == 1 else x[tile.rows]


def _rooms(problem: Any, count: int, /) -> Array:
    rows = min(_rows_at_once(problem), problem.shape[-2])
    left, right = problem.window
    keys = problem.shape[-1]
    if left is not None and right is not None:
        keys = min(keys, left + right + rows)
    return problem.q.new_empty((count, rows * keys))


def _views(rooms: Array, tile: _Tile, /) -> list[Array]:
    rows, keys = tile.rows.stop - tile.rows.start, tile.keys.stop - tile.keys.start
    return [room[: rows * keys].view(rows, keys) for room in rooms]
