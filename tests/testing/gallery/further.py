"""More mistakes, written when the checks stood, to see what they make of what they were not made for.

Those named "unexplained" are not in the vocabulary of `FAULTS`: they have to be found, and must not be
given another's name.
"""

import math

import numpy as np

from ._mutant import mutant
from ._pieces import (
    grouped,
    hidden,
    key_of,
    positions,
    softmax,
    torch_attention,
    torch_scores,
)


@mutant(
    "groups: tiled",
    why="x.repeat of PyTorch tiles, where repeat_interleave is meant",
    library="torch",
)
def groups_by_torch_repeat(query, key, value, /, *, bias=None, bug=True):
    import torch

    group = query.shape[-3] // key.shape[-3]
    if bug:
        times = (1,) * (key.ndim - 3) + (group, 1, 1)
        k, v = key.repeat(times), value.repeat(times)
    else:
        k, v = (torch.repeat_interleave(x, group, dim=-3) for x in (key, value))
    scores = query @ k.mT / math.sqrt(query.shape[-1])
    if bias is not None:
        scores = scores + bias
    return torch_attention(scores, v, None)[0]


@mutant(
    "window_one_more",
    why="range(p - left, p + right + 2): the end of a range is not in it, and was counted twice",
)
def window_ends_late(query, key, value, /, *, window_size=None, q_offset=None, bug=True):
    batch, num_heads, q_len, head_dim = query.shape
    k, v = grouped(key, num_heads), grouped(value, num_heads)
    kv_len = k.shape[-2]
    offset = np.broadcast_to(0 if q_offset is None else q_offset, (batch,))
    out = np.zeros((batch, num_heads, q_len, v.shape[-1]), query.dtype)
    for b, h, i in np.ndindex(batch, num_heads, q_len):
        p, keys = i + int(offset[b]), np.arange(kv_len)
        if window_size is not None:
            left, right = window_size
            first = 0 if left is None else p - left
            end = kv_len if right is None else p + right + (2 if bug else 1)
            keys = keys[(keys >= first) & (keys < end)]
        if not keys.size:
            continue
        s = k[b, h, keys] @ query[b, h, i] / math.sqrt(head_dim)
        e = np.exp(s - s.max())
        out[b, h, i] = e @ v[b, h, keys] / e.sum()
    return out


@mutant(
    "tile_dropped",
    why="cdiv was written as kv_len // tile + 0 for a kernel whose first user had powers of 2",
    library="torch",
    returns_lse=True,
)
def torch_tiles_of_twenty(query, key, value, /, *, mask=None, bug=True):
    import torch

    tile, group = 20, query.shape[-3] // key.shape[-3]
    k, v = (torch.repeat_interleave(x, group, dim=-3) for x in (key, value))
    shape = (*query.shape[:-1], k.shape[-2])
    mask = (
        torch.ones(shape, dtype=torch.bool) if mask is None else torch.broadcast_to(mask, shape)
    )
    v = torch.where(mask.any(dim=-2)[..., None], v, 0.0)
    top = torch.full((*query.shape[:-1], 1), -math.inf, dtype=query.dtype)
    total = torch.zeros_like(top)
    summed = torch.zeros((*query.shape[:-1], v.shape[-1]), dtype=query.dtype)
    end = k.shape[-2] // tile * tile if bug else k.shape[-2]
    for start in range(0, end, tile):
        part = slice(start, start + tile)
        s = query @ k[..., part, :].mT / math.sqrt(query.shape[-1])
        s = torch.where(mask[..., part], s, -math.inf)
        new = torch.maximum(top, s.detach().amax(dim=-1, keepdim=True))
        safe = torch.where(new == -math.inf, 0.0, new)
        e, shrink = torch.exp(s - safe), torch.exp(top - safe)
        total = total * shrink + e.sum(dim=-1, keepdim=True)
        summed, top = summed * shrink + e @ v[..., part, :], new
    empty = total == 0
    total = torch.where(empty, 1.0, total)
    top = torch.where(empty, 0.0, top)
    lse = torch.where(empty, -math.inf, top + torch.log(total))[..., 0]
    return summed / total, lse


