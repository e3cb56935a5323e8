"""For authors of kernels: what any attention does, and whether it is right."""

from ._adapters import (
    attnfn_like,
    equinox_like,
    flash_attention_like,
    flashinfer_like,
    flax_like,
    flex_like,
    hf_eager_like,
    jax_like,
    keras_like,
    keras_multi_head_like,
    mlx_like,
    onnx_like,
    onnx_operator,
    ort_group_query_like,
    splash_like,
    torch_like,
    torch_multi_head_like,
    x_transformers_like,
    xformers_like,
)
from ._dialects import DIALECTS
from ._dialects._conventions import Conventions
from ._dialects._dialect import Dialect
from ._questions._cases import FEATURES
from ._reference._oracle import oracle, oracle_vjp, oracle_weights, oracle_with_lse
from ._rounding._bound import error_bound
from ._rounding._close import assert_attention_close
from ._subject import OPTIONS, Subject
from ._verdicts._conformance import check_attention
from ._verdicts._identify import DialectReport, identify_dialect
from ._verdicts._report import ConformanceReport

__all__ = [
    "DIALECTS",
    "FEATURES",
    "OPTIONS",
    "ConformanceReport",
    "Conventions",
    "Dialect",
    "DialectReport",
    "Subject",
    "assert_attention_close",
    "attnfn_like",
    "check_attention",
    "equinox_like",
    "error_bound",
    "flash_attention_like",
    "flashinfer_like",
    "flax_like",
    "flex_like",
    "hf_eager_like",
    "identify_dialect",
    "jax_like",
    "keras_like",
    "keras_multi_head_like",
    "mlx_like",
    "onnx_like",
    "onnx_operator",
    "oracle",
    "oracle_vjp",
    "oracle_weights",
    "oracle_with_lse",
    "ort_group_query_like",
    "splash_like",
    "torch_like",
    "torch_multi_head_like",
    "x_transformers_like",
    "xformers_like",
]
