"""The closed forms: against loops, against what torch and JAX find themselves, and in the corners."""

import math
import tracemalloc
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from oracle import oracle_gradients
from problems import (
    ALL_ARRAYS,
    ALL_FUNCTIONS,
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
from attnfn import _tiles
from attnfn._problem import describe

LONG = Shapes((2, 4, 5, 3), (2, 2, 8, 3), (2, 2, 8, 4))
SMALL = Shapes((2, 4, 3, 5), (2, 2, 4, 5), (2, 2, 4, 6))
NAMES = af.AttentionGradients._fields

#: Options with a closed form: all but those of score_mod.
CLOSED = [name for name in OPTIONS if not name.startswith("score_mod")]
CLOSED_ARRAYS = tuple(name for name in ALL_ARRAYS if name in CLOSED)
CLOSED_FUNCTIONS = tuple(name for name in ALL_FUNCTIONS if name in CLOSED)

by_option = pytest.mark.parametrize("option", CLOSED)
with_all_options = pytest.mark.parametrize(
    "names", [CLOSED_ARRAYS, CLOSED_FUNCTIONS], ids=["arrays", "functions"]
)
few_shapes_on_jax = pytest.mark.libraries(
    "array_api_strict", "numpy", "torch", reason="JAX compiles each shape"
)


def cotangents(shapes):
    """Return gradients of a loss with respect to output and lse."""
    rng = np.random.default_rng(7)
    out_shape = (*shapes.scores[:-1], shapes.value[-1])
    return rng.normal(size=out_shape), rng.normal(size=shapes.scores[:-1])


def vjp(xp, shapes, options, dtype="float64", *, arrays=None, **more):
    arrays = arrays_of(xp, shapes, dtype) if arrays is None else arrays
    d_out, d_lse = (asarray(xp, x, dtype) for x in cotangents(shapes))

    def gradients(query, key, value, d_out, d_lse):
        return af.attention_vjp(query, key, value, d_out, d_lse=d_lse, **options, **more)

    return under_jit(xp, gradients)(*arrays, d_out, d_lse)


@cache
def expected_of(shapes, names):
    options = options_of(np, shapes, names)
    found = oracle_gradients(*arrays_of(np, shapes), *cotangents(shapes), **options)
    return af.AttentionGradients(*(getattr(found, name) for name in NAMES))


def assert_gradients_agree(actual, expected, dtype="float64"):
    for x, exact, name in zip(actual, expected, NAMES, strict=True):
        assert (isinstance(x, tuple) and x == ()) == (exact is None), name
        if exact is not None:
            assert_agrees(x, exact, dtype)


def directions(xp, arrays, dtype="float64"):
    """Return a tangent for each array, and () for what is none."""
    return tuple(
        ()
        if like is None or callable(like)
        else normal(xp, *np.shape(like), seed=i, dtype=dtype)
        for i, like in enumerate(arrays)
    )


def product(left, right):
    """Return the sum of the products of the elements, of whatever is on both sides."""
    pairs = zip(left, right, strict=True)
    return sum(float((to_numpy(a) * to_numpy(b)).sum()) for a, b in pairs if not is_none(a, b))


def is_none(*arrays):
    return any(isinstance(x, tuple) for x in arrays)


class TestAttentionVJP:
    @few_shapes_on_jax
    @by_option
    def test_agrees_with_loops_for_every_option(self, xp, option):
        options = options_of(xp, SMALL, [option])

        actual = vjp(xp, SMALL, options)

        assert_gradients_agree(actual, expected_of(SMALL, (option,)))

    @few_shapes_on_jax
    @with_all_options
    @pytest.mark.parametrize("shape", shape_params())
    def test_agrees_with_loops_for_all_options_at_once(self, xp, shape, names):
        options = options_of(xp, SHAPES[shape], names)

        actual = vjp(xp, SHAPES[shape], options)

        assert_gradients_agree(actual, expected_of(SHAPES[shape], names))

    @pytest.mark.libraries("jax", reason="the others run every option one by one")
    @with_all_options
    def test_agrees_with_loops_for_all_options_under_jit(self, xp, names):
        shapes = SHAPES["distinct"]
        of_numpy = (arrays_of(np, shapes), options_of(np, shapes, names))
        found = af.attention_with_lse(*of_numpy[0], **of_numpy[1])
        saved = tuple(asarray(xp, x) for x in found) if names is CLOSED_FUNCTIONS else None

        actual = vjp(xp, shapes, options_of(xp, shapes, names), saved=saved)

        assert_gradients_agree(actual, expected_of(shapes, names))

    @pytest.mark.libraries("jax", reason="only JAX compiles loops")
    def test_called_eagerly_compiles_once_for_each_set_of_shapes(self, xp):
        from attnfn._backend import _jax

        arrays = [normal(xp, 2, 5, 3, seed=i) for i in range(4)]
        af.attention_vjp(*arrays, is_causal=True)
        compiled = _jax._call._cache_size()

        af.attention_vjp(*(2 * x for x in arrays), is_causal=True)

        assert _jax._call._cache_size() == compiled

    @pytest.mark.parametrize(
        "names", [("mask_full", "softcap"), ("window",)], ids=["mask", "window"]
    )
    def test_agrees_with_loops_over_many_tiles(self, xp, names):
        shapes = Shapes((2, 21, 3), (1, 21, 3), (1, 21, 2))
        options = options_of(xp, shapes, names)

        actual = vjp(xp, shapes, options)

        assert_gradients_agree(actual, expected_of(shapes, names))

    @few_shapes_on_jax
    @with_all_options
    def test_has_the_dtype_of_each_argument(self, xp, names):
        options = options_of(xp, SMALL, names, "float32")
        if "bias" in options and not callable(options["bias"]):
            options["bias"] = xp.astype(options["bias"], xp.float64)

        actual = vjp(xp, SMALL, options, "float32")

        for x in actual[:3]:
            assert x.dtype == xp.float32
        for name in ("bias", "sinks"):
            if not is_none(getattr(actual, name)):
                assert getattr(actual, name).dtype == options[name].dtype
        assert_gradients_agree(actual, expected_of(SMALL, names), "float32")

    @pytest.mark.libraries("torch", "jax", reason="the others have no halves")
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_of_halves_is_rounded_once(self, xp, dtype):
        actual = vjp(xp, SMALL, options_of(xp, SMALL, ("softcap",), dtype), dtype)

        unit = float(xp.finfo(getattr(xp, dtype)).eps)
        for x, exact in zip(actual[:3], expected_of(SMALL, ("softcap",)), strict=False):
            assert x.dtype == getattr(xp, dtype)
            # The gradients that came in were rounded, too.
            np.testing.assert_allclose(to_numpy(x), exact, atol=2 * unit * np.abs(exact).max())

    @few_shapes_on_jax
    @with_all_options
    def test_is_spared_the_forward_pass_by_what_was_saved(self, xp, names):
        options = options_of(xp, SMALL, names)
        saved = under_jit(xp, lambda *x: af.attention_with_lse(*x, **options))(
            *arrays_of(xp, SMALL)
        )

        actual = vjp(xp, SMALL, options, saved=saved)

        assert_gradients_agree(actual, expected_of(SMALL, names))

    @few_shapes_on_jax
    def test_loses_no_digit_to_a_large_lse_that_was_saved(self, xp):
        arrays = arrays_of(xp, SMALL)
        options = {"bias": asarray(xp, np.full((1, 1), 2.0**30))}
        saved = af.attention_with_lse(*arrays, **options)
        d_out = asarray(xp, cotangents(SMALL)[0])

        actual = af.attention_vjp(*arrays, d_out, saved=saved, **options)

        exact = af.attention_vjp(*arrays, d_out)
        assert_agrees(actual.value, to_numpy(exact.value), "float32")

    @few_shapes_on_jax
    def test_of_parts_of_the_keys_adds_up_to_that_of_all(self, xp):
        query, key, value = arrays_of(xp, LONG)
        d_out, d_lse = (asarray(xp, x) for x in cotangents(LONG))
        parts = [slice(a, b) for a, b in pairwise((0, 0, 3, 6, LONG.kv_len))]

        def options(part):
            # The sink is one part's alone. Of some parts, some queries see nothing.
            sinks = normal(xp, 4) if part.stop == LONG.kv_len else None
            return {"is_causal": True, "q_offset": 1 - part.start, "sinks": sinks}

        def gradients(query, key, value):
            pieces = [(key[..., part, :], value[..., part, :], options(part)) for part in parts]
            found = [af.attention_with_lse(query, k, v, **own) for k, v, own in pieces]
            saved = af.merge_attentions(*zip(*found, strict=True))
            found = [
                af.attention_vjp(query, k, v, d_out, d_lse=d_lse, saved=saved, **own)
                for k, v, own in pieces
            ]
            d_query, d_key, d_value, _, d_sinks = zip(*found, strict=True)
            keys = (xp.concat(list(x), axis=-2) for x in (d_key, d_value))
            return sum(d_query), *keys, d_sinks[-1]

        actual = under_jit(xp, gradients)(query, key, value)

        expected = af.attention_vjp(
            *(to_numpy(x) for x in (query, key, value, d_out)),
            d_lse=to_numpy(d_lse),
            **options(slice(0, LONG.kv_len)) | {"sinks": to_numpy(normal(xp, 4))},
        )
        for x, name in zip(actual, ("query", "key", "value", "sinks"), strict=True):
            assert_agrees(x, getattr(expected, name))

    @few_shapes_on_jax
    def test_is_linear_in_the_gradients_of_the_results(self, xp):
        arrays = arrays_of(xp, SMALL)
        options = options_of(xp, SMALL, CLOSED_ARRAYS)
        d_out, d_lse = (asarray(xp, x) for x in cotangents(SMALL))

        whole = af.attention_vjp(*arrays, 2 * d_out, d_lse=3 * d_lse, **options)
        of_out = af.attention_vjp(*arrays, d_out, **options)
        of_lse = af.attention_vjp(*arrays, xp.zeros_like(d_out), d_lse=d_lse, **options)

        for x, out, lse in zip(whole, of_out, of_lse, strict=True):
            assert_agrees(x, to_numpy(2 * out + 3 * lse))

    @pytest.mark.libraries("torch", "jax", reason="the others do not differentiate")
    def test_is_what_the_library_finds_on_the_dense_engine(self, xp):
        options = options_of(xp, SMALL, CLOSED_ARRAYS)
        learned = [name for name in ("bias", "sinks") if name in options]
        arrays = [*arrays_of(xp, SMALL), *(options[name] for name in learned)]
        d_out = asarray(xp, cotangents(SMALL)[0])

        def loss(query, key, value, *given):
            own = options | dict(zip(learned, given, strict=True))
            return xp.sum(d_out * af.attention(query, key, value, **own, engine="dense"))

        def closed_form(query, key, value):
            return af.attention_vjp(query, key, value, d_out, **options)

        actual = under_jit(xp, closed_form)(*arrays[:3])

        expected = gradients_of(xp, under_jit(xp, loss), *arrays)
        for x, name in zip(expected, (*NAMES[:3], *learned), strict=True):
            assert_agrees(getattr(actual, name), to_numpy(x))

    @pytest.mark.libraries("torch", "jax", reason="the others do not transform")
    def test_may_be_batched_by_the_library(self, xp):
        query, key, value = arrays_of(xp, SMALL)
        d_out = asarray(xp, cotangents(SMALL)[0])
        d_outs = xp.stack([d_out, 2 * d_out])
        if library_of(xp) == "jax":
            from jax import vmap
        else:
            from torch import vmap

        batched = vmap(lambda d_out: af.attention_vjp(query, key, value, d_out)[:3])
        actual = under_jit(xp, batched)(d_outs)

        numbers = [to_numpy(x) for x in (query, key, value, d_out)]
        for x, exact in zip(actual, oracle_gradients(*numbers), strict=False):
            assert_agrees(x, np.stack([exact, 2 * exact]))

    @pytest.mark.libraries("torch", "jax", reason="the others do not differentiate")
    def test_may_be_differentiated_by_the_library(self, xp):
        arrays = arrays_of(xp, SMALL)
        d_out = asarray(xp, cotangents(SMALL)[0])
        step = normal(xp, *SMALL.query, seed=3)

        def slope(query):
            return xp.sum(step * af.attention_vjp(query, *arrays[1:], d_out).query)

        def by_the_library(query):
            def loss(query):
                return xp.sum(d_out * af.attention(query, *arrays[1:], engine="dense"))

            return _curvature(xp, loss, query, step)

        (actual,) = gradients_of(xp, under_jit(xp, slope), arrays[0])

        assert_agrees(actual, to_numpy(by_the_library(arrays[0])))


def _curvature(xp, loss, x, step):
    """Return the Hessian of a loss times a step."""
    if library_of(xp) == "jax":
        import jax

        return jax.jit(jax.grad(lambda x: (jax.grad(loss)(x) * step).sum()))(x)
    import torch

    x = x.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x), x, create_graph=True)
    return torch.autograd.grad((gradient * step).sum(), x)[0]


