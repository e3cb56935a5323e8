"""Fewer digits than there should be."""

import math

import numpy as np

from ._mutant import mutant
from ._pieces import grouped, hidden, key_of, softmax


def _torch_softmax(scores):
    import torch

    top = scores.amax(dim=-1, keepdim=True)
    shares = torch.exp(scores - torch.where(top == -math.inf, 0.0, top))
    total = shares.sum(dim=-1, keepdim=True)
    return shares / torch.where(total == 0, 1.0, total)


@mutant(
    "low_precision",
    why="the output is accumulated in bfloat16, tile by tile, because that is its dtype",
    library="torch",
    dtypes=("bfloat16",),
)
def accumulated_in_bfloat16(query, key, value, /, *, scale=None, bug=True):
    import torch

    tile, group = 4, query.shape[-3] // key.shape[-3]
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    q = query.float() * scale
    k, v = (torch.repeat_interleave(x, group, dim=-3).float() for x in (key, value))
    weights = _torch_softmax(q @ k.mT)
    out = torch.zeros((*q.shape[:-1], v.shape[-1]), dtype=query.dtype if bug else torch.float32)
    for start in range(0, k.shape[-2], tile):
        part = weights[..., start : start + tile] @ v[..., start : start + tile, :]
        out = out + part.to(out.dtype)
    return out.to(query.dtype)


@mutant(
    "low_precision",
    why="the sum of the exponentials is kept in bfloat16: above 256 it grows no more by ones",
    library="torch",
    dtypes=("bfloat16",),
)
def sum_in_bfloat16(query, key, value, /, *, mask=None, scale=None, bug=True):
    import torch

    group = query.shape[-3] // key.shape[-3]
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    k, v = (torch.repeat_interleave(x, group, dim=-3).float() for x in (key, value))
    scores = (query.float() * scale) @ k.mT
    if mask is not None:
        scores = torch.where(mask, scores, -math.inf)
        seen = torch.broadcast_to(mask, scores.shape).any(dim=-2)[..., None]
        v = torch.where(seen, v, 0.0)
    top = torch.cat([scores, torch.full_like(scores[..., :1], -1e30)], -1).amax(
        -1, keepdim=True
    )
    shares = torch.exp(scores - top)
    total = torch.zeros_like(top).to(query.dtype if bug else torch.float32)
    for j in range(shares.shape[-1]):
        total = total + shares[..., j : j + 1].to(total.dtype)
    total = torch.where(total == 0, 1.0, total.float())
    return (shares / total @ v).to(query.dtype)


@mutant(
    "low_precision",
    why="the table of exponentials has eight bits: a fast exp for a fast kernel",
)
def exponentials_of_few_bits(query, key, value, /, *, mask=None, scale=None, bug=True):
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (query * scale) @ key_of(query, key)
    scores, v = hidden(scores, grouped(value, query.shape[-3]), True if mask is None else mask)
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    shares = np.exp(scores - np.where(top == -np.inf, 0, top))
    if bug:
        shares = np.round(shares * 65536) / 65536
    total = shares.sum(axis=-1, keepdims=True)
    return shares / np.where(total == 0, 1, total) @ v


@mutant(
    "low_precision",
    why="inputs go through float32 on their way to a kernel that has nothing wider",
    also=("softmax_dtype: float32",),
)
def double_through_float32(query, key, value, /, *, bias=None, mask=None, bug=True):
    dtype = np.float32 if bug else query.dtype
    q, k, v = (x.astype(dtype) for x in (query, key, value))
    scores = q @ key_of(q, k) / math.sqrt(q.shape[-1])
    if bias is not None:
        scores = scores + bias.astype(dtype)
    allowed = (scores != -np.inf) & (True if mask is None else mask)
    scores, v = hidden(scores, grouped(v, q.shape[-3]), allowed)
    return (softmax(scores)[0] @ v).astype(query.dtype)


@mutant(
    "half_overflow",
    why="query times key in float16 and the scale after: 65504 is soon passed",
    dtypes=("float16",),
    also=("low_precision",),
)
def product_in_half(query, key, value, /, *, mask=None, bug=True):
    with np.errstate(over="ignore", invalid="ignore"):
        if bug:
            scores = (query @ key_of(query, key)).astype(np.float32)
        else:
            scores = query.astype(np.float32) @ key_of(query, key).astype(np.float32)
        scores = scores / math.sqrt(query.shape[-1])
        v = grouped(value, query.shape[-3]).astype(np.float32)
        scores, v = hidden(scores, v, True if mask is None else mask)
        return (softmax(scores)[0] @ v).astype(query.dtype)
