"""Derivatives: against the closed form in loops, against finite differences, and in the corners."""

import math
from functools import cache, partial

import array_api_compat.numpy
import numpy as np
import pytest
from oracle import oracle, oracle_gradients
from problems import (
    ALL_ARRAYS,
    ALL_FUNCTIONS,
    NAMED_ENGINES,
    OPTIONS,
    SHAPES,
    Shapes,
    arrays_of,
    assert_agrees,
    gradients_of,
    options_of,
    shape_params,
    under_jit,
)
from support import asarray, library_of, normal, to_numpy

import attnfn as af

pytestmark = pytest.mark.libraries("torch", "jax", reason="the others do not differentiate")

NUMPY = array_api_compat.numpy
SMALL = Shapes((2, 4, 3, 5), (2, 2, 4, 5), (2, 2, 4, 6))
TINY = Shapes((1, 2, 2, 2), (1, 1, 3, 2), (1, 1, 3, 1))

by_engine = pytest.mark.parametrize("engine", NAMED_ENGINES)
by_option = pytest.mark.parametrize("option", OPTIONS)
with_all_options = pytest.mark.parametrize(
    "names", [ALL_ARRAYS, ALL_FUNCTIONS], ids=["arrays", "functions"]
)


def learned_in(options):
    """Return the options that are arrays of floating numbers: those that have a gradient."""
    names = ("bias", "sinks", "scale")
    return [name for name in names if hasattr(options.get(name), "shape")]


def cotangents(shapes):
    """Return the gradients of the loss with respect to output and lse."""
    rng = np.random.default_rng(7)
    out_shape = (*shapes.scores[:-1], shapes.value[-1])
    return rng.normal(size=out_shape), rng.normal(size=shapes.scores[:-1])


def loss_of(xp, shapes, options, *, engine="auto", dtype="float64"):
    """Return a function of (query, key, value, *learned) whose gradient the oracle knows."""
    d_out, d_lse = (asarray(xp, x, dtype) for x in cotangents(shapes))
    learned = learned_in(options)

    def loss(query, key, value, *arrays):
        own = options | dict(zip(learned, arrays, strict=True))
        out, lse = af.attention_with_lse(query, key, value, **own, engine=engine)
        lse = xp.where(lse == -math.inf, 0.0, lse)
        return xp.sum(out * d_out) + xp.sum(lse * d_lse)

    return loss


def gradients(xp, shapes, options, *, engine="auto", dtype="float64", compiled=False):
    arrays = [*arrays_of(xp, shapes, dtype), *(options[name] for name in learned_in(options))]
    loss = loss_of(xp, shapes, options, engine=engine, dtype=dtype)
    return gradients_of(xp, under_jit(xp, loss) if compiled else loss, *arrays)


@cache
def closed_form(shapes, names):
    options = options_of(NUMPY, shapes, names)
    return oracle_gradients(*arrays_of(NUMPY, shapes), *cotangents(shapes), **options)


def assert_gradients_agree(actual, shapes, names, dtype="float64"):
    expected = closed_form(shapes, names)
    learned = learned_in(options_of(NUMPY, shapes, names))
    for x, name in zip(actual, ("query", "key", "value", *learned), strict=True):
        assert_agrees(x, getattr(expected, name), dtype)


