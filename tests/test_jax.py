"""What JAX's users do around `attention`: transforms, tracing, promotion, x64 on and off."""

import contextlib
import functools
import math

import numpy as np
import pytest
from support import x64

import attnfn as af

jax = pytest.importorskip("jax", reason="these tests are about JAX's transforms")
jnp = jax.numpy

BATCH, HEADS, KV_HEADS, Q_LEN, KV_LEN, HEAD_DIM, VALUE_DIM = 3, 4, 2, 5, 7, 8, 6


@pytest.fixture(autouse=True)
def _with_float64(request):
    """Every test runs with x64 unless it says otherwise."""
    without = request.node.get_closest_marker("usefixtures")
    with contextlib.nullcontext() if without else x64(enabled=True):
        yield


@pytest.fixture
def without_x64():
    with x64(enabled=False):
        yield


def normal(*shape, seed=0, dtype="float64"):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(dtype))


def arrays(dtype="float64"):
    return (
        normal(BATCH, HEADS, Q_LEN, HEAD_DIM, dtype=dtype),
        normal(BATCH, KV_HEADS, KV_LEN, HEAD_DIM, seed=1, dtype=dtype),
        normal(BATCH, KV_HEADS, KV_LEN, VALUE_DIM, seed=2, dtype=dtype),
    )


def agree(actual, expected, tolerance=1e-12):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def loss(*inputs, **options):
    out, lse = af.attention_with_lse(*inputs, **options)
    finite = jnp.where(lse == -math.inf, 0.0, lse)  # an empty row has no finite lse
    return jnp.sum(jnp.sin(out).astype(lse.dtype)) + jnp.sum(finite)


def every_option(dtype="float64"):
    """All options at once, as arrays where they can be; some rows are empty."""
    rng = np.random.default_rng(3)
    scores = (BATCH, HEADS, Q_LEN, KV_LEN)
    return {
        "mask": jnp.asarray(rng.random(scores) < 0.6),
        "bias": normal(*scores[1:], seed=4, dtype=dtype),
        "sinks": normal(HEADS, seed=5, dtype=dtype),
        "scale": jnp.asarray(np.asarray(0.3, dtype)),
        "q_offset": jnp.asarray([-3, 0, 2]),
        "segment_ids": (
            jnp.asarray(rng.integers(0, 2, (BATCH, Q_LEN))),
            jnp.asarray(rng.integers(0, 2, (BATCH, KV_LEN))),
        ),
        "dropout_mask": jnp.asarray(rng.random(scores) < 0.8),
    }


STATIC = {"is_causal": True, "window_size": (3, 1), "softcap": 2.0, "dropout_rate": 0.25}


@functools.cache
def called_eagerly():
    """Return what every option gives without any transform, computed once: eager JAX is slow."""
    return af.attention_with_lse(*arrays(), **every_option(), **STATIC)


@functools.cache
def differentiated_eagerly():
    return jax.grad(loss, argnums=(0, 1, 2))(*arrays(), **every_option(), **STATIC)


def functions(temperature, length):
    """Options that are functions, over arrays that they close over."""
    return {
        "mask": lambda q_pos, kv_pos: kv_pos < length,
        "bias": lambda q_pos, kv_pos: -temperature * abs(kv_pos - q_pos),
        "score_mod": lambda scores, q_pos, kv_pos: scores * temperature,
        "q_offset": 2,
    }