class TestAttentionJVP:
    @few_shapes_on_jax
    @by_option
    def test_is_the_transpose_of_the_vjp_for_every_option(self, xp, option):
        self.assert_is_the_transpose(xp, SMALL, options_of(xp, SMALL, [option]))

    @few_shapes_on_jax
    @with_all_options
    @pytest.mark.parametrize("shape", shape_params())
    def test_is_the_transpose_of_the_vjp_for_all_options_at_once(self, xp, shape, names):
        self.assert_is_the_transpose(xp, SHAPES[shape], options_of(xp, SHAPES[shape], names))

    @pytest.mark.libraries("jax", reason="the others run every option one by one")
    def test_is_the_transpose_of_the_vjp_under_jit(self, xp):
        options = options_of(xp, SMALL, CLOSED_ARRAYS)

        self.assert_is_the_transpose(xp, SMALL, options)

    def assert_is_the_transpose(self, xp, shapes, options):
        arrays = arrays_of(xp, shapes)
        d_out, d_lse = (asarray(xp, x) for x in cotangents(shapes))
        tangents = directions(xp, (*arrays, options.get("bias"), options.get("sinks")))

        results, changes = under_jit(
            xp, lambda arrays, tangents: af.attention_jvp(arrays, tangents, **options)
        )(arrays, tangents)

        expected = under_jit(
            xp, lambda *arrays: af.attention_with_lse(*arrays, **options, engine="dense")
        )(*arrays)
        gradients = vjp(xp, shapes, options)
        for x, exact in zip(results, expected, strict=True):
            assert x.dtype == exact.dtype
            assert_agrees(x, to_numpy(exact))
        np.testing.assert_allclose(
            product(changes, (d_out, d_lse)), product(tangents, gradients), rtol=1e-11
        )

    @few_shapes_on_jax
    @pytest.mark.parametrize("argument", range(5))
    def test_agrees_with_finite_differences_in_each_argument(self, xp, argument):
        options = options_of(
            xp, SMALL, ["mask_full", "bias_per_head", "sinks_per_head", "softcap"]
        )
        primals = (*arrays_of(xp, SMALL), options.pop("bias"), options.pop("sinks"))
        step = normal(xp, *primals[argument].shape, seed=5)
        tangents = [() if i != argument else step for i in range(5)]

        def results(size):
            moved = [x + size * step if i == argument else x for i, x in enumerate(primals)]
            query, key, value, bias, sinks = moved
            return af.attention_with_lse(query, key, value, bias=bias, sinks=sinks, **options)

        _, changes = af.attention_jvp(
            primals[:3], tangents, bias=primals[3], sinks=primals[4], **options
        )

        for change, there, back in zip(changes, results(1e-6), results(-1e-6), strict=True):
            with np.errstate(invalid="ignore"):
                expected = (to_numpy(there) - to_numpy(back)) / 2e-6
            expected = np.nan_to_num(expected)  # an lse of -inf stays there
            np.testing.assert_allclose(to_numpy(change), expected, rtol=1e-6, atol=1e-8)

    @few_shapes_on_jax
    def test_takes_none_and_what_is_left_out_for_no_change(self, xp):
        arrays = arrays_of(xp, SMALL)
        bias = normal(xp, *SMALL.scores[-2:])
        d_value = normal(xp, *SMALL.value, seed=1)

        changes = [
            af.attention_jvp(arrays, tangents, bias=bias)[1]
            for tangents in (
                ((), None, d_value),
                [None, (), d_value, None],
                af.AttentionGradients((), (), d_value),
                (xp.zeros_like(arrays[0]), (), d_value, xp.zeros_like(bias), ()),
            )
        ]

        exact = to_numpy(af.attention(*arrays[:2], d_value, bias=bias))
        for d_out, d_lse in changes:
            assert_agrees(d_out, exact)
            assert_agrees(d_lse, np.zeros(SMALL.scores[:-1]))

    @pytest.mark.libraries("torch", "jax", reason="the others have no halves")
    def test_of_halves_has_their_dtype(self, xp):
        arrays = arrays_of(xp, SMALL, "bfloat16")

        (out, lse), (d_out, d_lse) = under_jit(xp, af.attention_jvp)(arrays, arrays)

        assert out.dtype == d_out.dtype == xp.bfloat16
        assert lse.dtype == d_lse.dtype == xp.float32
        numbers = [to_numpy(x) for x in arrays]
        _, (exact, _) = af.attention_jvp(numbers, numbers)
        np.testing.assert_allclose(to_numpy(d_out), exact, rtol=0.01, atol=0.01)


