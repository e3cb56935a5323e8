"""A caller's code, read by mypy --strict and by pyright, never run.

The kind of array that goes in is the kind that comes out. A line that ends in an ignore
comment must be refused: an ignore that nothing needs is an error to both checkers.
"""

from typing import Any, assert_type

import jax
import numpy as np
import numpy.typing as npt
import torch

import attnfn as af

Numbers = npt.NDArray[np.float64]


def with_numpy(q: Numbers, k: Numbers, v: Numbers, allowed: npt.NDArray[np.bool_]) -> None:
    assert_type(af.attention(q, k, v), Numbers)
    assert_type(af.attention(q, k, v, mask=allowed, is_causal=True), Numbers)
    out, lse = af.attention_with_lse(q, k, v, window_size=(4, 0), q_offset=0)
    assert_type(out, Numbers)
    assert_type(lse, Numbers)
    assert_type(af.attention_weights(q, k, softcap=20.0), Numbers)
    assert_type(af.attention_scores(q, k, scale=1.0), Numbers)
    assert_type(af.attention_entropy(q), Numbers)
    assert_type(af.attention_rollout(q), Numbers)
    assert_type(af.attention_rollout([q, q], residual=0.0), Numbers)
    assert_type(af.merge_heads(af.split_heads(q, 4)), Numbers)


def with_torch(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    assert_type(af.attention(q, k, v, bias=lambda i, j: -(i - j)), torch.Tensor)
    out, lse = af.attention_with_lse(q, k, v, sinks=torch.zeros(4))
    assert_type(out, torch.Tensor)
    assert_type(lse, torch.Tensor)
    assert_type(af.merge_attentions([out, out], [lse, lse]), tuple[torch.Tensor, torch.Tensor])
    assert_type(af.attention_weights(q, k, segment_ids=torch.zeros(5)), torch.Tensor)
    assert_type(af.attention_rollout([q, q]), torch.Tensor)


def with_jax(q: jax.Array, k: jax.Array, v: jax.Array) -> None:
    assert_type(af.attention(q, k, v, engine="dense"), jax.Array)
    assert_type(af.attention(q, k, v, score_mod=lambda s, i, j: s * 2), jax.Array)
    assert_type(af.attention_weights(q, k), jax.Array)
    assert_type(af.attention_with_lse(q, k, v), tuple[jax.Array, jax.Array])


def engines(q: Numbers) -> None:
    name = af.select_engine(q, q, q)
    assert name in ("dense", "blockwise", "native")
    af.attention(q, q, q, engine=name)


def parameters(rng: np.random.Generator, x: Numbers) -> None:
    params = af.init_multi_head_attention(16, 4, rng=rng)
    assert_type(params, af.MultiHeadAttentionParams)
    assert_type(af.multi_head_attention(params, x), Numbers)
    assert_type(af.multi_head_attention(params, x, is_causal=True), Numbers)
    assert_type(af.flatten_params(params), dict[str, Any])
    assert_type(af.unflatten_params(params, {}), af.MultiHeadAttentionParams)


def blocks(rng: np.random.Generator, x: Numbers, features: torch.Tensor) -> None:
    encoder = af.init_encoder_block(16, 4, rng=rng)
    assert_type(encoder, af.EncoderBlockParams)
    assert_type(encoder.feed_forward, af.FeedForwardParams)
    assert_type(af.encoder_block(encoder, x, activation="gelu", window_size=(2, 0)), Numbers)
    decoder = af.init_decoder_block(16, 4, rng=rng, has_cross_attention=True)
    assert_type(af.decoder_block(decoder, features, features, norm="rms"), torch.Tensor)
    assert_type(af.layer_norm(encoder.attention_norm, x), Numbers)
    assert_type(af.feed_forward(encoder.feed_forward, x, activation=abs), Numbers)
    assert_type(af.mean_pool(features), torch.Tensor)


def linear(q: jax.Array) -> None:
    assert_type(af.linear_attention(q, q, q, is_causal=True), jax.Array)
    out, state = af.linear_attention_with_state(q, q, q, chunk_len=32)
    assert_type(out, jax.Array)
    assert_type(state, af.LinearAttentionState)


def refused(q: Numbers, t: torch.Tensor) -> None:
    af.attention(query=q, key=q, value=q)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    af.attention(q, q, q, None)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    af.attention(q, q)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    af.attention(q, q, q, causal=True)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    af.attention(q, q, q, is_causal="yes")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    af.attention(q, q, q, window_size=4)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    af.attention(q, q, q, engine="fast")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    af.attention([[1.0]], q, q)  # type: ignore[type-var] # pyright: ignore[reportArgumentType]
    af.attention_with_lse(q, q, q, causal=True)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    af.attention_weights(q, q, dropout_rate=0.1)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    af.attention_weights(q, q, engine="dense")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    af.attention_scores(q, q, sinks=0.0)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    af.init_multi_head_attention(16, 4)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    wrong: torch.Tensor = af.attention(q, q, q)  # type: ignore[assignment] # pyright: ignore
    assert wrong is t