class TestJit:
    def test_every_option_can_be_traced(self):
        inputs, options = arrays(), every_option()

        out, lse = jax.jit(
            lambda inputs, options: af.attention_with_lse(*inputs, **options, **STATIC)
        )(inputs, options)

        expected, expected_lse = called_eagerly()
        agree(out, expected)
        agree(lse, expected_lse)

    @pytest.mark.parametrize("f", [af.attention_weights, af.attention_scores])
    def test_scores_and_weights_can_be_traced(self, f):
        q, k, _ = arrays()
        compiled = jax.jit(f, static_argnames=("is_causal", "window_size", "q_offset"))

        actual = compiled(q, k, is_causal=True, window_size=(2, None), q_offset=1)

        agree(actual, f(q, k, is_causal=True, window_size=(2, None), q_offset=1))

    def test_functions_close_over_tracers(self):
        inputs = arrays()

        @jax.jit
        def f(temperature, length):
            return af.attention(*inputs, **functions(temperature, length))

        expected = jax.jit(
            lambda *inputs: af.attention(
                *inputs,
                mask=jnp.arange(KV_LEN) < 3,
                bias=-0.5 * abs(jnp.arange(KV_LEN) - jnp.arange(Q_LEN)[:, None] - 2),
                scale=0.5 / math.sqrt(HEAD_DIM),
            )
        )
        agree(f(0.5, 3), expected(*inputs))
        agree(f(0.7, 0), np.zeros((BATCH, HEADS, Q_LEN, VALUE_DIM)))

    def test_an_eager_call_is_not_compiled_again_where_only_the_queries_move(self):
        from attnfn._backend._jax import _call

        q, k, v = arrays()
        af.attention(q, k, v, is_causal=True, q_offset=0)
        size = _call._cache_size()

        at = [af.attention(q, k, v, is_causal=True, q_offset=i) for i in (1, 2)]

        assert _call._cache_size() == size
        assert not jnp.allclose(*at)

    def test_one_compilation_decodes_at_every_position(self):
        q, k, v = arrays()
        q = q[..., :1, :]
        traces = []

        @jax.jit
        def step(q_offset):
            traces.append(q_offset)
            return af.attention(q, k, v, is_causal=True, q_offset=q_offset)

        outs = [step(position) for position in range(KV_LEN)]

        assert len(traces) == 1
        masked = jax.jit(lambda mask: af.attention(q, k, v, mask=mask))
        for position, out in enumerate(outs):
            agree(out, masked(jnp.arange(KV_LEN) <= position))

    def test_masks_can_be_made_inside(self):
        @jax.jit
        def masks(lengths, q_offset, segments):
            return (
                af.padding_mask(lengths, KV_LEN),
                af.causal_mask(Q_LEN, KV_LEN, q_offset=q_offset, xp=jnp),
                af.sliding_window_mask(
                    Q_LEN, KV_LEN, window_size=(1, 0), q_offset=q_offset, xp=jnp
                ),
                af.segment_mask(segments),
            )

        lengths, segments = jnp.asarray([0, 3, 7]), jnp.asarray([0, 0, 1, 1, 0])
        padding, causal, window, segment = masks(lengths, 2, segments)

        assert np.array_equal(padding[:, 0, 0].sum(-1), lengths)
        assert np.array_equal(causal, np.tri(Q_LEN, KV_LEN, 2, dtype=bool))
        assert np.array_equal(window, np.tri(Q_LEN, KV_LEN, 2) - np.tri(Q_LEN, KV_LEN, 0) > 0)
        assert np.array_equal(segment, np.equal.outer(segments, segments))

    def test_merging_can_be_traced(self):
        q, k, v = arrays()

        @jax.jit
        def in_two_parts(q, k, v):
            left = af.attention_with_lse(q, k[..., :3, :], v[..., :3, :])
            right = af.attention_with_lse(q, k[..., 3:, :], v[..., 3:, :])
            return af.merge_attentions(*zip(left, right, strict=True))

        whole = jax.jit(af.attention_with_lse)(q, k, v)
        for actual, expected in zip(in_two_parts(q, k, v), whole, strict=True):
            agree(actual, expected)

    def test_scan_over_positions_is_causal_attention(self):
        q, k, v = (normal(2, HEADS, Q_LEN, HEAD_DIM, seed=i) for i in range(3))

        def step(caches, x):
            position, q, k, v = x
            caches = tuple(
                jax.lax.dynamic_update_slice_in_dim(cache, new[..., None, :], position, axis=-2)
                for cache, new in zip(caches, (k, v), strict=True)
            )
            out = af.attention(q[..., None, :], *caches, is_causal=True, q_offset=position)
            return caches, out[..., 0, :]

        # What is not written yet is NaN: no query may see it.
        empty = jnp.full(k.shape, math.nan)
        by_position = [jnp.moveaxis(x, -2, 0) for x in (q, k, v)]
        _, outs = jax.lax.scan(step, (empty, empty), (jnp.arange(Q_LEN), *by_position))

        at_once = jax.jit(functools.partial(af.attention, is_causal=True))
        agree(jnp.moveaxis(outs, 0, -2), at_once(q, k, v))