class TestGradients:
    @by_option
    @by_engine
    def test_agree_with_the_closed_form_for_every_option(self, xp, engine, option):
        options = options_of(xp, SMALL, [option])

        actual = gradients(xp, SMALL, options, engine=engine)

        assert_gradients_agree(actual, SMALL, (option,))

    @with_all_options
    @pytest.mark.parametrize(
        "shape",
        shape_params(
            "distinct",
            "equal",
            "plain",
            "headless_key",
            "broadcast_batch",
        ),
    )
    def test_agree_with_the_closed_form_for_all_options_at_once(self, xp, shape, names):
        options = options_of(xp, SHAPES[shape], names)

        actual = gradients(xp, SHAPES[shape], options, compiled=True)

        assert_gradients_agree(actual, SHAPES[shape], names)

    @with_all_options
    def test_agree_with_the_closed_form_in_float32(self, xp, names):
        options = options_of(xp, SMALL, names, "float32")

        actual = gradients(xp, SMALL, options, dtype="float32", compiled=True)

        assert all(x.dtype == xp.float32 for x in actual)
        assert_gradients_agree(actual, SMALL, names, "float32")

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_of_halves_are_those_of_float32(self, xp, dtype):
        options = options_of(xp, SMALL, ALL_ARRAYS, dtype)

        actual = gradients(xp, SMALL, options, dtype=dtype, compiled=True)

        expected = closed_form(SMALL, ALL_ARRAYS)
        for x, name in zip(actual, ("query", "key", "value"), strict=False):
            exact = getattr(expected, name)
            # The cotangent is rounded, the sums are not.
            assert x.dtype == getattr(xp, dtype)
            np.testing.assert_allclose(to_numpy(x), exact, atol=0.02 * np.abs(exact).max())

    def test_of_the_lse_are_the_weights(self, xp):
        query, key, value = arrays_of(xp, SMALL)
        options = options_of(xp, SMALL, ["mask_full", "sinks_per_head", "softcap"])
        zero = asarray(xp, np.zeros(SMALL.scores))

        def loss(bias):
            return xp.sum(af.attention_with_lse(query, key, value, bias=bias, **options)[1])

        (d_bias,) = gradients_of(xp, loss, zero)

        assert_agrees(d_bias, to_numpy(af.attention_weights(query, key, **options)))

    def test_reach_what_weights_and_scores_were_made_of(self, xp):
        query, key, _ = arrays_of(xp, SMALL)
        options = options_of(xp, SMALL, ["mask_full", "softcap"])
        readout = asarray(xp, np.random.default_rng(1).normal(size=SMALL.scores))

        def loss_of_weights(query, key):
            return xp.sum(readout * af.attention_weights(query, key, **options))

        def loss_of_scores(query, key):
            scores = af.attention_scores(query, key, **options)
            shifted = xp.exp(scores - 1.0)  # -inf is weight 0, without a softmax
            return xp.sum(readout * shifted)

        for loss in (loss_of_weights, loss_of_scores):
            direction = [normal(xp, *x.shape, seed=3) for x in (query, key)]

            found = gradients_of(xp, loss, query, key)

            slope = sum(float(xp.sum(d * v)) for d, v in zip(found, direction, strict=True))
            step = 1e-6
            there, back = (
                float(
                    loss(query + sign * step * direction[0], key + sign * step * direction[1])
                )
                for sign in (1, -1)
            )
            np.testing.assert_allclose(slope, (there - back) / (2 * step), rtol=1e-6)


class TestFunctionsOfLearnedArrays:
    """A function may close over an array that is being learned."""

    @by_engine
    @pytest.mark.parametrize("is_per_batch", [False, True])
    def test_have_the_gradient_of_a_bias_table(self, xp, engine, is_per_batch):
        query, key, value = arrays_of(xp, SMALL)
        slopes = normal(xp, 4, 1, 1, seed=5)
        offset = np.asarray([1, 3]) if is_per_batch else 1
        options = {
            "q_offset": asarray(xp, offset) if is_per_batch else offset,
            "engine": engine,
        }
        d_out, d_lse = cotangents(SMALL)

        def loss(slopes):
            def bias(q_pos, kv_pos):
                return slopes * xp.astype(q_pos - kv_pos, xp.float64)

            out, lse = af.attention_with_lse(query, key, value, bias=bias, **options)
            return xp.sum(out * asarray(xp, d_out)) + xp.sum(lse * asarray(xp, d_lse))

        (d_slopes,) = gradients_of(xp, loss, slopes)

        rows = np.arange(3)[:, None] + np.asarray(offset).reshape(-1, 1, 1, 1)
        distance = (rows - np.arange(4)).astype(float)
        table = np.broadcast_to(to_numpy(slopes) * distance, SMALL.scores)
        expected = oracle_gradients(
            *map(to_numpy, (query, key, value)), d_out, d_lse, bias=table
        )
        assert_agrees(d_slopes, (expected.bias * distance).sum((0, 2, 3))[:, None, None])

    @by_engine
    def test_have_the_gradient_of_a_temperature(self, xp, engine):
        query, key, value = arrays_of(xp, SMALL)
        temperature = normal(xp, 4, 1, 1, seed=5)
        d_out, d_lse = cotangents(SMALL)

        def loss(temperature):
            out, lse = af.attention_with_lse(
                query,
                key,
                value,
                score_mod=lambda s, *_: s * temperature,
                q_offset=0,
                engine=engine,
            )
            return xp.sum(out * asarray(xp, d_out)) + xp.sum(lse * asarray(xp, d_lse))

        (d_temperature,) = gradients_of(xp, loss, temperature)

        def number(temperature):
            out, lse, _ = oracle(
                *map(to_numpy, (query, key, value)), score_mod=lambda s, *_: s * temperature
            )
            return (out * d_out).sum() + (lse * d_lse).sum()

        assert_agrees(d_temperature, difference(number, to_numpy(temperature)), "float32")

    @by_engine
    def test_have_the_gradient_of_the_array_in_every_function_at_once(self, xp, engine):
        query, key, value = arrays_of(xp, SMALL)
        d_out, d_lse = cotangents(SMALL)

        def attend(attention, xp, x, arrays):
            return attention(
                *arrays,
                mask=lambda q_pos, kv_pos: (q_pos + kv_pos) % 3 != 0,
                bias=lambda q_pos, kv_pos: x * xp.astype(kv_pos - q_pos, x.dtype),
                score_mod=lambda s, q_pos, kv_pos: s + xp.tanh(s * x),
                q_offset=1,
            )

        def loss(x):
            attention = partial(af.attention_with_lse, engine=engine)
            out, lse = attend(attention, xp, x, (query, key, value))
            return xp.sum(out * asarray(xp, d_out)) + xp.sum(lse * asarray(xp, d_lse))

        x = normal(xp, 4, 1, 1, seed=5)
        (d_x,) = gradients_of(xp, loss, x)

        def number(x):
            out, lse, _ = attend(oracle, NUMPY, x, [to_numpy(a) for a in (query, key, value)])
            return (out * d_out).sum() + (lse * d_lse).sum()

        assert_agrees(d_x, difference(number, to_numpy(x)), "float32")


