"""Heads, layouts and results, got wrong."""

import math

import numpy as np

from ._mutant import mutant
from ._pieces import grouped, hidden, key_of, positions, softmax


@mutant(
    "groups: tiled",
    why="tile and repeat are taken for one another: head h is given h % num_kv_heads",
    seen_in="onnx/onnx#7274",
    dtypes=("float64", "float32"),
)
def groups_tiled(query, key, value, /, *, mask=None, bug=True):
    group = query.shape[-3] // key.shape[-3]
    if bug:
        k, v = (np.concatenate([x] * group, axis=-3) for x in (key, value))
    else:
        k, v = (np.repeat(x, group, axis=-3) for x in (key, value))
    scores = query @ np.swapaxes(k, -1, -2) / math.sqrt(query.shape[-1])
    scores, v = hidden(scores, v, True if mask is None else mask)
    return softmax(scores)[0] @ v


@mutant(
    "groups: tiled", why="a reshape to (group, num_kv_heads) instead of (num_kv_heads, group)"
)
def groups_reshaped_the_other_way(
    query, key, value, /, *, is_causal=False, q_offset=None, bug=True
):
    batch, num_heads, q_len, head_dim = query.shape
    num_kv_heads = key.shape[1]
    group = num_heads // num_kv_heads
    if bug:
        q = query.reshape(batch, group, num_kv_heads, q_len, head_dim)
        scores = np.einsum("brgqd,bgkd->brgqk", q, key)
    else:
        q = query.reshape(batch, num_kv_heads, group, q_len, head_dim)
        scores = np.einsum("bgrqd,bgkd->bgrqk", q, key)
    scores = scores / math.sqrt(head_dim)
    p, j = positions(q_len, key.shape[-2], q_offset)
    allowed = (j <= p) if is_causal else np.ones_like(j <= p)
    allowed = allowed[:, None] if allowed.ndim == 4 else allowed
    scores = np.where(allowed, scores, -np.inf)
    weights, _ = softmax(scores)
    seen = np.broadcast_to(allowed, scores.shape).any(axis=(-2, 1 if bug else 2))
    v = np.where(seen[..., None], value, 0)
    out = np.einsum("brgqk,bgkd->brgqd" if bug else "bgrqk,bgkd->bgrqd", weights, v)
    return out.reshape(batch, num_heads, q_len, -1)


@mutant("groups_first_head", why="key[:, 0] from a time when all models had one key head")
def groups_use_first_head(query, key, value, /, *, mask=None, scale=None, bug=True):
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if bug and key.shape[-3] != query.shape[-3]:
        key, value = key[..., :1, :, :], value[..., :1, :, :]
    scores = (query * scale) @ key_of(query, key)
    scores, v = hidden(scores, grouped(value, query.shape[-3]), True if mask is None else mask)
    return softmax(scores)[0] @ v


@mutant(
    "heads_transposed",
    why="out.reshape(...) of (batch, length, heads, dim) without the transpose before it",
)
def heads_not_turned_back(query, key, value, /, *, mask=None, bug=True):
    batch, num_heads, q_len, _ = query.shape
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    scores, v = hidden(scores, grouped(value, num_heads), True if mask is None else mask)
    out = np.einsum("bhqk,bhkd->bqhd", softmax(scores)[0], v)
    if bug:
        return np.ascontiguousarray(out).reshape(batch, num_heads, q_len, -1)
    return np.swapaxes(out, 1, 2)


@mutant(
    "heads_over_batch",
    why="(batch heads) is folded in one order and unfolded in the other",
)
def heads_folded_into_batch(query, key, value, /, *, scale=None, bug=True):
    batch, num_heads, q_len, head_dim = query.shape
    scale = head_dim**-0.5 if scale is None else scale
    k, v = grouped(key, num_heads), grouped(value, num_heads)

    def fold(x, *, heads_first):
        x = np.swapaxes(x, 0, 1) if heads_first else x
        return x.reshape(-1, *x.shape[-2:])

    q = fold(query, heads_first=False)
    k, v = fold(k, heads_first=bug), fold(v, heads_first=bug)
    weights, _ = softmax(scale * q @ np.swapaxes(k, -1, -2))
    return (weights @ v).reshape(batch, num_heads, q_len, -1)


@mutant(
    "strides_ignored",
    why="the kernel walks the memory by shape: right until an array is a view",
    seen_in="flagos-ai/FlagGems#5896",
)
def values_read_as_contiguous(query, key, value, /, *, scale=None, bug=True):
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    v = value
    if bug and not value.flags.c_contiguous:
        if value.base is not None and value.base.size == value.size:
            v = value.base.ravel(order="K").reshape(value.shape)
        else:
            v = np.ravel(value, order="K").reshape(value.shape)
    scores = (query * scale) @ key_of(query, key)
    return softmax(scores)[0] @ grouped(v, query.shape[-3])


@mutant("inputs_overwritten", why="query *= scale saves a copy, and changes the caller's array")
def query_scaled_in_place(query, key, value, /, *, scale=None, mask=None, bug=True):
    query = query if bug and query.flags.writeable else query.copy()
    query *= query.shape[-1] ** -0.5 if scale is None else scale
    scores = query @ key_of(query, key)
    scores, v = hidden(scores, grouped(value, query.shape[-3]), True if mask is None else mask)
    return softmax(scores)[0] @ v


@mutant("output_zero", why="the kernel was never launched, and the buffer is zeros")
def output_never_written(query, key, value, /, *, mask=None, bug=True):
    out = np.zeros((*query.shape[:-1], value.shape[-1]), query.dtype)
    if bug:
        return out
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    scores, v = hidden(scores, grouped(value, query.shape[-3]), True if mask is None else mask)
    np.matmul(softmax(scores)[0], v, out=out)
    return out


@mutant(
    "output_dtype",
    why="the accumulator is returned as it is, in float32 or wider",
    dtypes=("float32",),
)
def output_is_the_accumulator(query, key, value, /, *, scale=None, bug=True):
    q, k, v = (x.astype(np.float64) for x in (query, key, value))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    weights, _ = softmax((q * scale) @ key_of(q, k))
    out = weights @ grouped(v, q.shape[-3])
    return out if bug else out.astype(query.dtype)


@mutant("output_shape", why="(batch, length, heads, dim) is returned as it was computed")
def output_with_heads_last(query, key, value, /, *, mask=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    scores, v = hidden(scores, grouped(value, query.shape[-3]), True if mask is None else mask)
    out = np.einsum("bhqk,bhkd->bqhd", softmax(scores)[0], v)
    return out if bug else np.swapaxes(out, 1, 2)
