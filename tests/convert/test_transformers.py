"""Attention of Hugging Face's models and ours, on the same weights, and the weights back again."""

import pytest
import torch
import transformers
from array_api_compat import torch as xp
from support import normal
from transformers.models.bert.modeling_bert import BertAttention, BertLayer
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention, GPT2Block
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaRotaryEmbedding,
)
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention
from transformers.models.whisper.modeling_whisper import (
    WhisperAttention,
    WhisperDecoderLayer,
    WhisperEncoderLayer,
)

import attnfn as af
from attnfn import convert

pytestmark = pytest.mark.convert

EAGER = {"attn_implementation": "eager"}
#: float64
ROUNDING = 1e-14


def drawn(layer):
    """A layer in float64 with every parameter drawn, the biases too, which start at 0."""
    layer = layer.double().eval()
    for i, parameter in enumerate(layer.parameters()):
        parameter.data = normal(xp, *parameter.shape, seed=100 + i) / 3
    return layer


def converted(layer, layout, num_heads=4):
    """Our parameters, once it has been seen that the weights come back as they were."""
    weights = layer.state_dict()
    params = convert.multi_head_attention_from(weights, layout, num_heads=num_heads)

    again = convert.multi_head_attention_to(params, layout)

    assert all(torch.equal(again[name], weights[name]) for name in again)
    beside = set(weights) - set(again)
    assert all(name.startswith("output.LayerNorm") for name in beside)
    layer.load_state_dict(again, strict=not beside)
    return params


def inputs():
    return normal(xp, 2, 5, 12, seed=1), normal(xp, 2, 7, 12, seed=2)


LATER = torch.where(torch.ones(5, 5, dtype=torch.bool).triu(1), -torch.inf, 0.0).double()


class TestBert:
    def test_outputs_agree(self, agree):
        config = transformers.BertConfig(hidden_size=12, num_attention_heads=4, **EAGER)
        layer = drawn(BertAttention(config))
        x, _ = inputs()

        actual = af.multi_head_attention(converted(layer, "bert"), x)

        expected = layer.output.dense(
            layer.self(x)[0]
        )  # what is left are the residual and its norm
        agree("transformers BERT", actual, expected, ROUNDING)


class TestGPT2:
    CONFIG = transformers.GPT2Config(n_embd=12, n_head=4, **EAGER)

    def test_outputs_agree(self, agree):
        layer = drawn(GPT2Attention(self.CONFIG, layer_idx=0))
        x, _ = inputs()
        params = converted(layer, "gpt2")

        actual = af.multi_head_attention(params, x, is_causal=True)

        assert params.w_qkv.shape == (12, 12, 3)
        agree("transformers GPT-2", actual, layer(x, attention_mask=LATER)[0], ROUNDING)

    def test_cross_attention_agrees(self, agree):
        layer = drawn(GPT2Attention(self.CONFIG, layer_idx=0, is_cross_attention=True))
        x, y = inputs()

        actual = af.multi_head_attention(converted(layer, "gpt2_cross"), x, y)

        expected = layer(x, encoder_hidden_states=y)[0]
        agree("transformers GPT-2, cross-attention", actual, expected, ROUNDING)

    def test_buffers_of_older_files_are_no_weights(self):
        weights = GPT2Attention(self.CONFIG, layer_idx=0).state_dict()
        old = weights | {"bias": torch.ones(1, 1, 8, 8), "masked_bias": torch.tensor(-1e4)}

        params = convert.multi_head_attention_from(old, "gpt2", num_heads=4)

        assert set(convert.multi_head_attention_to(params, "gpt2")) == set(weights)


# Its eager attention takes the softmax in float32.
LLAMA = {
    "hidden_size": 12,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "attn_implementation": "sdpa",
}
LLAMA_LIKE = {
    "Llama": (LlamaAttention, transformers.LlamaConfig, {"head_dim": 6}),
    "Llama, biases": (
        LlamaAttention,
        transformers.LlamaConfig,
        {"head_dim": 4, "attention_bias": True},
    ),
    "Qwen2": (Qwen2Attention, transformers.Qwen2Config, {"head_dim": 4}),
}


def rotary(config, x):
    """What turns queries and keys: theirs, and ours of half the width."""
    cos, sin = LlamaRotaryEmbedding(config)(x, torch.arange(x.shape[1])[None])
    half = cos.shape[-1] // 2
    return (cos, sin), (cos[:, None, :, :half], sin[:, None, :, :half])


def rotated_attention(params, x, angles):
    """Attention as Llama has it: queries and keys are turned by where they stand."""
    q = af.apply_rotary(af.project_heads(x, params.w_q, params.b_q), *angles)
    k = af.apply_rotary(af.project_heads(x, params.w_k, params.b_k), *angles)
    v = af.project_heads(x, params.w_v, params.b_v)
    return af.combine_heads(af.attention(q, k, v, is_causal=True), params.w_o, params.b_o)


