"""`check_attention` finds nothing wrong in packages that are held to their own dialects."""

import keras
import mlx.core as mx
import pytest
import torch
from transformers.models.bert import modeling_bert
from transformers.models.gemma2 import modeling_gemma2
from transformers.models.gpt_oss import modeling_gpt_oss

from attnfn.testing import check_attention

pytestmark = [
    pytest.mark.dialects,
    pytest.mark.filterwarnings("default"),  # of the packages
]

#: Each function or layer, and the library of its arrays.
FUNCTIONS = {
    "torch_sdpa": (torch.nn.functional.scaled_dot_product_attention, "torch"),
    "torch_multi_head_attention": (torch.nn.MultiheadAttention, "torch"),
    "mlx": (mx.fast.scaled_dot_product_attention, "mlx"),
    "hf_eager_bert": (modeling_bert.eager_attention_forward, "torch"),
    "hf_eager_gemma2": (modeling_gemma2.eager_attention_forward, "torch"),
    "hf_eager_gpt_oss": (modeling_gpt_oss.eager_attention_forward, "torch"),
}
if keras.backend.backend() == "numpy":
    FUNCTIONS["keras_ops"] = (keras.ops.dot_product_attention, "numpy")
    FUNCTIONS["keras_multi_head_attention"] = (keras.layers.MultiHeadAttention, "numpy")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nothing_is_wrong(name):
    function, library = FUNCTIONS[name]

    report = check_attention(function, dialect=name, library=library)

    verdicts = {row.feature: row.verdict for row in report.rows}
    assert "wrong" not in verdicts.values(), report
    assert verdicts["plain"] == verdicts["mask"] == "right"
