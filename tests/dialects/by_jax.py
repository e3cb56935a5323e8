"""The attention of JAX, Flax, Equinox, and Pallas, in attnfn's axes and option names."""

from functools import partial

import equinox
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks


def turned(x):
    """Swap the axes of heads and positions."""
    return jnp.swapaxes(jnp.asarray(x), 1, 2)


def scores_like(x):
    """A mask with every axis of the scores."""
    return None if x is None else jnp.asarray(x)[(None,) * (4 - x.ndim)]


def jax_nn(
    query, key, value, *, window_size=None, lengths=None, mask=None, bias=None, **options
):
    counts = None if lengths is None else jnp.asarray(lengths, dtype=jnp.int32)
    out, lse = jax.nn.dot_product_attention(
        *map(turned, (query, key, value)),
        mask=scores_like(mask),
        bias=scores_like(bias),
        local_window_size=window_size,
        key_value_seq_lengths=counts,
        return_residual=True,
        **options,
    )
    return turned(out), jnp.swapaxes(lse, 1, 2)


def flax(module, query, key, value, *, mask=None, bias=None, **options):
    out = module.dot_product_attention(
        *map(turned, (query, key, value)),
        mask=scores_like(mask),
        bias=scores_like(bias),
        **options,
    )
    return turned(out), None


def eqx(query, key, value, *, mask=None):
    """The layer, with projections that change nothing."""
    batch, heads, q_len, dim = query.shape
    layer = equinox.nn.MultiheadAttention(
        heads, heads * dim, key=jax.random.key(0), dtype=query.dtype
    )
    one = jnp.eye(heads * dim, dtype=query.dtype)
    projections = ("query_proj", "key_proj", "value_proj", "output_proj")
    layer = equinox.tree_at(
        lambda tree: [getattr(tree, name).weight for name in projections], layer, [one] * 4
    )
    merged = [jnp.reshape(turned(x), (batch, x.shape[2], -1)) for x in (query, key, value)]
    if mask is None:
        out = jax.vmap(layer)(*merged)
    else:
        whole = jnp.broadcast_to(mask, (batch, heads, q_len, key.shape[2]))
        out = jax.vmap(layer)(*merged, whole)
    return turned(jnp.reshape(out, (batch, q_len, heads, dim))), None


def splash_attention(
    query,
    key,
    value,
    *,
    mask=None,
    is_causal=False,
    window_size=None,
    q_offset=0,
    segment_ids=None,
    softcap=None,
    sinks=None,
):
    """The kernel in interpret mode, one sequence at a time; lengths are multiples of 128."""
    heads, q_len, kv_len = query.shape[1], query.shape[2], key.shape[2]
    shape = (q_len, kv_len)
    seen = masks.FullMask(shape)
    if mask is not None:
        seen = seen & masks.NumpyMask(np.broadcast_to(mask, shape))
    if is_causal:
        seen = seen & masks.CausalMask(shape, offset=q_offset)
    if window_size is not None:
        seen = seen & masks.LocalMask(shape, window_size, offset=q_offset)
    kernel = splash.make_splash_mha_single_device(
        masks.MultiHeadMask([seen] * heads),
        save_residuals=True,
        attn_logits_soft_cap=softcap,
        interpret=True,
    )
    ids = None if segment_ids is None else splash.SegmentIds(*map(jnp.asarray, segment_ids))
    each = partial(kernel, segment_ids=ids, sinks=None if sinks is None else jnp.asarray(sinks))
    with jax.enable_x64(False):  # it divides int32 by int64 otherwise
        parts = [each(*map(jnp.asarray, row)) for row in zip(query, key, value, strict=True)]
    out = jnp.stack([out for out, _ in parts])
    return out, jnp.stack([jax.tree.leaves(rest)[0] for _, rest in parts])


CALLS = {
    "jax_nn": jax_nn,
    "flax_nnx": partial(flax, nnx),
    "flax_linen": partial(flax, linen),
    "equinox": eqx,
    "jax_splash": splash_attention,
}
