"""PyTorch's attention, in attnfn's axes and option names: arrays of NumPy in and out."""

import numpy as np
import torch
from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention


def one_slot(mask, bias, *, hidden=False):
    """What stands in the one argument that both share."""
    if mask is None or bias is None:
        return mask if bias is None else bias
    return np.where(mask != hidden, bias, np.float32(-np.inf))


def sdpa(query, key, value, *, mask=None, bias=None, is_causal=False, scale=None):
    q, k, v = map(torch.asarray, (query, key, value))
    given = one_slot(mask, bias)
    out = scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=None if given is None else torch.asarray(given),
        is_causal=is_causal,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out.numpy(), None


def multi_head_attention(query, key, value, *, mask=None, bias=None, need_weights=False):
    """The layer, with projections that change nothing."""
    heads, dim = query.shape[1], query.shape[3]
    layer = torch.nn.MultiheadAttention(
        heads * dim, heads, bias=False, batch_first=True, dtype=torch.asarray(query).dtype
    )
    one = torch.eye(heads * dim)
    layer.load_state_dict(
        {"in_proj_weight": torch.cat([one, one, one]), "out_proj.weight": one}, strict=True
    )
    given = for_each_sequence_and_head(one_slot(mask, bias, hidden=True), query, key)
    with torch.no_grad():
        out, _ = layer(
            *map(merged, (query, key, value)), attn_mask=given, need_weights=need_weights
        )
    return split(out.numpy(), heads), None


def multi_head_attention_weights(query, key, value, **options):
    return multi_head_attention(query, key, value, need_weights=True, **options)


def multi_head_attention_eval(query, key, value, *, mask=None):
    """
    The layer on its fast path, which there is for one input alone.

    Query, key and value are its thirds: the projections give each head all three, with zeros
    where the others stand, and a query that is longer by what that does to the scale. A NaN
    would reach all three; what overflows in one projection does not.
    """
    key, value = (np.where(np.isnan(x), np.float32(3e38), x) for x in (key, value))
    _, heads, _, dim = query.shape
    width = 3 * heads * dim
    layer = torch.nn.MultiheadAttention(width, heads, batch_first=True).eval()
    weights = np.zeros((3, width, width), dtype=np.float32)
    back = np.zeros((width, width), dtype=np.float32)
    for part in range(3):
        for i in range(heads * dim):
            place = 3 * dim * (i // dim) + i % dim
            weights[part, place, part * heads * dim + i] = (np.sqrt(3) / 4, 4, 4)[part]
            back[i, place] = 1 / 4
    layer.load_state_dict(
        {
            "in_proj_weight": torch.asarray(weights.reshape(3 * width, width)),
            "in_proj_bias": torch.zeros(3 * width),
            "out_proj.weight": torch.asarray(back),
            "out_proj.bias": torch.zeros(width),
        }
    )
    x = torch.cat(list(map(merged, (query, key, value))), dim=-1)
    taken = []
    fast = torch._native_multi_head_attention
    try:
        torch._native_multi_head_attention = lambda *a: taken.append(0) or fast(*a)
        with torch.no_grad():
            given = for_each_sequence_and_head(mask, query, key)
            out, _ = layer(x, x, x, attn_mask=given, need_weights=False)
    finally:
        torch._native_multi_head_attention = fast
    assert taken, "the layer did not take its fast path"
    return split(out[..., : heads * dim].numpy(), heads).astype(query.dtype), None


def for_each_sequence_and_head(x, query, key):
    """A mask as the layer takes it: (batch * num_heads, q_len, kv_len)."""
    if x is None:
        return None
    batch, heads, q_len, _ = query.shape
    kv_len = key.shape[2]
    whole = np.broadcast_to(x, (batch, heads, q_len, kv_len)).copy()
    return torch.asarray(whole).reshape(-1, q_len, kv_len)


def merged(x):
    """(batch, heads, length, dim) -> (batch, length, heads * dim)."""
    return torch.asarray(x).transpose(1, 2).flatten(2)


def split(x, heads):
    batch, length, width = x.shape
    return np.moveaxis(x.reshape(batch, length, heads, width // heads), -2, -3)


def flex(query, key, value, *, mask=None, score_mod=None, scale=None):
    q, k, v = map(torch.asarray, (query, key, value))
    blocks, changed = None, None
    if mask is not None:
        sizes = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])
        seen = at_positions(mask, sizes)
        blocks = create_block_mask(
            lambda b, h, i, j: seen[b, h, i, j], *sizes, device="cpu", BLOCK_SIZE=128
        )
    if score_mod is not None:
        changed = lambda score, b, h, i, j: score_mod(score, i, j)  # noqa: E731
    out, aux = flex_attention(
        q,
        k,
        v,
        score_mod=changed,
        block_mask=blocks,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
        return_aux=AuxRequest(lse=True),
    )
    return out.numpy(), aux.lse.numpy()


def at_positions(mask, sizes):
    """An array, or a function of the indices, as flex_attention asks for them."""
    if callable(mask):
        mask = mask(torch.arange(sizes[2])[:, None], torch.arange(sizes[3])[None])
    return torch.broadcast_to(torch.asarray(mask), sizes)


CALLS = {
    "torch_sdpa": sdpa,
    "torch_multi_head_attention": multi_head_attention,
    "torch_multi_head_attention_weights": multi_head_attention_weights,
    "torch_multi_head_attention_eval": multi_head_attention_eval,
    "flex_attention": flex,
}