class TestDerivatives:
    def test_finite_differences_of_every_array(self):
        from jax.test_util import check_grads

        inputs, options = arrays(), every_option()
        numbers = {name: options.pop(name) for name in ("bias", "sinks", "scale")}

        def f(inputs, numbers):
            # `check_grads` hands over NumPy's arrays.
            inputs, numbers = jax.tree.map(jnp.asarray, (inputs, numbers))
            return loss(*inputs, **numbers, **options, **STATIC)

        check_grads(jax.jit(f), (inputs, numbers), order=1, modes=("fwd", "rev"))
        check_grads(jax.jit(jax.grad(f)), (inputs, numbers), order=1, modes=("fwd",))

    def test_finite_differences_of_what_functions_close_over(self):
        from jax.test_util import check_grads

        inputs = arrays()

        @jax.jit
        def f(temperature):
            return loss(*inputs, **functions(jnp.asarray(temperature), 4))

        assert abs(jax.grad(f)(0.5)) > 1e-2
        check_grads(f, (0.5,), order=1, modes=("fwd", "rev"))

    @pytest.mark.parametrize(
        "transform",
        [jax.jit, jax.checkpoint, lambda f: jax.jit(jax.checkpoint(f))],
        ids=["jit", "checkpoint", "jit of checkpoint"],
    )
    def test_gradients_are_the_same_under(self, transform):
        inputs, options = arrays(), every_option()
        f = functools.partial(loss, **options, **STATIC)

        actual = jax.grad(transform(f), argnums=(0, 1, 2))(*inputs)

        for d, e in zip(actual, differentiated_eagerly(), strict=True):
            assert jnp.isfinite(d).all()
            agree(d, e)

    def test_jvp_linearize_and_vjp_agree(self):
        inputs, tangents = arrays(), arrays()
        tangents = tuple(jnp.cos(7 * t) for t in tangents)
        f = functools.partial(af.attention, is_causal=True, q_offset=-2)

        cotangent = normal(BATCH, HEADS, Q_LEN, VALUE_DIM, seed=6)

        @jax.jit
        def all_three(inputs, tangents):
            linear_out, push = jax.linearize(f, *inputs)
            out, pull = jax.vjp(f, *inputs)
            pushed = linear_out, push(*tangents)
            return f(*inputs), out, jax.jvp(f, inputs, tangents), pushed, pull(cotangent)

        plain, reverse_out, (out, d_out), (linear_out, linear_d_out), pulled = all_three(
            inputs, tangents
        )

        agree(out, plain)
        agree(reverse_out, plain)
        agree(linear_out, plain)
        agree(linear_d_out, d_out)
        products = (jnp.vdot(p, t) for p, t in zip(pulled, tangents, strict=True))
        agree(sum(products), jnp.vdot(cotangent, d_out), 1e-11)

    def test_hessian_is_reverse_over_reverse(self):
        q, k, v = (normal(2, 3, 4, seed=i) for i in range(3))
        mask = jnp.asarray([[True, True, False], [False, False, False], [True, True, True]])

        def f(query):
            return loss(query, k, v, mask=mask, sinks=0.3)

        actual = jax.jit(jax.hessian(f))(q)

        expected = jax.jit(jax.jacrev(jax.grad(f)))(q)
        assert jnp.isfinite(actual).all()
        assert jnp.abs(actual).max() > 1e-3
        agree(actual, expected)

    def test_third_derivatives_are_those_of_jax(self):
        q, k, v = (normal(1, 2, 2, seed=i) for i in range(3))

        def plain(query):
            return jax.nn.softmax(query @ k.mT / math.sqrt(2)) @ v

        def third(f):
            return jax.jit(jax.jacfwd(jax.jacfwd(jax.jacrev(f))))(q)

        agree(third(lambda query: af.attention(query, k, v)), third(plain), 1e-11)

    def test_empty_rows_have_zero_gradients(self):
        inputs = arrays()
        mask = jnp.arange(Q_LEN)[:, None] > jnp.arange(KV_LEN)  # row 0 sees nothing

        d_query = jax.jit(jax.grad(loss))(*inputs, mask=mask)

        assert (d_query[..., 0, :] == 0).all()
        assert (d_query[..., 2:, :] != 0).any()


