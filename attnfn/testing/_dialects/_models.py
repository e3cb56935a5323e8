"""Dialects of libraries of models."""

from functools import partial

from .._adapters import hf_eager_like, x_transformers_like
from ._conventions import Conventions
from ._dialect import Dialect

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
            biased_row="nan",
            softmax_dtype="float32",
            hidden_value="leaks",
        ),
        signature=x_transformers_like,
        evidence="verified",
        source="x-transformers 2.31.10",
        features=frozenset(
            {"mask", "bias", "is_causal", "scale", "softcap", "sinks", "groups"}
        ),
        notes=(
            "With flash=True a NaN in a hidden key reaches the output.",
            "A row that causal order leaves nothing, and no mask, gets the mean of all values.",
            "For one query causal order is off.",
        ),
    ),
    Dialect(
        name="hf_eager_bert",
        title="transformers.models.bert eager_attention_forward",
        conventions=Conventions(
            mask_value="lowest",
            empty_row="uniform",
            biased_row="nan",
            hidden_key="leaks",
            hidden_value="leaks",
        ),
        signature=hf_eager_like,
        evidence="verified",
        source=_TRANSFORMERS,
        features=frozenset({"mask", "bias", "scale"}),
        notes=("The mask is made by the caller, in float; causal order is in it.",),
    ),
    Dialect(
        name="hf_eager_gemma2",
        title="transformers.models.gemma2 eager_attention_forward",
        conventions=Conventions(
            mask_value="lowest",
            window="exclusive",
            empty_row="uniform",
            biased_row="nan",
            softmax_dtype="float32",
            hidden_key="leaks",
            hidden_value="leaks",
        ),
        signature=hf_eager_like,
        evidence="verified",
        source=_TRANSFORMERS,
        features=frozenset({"mask", "bias", "scale", "softcap", "groups"}),
        notes=(
            "The mask is made by the caller, in float; causal order is in it.",
            "Windows are exclusive in causal masks, inclusive in others.",
            "In float64 a row that may attend to nothing gets NaN.",
        ),
    ),
    Dialect(
        name="hf_eager_gpt_oss",
        title="transformers.models.gpt_oss eager_attention_forward",
        conventions=Conventions(
            mask_value="lowest",
            window="exclusive",
            empty_row="uniform",
            biased_row="nan",
            hidden_key="leaks",
            hidden_value="leaks",
        ),
        signature=partial(hf_eager_like, has_sinks=True),
        evidence="verified",
        source=_TRANSFORMERS,
        features=frozenset({"mask", "bias", "scale", "sinks", "groups"}),
        notes=(
            "The mask is made by the caller, in float; causal order is in it.",
            "Windows are exclusive in causal masks, inclusive in others.",
            "The softmax has the dtype of the scores.",
        ),
    ),
)
