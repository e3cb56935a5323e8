"""Dialects of libraries of models."""

from functools import partial

from .._adapters import hf_eager_like, x_transformers_like
from .._conventions import Conventions
from .._dialect import Dialect

__all__ = ["DIALECTS"]

_TRANSFORMERS = "transformers 5.23.0"

DIALECTS = (
    Dialect(
        name="x_transformers",
        title="x_transformers.attend.Attend",
        conventions=Conventions(
            alignment="bottom_right",
            groups="tiled",
            softcap="after_bias",
            softmax_dtype="float32",
            hidden_value="leaks",
        ),
        signature=x_transformers_like,
        evidence="verified",
        source="x-transformers 2.31.10",
        features=frozenset(
            {"mask", "bias", "is_causal", "scale", "softcap", "sinks", "groups"}
        ),
    ),
    Dialect(
        name="hf_eager_bert",
        title="transformers.models.bert eager_attention_forward",
        conventions=Conventions(
            mask_value="lowest", empty_row="uniform", hidden_key="leaks", hidden_value="leaks"
        ),
        signature=hf_eager_like,
        evidence="verified",
        source=_TRANSFORMERS,
        features=frozenset({"mask", "bias", "scale"}),
    ),
    Dialect(
        name="hf_eager_gemma2",
        title="transformers.models.gemma2 eager_attention_forward",
        conventions=Conventions(
            mask_value="lowest",
            window="exclusive",
            empty_row="uniform",
            softmax_dtype="float32",
            hidden_key="leaks",
            hidden_value="leaks",
        ),
        signature=hf_eager_like,
        evidence="verified",
        source=_TRANSFORMERS,
        features=frozenset({"mask", "bias", "scale", "softcap", "groups"}),
    ),
    Dialect(
        name="hf_eager_gpt_oss",
        title="transformers.models.gpt_oss eager_attention_forward",
        conventions=Conventions(
            mask_value="lowest",
            window="exclusive",
            empty_row="uniform",
            hidden_key="leaks",
            hidden_value="leaks",
        ),
        signature=partial(hf_eager_like, has_sinks=True),
        evidence="verified",
        source=_TRANSFORMERS,
        features=frozenset({"mask", "bias", "scale", "sinks", "groups"}),
    ),
)
