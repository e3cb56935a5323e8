"""Pooling leaves padding out, and the head is two linear maps at most."""

import array_api_strict
import numpy as np
import pytest
from support import asarray, device_of, library_of, normal, to_numpy

import attnfn as af

DIM, CLASSES, HIDDEN = 3, 4, 5
#: One sequence that is whole, one with a hole, one that is all padding.
MASK = np.asarray([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]], dtype=bool)


def assert_close(actual, expected, tolerance=1e-14):
    np.testing.assert_allclose(to_numpy(actual), expected, rtol=tolerance, atol=tolerance)


class TestMeanPool:
    @pytest.mark.parametrize("shape", [(3, 4), (3, 1, 1, 4)], ids=str)
    def test_leaves_padding_out_though_it_is_nan(self, xp, shape):
        x = to_numpy(normal(xp, 3, 4, DIM))
        bad = np.where(MASK[..., None], x, np.nan)

        actual = af.mean_pool(asarray(xp, bad), asarray(xp, MASK.reshape(shape)))

        assert_close(actual, [x[0].mean(0), (x[1, 1] + x[1, 3]) / 2, np.zeros(DIM)])

    def test_takes_one_mask_for_all_sequences(self, xp):
        x = normal(xp, 2, 3, 4, DIM)

        actual = af.mean_pool(x, asarray(xp, MASK[1]))

        assert_close(actual, to_numpy(x)[..., [1, 3], :].mean(-2))

    def test_of_all_positions_needs_no_mask(self, xp):
        x = normal(xp, 4, DIM)

        assert_close(af.mean_pool(x), to_numpy(x).mean(0))
        assert_close(af.mean_pool(x[:0, :]), np.zeros(DIM))
        assert_close(af.mean_pool(x[:0, :], asarray(xp, MASK[0, :0])), np.zeros(DIM))

    @pytest.mark.libraries("torch", "jax", reason="the others have no bfloat16")
    def test_adds_halves_up_in_float32(self, xp):
        x = asarray(xp, np.full((1000, 1), 100.0), "float16")

        actual = af.mean_pool(x, asarray(xp, np.ones(1000, dtype=bool)))

        assert actual.dtype == xp.float16
        assert to_numpy(actual).tolist() == [100.0]

    @pytest.mark.libraries("array_api_strict", reason="the others have one device here")
    def test_stays_on_the_device(self, xp):
        device = array_api_strict.Device("device1")
        x, mask = normal(xp, 3, 4, DIM).to_device(device), asarray(xp, MASK).to_device(device)

        assert device_of(af.mean_pool(x, mask)) == device

    @pytest.mark.libraries("torch", "jax", reason="the others do not differentiate")
    def test_passes_no_gradient_to_padding(self, xp):
        x = to_numpy(normal(xp, 3, 4, DIM))
        bad = asarray(xp, np.where(MASK[..., None], x, np.nan))

        def loss(x):
            return xp.sum(af.mean_pool(x, asarray(xp, MASK)))

        if library_of(xp) == "jax":
            import jax

            gradient = jax.grad(loss)(bad)
        else:
            import torch

            gradient = torch.func.grad(loss)(bad)
        shares = [4 * [0.25], [0, 0.5, 0, 0.5], 4 * [0]]
        assert_close(gradient, np.repeat(np.asarray(shares)[..., None], DIM, -1))

    @pytest.mark.errors
    def test_says_what_is_wrong(self, xp):
        x = normal(xp, 3, 4, DIM)

        with pytest.raises(
            ValueError, match=r"`mask` must have shape \(\.\.\., length\), \(length,\)"
        ):
            af.mean_pool(x, asarray(xp, MASK.T))
        with pytest.raises(TypeError, match="`mask` must have a bool dtype"):
            af.mean_pool(x, asarray(xp, MASK.astype(float)))
        with pytest.raises(
            ValueError, match=r"`x` must have shape \(\.\.\., length, model_dim\)"
        ):
            af.mean_pool(x[0, 0, :])


class TestClsPool:
    def test_is_the_first_position(self, xp):
        x = normal(xp, 3, 4, DIM)

        assert np.array_equal(to_numpy(af.cls_pool(x)), to_numpy(x)[:, 0])

    @pytest.mark.errors
    def test_needs_a_position(self, xp):
        with pytest.raises(ValueError, match="`x` must have 1 position or more"):
            af.cls_pool(normal(xp, 3, 0, DIM))


def make_params(xp, **options):
    params = af.init_classifier(
        DIM, CLASSES, rng=np.random.default_rng(0), xp=xp, dtype=xp.float64, **options
    )
    biases = {
        name: normal(xp, *x.shape, seed=1)
        for name, x in af.flatten_params(params).items()
        if name.startswith("b_")
    }
    return params._replace(**biases)


class TestClassifier:
    @pytest.mark.parametrize("shape", [(DIM,), (2, DIM), (2, 4, DIM)], ids=str)
    def test_is_a_linear_map(self, xp, shape):
        params, x = make_params(xp, has_bias=True), normal(xp, *shape)

        actual = af.classifier(params, x)

        assert_close(actual, to_numpy(x) @ to_numpy(params.w_out) + to_numpy(params.b_out))

    @pytest.mark.parametrize("activation", ["tanh", "relu"])
    def test_may_have_a_layer_in_between(self, xp, activation):
        params = make_params(xp, has_bias=True, hidden_dim=HIDDEN)
        x = normal(xp, 2, DIM)

        actual = af.classifier(params, x, activation=activation)

        act = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0)}[activation]
        w_out, b_out, w_in, b_in = map(to_numpy, params)
        assert_close(actual, act(to_numpy(x) @ w_in + b_in) @ w_out + b_out)

    def test_has_a_tanh_where_nothing_is_said(self, xp):
        params, x = make_params(xp, hidden_dim=HIDDEN), normal(xp, 2, DIM)

        assert_close(
            af.classifier(params, x), to_numpy(af.classifier(params, x, activation="tanh"))
        )

    @pytest.mark.errors
    def test_says_what_is_wrong(self, xp):
        params, x = make_params(xp), normal(xp, 2, DIM)

        with pytest.raises(ValueError, match="`params` must hold w_in where it holds b_in"):
            af.classifier(params._replace(b_in=x), x)
        with pytest.raises(ValueError, match="`params` must hold w_out; missing: w_out"):
            af.classifier(params._replace(w_out=()), x)
        with pytest.raises(ValueError, match=r"in_dim must be the same in axis -1 of `x`"):
            af.classifier(params, x[:, :1])


class TestInitClassifier:
    @pytest.mark.parametrize("hidden_dim", [None, HIDDEN])
    @pytest.mark.parametrize("has_bias", [False, True])
    def test_gives_the_same_parameters_on_every_library(self, xp, hidden_dim, has_bias):
        options = {"hidden_dim": hidden_dim, "has_bias": has_bias}
        expected = af.init_classifier(DIM, CLASSES, rng=np.random.default_rng(1), **options)

        actual = af.init_classifier(
            DIM, CLASSES, rng=np.random.default_rng(1), xp=xp, **options
        )

        leaves = af.flatten_params(actual)
        layers = {"out"} if hidden_dim is None else {"in", "out"}
        assert set(leaves) == {f"w_{x}" for x in layers} | {
            f"b_{x}" for x in layers if has_bias
        }
        for name, x in leaves.items():
            assert np.array_equal(to_numpy(x), getattr(expected, name))
