"""What weights say: the entropy of rows, and the rollout over layers."""

import math
from itertools import pairwise

import numpy as np
import pytest
from problems import assert_agrees, gradients_of, under_jit
from support import asarray, device_of, normal, to_numpy

import attnfn as af

differentiable = pytest.mark.libraries("torch", "jax", reason="the others do not differentiate")

#: Weights of three layers, the second with fewer heads than the others.
HEADS, LENGTH = (4, 1, 4), 5


def weights_of(xp, layer=0, num_heads=4, batch=(2,), **options):
    query = normal(xp, *batch, num_heads, LENGTH, 3, seed=2 * layer)
    key = normal(xp, *batch, num_heads, LENGTH, 3, seed=2 * layer + 1)
    return af.attention_weights(query, key, **options)


def rollout_by_paths(layers, residual=0.5):
    """Sum over all paths from an input to a last state, each the product of its steps."""
    length = layers[0].shape[-1]
    steps = []
    for weights in layers:
        mean = weights.mean(axis=0) if weights.ndim > 2 else weights
        step = residual * np.eye(length) + (1 - residual) * mean
        steps.append(step / step.sum(axis=-1, keepdims=True))
    rollout = np.zeros((length, length))
    for path in np.ndindex(*[length] * (len(layers) + 1)):
        pairs = zip(steps, pairwise(path), strict=True)
        rollout[path[-1], path[0]] += math.prod(step[to, of] for step, (of, to) in pairs)
    return rollout


class TestAttentionEntropy:
    def test_is_that_of_each_row(self, xp):
        weights = weights_of(xp, is_causal=True)

        entropy = under_jit(xp, af.attention_entropy)(weights)

        expected = [
            math.fsum(-w * math.log(w) for w in row if w > 0)
            for row in to_numpy(weights).reshape(-1, LENGTH)
        ]
        assert_agrees(entropy, np.reshape(expected, (2, 4, LENGTH)))

    def test_of_equal_weights_is_the_log_of_their_number(self, xp):
        weights = asarray(xp, np.full((7, 7), 1 / 7))

        assert_agrees(af.attention_entropy(weights), np.full(7, math.log(7)))

    def test_of_one_key_and_of_an_empty_row_is_zero(self, xp):
        weights = asarray(xp, [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])

        entropy = to_numpy(af.attention_entropy(weights))

        assert entropy.tolist() == [0.0, 0.0]
        assert not np.signbit(entropy).any()

    def test_without_keys_is_zero(self, xp):
        weights = asarray(xp, np.zeros((2, 3, 0)))

        assert to_numpy(af.attention_entropy(weights)).tolist() == [[0.0] * 3] * 2

    def test_tells_of_a_nan(self, xp):
        weights = asarray(xp, [[np.nan, 0.5], [0.5, 0.5]])

        assert np.isnan(to_numpy(af.attention_entropy(weights))).tolist() == [True, False]

    @pytest.mark.libraries("numpy", "torch", reason="the others have no float16")
    def test_of_halves_has_the_digits_of_halves(self, xp):
        weights = asarray(xp, np.full((1, 2048), 1 / 2048), "float16")

        entropy = af.attention_entropy(weights)

        assert entropy.dtype == xp.float16
        assert float(entropy[0]) == np.float16(math.log(2048))

    @differentiable
    def test_has_a_gradient_that_is_zero_where_a_weight_is(self, xp):
        weights = asarray(xp, [[0.5, 0.25, 0.25, 0.0]])

        (gradient,) = gradients_of(xp, lambda w: xp.sum(af.attention_entropy(w)), weights)

        expected = [[-1 - math.log(0.5), -1 - math.log(0.25), -1 - math.log(0.25), 0.0]]
        assert_agrees(gradient, np.asarray(expected))

    @pytest.mark.libraries("array_api_strict", reason="the others have one device here")
    def test_stays_on_the_device(self, xp):
        weights = xp.ones((2, 2), device=xp.Device("device1"))

        assert device_of(af.attention_entropy(weights)) == device_of(weights)

    @pytest.mark.libraries("numpy", reason="errstate is NumPy's")
    def test_makes_no_warning(self, xp):
        with np.errstate(all="raise"):
            assert af.attention_entropy(xp.eye(3)).tolist() == [0, 0, 0]


