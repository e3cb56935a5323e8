"""`multi_head_attention` agrees with `torch.nn.MultiheadAttention`, weights mapped by hand."""

import pytest
from support import normal

import attnfn as af

torch = pytest.importorskip("torch", reason="the peer is PyTorch")
xp = pytest.importorskip("array_api_compat.torch", reason="the peer is PyTorch")

BATCH, Q_LEN, KV_LEN, MODEL_DIM, HEADS = 2, 5, 7, 12, 4
HEAD_DIM = MODEL_DIM // HEADS


def module(**options):
    """PyTorch's layer with every parameter drawn, the biases too, which it starts at 0."""
    layer = torch.nn.MultiheadAttention(
        MODEL_DIM, HEADS, batch_first=True, dtype=torch.float64, **options
    )
    for i, parameter in enumerate(layer.parameters()):
        parameter.data = normal(xp, *parameter.shape, seed=100 + i) * MODEL_DIM**-0.5
    return layer


def columns(weight):
    """A weight of shape (heads * head_dim, in_dim) as (in_dim, heads, head_dim)."""
    return weight.mT.reshape(weight.shape[1], -1, HEAD_DIM)


def apart(layer):
    """Parameters in our layout, one weight each for query, key and value."""
    if layer.in_proj_weight is None:
        weights = [layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight]
    else:
        weights = layer.in_proj_weight.chunk(3)
    has_bias = layer.in_proj_bias is not None
    biases = (
        [b.reshape(HEADS, HEAD_DIM) for b in layer.in_proj_bias.chunk(3)]
        if has_bias
        else 3 * [()]
    )
    return af.MultiHeadAttentionParams(
        *map(columns, weights),
        layer.out_proj.weight.mT.reshape(HEADS, HEAD_DIM, MODEL_DIM),
        *biases,
        layer.out_proj.bias if has_bias else (),
    )


def fused(layer):
    """Parameters in our layout, one weight for query, key and value together."""
    return af.MultiHeadAttentionParams(
        w_qkv=columns(layer.in_proj_weight),
        w_o=layer.out_proj.weight.mT.reshape(HEADS, HEAD_DIM, MODEL_DIM),
        b_qkv=layer.in_proj_bias.reshape(3 * HEADS, HEAD_DIM),
        b_o=layer.out_proj.bias,
    )


def queries():
    return normal(xp, BATCH, Q_LEN, MODEL_DIM, seed=1)


def agree(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-12)


# In PyTorch's layer True hides.
HIDDEN = normal(xp, Q_LEN, KV_LEN, seed=2) > 0.3
HIDDEN[:, 0] = False
HIDDEN_PER_HEAD = normal(xp, BATCH, HEADS, Q_LEN, KV_LEN, seed=3) > 0.3
HIDDEN_PER_HEAD[..., 0] = False
PADDED = torch.arange(KV_LEN) >= torch.asarray([[4], [7]])
BIAS = normal(xp, Q_LEN, KV_LEN, seed=4)
KEY_BIAS = normal(xp, BATCH, KV_LEN, seed=5)