class TestVmap:
    def test_vmap_over_the_batch_is_the_batch(self):
        inputs, options = arrays(), every_option()
        in_axes = {"mask": 0, "bias": None, "sinks": None, "scale": None}
        in_axes |= {"q_offset": 0, "segment_ids": 0, "dropout_mask": 0}

        def one(inputs, options):
            options = options | {name: options[name][None] for name in ("mask", "dropout_mask")}
            return af.attention_with_lse(*inputs, **options, **STATIC)

        out, lse = jax.jit(jax.vmap(one, in_axes=(0, in_axes)))(inputs, options)

        expected, expected_lse = called_eagerly()
        agree(out, expected)
        agree(lse, expected_lse)

    def test_vmap_over_lengths_that_a_mask_closes_over(self):
        inputs, lengths = arrays(), jnp.asarray([0, 3, 7])

        def one(query, key, value, length):
            return af.attention(query, key, value, **functions(0.5, length))

        actual = jax.jit(jax.vmap(one))(*inputs, lengths)

        options = functions(0.5, None) | {"mask": af.padding_mask(lengths, KV_LEN)}
        agree(actual, jax.jit(functools.partial(af.attention, **options))(*inputs))

    def test_gradients_per_example(self):
        inputs = arrays()
        gradient = jax.grad(
            functools.partial(loss, is_causal=True, q_offset=1), argnums=(0, 1, 2)
        )

        actual = jax.jit(jax.vmap(gradient))(*inputs)

        # Examples do not meet, so the gradient of the sum is theirs.
        for d, e in zip(actual, jax.jit(gradient)(*inputs), strict=True):
            agree(d, e)

    def test_vmap_over_options_alone(self):
        q, k, v = arrays()
        scales, sinks = jnp.asarray([0.1, 0.5, 1.0]), normal(3, HEADS)

        def f(scale, sinks):
            return af.attention(q, k, v, scale=scale, sinks=sinks)

        actual = jax.jit(jax.vmap(f))(scales, sinks)

        expected = [jax.jit(f)(*given) for given in zip(scales, sinks, strict=True)]
        agree(actual, jnp.stack(expected))


class TestWithoutData:
    def test_eval_shape(self):
        out, lse = jax.eval_shape(
            lambda inputs, options: af.attention_with_lse(*inputs, **options, **STATIC),
            arrays(),
            every_option(),
        )

        assert (out.shape, out.dtype) == ((BATCH, HEADS, Q_LEN, VALUE_DIM), jnp.float64)
        assert (lse.shape, lse.dtype) == ((BATCH, HEADS, Q_LEN), jnp.float64)

    def test_export_with_symbolic_shapes(self, request):
        if request.config.getoption("--jaxtyping-packages", None):
            pytest.skip("to the shape checker a symbolic size is no int")
        export = pytest.importorskip("jax.export")
        b, t, s = export.symbolic_shape("b, t, s")
        shapes = (
            (b, HEADS, t, HEAD_DIM),
            (b, KV_HEADS, s, HEAD_DIM),
            (b, KV_HEADS, s, VALUE_DIM),
        )

        def f(query, key, value, mask, q_offset):
            return af.attention(
                query, key, value, mask=mask, is_causal=True, q_offset=q_offset, softcap=3.0
            )

        program = export.export(jax.jit(f))(
            *(jax.ShapeDtypeStruct(shape, jnp.float64) for shape in shapes),
            jax.ShapeDtypeStruct((b, 1, 1, s), jnp.bool_),
            jax.ShapeDtypeStruct((), jnp.int64),
        )

        inputs = (*arrays(), af.padding_mask(jnp.asarray([0, 3, 7]), KV_LEN), jnp.asarray(2))
        agree(program.call(*inputs), jax.jit(f)(*inputs))
        inputs = (
            *(x[:2, :, 2:] for x in arrays()),
            jnp.ones((2, 1, 1, 5), bool),
            jnp.asarray(0),
        )
        agree(program.call(*inputs), jax.jit(f)(*inputs))

    def test_export_says_that_rows_of_an_unknown_number_are_not_cut(self, request):
        if request.config.getoption("--jaxtyping-packages", None):
            pytest.skip("to the shape checker a symbolic size is no int")
        export = pytest.importorskip("jax.export")
        x = jax.ShapeDtypeStruct((HEADS, *export.symbolic_shape("t"), 4), jnp.float64)
        program = export.export(jax.jit(lambda x: af.attention(x, x, x, engine="blockwise")))

        with pytest.raises(NotImplementedError, match="'blockwise' cannot do lengths that are"):
            program(x)

    def test_debug_nans_finds_none(self):
        inputs, options = arrays(), every_option()
        options["mask"] = options["mask"].at[0].set(False)
        options["bias"] = options["bias"].at[1].set(-math.inf)

        with jax.debug_nans(True):
            out, d_inputs = jax.value_and_grad(
                functools.partial(loss, **options, **STATIC), argnums=(0, 1, 2)
            )(*inputs)

        assert jnp.isfinite(out)
        assert all(jnp.isfinite(d).all() for d in d_inputs)


