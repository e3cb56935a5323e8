"""Multi-head attention against the plain formula, and the parameters that it begins with."""

import math

import array_api_compat.numpy
import array_api_strict
import numpy as np
import pytest
from conftest import load
from problems import OPTIONS, Shapes, options_of
from support import asarray, device_of, library_of, normal, to_numpy, x64

import attnfn as af

BATCH, Q_LEN, KV_LEN, MODEL_DIM, NUM_HEADS = 2, 4, 5, 12, 4

#: Every way in which the heads and widths may differ.
WIDTHS = {
    "plain": {},
    "grouped": {"num_kv_heads": 2},
    "one_key_head": {"num_kv_heads": 1},
    "wide_heads": {"head_dim": 7},
    "separate_widths": {
        "head_dim": 2,
        "value_dim": 5,
        "kv_model_dim": 6,
        "v_model_dim": 9,
        "out_dim": 3,
    },
    "grouped_separate_widths": {
        "num_kv_heads": 2,
        "value_dim": 5,
        "kv_model_dim": 6,
        "out_dim": 8,
    },
    "all_sizes_equal": {"head_dim": 4, "model_dim": 4},
}
by_widths = pytest.mark.parametrize("widths", WIDTHS)
by_bias = pytest.mark.parametrize("has_bias", [False, True], ids=["no_bias", "bias"])
by_fusion = pytest.mark.parametrize("is_fused", [False, True], ids=["apart", "fused"])
by_init = pytest.mark.parametrize("init", ["xavier", "orthogonal", "normal"])
differentiable = pytest.mark.libraries("torch", "jax", reason="the others do not differentiate")
with_devices = pytest.mark.libraries(
    "array_api_strict", reason="the others have one device here"
)


def is_absent(x):
    return isinstance(x, tuple)


def make_params(
    xp=None, *, model_dim=MODEL_DIM, num_heads=NUM_HEADS, seed=0, dtype="float64", **options
):
    """Draw parameters whose biases are not zero, so that one left out would be seen."""
    xp = array_api_compat.numpy if xp is None else xp
    rng = np.random.default_rng(seed)
    params = af.init_multi_head_attention(
        model_dim, num_heads, rng=rng, xp=xp, dtype=getattr(xp, dtype), **options
    )
    biases = {
        name: normal(xp, *x.shape, seed=i, dtype=dtype)
        for i, (name, x) in enumerate(params._asdict().items())
        if name.startswith("b_") and not is_absent(x)
    }
    return params._replace(**biases)


def inputs_of(xp, widths, dtype="float64"):
    """Draw query, key and value as wide as the parameters want them."""
    model_dim = widths.get("model_dim", MODEL_DIM)
    kv_model_dim = widths.get("kv_model_dim", model_dim)
    v_model_dim = widths.get("v_model_dim", kv_model_dim)
    return (
        normal(xp, BATCH, Q_LEN, model_dim, seed=1, dtype=dtype),
        normal(xp, BATCH, KV_LEN, kv_model_dim, seed=2, dtype=dtype),
        normal(xp, BATCH, KV_LEN, v_model_dim, seed=3, dtype=dtype),
    )


