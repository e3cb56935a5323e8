"""The feed-forward layer against its formula, and its activations to the last digits."""

import math

import array_api_strict
import mpmath
import numpy as np
import pytest
from support import asarray, device_of, library_of, normal, to_numpy

import attnfn as af

DIM, HIDDEN = 4, 7
#: name: the activation of one number, in Python's floats or mpmath's
PLAIN = {
    "relu": lambda x: max(x, 0.0),
    "gelu": lambda x: x * mpmath.ncdf(x),
    "gelu_tanh": lambda x: (
        x / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + 0.044715 * x**3)))
    ),
    "silu": lambda x: x / (1 + mpmath.exp(-x)),
    "tanh": mpmath.tanh,
}
by_activation = pytest.mark.parametrize("activation", PLAIN)
by_gate = pytest.mark.parametrize("is_gated", [False, True], ids=["plain", "gated"])
by_bias = pytest.mark.parametrize("has_bias", [False, True], ids=["no_bias", "bias"])
differentiable = pytest.mark.libraries("torch", "jax", reason="the others do not differentiate")
#: The map that does nothing, so that the layer is its activation.
IDENTITY = {"w_in": np.eye(1), "w_out": np.eye(1)}


def make_params(xp, *, seed=0, dtype="float64", is_gated=False, has_bias=False):
    """Draw parameters whose biases are not zero, so that one left out would be seen."""
    params = af.init_feed_forward(
        DIM,
        HIDDEN,
        rng=np.random.default_rng(seed),
        xp=xp,
        dtype=getattr(xp, dtype),
        is_gated=is_gated,
        has_bias=has_bias,
    )
    leaves = af.flatten_params(params)
    biases = {
        name: normal(xp, *x.shape, seed=i, dtype=dtype)
        for i, (name, x) in enumerate(leaves.items())
        if name.startswith("b_")
    }
    return params._replace(**biases)


def only(xp, activation, x, dtype="float64"):
    """Apply an activation alone, by a layer that does nothing else."""
    params = af.FeedForwardParams(**{k: asarray(xp, w, dtype) for k, w in IDENTITY.items()})
    return af.feed_forward(params, x[..., None], activation=activation)[..., 0]


def plain_formula(params, x, activation, keep=1.0):
    act = np.vectorize(lambda n: float(PLAIN[activation](n)))
    w_in, w_out, b_in, b_out, w_gate, b_gate = (
        0.0 if isinstance(p, tuple) else to_numpy(p) for p in params
    )
    hidden = to_numpy(x) @ w_in + b_in
    gate = to_numpy(x) @ w_gate + b_gate if np.ndim(w_gate) else None
    hidden = act(hidden) if gate is None else act(gate) * hidden
    return keep * hidden @ w_out + b_out


def assert_close(actual, expected, tolerance=1e-12):
    actual = to_numpy(actual)
    assert actual.shape == np.shape(expected)
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


