"""From a function of a known signature to a `Subject`, in one line."""

from ._attnfn import attnfn_like
from ._jax import flax_like, jax_like, keras_like
from ._keras import keras_multi_head_like
from ._kernels import flash_attention_like, flashinfer_like, mlx_like, xformers_like
from ._layers import equinox_like, hf_eager_like, torch_multi_head_like, x_transformers_like
from ._onnx import onnx_like, onnx_operator, ort_group_query_like
from ._splash import splash_like
from ._torch import flex_like, torch_like

__all__ = [
    "attnfn_like",
    "equinox_like",
    "flash_attention_like",
    "flashinfer_like",
    "flax_like",
    "flex_like",
    "hf_eager_like",
    "jax_like",
    "keras_like",
    "keras_multi_head_like",
    "mlx_like",
    "onnx_like",
    "onnx_operator",
    "ort_group_query_like",
    "splash_like",
    "torch_like",
    "torch_multi_head_like",
    "x_transformers_like",
    "xformers_like",
]
