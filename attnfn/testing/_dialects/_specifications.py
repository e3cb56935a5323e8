"""Dialects of ONNX and its runtime."""

from .._adapters import onnx_like, ort_group_query_like
from ._conventions import Conventions
from ._dialect import Dialect

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
        notes=(
            "With past keys, the queries stand after them.",
            "In the reference, causal order beside a mask of one row is that of one query.",
        ),
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
        notes=(
            "With past keys, the queries stand after them.",
            "In the reference, causal order beside a mask of one row is that of one query.",
        ),
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
        notes=(
            "With past keys, the queries stand after them.",
            "In the reference, causal order beside a mask of one row is that of one query.",
        ),
    ),
    Dialect(
        name="onnx_before_corrections",
        title="ONNX Attention, version 23 as first published",
        conventions=Conventions(
            alignment="top_left",
            groups="tiled",
            softcap="after_mask",
            empty_row="nan",
            biased_row="nan",
            hidden_key="leaks",
            hidden_value="leaks",
        ),
        signature=onnx_like,
        evidence="verified",
        source="onnx 1.18.0",
        features=_ONNX,
        notes=(
            "Until 1.21 the cap unhid keys, until 1.22 empty rows were NaN.",
            "Heads are interleaved from 1.19 on.",
            "Until 1.22, a mask beside causal order gave NaN everywhere.",
        ),
    ),
    Dialect(
        name="ort_group_query_attention",
        title="com.microsoft GroupQueryAttention",
        conventions=Conventions(
            alignment="bottom_right", window="exclusive", lengths="last_index", biased_row="nan"
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
        notes=(
            "It is causal unless causal=0; a window is only had with it.",
            "Before the first token there is no past: queries and keys stand side by side.",
        ),
    ),
)
