"""Keras's layers and `multi_head_attention`, each on the parameters of the other."""

import jax
import keras
import numpy as np
import pytest
from support import normal

import attnfn as af
from attnfn import convert

pytestmark = pytest.mark.convert

XP = jax.numpy
MULTI_HEAD, GROUPED = keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention
CASES = {
    "plain": (MULTI_HEAD, (4, 3), {}),
    "no bias": (MULTI_HEAD, (4, 3), {"use_bias": False}),
    "widths": (MULTI_HEAD, (4, 3), {"value_dim": 2, "output_shape": 7}),
    "grouped": (GROUPED, (3, 4, 2), {}),
    "grouped, no bias": (GROUPED, (3, 4, 2), {"use_bias": False}),
}


def layer_of(case):
    """Keras's layer with every parameter drawn, the biases too, which start at 0."""
    kind, sizes, options = CASES[case]
    layer = kind(*sizes, dtype="float64", **options)
    layer.build((2, 5, 12), (2, 7, 8), (2, 7, 9))
    for i, variable in enumerate(layer.weights):
        variable.assign(normal(XP, *variable.shape, seed=i) / 3)
    return layer


def weights_of(layer):
    return {variable.path: variable.value for variable in layer.weights}


@pytest.mark.parametrize("case", CASES)
class TestKeras:
    def test_outputs_agree_and_the_round_trip_is_exact(self, case, agree):
        layer = layer_of(case)
        prefix = f"{layer.path}/"
        x, y, z = (normal(XP, 2, n, d, seed=d) for n, d in ((5, 12), (7, 9), (7, 8)))
        mask = np.random.default_rng(0).random((2, 5, 7)) < 0.6
        mask[..., 0] = True
        mask = XP.asarray(mask)

        params = convert.multi_head_attention_from(weights_of(layer), "keras", prefix=prefix)

        out = af.multi_head_attention(params, x, y, z, mask=mask[:, None])
        # Asked for the weights too, it takes the softmax in float64, else in float32.
        theirs, _ = layer(x, z, y, attention_mask=mask, return_attention_scores=True)
        agree(f"keras.layers.{type(layer).__name__}", out, theirs, 1e-14)
        again = convert.multi_head_attention_to(params, "keras", prefix=prefix)
        assert set(again) == set(weights_of(layer))
        assert all(np.array_equal(again[name], x) for name, x in weights_of(layer).items())

    def test_layer_takes_parameters_of_ours(self, case, agree):
        layer, other = layer_of(case), layer_of(case)
        params = convert.multi_head_attention_from(
            weights_of(other), "keras", prefix=f"{other.path}/"
        )
        for variable in layer.weights:
            variable.assign(variable.value * 0)

        weights = convert.multi_head_attention_to(params, "keras", prefix=f"{layer.path}/")
        for variable in layer.weights:
            variable.assign(weights[variable.path])

        assert all(
            np.array_equal(a.value, b.value)
            for a, b in zip(layer.weights, other.weights, strict=True)
        )


class TestGate:
    def test_is_named_as_left_over(self):
        layer = GROUPED(3, 4, 2, use_gate=True)
        layer.build((2, 5, 12), (2, 7, 12))

        with pytest.raises(ValueError, match=r"gate/kernel.* left over"):
            convert.multi_head_attention_from(
                weights_of(layer), "keras", prefix=f"{layer.path}/"
            )
