"""A window in blocks of queries, each beside its keys, a view in which they overlap.

They are one call of PyTorch's kernel, in a graph or on a device, and products of batches on a
CPU, for which more of the window is in smaller blocks.
"""

from itertools import product
from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention

from .._typing import Array
from ._torch import all_finite
from ._torch_tiles import LOG2_E, as_term, form_of, of_head, powers

__all__ = ["Blocks", "attend", "attend_in_place", "blocks_of", "small_blocks_of"]

#: Queries of a block, at least: of fewer, the kernel has too little to do at once.
LEAST_ROWS = 256
#: Rows of a product on a CPU, and so many keys in a window that there may be twice as many.
ROWS, MANY_KEYS = 64, 1024
#: Scores of a thread that are computed at once: they stay in the cache.
SCORES = 2**18
#: So few blocks are not worth a call of their own.
LEAST_BLOCKS = 4


class Blocks(NamedTuple):
    """The queries of which the whole window lies among the keys, in blocks of equal size."""

    start: int
    number: int
    size: int
    key: int  # the first that is seen

    @property
    def stop(self) -> int:
        return self.start + self.number * self.size


def blocks_of(problem: Any, /) -> Blocks | None:
    """Return the blocks of a problem; None where it has not a window alone, or too few."""
    left, right = problem.window
    q_len, kv_len = problem.shape[-2:]
    terms = (problem.mask, problem.bias, problem.segments)
    if left is None or right is None or any(x is not None for x in terms):
        return None
    if not (type(q_len) is type(kv_len) is int) or problem.q_offset != problem.kv_start:
        return None
    return _blocks(problem, max(LEAST_ROWS, left + right + 1))


def small_blocks_of(problem: Any, /) -> Blocks | None:
    """Return blocks for a CPU, None where there are no products of batches in them."""
    left, right = problem.window
    terms = (problem.mask, problem.bias, problem.segments)
    if left is None or right is None or any(x is not None for x in terms):
        return None
    rows = ROWS if left + right < MANY_KEYS else 2 * ROWS
    return _blocks(problem, max(rows // 2, rows // problem.group))


def _blocks(problem: Any, size: int, /) -> Blocks | None:
    left, right = problem.window
    q_len, kv_len = problem.shape[-2:]
    shift = problem.q_offset - problem.kv_start
    start = -(-max(0, left - shift) // size) * size
    number = (min(q_len, kv_len - right - shift) - start) // size
    if number < LEAST_BLOCKS:
        return None
    return Blocks(start, number, size, start + shift - left)


def attend(problem: Any, blocks: Blocks, q: Array, k: Array, v: Array, /) -> Array:
    """Return the output of some blocks, in the shape (batch, heads, rows, value_dim).

    `q`, `k` and `v` are as the kernel takes them, with four axes and equally many heads.
    """
    left, right = problem.window
    start, number, size, key = blocks
    span = left + size + right
    batch, heads = q.shape[:2]
    group = problem.group

    def beside(x: Array) -> Array:
        """Return (-1, number, span, dim): each block's keys."""
        x = (x[:, :1] if group > 1 else x).flatten(0, 1)
        x = x.narrow(1, key, (number - 1) * size + span)
        return x.unfold(1, span, size).mT

    rows = q[:, :, start : blocks.stop].unflatten(2, (number, size))
    # Query heads that share keys are lined up: (batch, heads, number, size, dim).
    rows = rows.transpose(1, 2).flatten(2, 3) if group > 1 else rows.flatten(0, 1)

    mask = _mask(problem, size)
    out = scaled_dot_product_attention(
        rows,
        beside(k),
        beside(v),
        attn_mask=mask.repeat(rows.shape[-2] // size, 1),
        scale=problem.scale,
    )
    if group > 1:
        out = out.unflatten(2, (heads, size)).transpose(1, 2)
    return out.reshape(batch, heads, number * size, out.shape[-1])


def attend_in_place(
    problem: Any, blocks: Blocks, most: float, out: Array, lse: Array, /
) -> bool:
    """Write output and lse of some blocks to where they belong, given `tiles.greatest`.

    `out` and `lse` are of the whole problem; the lse has an axis of 1 at the end. Return
    whether all sums of values are finite.
    """
    left, right = problem.window
    start, number, size, key = blocks
    span, group = left + size + right, problem.group
    form = form_of(problem, most)
    mask = _mask(problem, size).repeat(group, 1)
    rows = slice(start, blocks.stop)
    q = problem.q[..., rows, :].expand(*problem.shape[:-2], number * size, -1)
    at_once = _at_once(number, group * size * span)
    scores, sums = (
        mask.new_empty((min(at_once, number), group * size, dim))
        for dim in (span, problem.v.shape[-1])
    )
    for *entry, served in product(*map(range, problem.shape[:-3]), range(problem.num_kv_heads)):
        head = (*entry, served)[: len(problem.shape) - 2]
        k, v = (
            _with_last_by_one(of_head(x, head))
            .narrow(0, key, (number - 1) * size + span)
            .unfold(0, span, size)
            for x in (problem.k, problem.v)
        )
        # Query heads that share keys are lined up.
        queries, outs, lses = (
            _of_group(x, tuple(entry), served, group)
            .unflatten(1, (number, size))
            .transpose(0, 1)
            for x in (q, out[..., rows, :], lse[..., rows, :])
        )
        queries = queries.reshape(number, group * size, -1)
        for first in range(0, number, at_once):
            now = slice(first, min(first + at_once, number))
            count = now.stop - first
            weights, part = scores[:count], sums[:count]
            torch.baddbmm(mask, queries[now], k[now], alpha=form.factor, out=weights)
            peak, total = powers(form, weights, None)
            torch.bmm(weights, v[now].mT, out=part)
            if not all_finite(part):
                return False
            shape = (count, group, size, -1)
            torch.div(part.view(shape), total.view(shape), out=outs[now])
            lses[now] = total.log2_().add_(peak).div_(LOG2_E).view(shape)
    return True


def _at_once(number: int, scores: int, /) -> int:
    """Return how many blocks are one product: for every thread as many."""
    threads = torch.get_num_threads()
    steps = -(-number // max(1, SCORES * threads // scores))
    return -(-number // (steps * threads)) * threads


def _of_group(x: Array, entry: tuple[int, ...], served: int, group: int, /) -> Array:
    """Return (group, rows, dim): what belongs to the query heads that share keys."""
    return x[None] if x.ndim < 3 else x[entry].narrow(0, served * group, group)


def _with_last_by_one(x: Array, /) -> Array:
    return x if x.stride(-1) == 1 else x.contiguous()


def _mask(problem: Any, size: int, /) -> Array:
    """Return what is to be added to the scores of a block, of which every row sees as many."""
    left, right = problem.window
    i = torch.arange(size, device=problem.q.device)[:, None]
    j = torch.arange(left + size + right, device=problem.q.device)
    return as_term((i <= j) & (j <= i + left + right), problem.q.dtype)
