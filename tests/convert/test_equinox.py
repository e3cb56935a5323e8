"""Equinox's layer and `multi_head_attention`, each on the parameters of the other."""

import equinox
import jax
import numpy as np
import pytest
from support import normal

import attnfn as af
from attnfn import convert

pytestmark = pytest.mark.convert

XP = jax.numpy
CASES = {
    "plain": {},
    "every bias": {f"use_{name}_bias": True for name in ("query", "key", "value", "output")},
    "some biases": {"use_query_bias": True, "use_output_bias": True},
    "widths": {"key_size": 8, "value_size": 6, "output_size": 5, "qk_size": 2, "vo_size": 7},
}


def name_of(path):
    return jax.tree_util.keystr(path, simple=True, separator=".")


def weights_of(layer):
    """The layer's arrays by name."""
    arrays = jax.tree_util.tree_leaves_with_path(equinox.filter(layer, equinox.is_array))
    return {name_of(path): x for path, x in arrays}


def with_weights(layer, weights):
    """The layer with other arrays."""
    arrays, rest = equinox.partition(layer, equinox.is_array)
    put = jax.tree_util.tree_map_with_path(lambda path, _: weights[name_of(path)], arrays)
    return equinox.combine(put, rest)


@pytest.mark.parametrize("case", CASES)
class TestEquinox:
    def test_outputs_agree_and_the_round_trip_is_exact(self, case, agree):
        options = CASES[case]
        layer = equinox.nn.MultiheadAttention(3, 12, key=jax.random.key(0), **options)
        x = normal(XP, 5, 12, seed=1)
        y = normal(XP, 7, options.get("key_size", 12), seed=2)
        z = normal(XP, 7, options.get("value_size", 12), seed=3)
        mask = np.random.default_rng(0).random((5, 7)) < 0.6
        mask[:, 0] = True

        params = convert.multi_head_attention_from(weights_of(layer), "equinox", num_heads=3)

        out = af.multi_head_attention(params, x, y, z, mask=XP.asarray(mask))
        agree("equinox.nn.MultiheadAttention", out, layer(x, y, z, XP.asarray(mask)), 1e-14)
        again = convert.multi_head_attention_to(params, "equinox")
        assert set(again) == set(weights_of(layer))
        assert all(np.array_equal(again[name], x) for name, x in weights_of(layer).items())

    def test_layer_takes_parameters_of_ours(self, case, agree):
        options = CASES[case]
        layer = equinox.nn.MultiheadAttention(3, 12, key=jax.random.key(0), **options)
        other = equinox.nn.MultiheadAttention(3, 12, key=jax.random.key(1), **options)
        params = convert.multi_head_attention_from(weights_of(other), "equinox", num_heads=3)
        x = normal(XP, 5, 12, seed=1)
        y = normal(XP, 7, options.get("key_size", 12), seed=2)
        z = normal(XP, 7, options.get("value_size", 12), seed=3)

        layer = with_weights(layer, convert.multi_head_attention_to(params, "equinox"))

        agree(
            "equinox.nn.MultiheadAttention",
            af.multi_head_attention(params, x, y, z),
            layer(x, y, z),
            1e-14,
        )