@mutant(
    "empty_row: nan",
    why="the loop divides by the sum at its end, whatever the sum is",
    also=("empty_lse: finite",),
    returns_lse=True,
)
def online_softmax_divides_by_zero(
    query, key, value, /, *, mask=None, is_causal=False, q_offset=None, bug=True
):
    tile, num_heads = 4, query.shape[-3]
    k, v = grouped(key, num_heads), grouped(value, num_heads)
    kv_len = k.shape[-2]
    p, j = positions(query.shape[-2], kv_len, q_offset)
    allowed = (j <= p) if is_causal else np.ones_like(j <= p)
    allowed = allowed if mask is None else allowed & mask
    allowed = np.broadcast_to(allowed, (*query.shape[:-1], kv_len))
    v = np.where(allowed.any(axis=-2)[..., None], v, 0)
    top = np.full((*query.shape[:-1], 1), -np.inf, query.dtype)
    total, summed = np.zeros_like(top), np.zeros((*query.shape[:-1], v.shape[-1]), query.dtype)
    for start in range(0, kv_len, tile):
        part = slice(start, start + tile)
        s = query @ np.swapaxes(k[..., part, :], -1, -2) / math.sqrt(query.shape[-1])
        s = np.where(allowed[..., part], s, -np.inf)
        new = np.maximum(top, s.max(axis=-1, keepdims=True))
        safe = np.where(new == -np.inf, 0, new)
        e, shrink = np.exp(s - safe), np.exp(top - safe)
        total = total * shrink + e.sum(axis=-1, keepdims=True)
        summed, top = summed * shrink + e @ v[..., part, :], new
    with np.errstate(divide="ignore", invalid="ignore"):
        lse = np.where(total == 0, -np.inf, top + np.log(total))[..., 0]
        is_none = (total == 0) & (not bug or kv_len == 0)
        return summed / np.where(is_none, 1, total), lse