@few_shapes_on_jax
class TestCorners:
    """One query head, two queries, three keys: of the second key or the second query, nothing is left."""

    SHAPES = Shapes((1, 2, 2), (1, 3, 2), (1, 3, 2))

    @pytest.mark.parametrize("sinks", [None, 0.5])
    def test_an_empty_row_has_no_gradient_whatever_comes_back_to_it(self, xp, sinks):
        options = {"mask": asarray(xp, np.asarray([[True], [False]])), "sinks": sinks}
        arrays = arrays_of(xp, self.SHAPES)
        d_out = asarray(xp, np.asarray([[[1.0, 2.0], [math.nan, math.inf]]]))
        d_lse = asarray(xp, np.asarray([[1.0, 3.0 if sinks else math.nan]]))

        found = af.attention_vjp(*arrays, d_out, d_lse=d_lse, **options)

        alone = af.attention_vjp(
            arrays[0][:, :1, :], *arrays[1:], d_out[:, :1, :], d_lse=d_lse[:, :1], sinks=sinks
        )
        assert_agrees(found.query[:, :1, :], to_numpy(alone.query))
        assert_agrees(found.query[:, 1:, :], np.zeros((1, 1, 2)))
        assert_agrees(found.key, to_numpy(alone.key))
        assert_agrees(found.value, to_numpy(alone.value))
        if sinks:
            # There is nothing but the sink: the lse goes where it goes.
            assert_agrees(found.sinks, to_numpy(alone.sinks) + 3.0)

    # array_api_strict computes with NumPy, and does not keep it from warning.
    @pytest.mark.filterwarnings("ignore:overflow encountered in matmul")
    @pytest.mark.filterwarnings("ignore:invalid value encountered in matmul")
    @pytest.mark.parametrize("softcap", [None, 2.0])
    @pytest.mark.parametrize("saves", [False, True])
    @pytest.mark.parametrize("bad", [math.nan, math.inf, 1e300, 1e308])
    def test_what_is_hidden_reaches_no_gradient(self, xp, bad, saves, softcap):
        query, key, value = (to_numpy(x) for x in arrays_of(np, self.SHAPES))
        key, value = key.copy(), value.copy()
        clean = [asarray(xp, x) for x in (query, key, value)]
        key[:, 1] = value[:, 1] = bad
        arrays = [asarray(xp, x) for x in (query, key, value)]
        options = {"mask": asarray(xp, np.asarray([True, False, True])), "softcap": softcap}
        d_out = asarray(xp, np.full((1, 2, 2), 1e10))
        saved = af.attention_with_lse(*arrays, **options) if saves else None

        found = af.attention_vjp(*arrays, d_out, **options, saved=saved)

        expected = af.attention_vjp(*clean, d_out, **options)
        for x, exact in zip(found[:3], expected, strict=False):
            assert_agrees(x, to_numpy(exact))
        changes = af.attention_jvp(arrays, clean, **options)[1]
        for x, exact in zip(changes, af.attention_jvp(clean, clean, **options)[1], strict=True):
            assert_agrees(x, to_numpy(exact))

    @pytest.mark.parametrize("saves", [False, True])
    @pytest.mark.parametrize("place", ["query", "key", "value"])
    def test_a_row_that_is_nan_passes_no_gradient(self, xp, place, saves):
        given = {
            name: to_numpy(x)
            for name, x in zip(NAMES, arrays_of(np, self.SHAPES), strict=False)
        }
        given[place][:, 1, 0] = math.nan
        arrays = [asarray(xp, x) for x in given.values()]
        # The first query sees neither the bad query nor the bad key; the second sees all.
        options = {"mask": asarray(xp, np.asarray([[True, False, True], [True, True, True]]))}
        d_out = asarray(xp, np.ones((1, 2, 2)))
        saved = af.attention_with_lse(*arrays, **options) if saves else None

        found = af.attention_vjp(*arrays, d_out, saved=saved, **options)

        first = [asarray(xp, np.nan_to_num(x)) for x in given.values()]
        expected = af.attention_vjp(
            first[0], *first[1:], d_out * asarray(xp, np.asarray([[1.0], [0.0]])), **options
        )
        for x, exact in zip(found[:3], expected, strict=False):
            assert_agrees(x, to_numpy(exact))
        (out, _), (d_out, d_lse) = af.attention_jvp(
            arrays, [xp.ones_like(x) for x in arrays], **options
        )
        assert np.isnan(to_numpy(out)[:, 1]).all()
        assert_agrees(d_out[:, 1, :], np.zeros((1, 2)))
        assert np.isfinite(to_numpy(d_lse)).all()

    @pytest.mark.parametrize(
        "shapes",
        [
            Shapes((2, 0, 4), (2, 3, 4), (2, 3, 5)),
            Shapes((2, 3, 4), (2, 0, 4), (2, 0, 5)),
            Shapes((2, 3, 4), (2, 3, 4), (2, 3, 0)),
            Shapes((0, 3, 4), (0, 3, 4), (0, 3, 5)),
            Shapes((0, 2, 3, 4), (0, 1, 3, 4), (0, 1, 3, 5)),
        ],
        ids=["queries", "keys", "value_dim", "heads", "batch"],
    )
    def test_where_a_length_is_0_gradients_are_0_or_empty(self, xp, shapes):
        options = {"bias": xp.zeros(shapes.scores[-2:], dtype=xp.float64), "sinks": 0.0}
        arrays = arrays_of(xp, shapes)
        d_out = asarray(xp, cotangents(shapes)[0])

        found = af.attention_vjp(*arrays, d_out, **options)

        for x, like in zip(found, (*arrays, options["bias"], np.zeros(())), strict=True):
            assert_agrees(x, np.zeros(like.shape))
        _, (change, _) = af.attention_jvp(arrays, arrays, **options)
        assert change.shape == tuple(d_out.shape)

    def test_a_window_with_no_key_in_it_has_no_gradient(self, xp):
        arrays = [normal(xp, 1, 1, 2, seed=i) for i in range(3)]

        found = af.attention_vjp(*arrays, arrays[0], window_size=(0, 0), q_offset=5)

        for x in found[:3]:
            assert_agrees(x, np.zeros((1, 1, 2)))

    def test_a_function_given_as_bias_has_no_gradient_to_return(self, xp):
        arrays = arrays_of(xp, self.SHAPES)
        table = normal(xp, 2, 3)

        by_array = af.attention_vjp(*arrays, arrays[0], bias=table)
        by_function = af.attention_vjp(*arrays, arrays[0], bias=lambda *_: table, q_offset=0)

        assert by_function.bias == ()
        assert_agrees(by_function.query, to_numpy(by_array.query))
        assert by_array.bias.shape == (2, 3)

    def test_arguments_are_left_as_they_are(self, xp):
        arrays = arrays_of(xp, SMALL)
        options = options_of(xp, SMALL, CLOSED_ARRAYS)
        copies = [to_numpy(x) for x in (*arrays, options["bias"], options["sinks"])]

        vjp(xp, SMALL, options, arrays=arrays)

        for x, copy in zip((*arrays, options["bias"], options["sinks"]), copies, strict=True):
            np.testing.assert_array_equal(to_numpy(x), copy)


