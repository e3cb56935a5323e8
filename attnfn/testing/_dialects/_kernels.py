"""Dialects of libraries of kernels."""

from .._adapters import flash_attention_like, flashinfer_like, splash_like, xformers_like
from ._conventions import Conventions
from ._dialect import Dialect

__all__ = ["DIALECTS"]

_FLASH = frozenset({"is_causal", "window_size", "lengths", "scale", "softcap", "groups", "lse"})

DIALECTS = (
    Dialect(
        name="flash_attn2",
        title="flash_attn.flash_attn_func",
        conventions=Conventions(alignment="bottom_right", empty_lse="+inf"),
        signature=flash_attention_like,
        evidence="from source",
        source="Dao-AILab/flash-attention csrc/flash_attn/src/softmax.h at 0251105a",
        features=_FLASH,
        notes=(
            "Bottom-right since version 2.1; top-left before.",
            "Where keys are split, the log-sum-exp of an empty row is -inf.",
            "The log-sum-exp has no gradient.",
        ),
    ),
    Dialect(
        name="flash_attn3",
        title="flash_attn_interface.flash_attn_func",
        conventions=Conventions(alignment="bottom_right", hidden_value="leaks"),
        signature=flash_attention_like,
        evidence="from source",
        source="Dao-AILab/flash-attention hopper/softmax.h at 2291ed13",
        features=_FLASH,
    ),
    Dialect(
        name="flashinfer",
        title="flashinfer.single_prefill_with_kv_cache",
        conventions=Conventions(alignment="bottom_right", softcap="after_bias", lse_base="2"),
        signature=flashinfer_like,
        evidence="from source",
        source="flashinfer-ai/flashinfer include/flashinfer/attention/variants.cuh at 057a39ec",
        features=frozenset(
            {"mask", "is_causal", "window_size", "scale", "softcap", "groups", "lse"}
        ),
        notes=(
            "A custom mask takes the place of causal order.",
            "ALiBi is added before the cap, without the offset of causal order.",
        ),
    ),
    Dialect(
        name="xformers",
        title="xformers.ops.memory_efficient_attention",
        conventions=Conventions(alignment="top_left"),
        signature=xformers_like,
        evidence="from source",
        source="facebookresearch/xformers xformers/ops/fmha/attn_bias.py at v0.0.35",
        features=frozenset({"mask", "bias", "is_causal", "scale", "groups", "lse"}),
        notes=(
            "LowerTriangularMask is aligned top-left, ...FromBottomRightMask bottom-right.",
            "LocalAttentionFromBottomRightMask is inclusive, ...LocalAttentionMask exclusive.",
        ),
    ),
    Dialect(
        name="jax_splash",
        title="jax.experimental.pallas.ops.tpu.splash_attention",
        conventions=Conventions(
            alignment="top_left",
            default_scale="one",
            empty_row="uniform",
            empty_lse="finite",
            hidden_value="leaks",
        ),
        signature=splash_like,
        evidence="verified",
        source="jax 0.10.2",
        features=frozenset(
            {
                "mask",
                "is_causal",
                "window_size",
                "q_offset",
                "segment_ids",
                "softcap",
                "sinks",
                "groups",
                "lse",
            }
        ),
        notes=(
            "An empty row gets the mean of the values of those blocks that are visited.",
            "CausalMask and LocalMask take an offset.",
            "The log-sum-exp has no gradient.",
        ),
    ),
)
