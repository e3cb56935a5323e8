"""Attention as pure functions, on any array that follows the Array API standard."""

from ._analysis import attention_entropy, attention_rollout
from ._attention import (
    attention,
    attention_scores,
    attention_weights,
    attention_with_lse,
    select_engine,
)
from ._block_params import (
    DecoderBlockParams,
    DecoderDropoutMasks,
    EncoderBlockParams,
    EncoderDropoutMasks,
    init_decoder_block,
    init_encoder_block,
)
from ._cache import (
    KVCache,
    append_kv_cache,
    gather_pages,
    init_kv_cache,
    reorder_kv_cache,
)
from ._cached_attention import cached_attention
from ._classifier import ClassifierParams, classifier, cls_pool, init_classifier, mean_pool
from ._derivatives import AttentionGradients, attention_jvp, attention_vjp
from ._embeddings import EmbeddingParams, embedding, init_embedding, learned_positions
from ._feed_forward import FeedForwardParams, feed_forward, gelu, init_feed_forward
from ._frequencies import (
    DynamicNTKScaling,
    LinearScaling,
    Llama3Scaling,
    LongRoPEScaling,
    YaRNScaling,
)
from ._heads import combine_heads, merge_heads, project_heads, split_heads
from ._layers import decoder_block, encoder_block
from ._linear import LinearAttentionState, linear_attention, linear_attention_with_state
from ._masks import (
    causal_mask,
    chunk_mask,
    padding_mask,
    prefix_mask,
    segment_mask,
    sliding_window_mask,
    token_padding_mask,
)
from ._multi_head import (
    MultiHeadAttentionParams,
    init_multi_head_attention,
    multi_head_attention,
    multi_head_attention_weights,
)
from ._norms import NormParams, init_norm, layer_norm, rms_norm
from ._parameters import flatten_params, unflatten_params
from ._positions import (
    alibi_bias,
    alibi_slopes,
    relative_position_bias,
    relative_position_bucket,
    sinusoidal_positions,
)
from ._rotary import apply_rotary, rotary_angles
from ._states import merge_attentions

__all__ = [
    "AttentionGradients",
    "ClassifierParams",
    "DecoderBlockParams",
    "DecoderDropoutMasks",
    "DynamicNTKScaling",
    "EmbeddingParams",
    "EncoderBlockParams",
    "EncoderDropoutMasks",
    "FeedForwardParams",
    "KVCache",
    "LinearAttentionState",
    "LinearScaling",
    "Llama3Scaling",
    "LongRoPEScaling",
    "MultiHeadAttentionParams",
    "NormParams",
    "YaRNScaling",
    "alibi_bias",
    "alibi_slopes",
    "append_kv_cache",
    "apply_rotary",
    "attention",
    "attention_entropy",
    "attention_jvp",
    "attention_rollout",
    "attention_scores",
    "attention_vjp",
    "attention_weights",
    "attention_with_lse",
    "cached_attention",
    "causal_mask",
    "chunk_mask",
    "classifier",
    "cls_pool",
    "combine_heads",
    "decoder_block",
    "embedding",
    "encoder_block",
    "feed_forward",
    "flatten_params",
    "gather_pages",
    "gelu",
    "init_classifier",
    "init_decoder_block",
    "init_embedding",
    "init_encoder_block",
    "init_feed_forward",
    "init_kv_cache",
    "init_multi_head_attention",
    "init_norm",
    "layer_norm",
    "learned_positions",
    "linear_attention",
    "linear_attention_with_state",
    "mean_pool",
    "merge_attentions",
    "merge_heads",
    "multi_head_attention",
    "multi_head_attention_weights",
    "padding_mask",
    "prefix_mask",
    "project_heads",
    "relative_position_bias",
    "relative_position_bucket",
    "reorder_kv_cache",
    "rms_norm",
    "rotary_angles",
    "segment_mask",
    "select_engine",
    "sinusoidal_positions",
    "sliding_window_mask",
    "split_heads",
    "token_padding_mask",
    "unflatten_params",
]