@pytest.mark.libraries("numpy", reason="tracemalloc sees NumPy's arrays alone")
class TestMemory:
    LENGTH = 1024

    @pytest.fixture(autouse=True)
    def _rows_as_they_are(self, monkeypatch):
        monkeypatch.setattr(_tiles, "LEAST_ROWS", 16)
        monkeypatch.setattr(_tiles, "MOST_ROWS", 512)
        monkeypatch.setenv("ATTNFN_NUM_THREADS", "1")  # each thread has some rows in hand

    def peak_of(self, call):
        tracemalloc.start()
        try:
            call()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize(
        "options",
        [
            {"softcap": 3.0, "sinks": 0.5},
            {"is_causal": True},
            {"mask": lambda q_pos, kv_pos: (q_pos + kv_pos) % 3 != 0},
        ],
        ids=["plain", "causal", "function"],
    )
    def test_holds_no_array_of_the_size_of_the_scores(self, xp, options):
        arrays = [normal(xp, 8, self.LENGTH, 8, seed=i, dtype="float32") for i in range(4)]
        of_scores = 4 * 8 * self.LENGTH**2

        calls = [
            lambda: af.attention_vjp(*arrays, **options),
            lambda: af.attention_jvp(arrays[:3], arrays[:3], **options),
        ]
        # The least of three: what else the process does meanwhile only adds.
        peaks = [min(self.peak_of(call) for _ in range(3)) for call in calls]

        assert max(peaks) < of_scores / 4


@pytest.mark.libraries("numpy", "torch", reason="JAX goes the same way")
class TestComputeVJP:
    """What an engine with a backward pass of its own calls."""

    @pytest.mark.parametrize("names", [(), CLOSED_ARRAYS], ids=["nothing", "everything"])
    def test_takes_a_problem_and_returns_none_for_what_is_absent(self, xp, names):
        options = options_of(xp, SMALL, names, "float32")
        arrays = arrays_of(xp, SMALL, "float32")
        problem = describe(*arrays, compute_dtype=xp.float64, **options)
        d_out, d_lse = (asarray(xp, x) for x in cotangents(SMALL))
        saved = _tiles.compute_by_rows(problem)

        found = _tiles.compute_vjp(problem, d_out, d_lse, saved)

        assert (found.bias is None, found.sinks is None) == (not names, not names)
        for x, exact in zip(found, expected_of(SMALL, names), strict=True):
            if exact is not None:
                assert x.dtype == xp.float64
                assert_agrees(xp.reshape(x, exact.shape), exact, "float32")