class TestPromotion:
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_strict_promotion_is_never_asked_for(self, dtype):
        inputs = [x.astype(dtype) for x in arrays()]
        options = every_option("float32")

        with jax.numpy_dtype_promotion("strict"):
            out, lse = jax.jit(functools.partial(af.attention_with_lse, **options, **STATIC))(
                *inputs
            )
            d_query = jax.jit(functools.partial(jax.grad(loss), **options, **STATIC))(*inputs)

        assert (out.dtype, lse.dtype, d_query.dtype) == (dtype, jnp.float32, dtype)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
    def test_wider_numbers_do_not_widen(self, dtype):
        inputs = [x.astype(dtype) for x in arrays()]
        wide = {"scale": np.float64(0.3), "softcap": np.float64(2.0), "sinks": np.float64(0.1)}

        wide_arrays = {
            "scale": jnp.asarray(0.3, "float64"),
            "sinks": jnp.full(HEADS, 0.1, "float64"),
            "bias": jnp.zeros((Q_LEN, KV_LEN), "float64"),
        }

        out, lse = jax.eval_shape(
            lambda *inputs: af.attention_with_lse(*inputs, **wide), *inputs
        )
        arrays_out, arrays_lse = jax.eval_shape(
            lambda *inputs: af.attention_with_lse(*inputs, **wide_arrays), *inputs
        )

        assert out.dtype == arrays_out.dtype == dtype
        assert lse.dtype == arrays_lse.dtype == jnp.float32

    def test_results_are_not_weakly_typed(self):
        inputs = (
            jnp.full((2, 3, 4), x) for x in (0.1, 0.2, 0.3)
        )  # weakly typed, from Python's

        results = (
            *af.attention_with_lse(*inputs, scale=jnp.asarray(0.5), sinks=0.5, softcap=1.5),
            af.attention_weights(*arrays()[:2], scale=0.5),
            af.attention_scores(*arrays()[:2], scale=jnp.asarray(0.5)),
        )

        assert not any(x.weak_type for x in results)
        assert all(x.dtype == jnp.float64 for x in results)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_halves_are_computed_in_float32(self, dtype):
        halves = [x.astype(dtype) for x in arrays()]

        out, lse = jax.jit(af.attention_with_lse)(*halves)

        expected, expected_lse = jax.jit(af.attention_with_lse)(
            *(x.astype("float32") for x in halves)
        )
        assert (out.dtype, lse.dtype) == (dtype, jnp.float32)
        agree(lse, expected_lse, 1e-6)
        agree(out.astype("float32"), expected, float(jnp.finfo(dtype).eps))

    def test_compute_dtype_widens_the_lse_alone(self):
        inputs = arrays("float32")

        f = functools.partial(af.attention_with_lse, compute_dtype=jnp.float64)

        out, lse = jax.jit(f)(*inputs)

        expected, expected_lse = jax.jit(f)(*(x.astype("float64") for x in inputs))
        assert (out.dtype, lse.dtype) == (jnp.float32, jnp.float64)
        agree(lse, expected_lse)
        agree(out, expected, 1e-7)


class TestPrecisionOfProducts:
    """On a GPU or a TPU, JAX rounds the factors of a product of float32 unless it is told not to."""

    @pytest.fixture(autouse=True)
    def _elsewhere_than_on_a_cpu(self, monkeypatch):
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")

    @staticmethod
    def products(function, *inputs):
        lines = str(jax.make_jaxpr(function)(*inputs)).splitlines()
        return [line for line in lines if "precision=" in line]

    @pytest.mark.parametrize("engine", ["dense", "blockwise"])
    def test_is_full_forward_and_backward(self, engine):
        def call(*inputs):
            return loss(*inputs, is_causal=True, engine=engine)

        query, key, value = arrays("float32")
        inputs = (query, key[..., :Q_LEN, :], value[..., :Q_LEN, :])

        found = self.products(jax.grad(call, argnums=(0, 1, 2)), *inputs)

        assert len(found) >= 5
        assert all("Precision.HIGHEST, Precision.HIGHEST" in line for line in found)

    def test_is_the_callers_who_has_chosen_one(self):
        with jax.default_matmul_precision("tensorfloat32"):
            found = self.products(af.attention, *arrays("float32"))

        assert found
        assert not any("HIGHEST" in line for line in found)