class TestFeedForward:
    @by_activation
    @by_gate
    @by_bias
    def test_is_its_formula(self, xp, activation, is_gated, has_bias):
        params = make_params(xp, is_gated=is_gated, has_bias=has_bias)
        x = normal(xp, 2, 3, DIM)

        actual = af.feed_forward(params, x, activation=activation)

        assert_close(actual, plain_formula(params, x, activation))

    def test_takes_relu_where_nothing_is_said(self, xp):
        params, x = make_params(xp), normal(xp, 3, DIM)

        assert_close(af.feed_forward(params, x), plain_formula(params, x, "relu"))

    @pytest.mark.parametrize("shape", [(DIM,), (0, DIM), (2, 1, 0, DIM)], ids=str)
    def test_takes_any_batch(self, xp, shape):
        params, x = make_params(xp, has_bias=True), normal(xp, *shape)

        actual = af.feed_forward(params, x)

        assert_close(
            actual, plain_formula(params, x, "relu") if 0 not in shape else np.zeros(shape)
        )

    def test_takes_a_function(self, xp):
        params, x = make_params(xp, is_gated=True), normal(xp, 3, DIM)

        actual = af.feed_forward(params, x, activation=lambda x: x * x)

        gate, up = (to_numpy(x) @ to_numpy(w) for w in (params.w_gate, params.w_in))
        assert_close(actual, gate**2 * up @ to_numpy(params.w_out))

    @pytest.mark.parametrize("shape", [(3, HIDDEN), (1, HIDDEN), (3, 1)], ids=str)
    def test_drops_features_in_the_middle(self, xp, shape):
        params, x = make_params(xp, is_gated=True, has_bias=True), normal(xp, 3, DIM)
        keep = np.random.default_rng(1).random(shape) < 0.5

        actual = af.feed_forward(
            params, x, activation="silu", dropout_mask=asarray(xp, keep), dropout_rate=0.5
        )

        assert_close(actual, plain_formula(params, x, "silu", keep=keep / 0.5))

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @by_activation
    def test_keeps_the_dtype(self, xp, dtype, activation):
        params = make_params(xp, dtype=dtype, has_bias=True, is_gated=True)

        actual = af.feed_forward(params, normal(xp, 3, DIM, dtype=dtype), activation=activation)

        assert actual.dtype == getattr(xp, dtype)

    @pytest.mark.libraries("torch", "jax", reason="the others have no bfloat16")
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_keeps_halves(self, xp, dtype):
        params = make_params(xp, dtype=dtype, is_gated=True)
        x = normal(xp, 3, DIM, dtype=dtype)

        actual = af.feed_forward(params, x, activation="silu")

        assert actual.dtype == getattr(xp, dtype)
        assert_close(actual, plain_formula(params, x, "silu"), 0.05)

    @pytest.mark.libraries("array_api_strict", reason="the others have one device here")
    @by_activation
    def test_stays_on_the_device(self, xp, activation):
        device = array_api_strict.Device("device1")
        params = af.init_feed_forward(
            DIM, HIDDEN, rng=np.random.default_rng(0), xp=xp, device=device, is_gated=True
        )
        x = normal(xp, 3, DIM, dtype="float32").to_device(device)

        assert device_of(af.feed_forward(params, x, activation=activation)) == device

    @pytest.mark.libraries("torch", reason="torch alone has autocast")
    def test_lets_autocast_settle_the_dtype_of_products(self, xp):
        import torch

        params, x = make_params(xp, dtype="float32"), normal(xp, 3, DIM, dtype="float32")

        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = af.feed_forward(params, x, activation="gelu")

        assert actual.dtype == torch.bfloat16
        assert_close(actual, plain_formula(params, x, "gelu"), 0.05)