class TestLlama:
    @pytest.mark.parametrize("case", LLAMA_LIKE)
    def test_outputs_agree(self, case, agree):
        kind, make_config, options = LLAMA_LIKE[case]
        config = make_config(**LLAMA, **options)
        layer = drawn(kind(config, layer_idx=0))
        x, _ = inputs()
        theirs, ours = rotary(config, x)

        actual = rotated_attention(converted(layer, "llama"), x, ours)

        expected = layer(x, position_embeddings=theirs, attention_mask=LATER)[0]
        agree(f"transformers {case}", actual, expected, ROUNDING)


class TestWhisper:
    def test_outputs_agree(self, agree):
        config = transformers.WhisperConfig(**EAGER)
        layer = drawn(WhisperAttention(12, 4, config=config))
        x, y = inputs()
        params = converted(layer, "whisper")

        actual = af.multi_head_attention(params, x, y)

        assert params.b_k == ()
        agree("transformers Whisper", actual, layer(x, key_value_states=y)[0], ROUNDING)


def converted_block(layer, layout, kind):
    """Our parameters of a whole block, once it has been seen that the weights come back."""
    functions = {
        "encoder": (convert.encoder_block_from, convert.encoder_block_to),
        "decoder": (convert.decoder_block_from, convert.decoder_block_to),
    }
    block_from, block_to = functions[kind]
    weights = layer.state_dict()
    params = block_from(weights, layout, num_heads=4)

    again = block_to(params, layout)

    assert all(torch.equal(again[name], x) for name, x in weights.items())
    layer.load_state_dict(again)
    return params


def output_of(outputs):
    """What a layer computes, whether it returns that alone or with its weights."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


class TestBlocks:
    def test_bert_agrees(self, agree):
        config = transformers.BertConfig(
            hidden_size=12, num_attention_heads=4, intermediate_size=20, **EAGER
        )
        layer = drawn(BertLayer(config))
        x, _ = inputs()
        params = converted_block(layer, "bert", "encoder")

        actual = af.encoder_block(params, x, activation="gelu", epsilon=1e-12)

        expected = output_of(layer(x))
        agree("transformers BERT, layer", actual, expected, ROUNDING)

    @pytest.mark.parametrize("has_cross_attention", [False, True])
    def test_gpt2_agrees(self, has_cross_attention, agree):
        config = transformers.GPT2Config(
            n_embd=12, n_head=4, n_inner=20, add_cross_attention=has_cross_attention, **EAGER
        )
        layer = drawn(GPT2Block(config, layer_idx=0))
        x, y = inputs()
        memory = (y,) if has_cross_attention else ()
        params = converted_block(layer, "gpt2", "decoder")

        actual = af.decoder_block(
            params, x, *memory, activation="gelu_tanh", is_pre_norm=True, epsilon=1e-5
        )

        options = {"encoder_hidden_states": y} if has_cross_attention else {}
        expected = output_of(layer(x, attention_mask=LATER, **options))
        agree("transformers GPT-2, block", actual, expected, ROUNDING)

    def test_whisper_agrees(self, agree):
        config = transformers.WhisperConfig(
            d_model=12,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=20,
            decoder_ffn_dim=20,
            **EAGER,
        )
        x, memory = inputs()
        encoder = drawn(WhisperEncoderLayer(config))
        decoder = drawn(WhisperDecoderLayer(config, layer_idx=0))
        options = {"activation": "gelu", "is_pre_norm": True}

        encoded = af.encoder_block(converted_block(encoder, "whisper", "encoder"), x, **options)
        decoded = af.decoder_block(
            converted_block(decoder, "whisper", "decoder"), x, memory, **options
        )

        expected = output_of(encoder(x, attention_mask=None))
        agree("transformers Whisper, encoder layer", encoded, expected, ROUNDING)
        expected = output_of(decoder(x, attention_mask=LATER, encoder_hidden_states=memory))
        agree("transformers Whisper, decoder layer", decoded, expected, ROUNDING)

    def test_llama_agrees(self, agree):
        config = transformers.LlamaConfig(**LLAMA, head_dim=6, intermediate_size=20)
        layer = drawn(LlamaDecoderLayer(config, layer_idx=0))
        x, _ = inputs()
        theirs, ours = rotary(config, x)
        params = converted_block(layer, "llama", "decoder")

        seen = af.rms_norm(params.self_attention_norm, x, epsilon=1e-6)
        y = x + rotated_attention(params.self_attention, seen, ours)
        thought = af.rms_norm(params.feed_forward_norm, y, epsilon=1e-6)
        actual = y + af.feed_forward(params.feed_forward, thought, activation="silu")

        expected = output_of(layer(x, attention_mask=LATER, position_embeddings=theirs))
        # Its norm is computed in float32, whatever it is given.
        agree("transformers Llama, layer", actual, expected, 1e-6)
