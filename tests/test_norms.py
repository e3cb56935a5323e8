"""Norms against the plain formula and against PyTorch's."""

import array_api_strict
import numpy as np
import pytest
from support import asarray, device_of, library_of, normal, to_numpy

import attnfn as af

DIM = 6
#: name: (the function, its formula in NumPy)
NORMS = {
    "layer": (
        af.layer_norm,
        lambda x, eps: (
            (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
        ),
    ),
    "rms": (af.rms_norm, lambda x, eps: x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)),
}
by_norm = pytest.mark.parametrize("norm", NORMS)
halves = pytest.mark.parametrize("dtype", ["float16", "bfloat16"])


def make_params(xp, dtype="float64"):
    return af.NormParams(
        normal(xp, DIM, seed=1, dtype=dtype), normal(xp, DIM, seed=2, dtype=dtype)
    )


def assert_close(actual, expected, tolerance=1e-12):
    actual = to_numpy(actual)
    assert actual.shape == np.shape(expected)
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


@by_norm
class TestNorms:
    @pytest.mark.parametrize("epsilon", [None, 0.0, 0.3])
    @pytest.mark.parametrize("shape", [(DIM,), (2, 3, DIM), (0, DIM)], ids=str)
    def test_are_their_formula(self, xp, norm, shape, epsilon):
        function, formula = NORMS[norm]
        params, x = make_params(xp), normal(xp, *shape)
        options = {} if epsilon is None else {"epsilon": epsilon}

        actual = function(params, x, **options)

        default = {"layer": 1e-5, "rms": 1e-6}[norm]
        plain = formula(to_numpy(x), default if epsilon is None else epsilon)
        assert_close(actual, plain * to_numpy(params.weight) + to_numpy(params.bias))

    @pytest.mark.parametrize("absent", ["weight", "bias"])
    def test_do_without_a_parameter(self, xp, norm, absent):
        function, _ = NORMS[norm]
        params, x = make_params(xp), normal(xp, 3, DIM)
        neutral = {"weight": np.ones(DIM), "bias": np.zeros(DIM)}[absent]

        actual = function(params._replace(**{absent: ()}), x)

        expected = function(params._replace(**{absent: asarray(xp, neutral)}), x)
        assert_close(actual, to_numpy(expected))

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_keep_the_dtype_whatever_that_of_the_parameters(self, xp, norm, dtype):
        function, _ = NORMS[norm]
        other = {"float32": "float64", "float64": "float32"}[dtype]

        actual = function(make_params(xp, other), normal(xp, 3, DIM, dtype=dtype))

        assert actual.dtype == getattr(xp, dtype)

    @pytest.mark.libraries("torch", "jax", reason="the others have no bfloat16")
    @halves
    def test_round_halves_once(self, xp, norm, dtype):
        """Squares of 60000 and means of many numbers fit into no half."""
        function, _ = NORMS[norm]
        params = make_params(xp, dtype)
        x = normal(xp, 3, DIM, dtype=dtype) * 2.0**12
        wide = [xp.astype(a, xp.float32) for a in (*params, x)]

        actual = function(params, x)

        expected = xp.astype(function(af.NormParams(*wide[:2]), wide[2]), getattr(xp, dtype))
        assert actual.dtype == getattr(xp, dtype)
        assert np.array_equal(to_numpy(actual), to_numpy(expected))

    def test_keep_nan_in_its_row(self, xp, norm):
        function, _ = NORMS[norm]
        params = make_params(xp)
        x = to_numpy(normal(xp, 3, DIM))
        bad = x.copy()
        bad[1, 2] = np.nan

        actual = to_numpy(function(params, asarray(xp, bad)))

        assert np.isnan(actual[1]).all()
        assert np.array_equal(
            actual[[0, 2]], to_numpy(function(params, asarray(xp, x)))[[0, 2]]
        )

    @pytest.mark.libraries("array_api_strict", reason="the others have one device here")
    def test_stay_on_the_device(self, xp, norm):
        device = array_api_strict.Device("device1")
        params = af.init_norm(DIM, xp=xp, device=device, has_bias=True, dtype=xp.float64)

        actual = NORMS[norm][0](params, normal(xp, 2, DIM).to_device(device))

        assert device_of(actual) == device

    @pytest.mark.libraries("torch", reason="the peer is PyTorch")
    @pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
    def test_agree_with_pytorch(self, xp, norm, dtype):
        import torch

        params, x = make_params(xp, dtype), normal(xp, 3, DIM, dtype=dtype)

        actual = NORMS[norm][0](params._replace(bias=()), x, epsilon=1e-3)

        peer = getattr(torch.nn.functional, f"{norm}_norm")
        expected = peer(x, (DIM,), weight=params.weight, eps=1e-3)
        tolerance = {"float32": 1e-6, "float64": 1e-14, "bfloat16": 2**-7}[dtype]
        assert_close(actual, to_numpy(expected), tolerance)

    @pytest.mark.libraries("torch", "jax", reason="the others do not differentiate")
    def test_have_the_gradient_of_finite_differences(self, xp, norm):
        function, _ = NORMS[norm]
        x, direction = normal(xp, 2, DIM), normal(xp, 2, DIM, seed=8)
        params = make_params(xp)

        def loss(x):
            return xp.sum(xp.tanh(function(params, x)))

        if library_of(xp) == "jax":
            import jax

            gradient = jax.grad(loss)(x)
        else:
            import torch

            gradient = torch.func.grad(loss)(x)
        expected = (loss(x + 1e-5 * direction) - loss(x - 1e-5 * direction)) / 2e-5
        assert float(xp.sum(gradient * direction)) == pytest.approx(float(expected), rel=1e-7)

    @pytest.mark.errors
    def test_say_what_is_wrong(self, xp, norm):
        function, _ = NORMS[norm]
        x = normal(xp, 2, DIM)
        narrow = af.NormParams(normal(xp, 2))

        with pytest.raises(ValueError, match=r"`params.weight` must have shape \(model_dim,\)"):
            function(narrow, x)
        with pytest.raises(ValueError, match="`epsilon` must be 0 or more, and finite; got -1"):
            function(make_params(xp), x, epsilon=-1)
        with pytest.raises(TypeError, match="`epsilon` must be a number; got None"):
            function(make_params(xp), x, epsilon=None)
        with pytest.raises(TypeError, match="`params` must be NormParams; got tuple"):
            function((x, x), x)
        with pytest.raises(TypeError, match=r"`params\.bias` must be an array; got None"):
            function(af.NormParams((), None), x)
        with pytest.raises(TypeError, match="`x` must have a real floating dtype"):
            function(af.NormParams(), asarray(xp, np.arange(3)))
        with pytest.raises(ValueError, match=r"`x` must have shape \(\.\.\., model_dim\)"):
            function(af.NormParams(), asarray(xp, 1.0))


class TestInitNorm:
    @pytest.mark.parametrize("has_bias", [False, True])
    def test_begins_with_ones_and_zeros(self, xp, has_bias):
        params = af.init_norm(3, has_bias=has_bias, xp=xp)

        assert type(params) is af.NormParams
        assert params.weight.dtype == xp.float32
        assert to_numpy(params.weight).tolist() == [1, 1, 1]
        assert params.bias == () if not has_bias else to_numpy(params.bias).tolist() == [0] * 3

    @pytest.mark.errors
    def test_says_what_is_wrong(self):
        with pytest.raises(ValueError, match="`model_dim` must be 1 or more; got 0"):
            af.init_norm(0)
        with pytest.raises(TypeError, match="`has_bias` must be True or False; got 1"):
            af.init_norm(3, has_bias=1)
