"""A step of decoding on PyTorch's CPU: few queries, and reading the keys is all the work."""

import math
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


def fits(problem: Any, /) -> bool:
    """Return whether a problem has few queries, many keys, and nothing to be repeated."""
    heads = (*problem.shape[:-3], problem.num_kv_heads)[: len(problem.shape) - 2]
    return (
        problem.group * problem.shape[-2] <= FEW_ROWS
        and math.prod(problem.k.shape) > FEW_NUMBERS
        and tuple(problem.k.shape[:-2]) == tuple(problem.v.shape[:-2]) == tuple(heads)
    )


def attend(definition: Any, problem: Any, /) -> tuple[Array, Array] | None:
    """Return output and lse without the sinks, None where something is not finite.

    Neither keys nor values are looked at: what they hold shows in the products.
    """
    q_len = problem.shape[-2]
    keys = definition.visible(problem, 0, q_len)
    if keys[1]:
        problem = definition.narrow(problem, (0, q_len), keys)
    shape, rows = problem.shape, problem.group * q_len
    # Rows of query heads that share keys are lined up: one product serves the group.
    q = (problem.q.to(problem.dtype) * problem.scale).expand(*shape[:-1], -1)
    q = q.reshape(-1, rows, q.shape[-1])
    k, v = (
        x.to(problem.dtype).reshape(-1, shape[-1], x.shape[-1]) for x in (problem.k, problem.v)
    )
    # Keys first: with few rows, the other way round takes up to twice as long.
    scores = torch.bmm(k, q.mT).mT.contiguous()
    if not all_finite(scores):
        return None
    scores = scores.view(shape)
    if problem.softcap is not None:
        scores.div_(problem.softcap).tanh_().mul_(problem.softcap)
    if problem.bias is not None:
        scores.add_(problem.bias)
    allowed = definition.allowed(problem)
    if allowed is not None:
        scores.add_(as_term(allowed, problem.dtype))

    peak = scores.amax(-1)
    weights = torch.softmax(scores, -1)
    lse = peak - torch.log(weights.amax(-1))
    if problem.bias is not None or allowed is not None:
        is_empty = peak == -math.inf
        weights.masked_fill_(is_empty[..., None], 0.0)
        lse = lse.masked_fill_(is_empty, -math.inf)
    torch.threshold_(weights, torch.finfo(problem.dtype).smallest_normal, 0.0)
    if problem.dropout_mask is not None:
        weights.mul_(problem.dropout_mask).div_(problem.keep_rate)
    out = torch.bmm(weights.view(-1, rows, shape[-1]), v).view(*shape[:-1], v.shape[-1])
    return (out, lse) if all_finite(out) else None
