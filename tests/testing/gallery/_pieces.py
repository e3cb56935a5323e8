"""Steps that a mutant in NumPy gets right, so that it is wrong in one place alone."""

import math

import numpy as np

__all__ = [
    "grouped",
    "hidden",
    "key_of",
    "positions",
    "softmax",
    "torch_attention",
    "torch_scores",
]


def grouped(x, num_heads):
    """Repeat key/value heads so that there is one for each query head."""
    return np.repeat(x, num_heads // x.shape[-3], axis=-3)


def key_of(query, key):
    """Return the key's heads, one for each of the query's, with the last axes swapped."""
    return np.swapaxes(grouped(key, query.shape[-3]), -1, -2)


def positions(q_len, kv_len, q_offset=None):
    """Return where queries and keys stand, to be broadcast against the scores."""
    offset = np.asarray(0 if q_offset is None else q_offset)
    if offset.ndim:
        offset = offset[..., None, None, None]
    return np.arange(q_len)[:, None] + offset, np.arange(kv_len)[None, :]


def hidden(scores, value, allowed):
    """Give hidden keys the score -inf, and empty the values that no query sees."""
    allowed = np.broadcast_to(allowed, scores.shape)
    seen = allowed.any(axis=-2)[..., None]
    return np.where(allowed, scores, -np.inf), np.where(seen, value, 0)


def softmax(scores, sinks=None):
    """Return the weights over keys, and the log-sum-exp; a row of -inf has weights 0."""
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    extra = 0
    if sinks is not None:
        sinks = np.asarray(sinks)[..., None, None]
        top = np.maximum(top, sinks)
    top = np.where(top == -np.inf, 0, top).astype(scores.dtype)
    if sinks is not None:
        extra = np.exp(sinks - top).astype(scores.dtype)
    shares = np.exp(scores - top)
    total = shares.sum(axis=-1, keepdims=True) + extra
    with np.errstate(divide="ignore"):
        lse = (np.log(total) + top)[..., 0]
    return shares / np.where(total == 0, 1, total), lse


def torch_attention(scores, value, mask):
    """Return the output and the log-sum-exp, with gradients that are numbers."""
    import torch

    value = torch.repeat_interleave(value, scores.shape[-3] // value.shape[-3], dim=-3)
    if mask is not None:
        seen = torch.broadcast_to(mask, scores.shape).any(dim=-2)[..., None]
        value = torch.where(seen, value, 0.0)
        scores = torch.where(mask, scores, -math.inf)
    top = scores.detach().amax(dim=-1, keepdim=True)
    top = torch.where(top == -math.inf, 0.0, top)
    shares = torch.exp(scores - top)
    total = shares.sum(dim=-1, keepdim=True)
    empty = total == 0
    total = torch.where(empty, 1.0, total)
    lse = torch.where(empty, -math.inf, top + torch.log(total))[..., 0]
    return shares / total @ value, lse


def torch_scores(query, key, mask=None):
    """Return the scaled scores; with a mask, keys that no query sees are emptied."""
    import torch

    key = torch.repeat_interleave(key, query.shape[-3] // key.shape[-3], dim=-3)
    if mask is not None:
        shape = (*query.shape[:-1], key.shape[-2])
        key = torch.where(torch.broadcast_to(mask, shape).any(dim=-2)[..., None], key, 0.0)
    return query @ key.mT / math.sqrt(query.shape[-1])