def difference(function, x, step=1e-5):
    """Return the central differences of a number, element by element."""
    result = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        there, back = x.copy(), x.copy()
        there[index] += step
        back[index] -= step
        result[index] = (function(there) - function(back)) / (2 * step)
    return result


# Loading torch's forward mode, torch warns of torch.
loads_forward_mode = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

CORNERS = {
    "empty_rows": lambda xp: {
        "mask": asarray(xp, np.asarray([[True, False, True], [False] * 3]))
    },
    "bias_of_minus_inf": lambda xp: {
        "bias": asarray(xp, np.asarray([[0.0, -math.inf, 1.0], [-math.inf] * 3]))
    },
    "causal_before_the_keys": lambda xp: {"is_causal": True, "q_offset": -1},
    "sink_alone": lambda xp: {"mask": asarray(xp, np.zeros(3, dtype=bool)), "sinks": 0.5},
    "softcap_reached": lambda xp: {"softcap": 1e-3, "scale": 100.0},
    "everything": lambda xp: options_of(xp, TINY, ALL_ARRAYS),
}
by_corner = pytest.mark.parametrize("corner", CORNERS)


@loads_forward_mode
class TestHigherDerivatives:
    @by_corner
    @by_engine
    def test_of_second_order_are_finite_and_symmetric(self, xp, engine, corner):
        arrays = arrays_of(xp, TINY)
        sizes = [math.prod(x.shape) for x in arrays]
        loss = loss_of(xp, TINY, CORNERS[corner](xp), engine=engine)
        learned = [CORNERS[corner](xp)[name] for name in learned_in(CORNERS[corner](xp))]

        def of_one_vector(x):
            starts = np.cumsum([0, *sizes])
            parts = [
                xp.reshape(x[int(a) : int(a) + n], like.shape)
                for a, n, like in zip(starts, sizes, arrays, strict=False)
            ]
            return loss(*parts, *learned)

        vector = xp.concat([xp.reshape(x, (-1,)) for x in arrays])
        function = under_jit(xp, of_one_vector)
        hessian = to_numpy(_hessian(xp, function, vector, in_reverse=engine != "dense"))

        assert np.isfinite(hessian).all()
        np.testing.assert_allclose(hessian, hessian.T, rtol=1e-9, atol=1e-9)

    @pytest.mark.libraries("torch", reason="gradcheck is torch's")
    @pytest.mark.parametrize(
        "names", [(), ALL_ARRAYS, ALL_FUNCTIONS], ids=["plain", "arrays", "functions"]
    )
    @by_engine
    def test_pass_torchs_own_checks(self, xp, engine, names):
        import torch

        options = options_of(xp, TINY, names)
        loss = loss_of(xp, TINY, options, engine=engine)
        arrays = [*arrays_of(xp, TINY), *(options[name] for name in learned_in(options))]
        leaves = [x.detach().clone().requires_grad_() for x in arrays]

        is_right = torch.autograd.gradcheck(
            loss,
            leaves,
            check_forward_ad=engine == "dense" or names == ALL_FUNCTIONS,
            check_batched_grad=True,
        )
        is_right_twice = torch.autograd.gradgradcheck(loss, leaves)

        assert is_right
        assert is_right_twice

    @pytest.mark.libraries("jax", reason="check_grads is JAX's")
    @pytest.mark.parametrize("names", [ALL_ARRAYS, ALL_FUNCTIONS], ids=["arrays", "functions"])
    def test_pass_the_checks_of_jax(self, xp, names):
        from jax.test_util import check_grads

        options = options_of(xp, TINY, names)
        loss = under_jit(xp, loss_of(xp, TINY, options))
        arrays = [*arrays_of(xp, TINY), *(options[name] for name in learned_in(options))]

        # check_grads perturbs with NumPy arrays, which are another library's.
        check_grads(lambda *x: loss(*map(xp.asarray, x)), arrays, order=1, rtol=1e-4, atol=1e-4)

        found = gradients_of(xp, loss, *arrays)
        assert all(np.isfinite(to_numpy(x)).all() for x in found)


