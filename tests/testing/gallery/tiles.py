"""Kernels as they are written, a tile at a time, got wrong."""

import math

import numpy as np

from ._mutant import mutant
from ._pieces import grouped


@mutant(
    "tile_dropped",
    why="kv_len // tile instead of its ceiling: right for every length that the tests have",
    seen_in="jax-ml/jax#27224",
    returns_lse=True,
)
def flash_without_last_tile(
    query, key, value, /, *, is_causal=False, q_offset=None, scale=None, bug=True
):
    tile = 16
    batch, num_heads, q_len, head_dim = query.shape
    kv_len, group = key.shape[-2], num_heads // key.shape[1]
    scale = 1 / math.sqrt(head_dim) if scale is None else scale
    offset = np.broadcast_to(0 if q_offset is None else q_offset, (batch,))
    out = np.zeros((batch, num_heads, q_len, value.shape[-1]), query.dtype)
    lse = np.full(out.shape[:-1], -np.inf, query.dtype)
    num_tiles = kv_len // tile if bug else -(-kv_len // tile)
    for b, h in np.ndindex(batch, num_heads):
        q = query[b, h] * scale
        top = np.full(q_len, -np.inf, query.dtype)
        total = np.zeros(q_len, query.dtype)
        summed = np.zeros_like(out[b, h])
        for t in range(num_tiles):
            keys = slice(t * tile, min((t + 1) * tile, kv_len))
            s = q @ key[b, h // group, keys].T
            if is_causal:
                p = np.arange(q_len)[:, None] + offset[b]
                s = np.where(np.arange(kv_len)[keys] <= p, s, -np.inf)
            new_top = np.maximum(top, s.max(axis=1))
            safe = np.where(new_top == -np.inf, 0, new_top)
            e = np.exp(s - safe[:, None])
            shrink = np.exp(top - safe)
            total = total * shrink + e.sum(axis=1)
            # What no query of this tile of keys sees may be anything.
            v = np.where((s != -np.inf).any(axis=0)[:, None], value[b, h // group, keys], 0)
            summed = summed * shrink[:, None] + e @ v
            top = new_top
        out[b, h] = summed / np.where(total == 0, 1, total)[:, None]
        with np.errstate(divide="ignore"):
            lse[b, h] = np.where(total == 0, -np.inf, top + np.log(total))
    return out, lse


@mutant(
    "tile_queries_dropped",
    why="the grid has q_len // tile programs: the last queries stay as the buffer was",
)
def flash_without_last_queries(query, key, value, /, *, mask=None, scale=None, bug=True):
    tile = 8
    num_heads, q_len = query.shape[-3:-1]
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    k, v = grouped(key, num_heads), grouped(value, num_heads)
    out = np.zeros((*query.shape[:-1], v.shape[-1]), query.dtype)
    allowed = np.broadcast_to(True if mask is None else mask, (*query.shape[:-1], k.shape[-2]))
    v = np.where(allowed.any(axis=-2)[..., None], v, 0)
    for start in range(0, q_len - tile + 1 if bug else q_len, tile):
        rows = slice(start, start + tile)
        s = (query[..., rows, :] * scale) @ np.swapaxes(k, -1, -2)
        s = np.where(allowed[..., rows, :], s, -np.inf)
        top = s.max(axis=-1, keepdims=True, initial=-np.inf)
        e = np.exp(s - np.where(top == -np.inf, 0, top))
        total = e.sum(axis=-1, keepdims=True)
        out[..., rows, :] = e @ v / np.where(total == 0, 1, total)
    return out


@mutant(
    "tile_not_rescaled",
    why="the output is rescaled when the maximum grows, and the sum is forgotten",
    returns_lse=True,
)
def flash_sum_not_rescaled(query, key, value, /, *, bias=None, bug=True):
    tile, num_heads = 8, query.shape[-3]
    q = query / math.sqrt(query.shape[-1])
    k, v = grouped(key, num_heads), grouped(value, num_heads)
    kv_len = k.shape[-2]
    if bias is not None:
        bias = np.broadcast_to(bias, (*q.shape[:-1], kv_len))
    top = np.full((*q.shape[:-1], 1), -np.inf, q.dtype)
    total, summed = np.zeros_like(top), np.zeros((*q.shape[:-1], v.shape[-1]), q.dtype)
    for start in range(0, kv_len, tile):
        keys = slice(start, start + tile)
        s = q @ np.swapaxes(k[..., keys, :], -1, -2)
        if bias is not None:
            s = s + bias[..., keys]
        new_top = np.maximum(top, s.max(axis=-1, keepdims=True))
        safe = np.where(new_top == -np.inf, 0, new_top)
        shrink, e = np.exp(top - safe), np.exp(s - safe)
        total = (total if bug else total * shrink) + e.sum(axis=-1, keepdims=True)
        seen = (s != -np.inf).any(axis=-2)[..., None]
        summed = summed * shrink + e @ np.where(seen, v[..., keys, :], 0)
        top = new_top
    with np.errstate(divide="ignore"):
        lse = (np.where(total == 0, -np.inf, top) + np.log(np.where(total == 0, 1, total)))[
            ..., 0
        ]
    return summed / np.where(total == 0, 1, total), lse


@mutant(
    "tile_not_rescaled",
    why="both are rescaled by exp(old - new) of the tile's maximum, not of the running one",
)
def flash_maximum_of_the_tile(query, key, value, /, *, scale=None, bug=True):
    tile, num_heads = 16, query.shape[-3]
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    k, v = grouped(key, num_heads), grouped(value, num_heads)
    top = np.full((*query.shape[:-1], 1), -np.inf, query.dtype)
    total, summed = np.zeros_like(top), np.zeros((*query.shape[:-1], v.shape[-1]), query.dtype)
    for start in range(0, k.shape[-2], tile):
        s = (query * scale) @ np.swapaxes(k[..., start : start + tile, :], -1, -2)
        new_top = np.maximum(top, s.max(axis=-1, keepdims=True))
        # Without the rescaling each tile is weighed as if all had one maximum.
        shrink = 1.0 if bug else np.exp(top - new_top)
        e = np.exp(s - new_top)
        total = total * shrink + e.sum(axis=-1, keepdims=True)
        summed = summed * shrink + e @ v[..., start : start + tile, :]
        top = new_top
    return summed / np.where(total == 0, 1, total)


@mutant(
    "tile_padding_counted",
    why="keys are padded with zeros to a whole tile: their score is 0, and exp(0) is counted",
    seen_in="flashinfer-ai/flashinfer#5090",
    returns_lse=True,
)
def flash_with_padding(query, key, value, /, *, scale=None, bug=True):
    tile, num_heads = 32, query.shape[-3]
    kv_len = key.shape[-2]
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    pad = [(0, 0)] * (key.ndim - 2) + [(0, -kv_len % tile), (0, 0)]
    k, v = (grouped(np.pad(x, pad), num_heads) for x in (key, value))
    top = np.full((*query.shape[:-1], 1), -np.inf, query.dtype)
    total, summed = np.zeros_like(top), np.zeros((*query.shape[:-1], v.shape[-1]), query.dtype)
    for start in range(0, k.shape[-2], tile):
        s = (query * scale) @ np.swapaxes(k[..., start : start + tile, :], -1, -2)
        if not bug:
            s = np.where(np.arange(start, start + tile) < kv_len, s, -np.inf)
        new_top = np.maximum(top, s.max(axis=-1, keepdims=True))
        shrink, e = np.exp(top - new_top), np.exp(s - new_top)
        total = total * shrink + e.sum(axis=-1, keepdims=True)
        summed = summed * shrink + e @ v[..., start : start + tile, :]
        top = new_top
    with np.errstate(divide="ignore"):
        lse = (top + np.log(total))[..., 0]
    return summed / np.where(total == 0, 1, total), lse


@mutant(
    "lengths_one_more|lengths: last_index",
    why="the loop's end is the index of the last key, rounded up with the key after it",
)
def decode_reads_one_too_many(query, key, value, /, *, lengths=None, sinks=None, bug=True):
    page = 4
    batch, num_heads, q_len, head_dim = query.shape
    kv_len = key.shape[-2]
    group = num_heads // key.shape[1]
    lengths = np.full(batch, kv_len) if lengths is None else np.asarray(lengths)
    out = np.zeros((batch, num_heads, q_len, value.shape[-1]), query.dtype)
    if sinks is not None:
        sinks = np.broadcast_to(np.asarray(sinks, query.dtype), (batch, num_heads))
    for b, h, i in np.ndindex(batch, num_heads, q_len):
        end = min(int(lengths[b]) + (1 if bug else 0), kv_len)
        top, total, summed = -np.inf, 0.0, np.zeros(value.shape[-1], query.dtype)
        if sinks is not None:
            top, total = sinks[b, h], 1.0
        for start in range(0, end, page):
            keys = slice(start, min(start + page, end))
            s = key[b, h // group, keys] @ query[b, h, i] / math.sqrt(head_dim)
            new_top = max(top, s.max())
            e, shrink = np.exp(s - new_top), np.exp(top - new_top)
            total, summed = (
                total * shrink + e.sum(),
                summed * shrink + e @ value[b, h // group, keys],
            )
            top = new_top
        out[b, h, i] = summed / total if total else 0
    return out


@mutant(
    "lengths_one_less",
    why="the newest key is written after the kernel has read the cache",
)
def decode_before_append(
    query, key, value, /, *, lengths=None, is_causal=False, q_offset=None, bug=True
):
    batch, num_heads, q_len, head_dim = query.shape
    k, v = grouped(key, num_heads), grouped(value, num_heads)
    kv_len = k.shape[-2]
    out = np.zeros((batch, num_heads, q_len, v.shape[-1]), query.dtype)
    offset = np.broadcast_to(0 if q_offset is None else q_offset, (batch,))
    for b, i in np.ndindex(batch, q_len):
        end = kv_len
        if lengths is not None:
            end = min(end, int(lengths[b]) - (1 if bug else 0))
        if is_causal:
            end = min(end, i + int(offset[b]) + 1)
        if end <= 0:
            continue
        s = np.einsum("hd,hkd->hk", query[b, :, i], k[b, :, :end]) / math.sqrt(head_dim)
        e = np.exp(s - s.max(axis=-1, keepdims=True))
        out[b, :, i] = np.einsum("hk,hkd->hd", e, v[b, :, :end]) / e.sum(axis=-1, keepdims=True)
    return out


@mutant(
    "tile_not_rescaled",
    why="parts of the keys are merged by their sums alone: each sum is of its own maximum",
    returns_lse=True,
)
def split_keys_merged_without_maxima(
    query, key, value, /, *, lengths=None, scale=None, bug=True
):
    split, num_heads = 8, query.shape[-3]
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    k, v = grouped(key, num_heads), grouped(value, num_heads)
    parts = []
    for start in range(0, k.shape[-2], split):
        keys = slice(start, start + split)
        s = (query * scale) @ np.swapaxes(k[..., keys, :], -1, -2)
        values = v[..., keys, :]
        if lengths is not None:
            inside = np.arange(start, start + s.shape[-1]) < lengths[:, None, None, None]
            s = np.where(inside, s, -np.inf)
            values = np.where(np.swapaxes(inside, -1, -2), values, 0)
        top = s.max(axis=-1, keepdims=True)
        e = np.exp(s - np.where(top == -np.inf, 0, top))
        parts.append((top, e.sum(axis=-1, keepdims=True), e @ values))
    if not parts:
        empty = np.zeros((*query.shape[:-1], v.shape[-1]), query.dtype)
        return empty, np.full(query.shape[:-1], -np.inf, query.dtype)
    tops, totals, sums = (np.stack(x) for x in zip(*parts, strict=True))
    top = tops.max(axis=0)
    factor = np.exp(tops - np.where(top == -np.inf, 0, top))
    if bug:
        factor = np.where(tops == -np.inf, 0.0, np.ones_like(factor))
    total = (totals * factor).sum(axis=0)
    out = (sums * factor).sum(axis=0) / np.where(total == 0, 1, total)
    with np.errstate(divide="ignore"):
        return out, (np.log(total) + np.where(top == -np.inf, 0, top))[..., 0]


@mutant(
    "window_one_more",
    why="the loop begins one key early, at p - left - 1, and no mask cuts that key",
)
def window_loop_begins_early(
    query, key, value, /, *, window_size=None, is_causal=False, q_offset=None, bug=True
):
    batch, num_heads, q_len, head_dim = query.shape
    k, v = grouped(key, num_heads), grouped(value, num_heads)
    kv_len = k.shape[-2]
    left, right = (None, None) if window_size is None else window_size
    offset = np.broadcast_to(0 if q_offset is None else q_offset, (batch,))
    out = np.zeros((batch, num_heads, q_len, v.shape[-1]), query.dtype)
    for b, i in np.ndindex(batch, q_len):
        p = i + int(offset[b])
        first = 0 if left is None else max(p - left - (1 if bug else 0), 0)
        end = kv_len if right is None else min(p + right + 1, kv_len)
        end = min(end, p + 1) if is_causal else end
        if first >= end:
            continue
        s = np.einsum("hd,hkd->hk", query[b, :, i], k[b, :, first:end]) / math.sqrt(head_dim)
        e = np.exp(s - s.max(axis=-1, keepdims=True))
        w = e / e.sum(axis=-1, keepdims=True)
        out[b, :, i] = np.einsum("hk,hkd->hd", w, v[b, :, first:end])
    return out