class TestAttentionRollout:
    def test_sums_over_all_paths_through_the_layers(self, xp):
        layers = [weights_of(xp, i, h, batch=()) for i, h in enumerate(HEADS)]

        rollout = under_jit(xp, af.attention_rollout)(layers)

        assert_agrees(rollout, rollout_by_paths([to_numpy(x) for x in layers]))

    def test_takes_layers_stacked_along_the_first_axis(self, xp):
        layers = [weights_of(xp, i) for i in range(2)]

        rollout = af.attention_rollout(xp.stack(layers, axis=0), residual=0.25)

        expected = [
            rollout_by_paths([to_numpy(x)[b] for x in layers], residual=0.25) for b in range(2)
        ]
        assert_agrees(rollout, np.stack(expected))

    def test_of_two_axes_has_one_head(self, xp):
        weights = weights_of(xp, batch=())[0, ...]

        rollout = af.attention_rollout([weights, weights])

        assert_agrees(rollout, rollout_by_paths([to_numpy(weights)] * 2))

    def test_of_one_layer_without_the_residual_is_the_mean_of_its_heads(self, xp):
        weights = weights_of(xp)

        rollout = af.attention_rollout((weights,), residual=0.0)

        assert_agrees(rollout, to_numpy(weights).mean(axis=1))

    def test_of_the_residual_alone_is_the_identity(self, xp):
        rollout = af.attention_rollout([weights_of(xp, batch=())], residual=1)

        assert np.array_equal(to_numpy(rollout), np.eye(LENGTH))

    def test_rows_add_up_to_one_also_after_a_sink(self, xp):
        layers = [weights_of(xp, i, is_causal=True, sinks=1.0) for i in range(3)]

        rollout = to_numpy(af.attention_rollout(layers))

        assert_agrees(rollout.sum(axis=-1), np.ones((2, LENGTH)))
        assert not np.triu(rollout, 1).any()

    @pytest.mark.parametrize("residual, kept", [(0.5, 1.0), (0.0, 0.0)])
    def test_an_empty_row_keeps_its_own_state(self, xp, residual, kept):
        empty = xp.zeros((3, 3), dtype=xp.float64)

        rollout = af.attention_rollout([empty, empty], residual=residual)

        assert np.array_equal(to_numpy(rollout), kept * np.eye(3))

    def test_of_no_positions_has_none(self, xp):
        rollout = af.attention_rollout([asarray(xp, np.zeros((2, 0, 0)))])

        assert to_numpy(rollout).shape == (0, 0)

    @pytest.mark.libraries("torch", "jax", reason="the others have no bfloat16")
    def test_of_halves_is_rounded_once(self, xp):
        layers = [asarray(xp, np.full((1, 3, 3), 1 / 3), "bfloat16")] * 8

        rollout = af.attention_rollout(layers)

        exact = rollout_by_paths([to_numpy(layers[0]).astype("float64")] * 4)
        assert rollout.dtype == xp.bfloat16
        assert np.abs(to_numpy(rollout) - exact @ exact).max() <= 2**-9 * (exact @ exact).max()

    @differentiable
    def test_has_the_gradient_of_the_sum_over_paths(self, xp):
        layers = [weights_of(xp, i, batch=()) for i in range(2)]
        loss = under_jit(xp, lambda *x: af.attention_rollout(x, residual=0.2)[0, 1])

        gradients = gradients_of(xp, loss, *layers)

        here, step = [to_numpy(x) for x in layers], 1e-6
        for i, gradient in enumerate(gradients):
            there, back = (
                rollout_by_paths(
                    [x + sign * step * (j == i) * x**2 for j, x in enumerate(here)], 0.2
                )
                for sign in (1, -1)
            )
            expected = (there - back)[0, 1] / (2 * step)
            assert_agrees((to_numpy(gradient) * here[i] ** 2).sum(), expected, "float32")

    @pytest.mark.libraries("array_api_strict", reason="the others have one device here")
    def test_stays_on_the_device(self, xp):
        weights = xp.ones((2, 3, 3), device=xp.Device("device1"))

        assert device_of(af.attention_rollout([weights])) == device_of(weights)