#: name: (the layer's options, the call's, ours)
CASES = {
    "plain": ({}, {}, {}),
    "no bias": ({"bias": False}, {}, {}),
    "attn_mask": ({}, {"attn_mask": HIDDEN}, {"mask": ~HIDDEN}),
    "attn_mask per head": (
        {},
        {"attn_mask": HIDDEN_PER_HEAD.reshape(BATCH * HEADS, Q_LEN, KV_LEN)},
        {"mask": ~HIDDEN_PER_HEAD},
    ),
    "attn_mask in float": ({}, {"attn_mask": BIAS}, {"bias": BIAS}),
    "key_padding_mask": ({}, {"key_padding_mask": PADDED}, {"mask": ~PADDED[:, None, None, :]}),
    "key_padding_mask in float": (
        {},
        {"key_padding_mask": KEY_BIAS},
        {"bias": KEY_BIAS[:, None, None, :]},
    ),
    "both masks": (
        {},
        {"attn_mask": HIDDEN, "key_padding_mask": PADDED},
        {"mask": ~HIDDEN & ~PADDED[:, None, None, :]},
    ),
    "both masks in float": (
        {},
        {"attn_mask": BIAS, "key_padding_mask": KEY_BIAS},
        {"bias": BIAS + KEY_BIAS[:, None, None, :]},
    ),
    "causal": (
        {},
        {"attn_mask": torch.ones(Q_LEN, KV_LEN, dtype=torch.bool).triu(1), "is_causal": True},
        {"is_causal": True, "q_offset": 0},
    ),
    "add_zero_attn": ({"add_zero_attn": True}, {}, {"sinks": 0.0}),
    "add_zero_attn, every key hidden": (
        {"add_zero_attn": True},
        {"key_padding_mask": torch.ones(BATCH, KV_LEN, dtype=torch.bool)},
        {"sinks": 0.0, "mask": torch.zeros(KV_LEN, dtype=torch.bool)},
    ),
}


@pytest.mark.parametrize("case", CASES)
class TestCrossAttention:
    def test_outputs_agree(self, case):
        options, theirs, ours = CASES[case]
        layer = module(**options)
        x, y = queries(), normal(xp, BATCH, KV_LEN, MODEL_DIM, seed=6)

        actual = af.multi_head_attention(apart(layer), x, y, **ours)

        agree(actual, layer(x, y, y, need_weights=False, **theirs)[0])

    def test_weights_agree(self, case):
        options, theirs, ours = CASES[case]
        layer = module(**options)
        x, y = queries(), normal(xp, BATCH, KV_LEN, MODEL_DIM, seed=6)

        actual = af.multi_head_attention_weights(apart(layer), x, y, **ours)

        expected = layer(x, y, y, average_attn_weights=False, **theirs)[1]
        # The zero key of `add_zero_attn` has a weight of its own, the last.
        agree(actual, expected[..., :KV_LEN])


class TestSelfAttention:
    @pytest.mark.parametrize("layout", [apart, fused])
    def test_outputs_and_weights_agree(self, layout):
        layer = module()
        x = queries()

        out = af.multi_head_attention(layout(layer), x, is_causal=True)
        weights = af.multi_head_attention_weights(layout(layer), x, is_causal=True)

        later = torch.ones(Q_LEN, Q_LEN, dtype=torch.bool).triu(1)
        expected = layer(x, x, x, attn_mask=later, average_attn_weights=False)
        agree(out, expected[0])
        agree(weights, expected[1])

    @pytest.mark.parametrize("layout", [apart, fused])
    def test_gradients_of_parameters_agree(self, layout):
        layer = module()
        x = queries()
        d_out = normal(xp, BATCH, Q_LEN, MODEL_DIM, seed=7)
        parameters = list(layer.parameters())

        out = af.multi_head_attention(layout(layer), x)
        actual = torch.autograd.grad(out, parameters, d_out)

        expected = torch.autograd.grad(layer(x, x, x)[0], parameters, d_out)
        for ours, theirs in zip(actual, expected, strict=True):
            agree(ours, theirs)

    def test_without_a_batch_axis_agrees(self):
        layer = module()
        x = queries()[0]

        actual = af.multi_head_attention(apart(layer), x)

        agree(actual, layer(x, x, x)[0])

    def test_the_fast_path_agrees(self):
        layer = module().eval()
        x = queries()

        with torch.inference_mode():
            actual = af.multi_head_attention(fused(layer), x)
            expected = layer(x, x, x, need_weights=False)[0]

        agree(actual, expected)


class TestWidths:
    def test_keys_and_values_of_other_widths_agree(self):
        layer = module(kdim=10, vdim=9)
        x = queries()
        y = normal(xp, BATCH, KV_LEN, 10, seed=8)
        z = normal(xp, BATCH, KV_LEN, 9, seed=9)

        actual = af.multi_head_attention(apart(layer), x, y, z, mask=~HIDDEN)

        agree(actual, layer(x, y, z, attn_mask=HIDDEN)[0])