def _hessian(xp, function, x, in_reverse):
    """Differentiate twice; where forward mode does not exist, in reverse both times."""
    if library_of(xp) == "jax":
        import jax

        return jax.hessian(function)(x)
    from torch.func import hessian, jacrev

    return jacrev(jacrev(function))(x) if in_reverse else hessian(function)(x)


@loads_forward_mode
class TestForwardMode:
    @pytest.mark.parametrize(
        "names", [(), ALL_ARRAYS, ALL_FUNCTIONS], ids=["plain", "arrays", "functions"]
    )
    def test_agrees_with_the_closed_form(self, xp, names):
        options = options_of(xp, SMALL, names)
        learned = learned_in(options)
        arrays = [*arrays_of(xp, SMALL), *(options[name] for name in learned)]
        tangents = [normal(xp, *x.shape, seed=seed) for seed, x in enumerate(arrays)]
        loss = under_jit(xp, loss_of(xp, SMALL, options))

        slope = float(_jvp(xp, loss, arrays, tangents))

        expected = closed_form(SMALL, names)
        exact = sum(
            (getattr(expected, name) * to_numpy(t)).sum()
            for name, t in zip(("query", "key", "value", *learned), tangents, strict=True)
        )
        np.testing.assert_allclose(slope, exact, rtol=1e-10)


def _jvp(xp, function, primals, tangents):
    if library_of(xp) == "jax":
        import jax

        return jax.jvp(function, tuple(primals), tuple(tangents))[1]
    import torch

    return torch.func.jvp(function, tuple(primals), tuple(tangents))[1]


@pytest.mark.libraries("torch", reason="no library takes part")
class TestOracle:
    """The closed form in loops is itself right: finite differences of the loops agree."""

    @pytest.mark.parametrize(
        "names",
        [*((name,) for name in OPTIONS), ALL_ARRAYS, ALL_FUNCTIONS],
        ids=lambda names: names[0] if len(names) == 1 else "all",
    )
    def test_agrees_with_its_own_finite_differences(self, names):
        arrays = dict(zip(("query", "key", "value"), arrays_of(NUMPY, SMALL), strict=True))
        options = options_of(NUMPY, SMALL, names)
        d_out, d_lse = cotangents(SMALL)
        found = closed_form(SMALL, names)
        rng = np.random.default_rng(11)

        def loss(name, x):
            own = arrays | options | {name: x}
            out, lse, _ = oracle(own.pop("query"), own.pop("key"), own.pop("value"), **own)
            return (out * d_out).sum() + (np.where(np.isfinite(lse), lse, 0.0) * d_lse).sum()

        for name in ("query", "key", "value", *learned_in(options)):
            x = np.asarray((arrays | options)[name], float)
            direction = np.where(np.isfinite(x), rng.normal(size=x.shape), 0.0)
            step = 1e-6 * direction
            slope = (loss(name, x + step) - loss(name, x - step)) / 2e-6
            exact = np.sum(getattr(found, name) * direction)
            np.testing.assert_allclose(exact, slope, rtol=1e-5, atol=1e-7)
