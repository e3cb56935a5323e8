"""Blocks agree with `torch.nn.TransformerEncoderLayer` and `TransformerDecoderLayer`."""

import pytest
from support import normal

import attnfn as af

torch = pytest.importorskip("torch", reason="the peer is PyTorch")
xp = pytest.importorskip("array_api_compat.torch", reason="the peer is PyTorch")

BATCH, LENGTH, MEMORY_LEN, DIM, HEADS, HIDDEN = 2, 5, 7, 12, 4, 20
LATER = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
PADDED = torch.arange(LENGTH) >= torch.asarray([[3], [5]])
MEMORY_PADDED = torch.arange(MEMORY_LEN) >= torch.asarray([[4], [7]])

by_place = pytest.mark.parametrize("is_pre_norm", [False, True], ids=["post_norm", "pre_norm"])
by_activation = pytest.mark.parametrize("activation", ["relu", "gelu"])
by_bias = pytest.mark.parametrize("has_bias", [False, True], ids=["no_bias", "bias"])


def module(kind, **options):
    """PyTorch's layer with every parameter drawn, the biases too, which it starts at 0."""
    layer = kind(
        DIM, HEADS, HIDDEN, dropout=0.0, batch_first=True, dtype=torch.float64, **options
    )
    for i, parameter in enumerate(layer.parameters()):
        parameter.data = normal(xp, *parameter.shape, seed=100 + i) * DIM**-0.5
    return layer


def or_absent(x):
    return () if x is None else x


def attention_params(layer):
    return af.MultiHeadAttentionParams(
        w_qkv=layer.in_proj_weight.mT.reshape(DIM, 3 * HEADS, -1),
        w_o=layer.out_proj.weight.mT.reshape(HEADS, -1, DIM),
        b_qkv=() if layer.in_proj_bias is None else layer.in_proj_bias.reshape(3 * HEADS, -1),
        b_o=or_absent(layer.out_proj.bias),
    )


def norm_params(layer):
    return af.NormParams(layer.weight, or_absent(layer.bias))


def feed_forward_params(layer):
    return af.FeedForwardParams(
        layer.linear1.weight.mT,
        layer.linear2.weight.mT,
        or_absent(layer.linear1.bias),
        or_absent(layer.linear2.bias),
    )


def encoder_params(layer):
    return af.EncoderBlockParams(
        attention_params(layer.self_attn),
        norm_params(layer.norm1),
        feed_forward_params(layer),
        norm_params(layer.norm2),
    )


def decoder_params(layer):
    return af.DecoderBlockParams(
        attention_params(layer.self_attn),
        norm_params(layer.norm1),
        feed_forward_params(layer),
        norm_params(layer.norm3),
        attention_params(layer.multihead_attn),
        norm_params(layer.norm2),
    )


def agree(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-12)


class TestEncoderLayer:
    @by_place
    @by_activation
    @by_bias
    def test_outputs_agree(self, is_pre_norm, activation, has_bias):
        layer = module(
            torch.nn.TransformerEncoderLayer,
            activation=activation,
            norm_first=is_pre_norm,
            bias=has_bias,
            layer_norm_eps=1e-3,
        )
        x = normal(xp, BATCH, LENGTH, DIM)

        actual = af.encoder_block(
            encoder_params(layer),
            x,
            mask=~PADDED[:, None, None, :],
            is_causal=True,
            is_pre_norm=is_pre_norm,
            activation=activation,
            epsilon=1e-3,
        )

        agree(actual, layer(x, src_mask=LATER, src_key_padding_mask=PADDED))

    def test_the_fast_path_agrees(self):
        layer = module(torch.nn.TransformerEncoderLayer).eval()
        x = normal(xp, BATCH, LENGTH, DIM)

        with torch.inference_mode():
            actual = af.encoder_block(encoder_params(layer), x)
            expected = layer(x)

        agree(actual, expected)

    @by_place
    def test_gradients_of_parameters_agree(self, is_pre_norm):
        layer = module(
            torch.nn.TransformerEncoderLayer, activation="gelu", norm_first=is_pre_norm
        )
        x, d_out = normal(xp, BATCH, LENGTH, DIM), normal(xp, BATCH, LENGTH, DIM, seed=1)
        mask = ~PADDED[:, None, None, :]
        parameters = list(layer.parameters())

        out = af.encoder_block(
            encoder_params(layer), x, mask=mask, is_pre_norm=is_pre_norm, activation="gelu"
        )
        actual = torch.autograd.grad(out, parameters, d_out)

        expected = torch.autograd.grad(layer(x, src_key_padding_mask=PADDED), parameters, d_out)
        for ours, theirs in zip(actual, expected, strict=True):
            agree(ours, theirs)

    def test_a_stack_agrees(self):
        layers = [module(torch.nn.TransformerEncoderLayer, norm_first=True) for _ in range(3)]
        final = torch.nn.LayerNorm(DIM, dtype=torch.float64)
        x = normal(xp, BATCH, LENGTH, DIM)

        actual = x
        for params in tuple(map(encoder_params, layers)):
            actual = af.encoder_block(params, actual, is_pre_norm=True)
        actual = af.layer_norm(norm_params(final), actual)

        expected = x
        for layer in layers:
            expected = layer(expected)
        agree(actual, final(expected))


class TestDecoderLayer:
    @by_place
    @by_activation
    @by_bias
    def test_outputs_agree(self, is_pre_norm, activation, has_bias):
        layer = module(
            torch.nn.TransformerDecoderLayer,
            activation=activation,
            norm_first=is_pre_norm,
            bias=has_bias,
        )
        x = normal(xp, BATCH, LENGTH, DIM)
        memory = normal(xp, BATCH, MEMORY_LEN, DIM, seed=2)

        actual = af.decoder_block(
            decoder_params(layer),
            x,
            memory,
            mask=~PADDED[:, None, None, :],
            memory_mask=~MEMORY_PADDED[:, None, None, :],
            is_pre_norm=is_pre_norm,
            activation=activation,
        )

        expected = layer(
            x,
            memory,
            tgt_mask=LATER,
            tgt_key_padding_mask=PADDED,
            memory_key_padding_mask=MEMORY_PADDED,
        )
        agree(actual, expected)

    def test_gradients_agree(self):
        layer = module(torch.nn.TransformerDecoderLayer)
        x = normal(xp, BATCH, LENGTH, DIM).requires_grad_()
        memory = normal(xp, BATCH, MEMORY_LEN, DIM, seed=2).requires_grad_()
        d_out = normal(xp, BATCH, LENGTH, DIM, seed=1)
        inputs = [x, memory, *layer.parameters()]

        out = af.decoder_block(decoder_params(layer), x, memory)
        actual = torch.autograd.grad(out, inputs, d_out)

        expected = torch.autograd.grad(layer(x, memory, tgt_mask=LATER), inputs, d_out)
        for ours, theirs in zip(actual, expected, strict=True):
            agree(ours, theirs)