def plain_weights(params, query, key):
    """Compute what each head looks at, by NumPy and without a mask."""
    q, k = (
        np.einsum("...lm,mhd->...hld", x, w) + (0 if is_absent(b) else b[:, None, :])
        for x, w, b in ((query, params.w_q, params.b_q), (key, params.w_k, params.b_k))
    )
    k = np.repeat(k, q.shape[-3] // k.shape[-3], axis=-3)
    scores = np.einsum("...qd,...kd->...qk", q, k) / math.sqrt(q.shape[-1])
    exp = np.exp(scores - scores.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def plain_formula(params, query, key, value):
    """Compute multi-head attention as the paper writes it, one head after the other."""
    params = af.MultiHeadAttentionParams(*(x if is_absent(x) else to_numpy(x) for x in params))
    query, key, value = map(to_numpy, (query, key, value))
    weights = plain_weights(params, query, key)
    group = params.w_q.shape[1] // params.w_v.shape[1]
    out = 0.0
    for h in range(params.w_q.shape[1]):
        v = value @ params.w_v[:, h // group]
        v = v if is_absent(params.b_v) else v + params.b_v[h // group]
        out = out + weights[..., h, :, :] @ v @ params.w_o[h]
    return out if is_absent(params.b_o) else out + params.b_o


def assert_close(actual, expected, tolerance=1e-12):
    actual = to_numpy(actual)
    assert actual.shape == np.shape(expected)
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


class TestMultiHeadAttention:
    @by_bias
    @by_widths
    def test_is_the_plain_formula(self, xp, widths, has_bias):
        params = make_params(xp, has_bias=has_bias, **WIDTHS[widths])
        query, key, value = inputs_of(xp, WIDTHS[widths])

        actual = af.multi_head_attention(params, query, key, value)

        assert_close(actual, plain_formula(params, query, key, value))

    @by_fusion
    def test_takes_the_query_for_the_key(self, xp, is_fused):
        params = make_params(xp, is_fused=is_fused, num_kv_heads=2, has_bias=True)
        query, _, _ = inputs_of(xp, {})

        actual = af.multi_head_attention(params, query)

        assert_close(actual, to_numpy(af.multi_head_attention(params, query, query, query)))
        apart = make_params(xp, num_kv_heads=2)._replace(**_apart_biases(params))
        assert_close(actual, plain_formula(apart, query, query, query))

    @by_fusion
    def test_takes_the_key_for_the_value(self, xp, is_fused):
        params = make_params(xp, is_fused=is_fused, num_kv_heads=2, has_bias=True)
        query, key, _ = inputs_of(xp, {})

        actual = af.multi_head_attention(params, query, key)

        apart = make_params(xp, num_kv_heads=2)._replace(**_apart_biases(params))
        assert_close(actual, plain_formula(apart, query, key, key))

    def test_takes_a_value_beside_the_query_alone(self, xp):
        params = make_params(xp)
        query, _, _ = inputs_of(xp, {})
        value = normal(xp, BATCH, Q_LEN, MODEL_DIM, seed=9)

        actual = af.multi_head_attention(params, query, None, value)

        assert_close(actual, plain_formula(params, query, query, value))

    @pytest.mark.free_axes
    @by_fusion
    def test_uses_latents_without_a_batch_for_every_sequence(self, xp, is_fused):
        params = make_params(xp, is_fused=is_fused, has_bias=True)
        latents, batch = (
            normal(xp, 3, MODEL_DIM, seed=1),
            normal(xp, 2, 2, KV_LEN, MODEL_DIM, seed=2),
        )

        actual = af.multi_head_attention(params, latents, batch)

        repeated = xp.broadcast_to(latents, (2, 2, 3, MODEL_DIM))
        assert_close(actual, to_numpy(af.multi_head_attention(params, repeated, batch)))

    @pytest.mark.parametrize("batch", [(), (1,), (2, 3), (0,)], ids=str)
    def test_has_the_batch_axes_of_the_query(self, xp, batch):
        params = make_params(xp)
        x = normal(xp, *batch, Q_LEN, MODEL_DIM)

        actual = af.multi_head_attention(params, x, is_causal=True)

        assert tuple(actual.shape) == (*batch, Q_LEN, MODEL_DIM)

    @by_bias
    @pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
    @pytest.mark.parametrize("is_self", [True, False], ids=["self", "cross"])
    def test_is_the_same_fused_and_apart(self, xp, num_kv_heads, is_self, has_bias):
        options = {"num_kv_heads": num_kv_heads, "has_bias": has_bias}
        fused = make_params(xp, is_fused=True, **options)
        apart = make_params(xp, **options)._replace(**_apart_biases(fused))
        query, key, value = inputs_of(xp, {})
        arrays = (query,) if is_self else (query, key, value)

        actual = af.multi_head_attention(fused, *arrays)

        assert_close(actual, to_numpy(af.multi_head_attention(apart, *arrays)))

    @pytest.mark.parametrize("option", OPTIONS)
    def test_passes_every_option_on(self, xp, option):
        params = make_params(xp, num_kv_heads=2)
        query, key, value = inputs_of(xp, {})
        q, k, v = (
            af.project_heads(x, w)
            for x, w in ((query, params.w_q), (key, params.w_k), (value, params.w_v))
        )
        options = options_of(xp, Shapes(*(tuple(x.shape) for x in (q, k, v))), [option])

        actual = af.multi_head_attention(params, query, key, value, **options)

        expected = to_numpy(af.combine_heads(af.attention(q, k, v, **options), params.w_o))
        if option not in ("q_offset", "q_offset_negative", "q_offset_0d", "q_offset_per_batch"):
            assert not np.allclose(expected, plain_formula(params, query, key, value))
        assert_close(actual, expected)

    @pytest.mark.errors
    def test_passes_the_choice_of_engine_on(self, xp):
        params = make_params(xp)
        query, _, _ = inputs_of(xp, {})

        with pytest.raises(ValueError, match="`engine` must be one of"):
            af.multi_head_attention(params, query, engine="steam")

    def test_of_nothing_allowed_is_the_bias_of_the_output(self, xp):
        params = make_params(xp, has_bias=True)
        query, _, _ = inputs_of(xp, {})

        actual = af.multi_head_attention(
            params, query, mask=asarray(xp, np.zeros(Q_LEN, dtype=bool))
        )

        assert_close(actual, np.broadcast_to(to_numpy(params.b_o), actual.shape))

    @pytest.mark.parametrize(("q_len", "kv_len"), [(0, 3), (3, 0), (0, 0)])
    def test_may_be_empty(self, xp, q_len, kv_len):
        params = make_params(xp)
        query, key = normal(xp, 2, q_len, MODEL_DIM), normal(xp, 2, kv_len, MODEL_DIM)

        actual = af.multi_head_attention(params, query, key)

        assert_close(actual, np.zeros((2, q_len, MODEL_DIM)))

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @by_fusion
    def test_keeps_the_dtype(self, xp, is_fused, dtype):
        params = make_params(xp, is_fused=is_fused, has_bias=True, dtype=dtype)
        query, _, _ = inputs_of(xp, {}, dtype)

        actual = af.multi_head_attention(params, query, scale=np.float64(0.5))

        assert actual.dtype == getattr(xp, dtype)

    @pytest.mark.libraries("torch", "jax", reason="the others have no bfloat16")
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_keeps_halves(self, xp, dtype):
        params = make_params(xp, dtype=dtype)
        query, key, value = inputs_of(xp, {}, dtype)

        actual = af.multi_head_attention(params, query, key, value)

        assert actual.dtype == getattr(xp, dtype)
        assert_close(actual, plain_formula(params, query, key, value), 0.05)

    @with_devices
    @by_fusion
    def test_stays_on_the_device(self, xp, is_fused):
        device = array_api_strict.Device("device1")
        params = make_params(xp, is_fused=is_fused, device=device)
        query, key, _ = (x.to_device(device) for x in inputs_of(xp, {}))

        actual = af.multi_head_attention(params, query, key, window_size=(1, 1), q_offset=1)

        assert device_of(actual) == device


class TestGradientsOfTheParameters:
    @differentiable
    @by_bias
    @by_fusion
    def test_are_those_of_finite_differences(self, xp, is_fused, has_bias):
        params = make_params(xp, is_fused=is_fused, has_bias=has_bias, num_kv_heads=2)
        query, _, _ = inputs_of(xp, {})
        weight = normal(xp, BATCH, Q_LEN, MODEL_DIM, seed=5)

        def loss(params):
            return xp.sum(weight * af.multi_head_attention(params, query, is_causal=True))

        gradient = grad_of(xp, loss, params)

        assert type(gradient) is af.MultiHeadAttentionParams
        assert [is_absent(x) for x in gradient] == [is_absent(x) for x in params]
        for name, x in af.flatten_params(params).items():
            direction = normal(xp, *x.shape, seed=7)
            ends = [loss(params._replace(**{name: x + h * direction})) for h in (1e-5, -1e-5)]
            expected = float((ends[0] - ends[1]) / 2e-5)
            assert float(xp.sum(getattr(gradient, name) * direction)) == pytest.approx(
                expected, rel=1e-6, abs=1e-8
            )

    @pytest.mark.libraries("torch", reason="only torch has a backward pass that fills .grad")
    def test_come_by_backward_too(self, xp):
        params = make_params(xp, has_bias=True)
        query, _, _ = inputs_of(xp, {})
        leaves = af.flatten_params(params)
        for x in leaves.values():
            x.requires_grad_()

        xp.sum(af.multi_head_attention(params, query) ** 2).backward()

        # A bias of the keys moves all scores of a row alike, which a softmax does not see.
        assert {
            name for name, x in leaves.items() if float(xp.max(xp.abs(x.grad))) < 1e-12
        } == {"b_k"}


def grad_of(xp, loss, params):
    if library_of(xp) == "jax":
        import jax

        return jax.grad(loss)(params)
    import torch

    return torch.func.grad(loss)(params)


class TestMultiHeadAttentionWeights:
    @by_bias
    @by_widths
    def test_are_those_of_the_plain_formula(self, xp, widths, has_bias):
        params = make_params(xp, has_bias=has_bias, **WIDTHS[widths])
        query, key, _ = inputs_of(xp, WIDTHS[widths])

        actual = af.multi_head_attention_weights(params, query, key)

        plain = af.MultiHeadAttentionParams(
            *(x if is_absent(x) else to_numpy(x) for x in params)
        )
        assert_close(actual, plain_weights(plain, to_numpy(query), to_numpy(key)))

    @by_fusion
    @pytest.mark.parametrize("is_self", [True, False], ids=["self", "cross"])
    def test_give_the_output_when_multiplied_by_the_values(self, xp, is_fused, is_self):
        params = make_params(xp, is_fused=is_fused, num_kv_heads=2, has_bias=True)
        query, key, _ = inputs_of(xp, {})
        key = query if is_self else key
        options = {"window_size": (2, 0), "q_offset": 1, "softcap": 2.0, "sinks": 0.5}

        weights = af.multi_head_attention_weights(params, query, key, **options)

        apart = make_params(xp, num_kv_heads=2)._replace(**_apart_biases(params))
        v = af.project_heads(key, apart.w_v, apart.b_v)
        v = asarray(xp, np.repeat(to_numpy(v), 2, axis=-3))
        actual = af.combine_heads(weights @ v, apart.w_o, apart.b_o)
        assert_close(actual, to_numpy(af.multi_head_attention(params, query, key, **options)))

    def test_need_no_parameters_of_value_and_output(self, xp):
        params = make_params(xp, has_bias=True)
        query, key, _ = inputs_of(xp, {})
        less = params._replace(w_v=(), w_o=(), b_v=(), b_o=())

        actual = af.multi_head_attention_weights(less, query, key)

        assert_close(actual, to_numpy(af.multi_head_attention_weights(params, query, key)))

    def test_have_the_dtype_that_is_computed_in(self, xp):
        params = make_params(xp, dtype="float32")
        query, _, _ = inputs_of(xp, {}, "float32")

        weights = af.multi_head_attention_weights(params, query, compute_dtype=xp.float64)

        assert weights.dtype == xp.float64


def _apart_biases(params):
    """Return the biases of fused parameters under the names that they have apart."""
    if is_absent(params.b_qkv):
        return {f"b_{x}": getattr(params, f"b_{x}") for x in "qkvo"}
    num_heads = params.w_o.shape[0]
    num_kv_heads = (params.w_qkv.shape[1] - num_heads) // 2
    ends = (num_heads, num_heads + num_kv_heads)
    b = params.b_qkv
    return {
        "b_q": b[: ends[0], :],
        "b_k": b[ends[0] : ends[1], :],
        "b_v": b[ends[1] :, :],
        "b_o": params.b_o,
    }


class TestInitMultiHeadAttention:
    @by_init
    @by_fusion
    @by_bias
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_gives_the_same_parameters_on_every_library(
        self, xp, init, is_fused, has_bias, dtype
    ):
        options = {"init": init, "is_fused": is_fused, "has_bias": has_bias, "num_kv_heads": 2}
        expected = af.init_multi_head_attention(
            MODEL_DIM,
            NUM_HEADS,
            rng=np.random.default_rng(3),
            dtype=getattr(np, dtype),
            **options,
        )

        actual = af.init_multi_head_attention(
            MODEL_DIM,
            NUM_HEADS,
            rng=np.random.default_rng(3),
            xp=xp,
            dtype=getattr(xp, dtype),
            **options,
        )

        leaves = af.flatten_params(actual)
        assert list(leaves) == list(af.flatten_params(expected))
        assert all(x.dtype == getattr(xp, dtype) for x in leaves.values())
        assert all(
            np.array_equal(to_numpy(x), getattr(expected, name)) for name, x in leaves.items()
        )

    @pytest.mark.libraries("torch", "jax", reason="the others have no bfloat16")
    @by_init
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_rounds_to_halves(self, xp, init, dtype):
        options = {"init": init, "xp": xp, "rng": np.random.default_rng(3)}
        single = af.init_multi_head_attention(MODEL_DIM, NUM_HEADS, **options)
        options["rng"] = np.random.default_rng(3)

        actual = af.init_multi_head_attention(
            MODEL_DIM, NUM_HEADS, dtype=getattr(xp, dtype), **options
        )

        for name, x in af.flatten_params(actual).items():
            assert x.dtype == getattr(xp, dtype)
            rounded = xp.astype(getattr(single, name), getattr(xp, dtype))
            assert np.array_equal(to_numpy(x), to_numpy(rounded))

    @by_init
    def test_gives_the_same_parameters_fused_and_apart(self, init):
        options = {"init": init, "num_kv_heads": 2}

        apart = make_params(**options)
        fused = make_params(is_fused=True, **options)

        assert np.array_equal(fused.w_qkv, np.concat([apart.w_q, apart.w_k, apart.w_v], axis=1))
        assert np.array_equal(fused.w_o, apart.w_o)

    @by_init
    def test_gives_the_same_weights_with_and_without_biases(self, init):
        without, with_biases = (make_params(init=init, has_bias=x) for x in (False, True))

        assert [is_absent(x) for x in without] == [False] * 4 + [True] * 6
        assert [is_absent(x) for x in with_biases] == [False] * 8 + [True] * 2
        assert all(map(np.array_equal, without[:4], with_biases[:4]))

    def test_is_float32_by_numpy_where_nothing_else_is_said(self):
        params = af.init_multi_head_attention(8, 2, rng=np.random.default_rng(0))

        assert all(type(x) is np.ndarray and x.dtype == np.float32 for x in params[:4])

    def test_advances_the_generator(self):
        rng = np.random.default_rng(0)

        first, second = (af.init_multi_head_attention(8, 2, rng=rng) for _ in range(2))

        assert not np.array_equal(first.w_q, second.w_q)
        assert not np.array_equal(first.w_q, first.w_k)

    @by_widths
    @by_bias
    def test_carries_the_heads_and_widths_in_the_shapes(self, widths, has_bias):
        options = {"model_dim": MODEL_DIM} | WIDTHS[widths]
        params = make_params(has_bias=has_bias, **options)
        model_dim = options["model_dim"]
        kv_heads = options.get("num_kv_heads", NUM_HEADS)
        head_dim = options.get("head_dim", model_dim // NUM_HEADS)
        value_dim = options.get("value_dim", head_dim)
        kv_model_dim = options.get("kv_model_dim", model_dim)
        v_model_dim = options.get("v_model_dim", kv_model_dim)
        out_dim = options.get("out_dim", model_dim)

        shapes = {name: x.shape for name, x in af.flatten_params(params).items()}

        assert shapes == {
            "w_q": (model_dim, NUM_HEADS, head_dim),
            "w_k": (kv_model_dim, kv_heads, head_dim),
            "w_v": (v_model_dim, kv_heads, value_dim),
            "w_o": (NUM_HEADS, value_dim, out_dim),
        } | (
            {
                "b_q": (NUM_HEADS, head_dim),
                "b_k": (kv_heads, head_dim),
                "b_v": (kv_heads, value_dim),
                "b_o": (out_dim,),
            }
            if has_bias
            else {}
        )

    @by_fusion
    def test_begins_with_biases_of_zero(self, xp, is_fused):
        params = af.init_multi_head_attention(
            8, 2, rng=np.random.default_rng(0), xp=xp, has_bias=True, is_fused=is_fused
        )

        biases = [x for name, x in af.flatten_params(params).items() if name.startswith("b_")]

        assert len(biases) == (2 if is_fused else 4)
        assert all(not np.any(to_numpy(x)) for x in biases)

    @with_devices
    @by_init
    def test_is_made_where_it_is_asked_for(self, xp, init):
        device = array_api_strict.Device("device1")

        params = make_params(xp, init=init, device=device)

        assert all(device_of(x) == device for x in params[:4])

    @pytest.mark.libraries("torch", reason="torch has a device without memory")
    def test_is_made_without_memory_where_that_is_asked_for(self, xp):
        params = af.init_multi_head_attention(
            8, 2, rng=np.random.default_rng(0), xp=xp, device="meta", has_bias=True
        )

        assert all(x.device.type == "meta" for x in af.flatten_params(params).values())

    @pytest.mark.libraries("jax", reason="only JAX has a switch for float64")
    def test_refuses_float64_where_jax_has_it_switched_off(self, xp):
        with (
            x64(False),
            pytest.raises(TypeError, match=r"`dtype` must be .* switched on"),
        ):
            af.init_multi_head_attention(
                8, 2, rng=np.random.default_rng(0), xp=xp, dtype=xp.float64
            )

    @pytest.mark.libraries("jax", reason="only JAX has a switch for float64")
    @by_init
    def test_gives_the_same_parameters_where_jax_has_float64_switched_off(self, xp, init):

        expected = af.init_multi_head_attention(8, 2, rng=np.random.default_rng(0), init=init)

        with x64(False):
            actual = af.init_multi_head_attention(
                8, 2, rng=np.random.default_rng(0), init=init, xp=xp
            )

        assert all(
            np.array_equal(to_numpy(a), b)
            for a, b in zip(actual[:4], expected[:4], strict=True)
        )


#: Wide enough that a statistic tells the fans of the matrix from those of one head.
DRAWN = {
    "model_dim": 96,
    "num_heads": 6,
    "num_kv_heads": 2,
    "head_dim": 10,
    "value_dim": 24,
    "kv_model_dim": 64,
    "v_model_dim": 80,
    "out_dim": 200,
}


def matrices(init):
    """Draw parameters and lay them out as the matrices that they are products with."""
    params = make_params(init=init, **DRAWN)
    wide = {name: getattr(params, name) for name in ("w_q", "w_k", "w_v")}
    by_name = {name: w.reshape(w.shape[0], -1) for name, w in wide.items()}
    return by_name | {"w_o": params.w_o.reshape(-1, params.w_o.shape[-1])}


class TestDraws:
    @pytest.mark.parametrize("name", ["w_q", "w_k", "w_v", "w_o"])
    def test_xavier_is_uniform_within_the_bound_of_the_whole_matrix(self, name):
        matrix = matrices("xavier")[name]
        bound = math.sqrt(6 / sum(matrix.shape))

        assert np.abs(matrix).max() <= bound
        assert np.abs(matrix).max() > 0.99 * bound
        assert matrix.std() == pytest.approx(bound / math.sqrt(3), rel=0.03)
        assert abs(matrix.mean()) < 4 * matrix.std() / math.sqrt(matrix.size)

    @pytest.mark.parametrize("name", ["w_q", "w_k", "w_v", "w_o"])
    def test_orthogonal_has_orthonormal_rows_or_columns(self, name):
        matrix = matrices("orthogonal")[name]
        tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T

        assert_close(tall.T @ tall, np.eye(tall.shape[1]))
        assert abs(tall.mean()) < 4 * tall.std() / math.sqrt(tall.size)

    def test_orthogonal_prefers_no_sign(self):
        diagonals = [
            make_params(init="orthogonal", seed=seed, num_heads=1).w_q[:, 0, :].diagonal()
            for seed in range(100)
        ]

        positive = np.mean(np.stack(diagonals) > 0)

        # QR alone leaves the first entries of one sign.
        assert 0.4 < positive < 0.6

    @pytest.mark.parametrize("name", ["w_q", "w_k", "w_v", "w_o"])
    def test_normal_has_the_deviation_of_bert_and_gpt_2(self, name):
        matrix = matrices("normal")[name]

        assert matrix.std() == pytest.approx(0.02, rel=0.06)
        assert abs(matrix.mean()) < 4 * 0.02 / math.sqrt(matrix.size)
        assert np.mean(np.abs(matrix) > 0.02) == pytest.approx(0.317, abs=0.04)


class TestLibraries:
    def test_give_the_same_output_from_one_seed(self, xp):
        """A model that was begun on one library goes on on another."""
        numpy = load("numpy")
        expected = af.multi_head_attention(make_params(numpy), *inputs_of(numpy, {}))

        actual = af.multi_head_attention(make_params(xp), *inputs_of(xp, {}))

        assert_close(actual, expected)
