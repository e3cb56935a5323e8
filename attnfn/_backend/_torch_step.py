"""A step of decoding on PyTorch's CPU: few queries, and reading the keys is all the work."""

import math
import threading
from typing import Any

import torch

from .._typing import Array
from ._torch import all_finite
from ._torch_tiles import as_term

__all__ = ["attend", "fits"]

#: So few query rows to a key/value head had better be one product for all of its query heads.
FEW_ROWS = 16
#: So few numbers in the keys are read at once.
FEW_NUMBERS = 2**16
#: So many numbers of a step a thread keeps room for.
MOST_KEPT = 2**20


def fits(problem: Any, /) -> bool:
    """Return whether a problem has few queries, many keys, and nothing to be repeated."""
    heads = (*problem.shape[:-3], problem.num_kv_heads)[: len(problem.shape) - 2]
    return (
        problem.group * problem.shape[-2] <= FEW_ROWS
        and math.prod(problem.k.shape) > FEW_NUMBERS
        and tuple(problem.k.shape[:-2]) == tuple(problem.v.shape[:-2]) == tuple(heads)
    )


def attend(definition: Any, problem: Any, /) -> tuple[Array, Array | None] | None:
    """Return output and lse without the sinks, None where something is not finite.

    The lse is None where nobody asks for it. Neither keys nor values are looked at: what they
    hold shows in the products.
    """
    q_len, dtype = problem.shape[-2], problem.dtype
    by_position = problem.window != (None, None) or problem.segments is not None
    if by_position:
        keys = definition.visible(problem, 0, q_len)
        if keys[1]:
            problem = definition.narrow(problem, (0, q_len), keys)
            # What is left is all in the window of one query.
            is_exact = q_len == 1 and type(problem.q_offset) is int
            by_position = problem.segments is not None or not is_exact
    shape, rows = problem.shape, problem.group * q_len
    # Rows of query heads that share keys are lined up: one product serves the group.
    q = problem.q.to(dtype).expand(*shape[:-1], -1)
    q = q.reshape(-1, rows, q.shape[-1])
    k, v = (x.to(dtype).reshape(-1, shape[-1], x.shape[-1]) for x in (problem.k, problem.v))
    # Keys first: with few rows, the other way round takes up to twice as long.
    products, scores = _rooms(k.shape[0], rows, shape[-1], dtype)
    torch.baddbmm(products, k, q.mT, beta=0, alpha=problem.scale, out=products)
    least, most = (x.item() for x in torch.aminmax(products))
    # A key may be so bad that its score is -inf, which a softmax would not show.
    if not (-math.inf < least and most < math.inf):
        return None
    if rows > 1:
        scores.copy_(products.mT)
    weights = scores.view(shape)
    if problem.softcap is not None:
        weights.div_(problem.softcap).tanh_().mul_(problem.softcap)
    if problem.bias is not None:
        weights.add_(problem.bias)
    allowed = None
    if by_position or problem.mask is not None:
        allowed = definition.allowed(problem)
    if allowed is not None:
        weights.add_(as_term(allowed, dtype))

    may_be_empty = problem.bias is not None or allowed is not None
    wants_lse = problem.wants_lse or problem.sinks is not None
    peak: Any = weights.amax(-1) if may_be_empty or wants_lse else None
    torch.softmax(weights, -1, out=weights)
    lse = peak - torch.log(weights.amax(-1)) if wants_lse else None
    if may_be_empty:
        is_empty = peak == -math.inf
        weights.masked_fill_(is_empty[..., None], 0.0)
        lse = None if lse is None else lse.masked_fill_(is_empty, -math.inf)
    smallest = torch.finfo(dtype).smallest_normal
    if problem.bias is not None or most - least + math.log(shape[-1]) > -math.log(smallest):
        torch.threshold_(weights, smallest, 0.0)
    if problem.dropout_mask is not None:
        weights.mul_(problem.dropout_mask).div_(problem.keep_rate)
    out = torch.bmm(scores, v).view(*shape[:-1], v.shape[-1])
    return (out, lse) if all_finite(out) else None


class _Kept(threading.local):
    """What a thread has room for its scores in; views of it for problems like the last one."""

    key: Any = None
    views: tuple[Array, Array]


_kept = _Kept()


def _rooms(heads: int, rows: int, kv_len: int, dtype: Any, /) -> tuple[Array, Array]:
    """Return room for products (heads, kv_len, rows) and for scores (heads, rows, kv_len).

    Of one row they are the same numbers, and the same room. Fresh room costs more than what is
    computed in it: the system clears its pages, step after step.
    """
    key = (heads, rows, kv_len, dtype)
    if _kept.key == key:
        return _kept.views
    count, shape = heads * rows * kv_len, (heads, rows, kv_len)
    # Whoever writes to what was made in inference mode has to be in it, too.
    with torch.inference_mode(mode=False):
        room = torch.empty(count * (1 if rows == 1 else 2), dtype=dtype, device="cpu")
        scores = room[-count:].view(shape)
        products = scores.mT if rows == 1 else room[:count].view(heads, kv_len, rows)
    if room.numel() <= MOST_KEPT:
        _kept.key, _kept.views = key, (products, scores)
    return products, scores
