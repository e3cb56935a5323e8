"""Flash attention as a Pallas kernel: some queries against one tile of keys after another."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

BLOCK_Q, BLOCK_K = 16, 16


def seen_by(q_pos, kv_pos, q_len, kv_len, causal):
    """Return which keys of a tile each of its queries may attend to."""
    seen = kv_pos < kv_len  # the last tile is padded
    return seen & (kv_pos <= q_pos + kv_len - q_len) if causal else seen


def kernel(q_ref, k_ref, v_ref, out_ref, lse_ref, *, scale, causal, q_len, kv_len):
    """Attend from BLOCK_Q queries of one head to all keys, BLOCK_K at a time."""
    q = q_ref[...].astype(jnp.float32) * scale
    q_pos = pl.program_id(2) * BLOCK_Q + jax.lax.broadcasted_iota(jnp.int32, (BLOCK_Q, 1), 0)

    def add_tile(j, state):
        out, total, top = state  # so far: unnormalised output, sum of weights, maximum
        keys = pl.ds(j * BLOCK_K, BLOCK_K)
        kv_pos = j * BLOCK_K + jax.lax.broadcasted_iota(jnp.int32, (1, BLOCK_K), 1)
        s = q @ k_ref[keys, :].astype(jnp.float32).T
        s = jnp.where(seen_by(q_pos, kv_pos, q_len, kv_len, causal), s, -jnp.inf)
        new_top = jnp.maximum(top, s.max(axis=1, keepdims=True))
        shift = jnp.where(new_top == -jnp.inf, 0, new_top)  # no key seen so far
        weights, rescale = jnp.exp(s - shift), jnp.exp(top - shift)
        out = out * rescale + weights @ v_ref[keys, :].astype(jnp.float32)
        return out, total * rescale + weights.sum(axis=1, keepdims=True), new_top

    zeros = jnp.zeros((BLOCK_Q, 1), jnp.float32)
    start = (jnp.zeros(out_ref.shape, jnp.float32), zeros, zeros - jnp.inf)
    out, total, top = jax.lax.fori_loop(0, pl.cdiv(kv_len, BLOCK_K), add_tile, start)
    out_ref[...] = (out / jnp.where(total == 0, 1, total)).astype(out_ref.dtype)
    lse_ref[...] = (top + jnp.log(total))[:, 0]


@functools.partial(jax.jit, static_argnames=("softmax_scale", "causal", "return_lse"))
def flash_attention(q, k, v, *, softmax_scale=None, causal=False, return_lse=False):
    """Attend, with axes (batch, length, heads, dim), the last query at the last key."""
    (batch, q_len, heads, dim), (kv_len, kv_heads) = q.shape, k.shape[1:3]
    scale = 1 / math.sqrt(dim) if softmax_scale is None else softmax_scale
    tiles = max(pl.cdiv(kv_len, BLOCK_K), 1)
    padding = ((0, 0), (0, tiles * BLOCK_K - kv_len), (0, 0), (0, 0))
    k, v = jnp.pad(k, padding), jnp.pad(v, padding)

    def queries(width):
        return pl.BlockSpec((None, BLOCK_Q, None, width), lambda b, h, i: (b, i, h, 0))

    def keys(x):
        shape = (None, x.shape[1], None, x.shape[3])
        return pl.BlockSpec(shape, lambda b, h, _: (b, 0, h * kv_heads // heads, 0))

    out, lse = pl.pallas_call(
        functools.partial(kernel, scale=scale, causal=causal, q_len=q_len, kv_len=kv_len),
        grid=(batch, heads, pl.cdiv(q_len, BLOCK_Q)),
        in_specs=[queries(dim), keys(k), keys(v)],
        out_specs=[
            queries(v.shape[3]),
            pl.BlockSpec((None, None, BLOCK_Q), lambda b, h, i: (b, h, i)),
        ],
        out_shape=[
            jax.ShapeDtypeStruct((batch, q_len, heads, v.shape[3]), q.dtype),
            jax.ShapeDtypeStruct((batch, heads, q_len), jnp.float32),
        ],
        interpret=True,  # on a CPU
    )(q, k, v)
    return (out, lse) if return_lse else out
