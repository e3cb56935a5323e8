"""Sides that compute with PyTorch: ours, and each way that PyTorch has."""

import math
import os

import torch
from torch.nn.functional import scaled_dot_product_attention

import attnfn as af

from .work import allowed, draw, options

__all__ = ["eager", "flex", "module", "multi_head", "ours", "sdpa", "sliced"]

torch.set_num_threads(os.cpu_count() or 1)


def tensors(work):
    """Return the numbers as tensors, query, key and value with gradient where one is wanted."""
    x = draw(work)
    dtype = getattr(torch, work.dtype)
    converted = [
        None if a is None else torch.asarray(a, dtype=None if a.dtype == bool else dtype)
        for a in x
    ]
    for a in converted[:3]:
        a.requires_grad_(work.gradient)
    return x._replace(**dict(zip(x._fields, converted, strict=True)))


def called(work, x, attention):
    """Return the call of a function of query, key and value, or that and its gradient."""
    arrays = x.query, x.key, x.value
    if not work.gradient:
        return lambda: attention(*arrays)

    def gradient():
        out = attention(*arrays)
        return out, torch.autograd.grad(out, arrays, x.d_out)

    return gradient


def ours(work, engine="auto"):
    x = tensors(work)
    said = options(work, torch.asarray, x)
    return called(work, x, lambda q, k, v: af.attention(q, k, v, **said, engine=engine))


def engine_of(work):
    x = tensors(work)
    return af.select_engine(x.query, x.key, x.value, **options(work, torch.asarray, x))


def hidden(work, x):
    """Return what hides keys as one bool tensor, or None."""
    array = allowed(work, draw(work)._replace(bias=None, d_out=None))
    return None if array is None else torch.asarray(array)


def sdpa(work):
    x = tensors(work)
    if work.softcap is not None:
        reason = "has no softcap"
        raise NotImplementedError(reason)
    is_causal = work.is_causal and work.window is None and x.mask is None and x.bias is None
    mask = None if is_causal else hidden(work, x)
    if x.bias is not None:
        mask = x.bias if mask is None else x.bias.masked_fill(~mask, -math.inf)
    said = {
        "attn_mask": mask,
        "is_causal": is_causal,
        "enable_gqa": work.num_heads != work.num_kv_heads,
    }
    return called(work, x, lambda *a: scaled_dot_product_attention(*a, **said))


def sliced(work):
    """A window as whoever knows it would write it: a slice of keys for some queries."""
    x = tensors(work)
    if work.window is None or work.q_len != work.kv_len:
        reason = "is for windows"
        raise NotImplementedError(reason)
    left, right = work.window
    right = 0 if work.is_causal else right
    rows = min(512 if work.gradient else 256, work.q_len)
    spans, masks = [], {}
    for start in range(0, work.q_len, rows):
        end = min(start + rows, work.q_len)
        first, last = max(0, start - left), min(work.kv_len, end + right)
        at = torch.arange(start, end)[:, None] - torch.arange(first, last)
        kind = (start - first, end - start, last - end)
        if kind not in masks:  # the same for all slices but the first and the last
            seen = (at <= left) & (-at <= right)
            masks[kind] = torch.where(seen, 0.0, -math.inf).to(x.query.dtype)
        spans.append((slice(start, end), slice(first, last), masks[kind]))

    def attention(q, k, v):
        parts = [
            scaled_dot_product_attention(
                q[..., i, :], k[..., j, :], v[..., j, :], attn_mask=mask
            )
            for i, j, mask in spans
        ]
        return torch.cat(parts, dim=-2)

    return called(work, x, attention)


def eager(work):
    """The formula in ordinary operations."""
    x = tensors(work)
    mask = hidden(work, x)
    group = work.num_heads // work.num_kv_heads

    def attention(q, k, v):
        if group > 1:
            k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        scores = (q * work.head_dim**-0.5) @ k.mT
        if work.softcap is not None:
            scores = work.softcap * torch.tanh(scores / work.softcap)
        if x.bias is not None:
            scores = scores + x.bias
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        return torch.softmax(scores, dim=-1) @ v

    return called(work, x, attention)


def flex(work):
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    if work.gradient:
        reason = "has no gradient on a CPU"
        raise NotImplementedError(reason)
    if work.mask is not None or work.has_bias:
        reason = "is asked for windows, causal order and softcaps alone"
        raise NotImplementedError(reason)
    x = tensors(work)
    left, right = work.window or (work.kv_len, work.kv_len)
    right = 0 if work.is_causal else right

    def seen(_batch, _head, q_pos, kv_pos):
        return (kv_pos - q_pos <= right) & (q_pos - kv_pos <= left)

    def capped(score, _batch, _head, _q_pos, _kv_pos):
        return work.softcap * torch.tanh(score / work.softcap)

    said = {"enable_gqa": work.num_heads != work.num_kv_heads}
    if work.window is not None or work.is_causal:
        said["block_mask"] = create_block_mask(
            seen, None, None, work.q_len, work.kv_len, device="cpu"
        )
    if work.softcap is not None:
        said["score_mod"] = capped
    torch.compiler.reset()
    compiled = torch.compile(flex_attention, dynamic=False)
    call = called(work, x, lambda *a: compiled(*a, **said))
    try:
        with torch.no_grad():
            call()
    except Exception as error:  # a compiler that is not there, or cannot
        reason = f"does not compile: {type(error).__name__}"
        raise NotImplementedError(reason) from error
    return call


def multi_head(work, engine="auto"):
    """Our layer, on the weights of `module`, with the gradient of every parameter."""
    layer, x = layer_of(work)
    model_dim, heads = x.shape[-1], work.num_heads
    w_in = layer.in_proj_weight.detach().T.reshape(model_dim, 3 * heads, -1)
    w_out = layer.out_proj.weight.detach().T.reshape(heads, -1, model_dim)
    params = af.MultiHeadAttentionParams(
        w_qkv=w_in.contiguous().requires_grad_(work.gradient),
        b_qkv=layer.in_proj_bias.detach().reshape(3 * heads, -1).requires_grad_(work.gradient),
        w_o=w_out.contiguous().requires_grad_(work.gradient),
        b_o=layer.out_proj.bias.detach().clone().requires_grad_(work.gradient),
    )
    leaves = [leaf for leaf in params if isinstance(leaf, torch.Tensor)]
    return trained(work, x, leaves, lambda x: af.multi_head_attention(params, x, engine=engine))


def module(work):
    layer, x = layer_of(work)
    layer.train(work.gradient)
    return trained(
        work, x, list(layer.parameters()), lambda x: layer(x, x, x, need_weights=False)[0]
    )


def layer_of(work):
    """Return `nn.MultiheadAttention` and features, made from the same seed."""
    torch.manual_seed(0)
    model_dim = work.num_heads * work.head_dim
    layer = torch.nn.MultiheadAttention(model_dim, work.num_heads, batch_first=True)
    x = torch.randn(work.batch, work.q_len, model_dim, requires_grad=work.gradient)
    return layer.requires_grad_(work.gradient), x


def trained(work, x, leaves, attention):
    """Return the call of a layer, or that and the gradient of its parameters and features."""
    d_out = torch.randn(x.shape)

    def inference():
        with torch.inference_mode():
            return attention(x)

    def training():
        out = attention(x)
        return out, torch.autograd.grad(out, [x, *leaves], d_out)

    return training if work.gradient else inference
