"""Flax's layers and `multi_head_attention`, each on the parameters of the other."""

import jax
import numpy as np
import pytest
from flax import linen, nnx
from support import normal

import attnfn as af
from attnfn import convert

pytestmark = pytest.mark.convert

XP = jax.numpy
FLOAT64 = {"dtype": XP.float64, "param_dtype": XP.float64}
#: nnx's layer asks jax.nn, which takes the softmax in float32 whatever it is given.
FLOAT32 = 1e-6
#: name: what the layers of both modules are called with
CASES = {
    "plain": {},
    "no bias": {"use_bias": False},
    "widths": {"qkv_features": 8, "out_features": 5},
}


def drawn(tree):
    """The same tree with every array drawn, the biases too, which start at 0."""
    flat = af.flatten_params(tree)
    new = {name: normal(XP, *x.shape, seed=i) / 3 for i, (name, x) in enumerate(flat.items())}
    return af.unflatten_params(tree, new)


def assert_same(actual, expected):
    assert set(actual) == set(expected)
    assert all(np.array_equal(actual[name], expected[name]) for name in expected)
    assert all(actual[name].dtype == expected[name].dtype for name in expected)


def nnx_layer(**options):
    layer = nnx.MultiHeadAttention(
        num_heads=4, in_features=12, decode=False, rngs=nnx.Rngs(0), **FLOAT64, **options
    )
    nnx.update(layer, drawn(nnx.to_pure_dict(nnx.state(layer, nnx.Param))))
    return layer


def nnx_weights(layer):
    return af.flatten_params(nnx.to_pure_dict(nnx.state(layer, nnx.Param)))


class TestNnx:
    @pytest.mark.parametrize("case", [*CASES, "grouped", "keys of another width"])
    def test_outputs_agree_and_the_round_trip_is_exact(self, case, agree):
        other = {"grouped": {"num_kv_heads": 2}, "keys of another width": {"in_kv_features": 7}}
        options = (CASES | other)[case]
        layer = nnx_layer(**options)
        x, y = (
            normal(XP, 2, 5, 12, seed=50),
            normal(XP, 2, 6, options.get("in_kv_features", 12)),
        )
        mask = np.random.default_rng(0).random((2, 1, 5, 6)) < 0.6
        mask[..., 0] = True

        params = convert.multi_head_attention_from(nnx_weights(layer), "flax")

        out = af.multi_head_attention(params, x, y, mask=XP.asarray(mask))
        agree("flax.nnx.MultiHeadAttention", out, layer(x, y, mask=mask), FLOAT32)
        assert_same(convert.multi_head_attention_to(params, "flax"), nnx_weights(layer))

    def test_layer_takes_parameters_of_ours(self, agree):
        layer = nnx_layer()
        params = drawn(
            af.init_multi_head_attention(
                12,
                4,
                rng=np.random.default_rng(1),
                has_bias=True,
                is_fused=True,
                xp=XP,
                dtype=XP.float64,
            )
        )
        x = normal(XP, 2, 5, 12)

        flat = convert.multi_head_attention_to(params, "flax")
        nnx.update(layer, af.unflatten_params(nnx.to_pure_dict(nnx.state(layer)), flat))

        out = af.multi_head_attention(params, x)
        agree("flax.nnx.MultiHeadAttention", out, layer(x), FLOAT32)

    def test_norms_of_queries_and_keys_are_named_as_left_over(self):
        layer = nnx_layer(normalize_qk=True)

        with pytest.raises(
            ValueError, match=r"'key_ln.scale' and 'query_ln.scale' are left over"
        ):
            convert.multi_head_attention_from(nnx_weights(layer), "flax")


class TestLinen:
    @pytest.mark.parametrize("case", CASES)
    def test_outputs_agree_and_the_round_trip_is_exact(self, case, agree):
        layer = linen.MultiHeadAttention(num_heads=4, **FLOAT64, **CASES[case])
        x = normal(XP, 2, 5, 12, seed=50)
        variables = drawn(layer.init(jax.random.key(0), x))
        weights = af.flatten_params(variables)

        params = convert.multi_head_attention_from(weights, "flax", prefix="params.")

        mask = linen.make_causal_mask(XP.ones((2, 5)), dtype=bool)
        out = af.multi_head_attention(params, x, is_causal=True)
        agree("flax.linen.MultiHeadAttention", out, layer.apply(variables, x, mask=mask), 1e-14)
        again = convert.multi_head_attention_to(params, "flax", prefix="params.")
        assert_same(again, weights)
        assert_same(af.flatten_params(af.unflatten_params(variables, again)), weights)