@pytest.mark.usefixtures("without_x64")
class TestWithoutX64:
    """JAX as it comes: no array has 64 bits, and asking for one warns."""

    def test_every_option_agrees_with_float64(self):
        inputs, options = arrays(), every_option()
        assert inputs[0].dtype == jnp.float32

        out, lse = jax.jit(
            lambda inputs, options: af.attention_with_lse(*inputs, **options, **STATIC)
        )(inputs, options)

        wide = jax.tree.map(np.asarray, (inputs, options))
        wide = jax.tree.map(lambda x: x.astype("float64") if x.dtype.kind == "f" else x, wide)
        expected, expected_lse = af.attention_with_lse(*wide[0], **wide[1], **STATIC)
        assert (out.dtype, lse.dtype) == (jnp.float32, jnp.float32)
        agree(out, expected, 5e-6)
        agree(lse, expected_lse, 5e-6)

    def test_numbers_of_numpy_are_numbers(self):
        plain = {
            "scale": 0.3,
            "softcap": 2.0,
            "sinks": 0.5,
            "q_offset": 2,
            "window_size": (2, 1),
        }
        of_numpy = {name: np.float64(plain[name]) for name in ("scale", "softcap", "sinks")}
        of_numpy |= {"q_offset": np.int64(2), "window_size": (np.int64(2), np.int8(1))}

        actual = jax.jit(functools.partial(af.attention, **of_numpy))(*arrays())

        agree(actual, jax.jit(functools.partial(af.attention, **plain))(*arrays()), 1e-6)

    def test_a_gradient_agrees_with_that_of_float64(self):
        gradient = functools.partial(jax.grad(loss, argnums=(0, 1, 2)), **STATIC)
        actual = jax.jit(gradient)(*arrays(), **every_option())

        with x64(enabled=True):
            expected = differentiated_eagerly()
        for d, e in zip(actual, expected, strict=True):
            agree(d, e, 2e-5)

    @pytest.mark.errors
    @pytest.mark.parametrize("dtype", [jnp.float64, np.float64, "float64"], ids=repr)
    def test_float64_is_not_quietly_float32(self, dtype):
        if isinstance(dtype, str):
            dtype = np.dtype(dtype)

        with pytest.raises(TypeError, match=r"float64.*x64"):
            af.attention(*arrays(), compute_dtype=dtype)

    def test_layers_are_float32(self):
        params = af.init_multi_head_attention(8, 2, rng=np.random.default_rng(0), xp=jnp)

        out = af.multi_head_attention(params, normal(2, 3, 8), is_causal=True)

        assert params.w_q.dtype == out.dtype == jnp.float32


def layer(**options):
    return af.init_multi_head_attention(
        8,
        4,
        rng=np.random.default_rng(0),
        num_kv_heads=2,
        dtype=jnp.float64,
        xp=jnp,
        **options,
    )