class TestActivations:
    POINTS = np.concatenate(
        [
            s * np.concatenate([np.linspace(0, 14, 300), np.logspace(-20, 0, 60)])
            for s in (-1, 1)
        ]
    )

    @by_activation
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_are_right_to_rounding(self, xp, activation, dtype):
        x = asarray(xp, self.POINTS, dtype)

        actual = to_numpy(only(xp, activation, x, dtype))

        exact = [PLAIN[activation](mpmath.mpf(float(n))) for n in to_numpy(x)]
        pairs = zip(map(float, actual), exact, strict=True)
        errors = np.asarray([abs(float(a - b)) for a, b in pairs])
        assert actual.dtype == dtype
        # A tanh of JAX's is off by a few last digits.
        assert (errors <= 4 * np.finfo(dtype).eps * np.abs(to_numpy(x))).all()

    @pytest.mark.libraries("numpy", reason="the other libraries bring their own")
    def test_gelu_keeps_its_digits_far_from_zero(self, xp):
        x = np.linspace(-37, -1, 400)

        actual = only(xp, "gelu", x)

        exact = [PLAIN["gelu"](mpmath.mpf(n)) for n in x]
        pairs = zip(map(float, actual), exact, strict=True)
        relative = [abs(float((a - b) / b)) for a, b in pairs]
        # An exponent of x²/2 has an error of as many last digits.
        assert (relative <= np.finfo("float64").eps * (4 + x**2)).all()

    @pytest.mark.libraries("numpy", reason="NumPy's is computed block by block")
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_gelu_of_many_numbers_is_that_of_each(self, xp, dtype):
        x = normal(xp, 3, 20000, dtype=dtype)

        actual = only(xp, "gelu", x.T, dtype)

        one_by_one = [only(xp, "gelu", row, dtype) for row in np.split(x.T, 200)]
        assert np.array_equal(actual, np.concat(one_by_one))

    @by_activation
    def test_of_large_numbers_and_nan(self, xp, activation):
        x = asarray(xp, np.asarray([-1e30, -1e4, 1e4, 1e30, math.inf, math.nan]))

        with np.errstate(all="raise", under="ignore"):
            actual = to_numpy(only(xp, activation, x))

        expected = [0.0, 0.0, 1e4, 1e30, math.inf, math.nan]
        expected = np.tanh(to_numpy(x)) if activation == "tanh" else expected
        np.testing.assert_array_equal(actual, expected)

    @differentiable
    @by_activation
    def test_have_derivatives_everywhere(self, xp, activation):
        """Also where an exponential overflows, and the second at zero."""
        x = asarray(xp, np.asarray([-800.0, -3.0, 0.0, 0.5, 800.0]))

        def f(x):
            return xp.sum(only(xp, activation, x))

        if library_of(xp) == "jax":
            import jax

            first, second = jax.grad(f)(x), jax.grad(lambda x: xp.sum(jax.grad(f)(x)))(x)
        else:
            import torch

            x.requires_grad_()
            (first,) = torch.autograd.grad(f(x), x, create_graph=True)
            second = torch.func.grad(lambda x: xp.sum(torch.func.grad(f)(x)))(x.detach())
        smooth = PLAIN | {"relu": lambda x: x * (x > 0)}
        at_zero = {"relu": (0.0, 0.0), "silu": (0.5, 0.5), "tanh": (1.0, 0.0)}
        for order, actual in ((1, to_numpy(first)), (2, to_numpy(second))):
            expected = [
                float(mpmath.diff(smooth[activation], mpmath.mpf(n), order, h=1e-8))
                for n in (-3, 0.5)
            ]
            assert_close(actual[[1, 3]], expected, 1e-6)
            far = 0.0 if activation == "tanh" else 1.0
            zero = at_zero.get(activation, (0.5, math.sqrt(2 / math.pi)))[order - 1]
            assert_close(actual[[0, 2, 4]], [0.0, zero, far if order == 1 else 0.0])

    @pytest.mark.libraries("torch", reason="the peer is PyTorch")
    @pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
    @pytest.mark.parametrize(
        "activation, peer",
        [("relu", "relu"), ("gelu", "gelu"), ("gelu_tanh", "gelu"), ("silu", "silu")],
    )
    def test_agree_with_pytorch(self, xp, activation, peer, dtype):
        import torch

        x = 4 * normal(xp, 1000, dtype=dtype)
        options = {"approximate": "tanh"} if activation == "gelu_tanh" else {}

        actual = only(xp, activation, x, dtype)

        expected = getattr(torch.nn.functional, peer)(x, **options)
        eps = torch.finfo(getattr(torch, dtype)).eps
        torch.testing.assert_close(
            actual, expected, rtol=eps, atol=16 * eps if eps < 1e-3 else eps
        )


class TestGelu:
    @pytest.mark.parametrize("shape", [(), (3,), (2, 0, 4)], ids=str)
    def test_is_that_of_feed_forward(self, xp, shape):
        x = normal(xp, *shape)

        actual = af.gelu(x)

        assert actual.dtype == x.dtype
        assert tuple(actual.shape) == shape
        np.testing.assert_array_equal(to_numpy(actual), to_numpy(only(xp, "gelu", x)))

    @pytest.mark.errors
    def test_refuses_integers(self, xp):
        with pytest.raises(TypeError, match=r"`x` must have a real floating dtype; got int64"):
            af.gelu(asarray(xp, [1], "int64"))


