"""Positions agree with those in transformers, each with the code of a model that uses them."""

import numpy as np
import pytest
import torch
from support import normal, to_numpy

import attnfn as af

rope = pytest.importorskip(
    "transformers.modeling_rope_utils", reason="the peer is transformers"
)
transformers = pytest.importorskip("transformers", reason="the peer is transformers")
xp = pytest.importorskip("array_api_compat.torch", reason="the peers are modules of PyTorch")

pytestmark = pytest.mark.models

#: float32 of a frequency: the peers compute it in that.
SINGLE = 1e-6
DIM, LONGEST = 64, 4096
SHORT, LONG = ([1 + i * step for i in range(DIM // 2)] for step in (0.1, 2.0))
ORIGINAL = {"original_max_position_embeddings": 1024}

#: name: (ours, theirs)
SCALINGS = {
    "none": (None, {"rope_type": "default"}),
    "linear": (af.LinearScaling(4.0), {"rope_type": "linear", "factor": 4.0}),
    "dynamic": (af.DynamicNTKScaling(4.0, LONGEST), {"rope_type": "dynamic", "factor": 4.0}),
    "yarn": (
        af.YaRNScaling(4.0, 1024),
        {"rope_type": "yarn", "factor": 4.0, **ORIGINAL},
    ),
    "yarn with every choice": (
        af.YaRNScaling(4.0, 1024, 16.0, 2.0, attention_factor=1.2, is_truncated=False),
        {
            "rope_type": "yarn",
            "factor": 4.0,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
            "attention_factor": 1.2,
            "truncate": False,
            **ORIGINAL,
        },
    ),
    "llama3": (
        af.Llama3Scaling(8.0, 1024, 1.0, 4.0),
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            **ORIGINAL,
        },
    ),
    "longrope": (
        af.LongRoPEScaling(SHORT, LONG, 1024, factor=4.0),
        {
            "rope_type": "longrope",
            "factor": 4.0,
            "short_factor": SHORT,
            "long_factor": LONG,
            **ORIGINAL,
        },
    ),
}


def llama_rotary(parameters):
    """Return the rotary module of a Llama, and its function."""
    from transformers.models.llama import modeling_llama

    config = transformers.LlamaConfig(
        hidden_size=2 * DIM,
        num_attention_heads=2,
        head_dim=DIM,
        max_position_embeddings=LONGEST,
        rope_parameters={"rope_theta": 10000.0, **parameters},
    )
    module = modeling_llama.LlamaRotaryEmbedding(config)
    return module, modeling_llama.apply_rotary_pos_emb


def assert_close(actual, expected, tolerance):
    np.testing.assert_allclose(
        to_numpy(actual), to_numpy(expected), rtol=tolerance, atol=tolerance
    )


class TestRotary:
    # Up to the length trained on, past the original one, and past the longest.
    @pytest.mark.parametrize("start", [0, 2000, 9000])
    @pytest.mark.parametrize("name", SCALINGS)
    def test_turns_queries_and_keys_as_llama_does(self, name, start):
        scaling, parameters = SCALINGS[name]
        query, key = (
            normal(xp, 2, 4, 7, DIM, dtype="float32"),
            normal(xp, 2, 2, 7, DIM, dtype="float32"),
        )
        positions = torch.arange(start, start + 7)[None, :].expand(2, 7)
        module, apply = llama_rotary(parameters)

        angles = af.rotary_angles(positions, DIM, scaling=scaling)
        actual = [af.apply_rotary(x, *angles) for x in (query, key)]

        expected = apply(query, key, *module(query, positions))
        # At position 9000 their angles, products in float32, are off by 5e-4.
        tolerance = SINGLE * max(4, start)
        for ours, theirs in zip(actual, expected, strict=True):
            assert_close(ours, theirs, tolerance)

    @pytest.mark.parametrize("length", [100, 1024, 1025, 5000])
    @pytest.mark.parametrize("name", [name for name in SCALINGS if name != "none"])
    def test_scales_the_same_frequencies(self, name, length):
        scaling, parameters = SCALINGS[name]
        config = llama_rotary(parameters)[0].config

        frequencies, factor = scaling(
            tuple(10000.0 ** (-i / DIM) for i in range(0, DIM, 2)), length
        )

        init = rope.ROPE_INIT_FUNCTIONS[parameters["rope_type"]]
        expected, expected_factor = init(config, "cpu", seq_len=length)
        np.testing.assert_allclose(frequencies, to_numpy(expected), rtol=SINGLE)
        assert factor == pytest.approx(expected_factor)

    def test_turns_neighbours_and_a_part_as_gpt_j_does(self):
        from transformers.models.gptj import modeling_gptj

        query, dim = normal(xp, 2, 4, 7, DIM, dtype="float32"), 24
        table = modeling_gptj.create_sinusoidal_positions(7, dim)
        sin, cos = table[None, :, : dim // 2], table[None, :, dim // 2 :]

        actual = af.apply_rotary(
            query, *af.rotary_angles(torch.arange(7), dim), interleaved=True
        )

        # Its axes are (batch, length, heads, dim).
        turned = modeling_gptj.apply_rotary_pos_emb(
            query[..., :dim].transpose(1, 2), sin, cos
        ).transpose(1, 2)
        assert_close(actual, torch.cat([turned, query[..., dim:]], dim=-1), 4 * SINGLE)


class TestSinusoids:
    def test_are_those_of_whisper(self):
        from transformers.models.whisper import modeling_whisper

        n = 384 // 2
        actual = af.sinusoidal_positions(
            torch.arange(1500), 384, base=10000 ** (n / (n - 1)), interleaved=False
        )

        assert_close(actual, modeling_whisper.sinusoids(1500, 384), 1500 * SINGLE)


class TestBiases:
    @pytest.mark.parametrize("num_heads", [8, 12, 14])
    def test_slopes_are_those_of_bloom(self, num_heads):
        from transformers.models.bloom import modeling_bloom

        actual = af.alibi_slopes(num_heads, xp=xp)

        # The bias of the second position: its distance from the first is 1.
        expected = modeling_bloom.build_alibi_tensor(
            torch.ones(1, 2, dtype=torch.int64), num_heads, torch.float32
        )
        assert_close(actual, expected[:, 0, 1], SINGLE)

    @pytest.mark.parametrize("is_bidirectional", [True, False])
    @pytest.mark.parametrize(
        "num_buckets, max_distance", [(32, 128), (32, 100), (16, 20), (320, 800)]
    )
    def test_buckets_are_those_of_t5(self, num_buckets, max_distance, is_bidirectional):
        from transformers.models.t5.modeling_t5 import T5Attention

        apart = torch.arange(-1000, 1001)

        actual = af.relative_position_bucket(
            apart,
            num_buckets=num_buckets,
            max_distance=max_distance,
            is_bidirectional=is_bidirectional,
        )

        expected = T5Attention._relative_position_bucket(
            apart, is_bidirectional, num_buckets, max_distance
        )
        assert torch.equal(actual, expected)

    def test_bias_is_that_of_t5(self):
        from transformers.models.t5.modeling_t5 import T5Attention

        config = transformers.T5Config(num_heads=3, d_model=12, d_kv=4)
        module = T5Attention(config, has_relative_attention_bias=True, layer_idx=0)
        table = module.relative_attention_bias.weight.detach()

        actual = af.relative_position_bias(
            table, torch.arange(40, 45)[:, None], torch.arange(300)[None, :]
        )

        assert torch.equal(actual[None], module.compute_bias(5, 300, past_seen_tokens=40))
