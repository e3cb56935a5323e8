"""Dialects of libraries of kernels."""

from .._conventions import Conventions
from .._dialect import Dialect
from ._signature import same

__all__ = ["DIALECTS"]

_FLASH = frozenset({"is_causal", "window_size", "lengths", "scale", "softcap"})

DIALECTS = (
    Dialect(
        name="flash_attn2",
        title="flash_attn.flash_attn_func",
        conventions=Conventions(alignment="bottom_right", empty_lse="+inf"),
        signature=same,
        evidence="from source",
        source="Dao-AILab/flash-attention csrc/flash_attn/src/softmax.h at 0251105a",
        options=_FLASH,
        has_lse=True,
        notes=("The gradient of the log-sum-exp is ignored.",),
    ),
    Dialect(
        name="flash_attn3",
        title="flash_attn_interface.flash_attn_func",
        conventions=Conventions(alignment="bottom_right", hidden_value="leaks"),
        signature=same,
        evidence="from source",
        source="Dao-AILab/flash-attention hopper/softmax.h at 0251105a",
        options=_FLASH,
        has_lse=True,
    ),
    Dialect(
        name="flashinfer",
        title="flashinfer.single_prefill_with_kv_cache",
        conventions=Conventions(alignment="bottom_right", softcap="after_bias", lse_base="2"),
        signature=same,
        evidence="from source",
        source="flashinfer-ai/flashinfer include/flashinfer/attention/variants.cuh at fb28d724",
        options=frozenset({"mask", "is_causal", "window_size", "scale", "softcap"}),
        has_lse=True,
        notes=("A custom mask takes the place of causal order.",),
    ),
    Dialect(
        name="xformers",
        title="xformers.ops.memory_efficient_attention",
        conventions=Conventions(alignment="top_left"),
        signature=same,
        evidence="from source",
        source="facebookresearch/xformers xformers/ops/fmha/attn_bias.py at ca6d2aa0",
        options=frozenset({"bias", "is_causal", "window_size", "scale"}),
        has_lse=True,
    ),
    Dialect(
        name="jax_splash",
        title="jax.experimental.pallas.ops.tpu.splash_attention",
        conventions=Conventions(
            default_scale="one",
            empty_row="uniform",
            empty_lse="finite",
            hidden_value="leaks",
        ),
        signature=same,
        evidence="verified",
        source="jax 0.10.2",
        options=frozenset(
            {"mask", "is_causal", "window_size", "q_offset", "segment_ids", "softcap", "sinks"}
        ),
        has_lse=True,
    ),
)