@pytest.mark.parametrize("options", [{}, {"is_fused": True, "has_bias": True}], ids=str)
class TestParameters:
    """A NamedTuple with `()` for what is absent is a pytree that JAX walks, unregistered."""

    def test_a_step_of_training_keeps_the_form(self, options):
        params, x = layer(**options), normal(2, 3, 8)

        @jax.jit
        def objective(params):
            return jnp.sum(af.multi_head_attention(params, x, is_causal=True) ** 2)

        @jax.jit
        def step(params):
            return jax.tree.map(lambda p, d: p - 1e-2 * d, params, jax.grad(objective)(params))

        stepped = step(params)

        assert type(stepped) is af.MultiHeadAttentionParams
        assert jax.tree.structure(stepped) == jax.tree.structure(params)
        assert [jnp.shape(x) for x in stepped if len(x)] == [x.shape for x in params if len(x)]
        assert objective(stepped) < objective(params)

    def test_vmap_over_an_ensemble(self, options):
        x = normal(2, 3, 8)
        members = [jax.tree.map(lambda p, i=i: p * (1 + i), layer(**options)) for i in range(2)]
        ensemble = jax.tree.map(lambda *p: jnp.stack(p), *members)

        actual = jax.jit(jax.vmap(af.multi_head_attention, in_axes=(0, None)))(ensemble, x)

        one = jax.jit(af.multi_head_attention)
        agree(actual, jnp.stack([one(params, x) for params in members]))

    def test_scan_over_layers(self, options):
        x = normal(2, 3, 8)
        params = layer(**options)
        layers = jax.tree.map(lambda p: jnp.stack([p, p * 0.5]), params)

        actual, _ = jax.lax.scan(
            lambda x, params: (x + af.multi_head_attention(params, x), None), x, layers
        )

        one = jax.jit(af.multi_head_attention)
        expected = x + one(params, x)
        half = jax.tree.map(lambda p: p * 0.5, params)
        agree(actual, expected + one(half, expected))

    def test_a_second_parameter_set_is_not_traced_again(self, options):
        traces = []

        @jax.jit
        def f(params, x):
            traces.append(None)
            return af.multi_head_attention(params, x)

        params, x = layer(**options), normal(2, 3, 8)
        f(params, x)
        f(jax.tree.map(lambda p: p + 1, params), x)
        f(af.unflatten_params(params, af.flatten_params(params)), x)

        assert len(traces) == 1


class TestFewRows:
    @pytest.fixture(autouse=True)
    def _are_looked_at(self, monkeypatch):
        monkeypatch.setattr("attnfn._engines.dense.FEW_NUMBERS", 0)

    @pytest.mark.parametrize("spoiled", [(), (0,), (1,), (2,), (0, 1, 2)])
    def test_what_is_not_finite_spoils_the_rows_that_see_it_alone(self, spoiled):
        inputs = [normal(4, n, 8, seed=n) for n in (2, 6, 6)]
        for i in spoiled:
            inputs[i] = inputs[i].at[1, -1, 0].set((math.nan, math.inf, -math.inf)[i])
        options = {"is_causal": True, "q_offset": 4}

        def f(engine):
            def total(*inputs):
                out = af.attention(*inputs, engine=engine, **options)
                return jnp.sum(jnp.where(jnp.isfinite(out), jnp.sin(out), 0.0)), out

            return jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))(*inputs)

        few = jax.jit(lambda *x: af.attention(*x, engine="dense", **options))(*inputs)

        agree(few, f("blockwise")[1])
        jax.tree.map(agree, f("dense"), f("blockwise"))


class TestOpenCalls:
    """Where nothing hides a key, nothing is cleaned: one number spoils all rows that see it."""

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("options", [{}, {"softcap": 2.0, "sinks": 0.5}], ids=str)
    def test_show_what_is_not_finite_and_differentiate_the_rest(self, bad, options):
        def f(engine):
            def total(*inputs):
                out = af.attention(*inputs, engine=engine, **options)
                return jnp.sum(jnp.where(jnp.isfinite(out), jnp.sin(out), 0.0)), out

            alone = jax.jit(lambda *x: af.attention(*x, engine=engine, **options))
            return alone, jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))

        (dense, dense_gradient), (rows, rows_gradient) = f("dense"), f("blockwise")
        # As negative as it gets: every product with the last query is -inf.
        inputs = [
            -abs(normal(2, 3, 5, 4, seed=0)),
            *(normal(2, 3, 6, 4, seed=n) for n in (1, 2)),
        ]
        for which in range(3):
            spoiled = list(inputs)
            spoiled[which] = inputs[which].at[1, 2, -1, 0].set(bad)

            agree(dense(*spoiled), rows(*spoiled))
            jax.tree.map(agree, dense_gradient(*spoiled), rows_gradient(*spoiled))

    @pytest.mark.free_axes
    def test_may_have_widths_and_heads_that_are_broadcast(self):
        query, key, value = (normal(*s) for s in ((1, 5, 4), (3, 6, 4), (3, 6, 7)))
        value = value.at[1, 2, 3].set(math.inf)

        out = jax.jit(af.attention)(query, key, value)

        agree(
            out, jax.jit(functools.partial(af.attention, engine="blockwise"))(query, key, value)
        )