@mutant(
    "hidden_value: leaks",
    why="the last tile is read whole: what is after the length has weight 0, and may be NaN",
    seen_in="vllm-project/vllm#47305",
)
def last_page_read_whole(query, key, value, /, *, lengths=None, bug=True):
    page, (batch, num_heads, q_len, head_dim) = 16, query.shape
    k, v = grouped(key, num_heads), grouped(value, num_heads)
    kv_len = k.shape[-2]
    out = np.zeros((batch, num_heads, q_len, v.shape[-1]), query.dtype)
    for b in range(batch):
        length = kv_len if lengths is None else int(lengths[b])
        end = min(-(-length // page) * page, kv_len) if bug else length
        s = query[b] @ np.swapaxes(k[b, :, :end], -1, -2) / math.sqrt(head_dim)
        s = np.where(np.arange(end) < length, s, -np.inf)
        out[b] = softmax(s)[0] @ v[b, :, :end]
    return out


@mutant(
    "dropout_renormalised",
    why="the loop's running sum is of the weights that were kept",
)
def running_sum_of_the_kept(
    query, key, value, /, *, dropout_mask=None, dropout_rate=None, bug=True
):
    tile, num_heads = 3, query.shape[-3]
    k, v = grouped(key, num_heads), grouped(value, num_heads)
    top = np.full((*query.shape[:-1], 1), -np.inf, query.dtype)
    total, summed = np.zeros_like(top), np.zeros((*query.shape[:-1], v.shape[-1]), query.dtype)
    for start in range(0, k.shape[-2], tile):
        part = slice(start, start + tile)
        s = query @ np.swapaxes(k[..., part, :], -1, -2) / math.sqrt(query.shape[-1])
        new = np.maximum(top, s.max(axis=-1, keepdims=True))
        e, shrink = np.exp(s - new), np.exp(top - new)
        kept = e if dropout_mask is None else e * dropout_mask[..., part] / (1 - dropout_rate)
        total = total * shrink + (kept if bug else e).sum(axis=-1, keepdims=True)
        summed, top = summed * shrink + kept @ v[..., part, :], new
    return summed / np.where(total == 0, 1, total)


@mutant(
    "lse_base: 2",
    why="log2 in the loop, and JAX's users merge with exp",
    library="jax",
    returns_lse=True,
    dtypes=("float32",),
)
def jax_lse_in_base_2(query, key, value, /, *, scale=None, bug=True):
    import jax.numpy as jnp

    group = query.shape[-3] // key.shape[-3]
    k, v = (jnp.repeat(x, group, axis=-3) for x in (key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    s = jnp.einsum("...qd,...kd->...qk", query, k) * (scale * math.log2(math.e))
    top = jnp.max(s, axis=-1, keepdims=True, initial=-jnp.inf)
    e = jnp.exp2(s - jnp.where(top == -jnp.inf, 0, top))
    total = e.sum(axis=-1, keepdims=True)
    lse = (jnp.where(total == 0, -jnp.inf, top) + jnp.log2(jnp.where(total == 0, 1, total)))[
        ..., 0
    ]
    return e / jnp.where(total == 0, 1, total) @ v, (lse if bug else lse * math.log(2))


@mutant("bias_first_batch", why="the loop over sequences indexes the bias by head alone")
def bias_indexed_by_head(query, key, value, /, *, bias=None, bug=True):
    batch, num_heads = query.shape[:2]
    k, v = grouped(key, num_heads), grouped(value, num_heads)
    out = np.empty((*query.shape[:-1], v.shape[-1]), query.dtype)
    shape = (*query.shape[:-1], k.shape[-2])
    bias = np.zeros(shape, query.dtype) if bias is None else np.broadcast_to(bias, shape)
    for b, h in np.ndindex(batch, num_heads):
        s = query[b, h] @ k[b, h].T / math.sqrt(query.shape[-1]) + bias[0 if bug else b, h]
        s, values = hidden(s, v[b, h], s != -np.inf)
        out[b, h] = softmax(s)[0] @ values
    return out


@mutant(
    "softmax_eps",
    why="1e-8 in the denominator of a softmax without its maximum",
    also=("softmax_without_maximum",),
)
def eps_without_maximum(query, key, value, /, *, mask=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    scores, v = hidden(scores, grouped(value, query.shape[-3]), True if mask is None else mask)
    if not bug:
        return softmax(scores)[0] @ v
    with np.errstate(over="ignore", invalid="ignore"):
        e = np.exp(scores)
        return e / (e.sum(axis=-1, keepdims=True) + 1e-8) @ v


@mutant(
    "causal_one_more",
    why="the diagonal tile's condition is j - 1 <= p, from a kernel counting from 1",
)
def causal_counted_from_one(
    query, key, value, /, *, is_causal=False, q_offset=None, mask=None, bug=True
):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    p, j = positions(*scores.shape[-2:], q_offset)
    allowed = ((j - 1 <= p) if bug else (j <= p)) if is_causal else np.ones_like(j <= p)
    allowed = allowed if mask is None else allowed & mask
    scores, v = hidden(scores, grouped(value, query.shape[-3]), allowed)
    return softmax(scores)[0] @ v


@mutant(
    "strides_ignored",
    why="the query is taken for contiguous: it is a slice of the fused projection",
)
def query_read_as_contiguous(query, key, value, /, *, scale=None, bug=True):
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    q = query
    if bug:
        q = np.ravel(query, order="K").reshape(query.shape)
    return softmax((q * scale) @ key_of(query, key))[0] @ grouped(value, query.shape[-3])


@mutant("inputs_overwritten", why="hidden values are set to 0 in place, in the caller's cache")
def values_cleared_in_place(query, key, value, /, *, mask=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    allowed = np.broadcast_to(True if mask is None else mask, scores.shape)
    right, v = hidden(scores, grouped(value, query.shape[-3]), allowed)
    if bug:
        batch = value.shape[:-3]
        of_group = allowed.reshape(*batch, value.shape[-3], -1, allowed.shape[-1])
        value[~of_group.any(axis=-2)] = 0
    return softmax(right)[0] @ v


@mutant(
    "low_precision",
    why="products by tensor cores with ten bits of mantissa, switched on elsewhere",
    dtypes=("float32",),
)
def products_of_ten_bits(query, key, value, /, *, mask=None, scale=None, bug=True):
    def cut(x):
        mantissa, exponent = np.frexp(x)
        return (
            np.ldexp(np.round(mantissa * 2048) / 2048, exponent).astype(x.dtype) if bug else x
        )

    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = cut(query * np.float32(scale)) @ cut(key_of(query, key))
    scores, v = hidden(scores, grouped(value, query.shape[-3]), True if mask is None else mask)
    return cut(softmax(scores)[0]) @ cut(v)


@mutant(
    "output_dtype",
    why="the output stays in float32, in which it was accumulated",
    library="torch",
    dtypes=("bfloat16",),
)
def output_stays_in_float32(query, key, value, /, *, scale=None, bug=True):
    import torch

    group = query.shape[-3] // key.shape[-3]
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    k, v = (torch.repeat_interleave(x, group, dim=-3).float() for x in (key, value))
    s = (query.float() * scale) @ k.mT
    out = torch.softmax(s, dim=-1) @ v
    return out if bug else out.to(query.dtype)


@mutant(
    "gradient_without_delta",
    why="backward(ctx, d_out) of a softmax is written as P * d_out",
    library="torch",
)
def softmax_function_without_delta(query, key, value, /, *, bug=True):
    import torch

    class Softmax(torch.autograd.Function):
        @staticmethod
        def forward(ctx, s):
            weights = torch.softmax(s, dim=-1)
            ctx.save_for_backward(weights)
            return weights

        @staticmethod
        def backward(ctx, d_weights):
            (weights,) = ctx.saved_tensors
            delta = (weights * d_weights).sum(dim=-1, keepdim=True)
            return weights * (d_weights if bug else d_weights - delta)

    group = query.shape[-3] // key.shape[-3]
    k, v = (torch.repeat_interleave(x, group, dim=-3) for x in (key, value))
    return Softmax.apply(query @ k.mT / math.sqrt(query.shape[-1])) @ v


@mutant(
    "gradient_missing",
    why="values are detached with the keys of a cache that is not trained",
    library="torch",
)
def values_detached(query, key, value, /, *, mask=None, bug=True):
    value = value.detach() if bug else value
    return torch_attention(torch_scores(query, key, mask), value, mask)[0]


# What there is no name for


@mutant("unexplained", why="tanh of the products, and the scale after it")
def softcap_before_scale(query, key, value, /, *, softcap=None, scale=None, bug=True):
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    products = query @ key_of(query, key)
    if softcap is None:
        scores = products * scale
    elif bug:
        scores = softcap * np.tanh(products / softcap) * scale
    else:
        scores = softcap * np.tanh(products * scale / softcap)
    return softmax(scores)[0] @ grouped(value, query.shape[-3])


@mutant(
    "unexplained",
    why="both parts of a split start with the sink",
    seen_in="ROCm/rocm-libraries#12229",
)
def sink_counted_twice(query, key, value, /, *, sinks=None, mask=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    scores, v = hidden(scores, grouped(value, query.shape[-3]), True if mask is None else mask)
    if sinks is not None and bug:
        sinks = np.asarray(sinks) + math.log(2)
    return softmax(scores, sinks)[0] @ v


@mutant("unexplained", why="mask | causal where mask & causal is meant")
def mask_or_causal(
    query, key, value, /, *, mask=None, is_causal=False, q_offset=None, bug=True
):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    p, j = positions(*scores.shape[-2:], q_offset)
    allowed = (j <= p) if is_causal else np.ones_like(j <= p)
    if mask is not None:
        allowed = allowed | mask if bug and is_causal else allowed & mask
    scores, v = hidden(scores, grouped(value, query.shape[-3]), allowed)
    return softmax(scores)[0] @ v


@mutant(
    "unexplained",
    why="lengths[0] for the whole batch: the loop's bound was moved out of the loop",
)
def lengths_of_first_sequence(query, key, value, /, *, lengths=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    allowed = np.ones(scores.shape, bool)
    if lengths is not None:
        lengths = np.broadcast_to(lengths[:1], lengths.shape) if bug else lengths
        allowed = allowed & (np.arange(scores.shape[-1]) < lengths[:, None, None, None])
    scores, v = hidden(scores, grouped(value, query.shape[-3]), allowed)
    return softmax(scores)[0] @ v


@mutant(
    "unexplained",
    why="1 / head_dim, from a recipe for other initial weights, where the root is meant",
    also=("scale_twice",),
)
def scale_without_root(query, key, value, /, *, scale=None, bug=True):
    if scale is None:
        scale = 1 / query.shape[-1] if bug else query.shape[-1] ** -0.5
    return softmax((query * scale) @ key_of(query, key))[0] @ grouped(value, query.shape[-3])


@mutant(
    "unexplained", why="the output is divided by the sum in the loop, and once more after it"
)
def divided_twice(query, key, value, /, *, mask=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    scores, v = hidden(scores, grouped(value, query.shape[-3]), True if mask is None else mask)
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    e = np.exp(scores - np.where(top == -np.inf, 0, top))
    total = e.sum(axis=-1, keepdims=True)
    total = np.where(total == 0, 1, total)
    return e @ v / (total * total if bug else total)