class TestErrors:
    @pytest.mark.errors
    def test_say_what_is_wrong(self, xp):
        params, x = make_params(xp), normal(xp, 3, DIM)
        wide = normal(xp, HIDDEN, HIDDEN)

        def refused(error, message, params=params, x=x, **options):
            with pytest.raises(error, match=message):
                af.feed_forward(params, x, **options)

        refused(
            TypeError,
            "`params` must be FeedForwardParams; got attnfn NormParams",
            af.NormParams(),
        )
        refused(
            ValueError,
            "`params` must hold w_in and w_out; missing: w_in",
            params._replace(w_in=()),
        )
        refused(
            ValueError,
            "`params` must hold w_gate where it holds b_gate; got b_gate alone",
            params._replace(b_gate=normal(xp, HIDDEN)),
        )
        refused(
            ValueError,
            "in_dim must be the same in axis -1 of `x` and axis 0 of `params.w_in`",
            x=normal(xp, 3),
        )
        refused(
            ValueError,
            "hidden_dim must be the same in axis 1 of `params.w_in` and axis 0 of `params.w_out`",
            params._replace(w_out=normal(xp, DIM, DIM)),
        )
        refused(
            ValueError,
            "hidden_dim must be the same in axis 1 of `params.w_in` and axis 1 of `params.w_gate`",
            params._replace(w_gate=normal(xp, DIM, 1)),
        )
        refused(
            ValueError,
            r"`params.b_in` must have shape \(out_dim,\)",
            params._replace(b_in=normal(xp, 1)),
        )
        refused(
            ValueError,
            r"`params.w_in` must have shape \(in_dim, out_dim\)",
            params._replace(w_in=wide[0, :]),
        )
        refused(
            ValueError,
            "`activation` must be one of 'relu', .*SwiGLU is 'silu'",
            activation="swiglu",
        )
        refused(
            ValueError,
            "`activation` must return an array of the shape",
            activation=lambda x: x[:1, :],
        )
        refused(TypeError, "must share one dtype", x=normal(xp, 3, DIM, dtype="float32"))
        refused(ValueError, "`dropout_rate` needs a `dropout_mask`", dropout_rate=0.5)
        keep = asarray(xp, np.ones((2, HIDDEN), dtype=bool))
        refused(
            ValueError,
            r"`dropout_mask` must have the shape of what is dropped, \(3, 7\)",
            dropout_mask=keep,
            dropout_rate=0.5,
        )
        refused(
            TypeError,
            "`dropout_mask` must have a bool dtype.*True marks a weight that is kept",
            dropout_mask=wide[:3, :],
            dropout_rate=0.5,
        )


class TestInitFeedForward:
    @by_gate
    @by_bias
    @pytest.mark.parametrize("init", ["xavier", "orthogonal", "normal"])
    def test_gives_the_same_parameters_on_every_library(self, xp, init, is_gated, has_bias):
        options = {"init": init, "is_gated": is_gated, "has_bias": has_bias}
        expected = af.init_feed_forward(3, 5, rng=np.random.default_rng(1), **options)

        actual = af.init_feed_forward(3, 5, rng=np.random.default_rng(1), xp=xp, **options)

        leaves = af.flatten_params(actual)
        assert set(leaves) == (
            {"w_in", "w_out"}
            | ({"w_gate"} if is_gated else set())
            | ({"b_in", "b_out"} if has_bias else set())
            | ({"b_gate"} if has_bias and is_gated else set())
        )
        for name, x in leaves.items():
            assert x.dtype == xp.float32
            assert np.array_equal(to_numpy(x), getattr(expected, name))

    def test_gives_the_same_weights_with_and_without_a_gate(self):
        gated, plain = (
            af.init_feed_forward(3, 5, rng=np.random.default_rng(1), is_gated=x)
            for x in (True, False)
        )

        assert np.array_equal(gated.w_in, plain.w_in)
        assert np.array_equal(gated.w_out, plain.w_out)

    @pytest.mark.errors
    def test_says_what_is_wrong(self):
        with pytest.raises(ValueError, match="`hidden_dim` must be 1 or more; got 0"):
            af.init_feed_forward(3, 0, rng=np.random.default_rng(1))
        with pytest.raises(TypeError, match=r"`rng` must be a numpy\.random\.Generator"):
            af.init_feed_forward(3, 5, rng=1)
