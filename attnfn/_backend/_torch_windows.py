"""A window as one call of PyTorch's kernel: blocks of queries, each beside its keys."""

from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention

from .._typing import Array
from ._torch_tiles import as_term

__all__ = ["Blocks", "attend", "blocks_of"]

#: Queries of a block, at least: of fewer, the kernel has too little to do at once.
LEAST_ROWS = 256
#: So few blocks are not worth a call of their own.
LEAST_BLOCKS = 4


class Blocks(NamedTuple):
    """The queries of which the whole window lies among the keys, in blocks of equal size."""

    start: int
    number: int
    size: int

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
    size = max(LEAST_ROWS, left + right + 1)
    start = -(-left // size) * size
    number = (min(q_len, kv_len - right) - start) // size
    return Blocks(start, number, size) if number >= LEAST_BLOCKS else None


def attend(problem: Any, blocks: Blocks, q: Array, k: Array, v: Array, /) -> Array:
    """Return the output of some blocks, in the shape (batch, heads, rows, value_dim).

    `q`, `k` and `v` are as the kernel takes them, with four axes and equally many heads.
    """
    left, right = problem.window
    start, number, size = blocks
    span = left + size + right
    batch, heads = q.shape[:2]
    group = problem.group

    def beside(x: Array) -> Array:
        """Return (-1, number, span, dim): each block's keys, a view in which they overlap."""
        x = (x[:, :1] if group > 1 else x).flatten(0, 1)
        x = x.narrow(1, start - left, (number - 1) * size + span)
        return x.unfold(1, span, size).mT

    rows = q[:, :, start : blocks.stop].unflatten(2, (number, size))
    # Query heads that share keys are lined up: (batch, heads, number, size, dim).
    rows = rows.transpose(1, 2).flatten(2, 3) if group > 1 else rows.flatten(0, 1)

    i = torch.arange(size, device=q.device)[:, None]
    j = torch.arange(span, device=q.device)
    mask = as_term((i <= j) & (j <= i + left + right), q.dtype)
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
