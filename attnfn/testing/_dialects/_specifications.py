"""Dialects of ONNX and its runtime."""

from .._conventions import Conventions
from .._dialect import Dialect
from ._signature import same

__all__ = ["DIALECTS"]

_ONNX = frozenset({"mask", "bias", "is_causal", "scale", "softcap"})

DIALECTS = (
    Dialect(
        name="onnx_23",
        title="ONNX Attention, version 23",
        conventions=Conventions(alignment="top_left", hidden_key="leaks", hidden_value="leaks"),
        signature=same,
        evidence="verified",
        source="onnx 1.23.2",
        options=_ONNX,
    ),
    Dialect(
        name="onnx_24",
        title="ONNX Attention, version 24",
        conventions=Conventions(
            alignment="by_lengths", hidden_key="leaks", hidden_value="leaks"
        ),
        signature=same,
        evidence="verified",
        source="onnx 1.23.2",
        options=_ONNX | {"lengths"},
    ),
    Dialect(
        name="onnx_25",
        title="ONNX Attention, version 25",
        conventions=Conventions(
            alignment="by_lengths", hidden_key="leaks", hidden_value="leaks"
        ),
        signature=same,
        evidence="verified",
        source="onnx 1.23.2",
        options=_ONNX | {"lengths", "window_size"},
    ),
    Dialect(
        name="onnx_before_corrections",
        title="ONNX Attention, version 23 as first published",
        conventions=Conventions(
            alignment="top_left",
            groups="tiled",
            softcap="after_bias",
            empty_row="nan",
            hidden_key="leaks",
            hidden_value="leaks",
        ),
        signature=same,
        evidence="from source",
        source="onnx 1.18.0, onnx/reference/ops/op_attention.py",
        options=_ONNX,
    ),
    Dialect(
        name="ort_group_query_attention",
        title="com.microsoft GroupQueryAttention",
        conventions=Conventions(
            alignment="bottom_right", window="exclusive", lengths="last_index"
        ),
        signature=same,
        evidence="verified",
        source="onnxruntime 1.31.1",
        options=frozenset({"bias", "is_causal", "window_size", "lengths", "scale", "softcap"}),
    ),
)
