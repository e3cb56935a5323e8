"""PyTorch's layers and ours, on the same weights, and the weights back again."""

import pytest
import torch
from array_api_compat import torch as xp
from support import normal

import attnfn as af
from attnfn import convert

pytestmark = pytest.mark.convert

#: float64
ROUNDING = 1e-14
SIZES = {"batch_first": True, "dtype": torch.float64}
CASES = {
    "plain": {},
    "no bias": {"bias": False},
    "widths": {"kdim": 8, "vdim": 6},
    "widths, no bias": {"kdim": 8, "vdim": 6, "bias": False},
}


def drawn(layer):
    """A layer with every parameter drawn, the biases too, which start at 0."""
    for i, parameter in enumerate(layer.parameters()):
        parameter.data = normal(xp, *parameter.shape, seed=100 + i) / 3
    return layer.eval()


def check_same(weights, layer):
    """Check that a layer would be left as it is by weights of ours."""
    assert all(torch.equal(weights[name], x) for name, x in layer.state_dict().items())
    layer.load_state_dict(weights)


class TestMultiHeadAttention:
    @pytest.mark.parametrize("case", CASES)
    def test_outputs_agree_and_the_round_trip_is_exact(self, case, agree):
        options = CASES[case]
        layer = drawn(torch.nn.MultiheadAttention(12, 4, **SIZES, **options))
        x, y = normal(xp, 2, 5, 12, seed=1), normal(xp, 2, 7, options.get("kdim", 12), seed=2)
        z = normal(xp, 2, 7, options.get("vdim", 12), seed=3)

        params = convert.multi_head_attention_from(layer.state_dict(), "torch", num_heads=4)

        out = af.multi_head_attention(params, x, y, z)
        agree("torch.nn.MultiheadAttention", out, layer(x, y, z)[0], ROUNDING)
        check_same(convert.multi_head_attention_to(params, "torch"), layer)

    def test_token_of_keys_and_values_is_named_as_left_over(self):
        layer = torch.nn.MultiheadAttention(12, 4, add_bias_kv=True)

        with pytest.raises(ValueError, match="'bias_k' and 'bias_v' are left over"):
            convert.multi_head_attention_from(layer.state_dict(), "torch", num_heads=4)


BLOCKS = {
    "after": {"activation": "relu"},
    "before": {"activation": "gelu", "norm_first": True},
    "no bias": {"bias": False},
}


@pytest.mark.parametrize("case", BLOCKS)
class TestBlocks:
    def test_encoder_layers_agree_and_the_round_trip_is_exact(self, case, agree):
        options = BLOCKS[case]
        layer = drawn(torch.nn.TransformerEncoderLayer(12, 4, 20, **SIZES, **options))
        x = normal(xp, 2, 5, 12, seed=1)

        params = convert.encoder_block_from(layer.state_dict(), "torch", num_heads=4)

        ours = {"activation": options.get("activation", "relu")}
        out = af.encoder_block(params, x, is_pre_norm="norm_first" in options, **ours)
        agree("torch.nn.TransformerEncoderLayer", out, layer(x), ROUNDING)
        check_same(convert.encoder_block_to(params, "torch"), layer)

    def test_decoder_layers_agree_and_the_round_trip_is_exact(self, case, agree):
        options = BLOCKS[case]
        layer = drawn(torch.nn.TransformerDecoderLayer(12, 4, 20, **SIZES, **options))
        x, memory = normal(xp, 2, 5, 12, seed=1), normal(xp, 2, 7, 12, seed=2)
        later = torch.ones(5, 5, dtype=torch.bool).triu(1)

        params = convert.decoder_block_from(layer.state_dict(), "torch", num_heads=4)

        ours = {"activation": options.get("activation", "relu")}
        out = af.decoder_block(params, x, memory, is_pre_norm="norm_first" in options, **ours)
        expected = layer(x, memory, tgt_mask=later, tgt_is_causal=True)
        agree("torch.nn.TransformerDecoderLayer", out, expected, ROUNDING)
        check_same(convert.decoder_block_to(params, "torch"), layer)
