"""Dialects of ONNX and its runtime."""

from .._adapters import onnx_like, ort_group_query_like
from .._conventions import Conventions
from .._dialect import Dialect

__all__ = ["DIALECTS"]

_ONNX = frozenset({"mask", "bias", "is_causal", "scale", "softcap", "groups"})

DIALECTS = (
    Dialect(
        name="onnx_23",
        title="ONNX Attention, version 23",
        conventions=Conventions(alignment="top_left", hidden_key="leaks", hidden_value="leaks"),
        signature=onnx_like,
        evidence="verified",
        source="onnx 1.23.2",
        features=_ONNX,
    ),
    Dialect(
        name="onnx_24",
        title="ONNX Attention, version 24",
        conventions=Conventions(
            alignment="by_lengths", hidden_key="leaks", hidden_value="leaks"
        ),
        signature=onnx_like,
        evidence="verified",
        source="onnx 1.23.2",
        features=_ONNX | {"lengths"},
    ),
    Dialect(
        name="onnx_25",
        title="ONNX Attention, version 25",
        conventions=Conventions(
            alignment="by_lengths", hidden_key="leaks", hidden_value="leaks"
        ),
        signature=onnx_like,
        evidence="verified",
        source="onnx 1.23.2",
        features=_ONNX | {"lengths", "window_size"},
    ),
    Dialect(
        name="onnx_before_corrections",
        title="ONNX Attention, version 23 as first published",
        conventions=Conventions(
            alignment="top_left",
            groups="tiled",
            softcap="after_mask",
            empty_row="nan",
            hidden_key="leaks",
            hidden_value="leaks",
        ),
        signature=onnx_like,
        evidence="verified",
        source="onnx 1.18.0",
        features=_ONNX,
    ),
    Dialect(
        name="ort_group_query_attention",
        title="com.microsoft GroupQueryAttention",
        conventions=Conventions(
            alignment="bottom_right", window="exclusive", lengths="last_index"
        ),
        signature=ort_group_query_like,
        evidence="verified",
        source="onnxruntime 1.31.1",
        features=frozenset(
            {
                "bias",
                "is_causal",
                "window_size",
                "lengths",
                "scale",
                "softcap",
                "sinks",
                "groups",
            }
        ),
    ),
)
