"""MLX arrays run unmodified, under MLX's transforms too.

MLX is no dependency of the other tests: the nox session `libraries` installs it, and there a
missing MLX is a failure.
"""

import math

import array_api_compat.numpy as np
import mlx.core as mx
import pytest
from problems import OPTIONS, Shapes, arrays_of, options_of

import attnfn as af
from attnfn.testing import assert_attention_close

SHAPES = Shapes((3, 8, 5, 6), (3, 2, 7, 6), (3, 2, 7, 9))
UNBATCHED = Shapes((8, 5, 6), (2, 7, 6), (2, 7, 9))


def agree(actual, expected, tolerance=2e-5):
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=tolerance, atol=tolerance)


def inputs(xp, shapes=SHAPES):
    return arrays_of(xp, shapes, "float32")


def options_for(xp, names, shapes=SHAPES):
    return options_of(xp, shapes, names, "float32")


@pytest.fixture(autouse=True, params=["cpu"])
def _on_the_cpu(request):
    """The only device that every MLX has."""
    before = mx.default_device()
    mx.set_default_device(mx.Device(getattr(mx, request.param)))
    yield
    mx.set_default_device(before)


@pytest.mark.parametrize("option", OPTIONS)
class TestEveryOption:
    def test_output_and_lse_agree_with_numpy(self, option):
        out, lse = af.attention_with_lse(*inputs(mx), **options_for(mx, (option,)))

        expected, expected_lse = af.attention_with_lse(
            *inputs(np), **options_for(np, (option,))
        )
        assert isinstance(out, mx.array)
        assert (out.shape, out.dtype) == (expected.shape, mx.float32)
        agree(out, expected)
        agree(lse, expected_lse)

    def test_compiled_agrees_with_numpy(self, option):
        options = options_for(mx, (option,))
        compiled = mx.compile(lambda *arrays: af.attention(*arrays, **options))

        actual = compiled(*inputs(mx))

        agree(actual, af.attention(*inputs(np), **options_for(np, (option,))))

    def test_vmap_is_a_loop(self, option):
        arrays = inputs(mx)
        options = options_for(mx, (option,), UNBATCHED)

        actual = mx.vmap(lambda *one: af.attention(*one, **options))(*arrays)

        expected = [
            af.attention(*(x[i] for x in inputs(np)), **options_for(np, (option,), UNBATCHED))
            for i in range(3)
        ]
        agree(actual, np.stack(expected))

    def test_gradient_follows_the_difference(self, option):
        """Along one direction, by the difference of two calls in float64."""
        q, k, v = (x.astype("float64") for x in inputs(np))
        d_out = np.cos(np.arange(3 * 8 * 5 * 9.0)).reshape(3, 8, 5, 9)
        options = options_for(mx, (option,))

        def loss(query, key, value):
            return (af.attention(query, key, value, **options) * d).sum()

        d = mx.array(d_out.astype("float32"))
        gradients = mx.grad(loss, argnums=(0, 1, 2))(*inputs(mx))

        step = 1e-5
        given = options_of(np, SHAPES, (option,), "float64")
        given |= {
            n: x for n, x in options_for(np, (option,)).items() if isinstance(x, np.ndarray)
        }
        for i, gradient in enumerate(gradients):
            direction = np.sin(np.arange(gradient.size)).reshape(gradient.shape)
            ends = []
            for sign in (1, -1):
                moved = [q, k, v]
                moved[i] = moved[i] + sign * step * direction
                ends.append((af.attention(*moved, **given) * d_out).sum())
            expected = (ends[0] - ends[1]) / (2 * step)
            agree((np.asarray(gradient) * direction).sum(), expected, 1e-3)


class TestTransforms:
    def test_scores_and_weights_agree_with_numpy(self):
        (q, k, _), (np_q, np_k, _) = inputs(mx), inputs(np)

        for f in (af.attention_weights, af.attention_scores):
            actual = f(q, k, is_causal=True, q_offset=1, softcap=2.0)

            agree(actual, f(np_q, np_k, is_causal=True, q_offset=1, softcap=2.0))

    def test_empty_rows_have_zero_gradients(self):
        q, k, v = inputs(mx)
        mask = mx.arange(5)[:, None] > mx.arange(7)  # row 0 sees nothing

        gradient = mx.grad(lambda q: (af.attention(q, k, v, mask=mask) ** 2).sum())(q)

        assert np.all(np.asarray(gradient)[:, :, 0] == 0)
        assert np.any(np.asarray(gradient)[:, :, 1:] != 0)

    def test_nan_that_is_masked_out_stays_out(self):
        q, k, v = inputs(np)
        k[:, :, -1], v[:, :, -1] = math.nan, math.inf
        mask = mx.arange(7) < 6

        def f(q, k, v):
            return af.attention(q, k, v, mask=mask)

        bad = [mx.array(x) for x in (q, k, v)]
        actual = f(*bad)
        gradients = mx.grad(lambda *x: (f(*x) ** 2).sum(), argnums=(0, 1, 2))(*bad)

        agree(actual, af.attention(q, k[:, :, :6], v[:, :, :6]))
        assert all(np.all(np.isfinite(np.asarray(d))) for d in gradients)

    def test_gradient_of_what_a_function_closes_over(self):
        q, k, v = inputs(mx)

        def loss(slope):
            def bias(q_pos, kv_pos):
                return slope * (kv_pos - q_pos).astype(mx.float32)

            return (af.attention(q, k, v, bias=bias, q_offset=0) ** 2).sum()

        actual = mx.grad(loss)(mx.array(0.3))

        difference = (loss(mx.array(0.31)) - loss(mx.array(0.29))) / 0.02
        assert abs(difference.item()) > 0.1
        agree(actual, difference.item(), 1e-2)

    @pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
    def test_halves_are_computed_in_float32(self, dtype):
        halves = [x.astype(dtype) for x in inputs(mx)]

        out, lse = af.attention_with_lse(*halves)

        wide = [x.astype(mx.float32) for x in halves]
        expected, expected_lse = af.attention_with_lse(*wide)
        assert (out.dtype, lse.dtype) == (dtype, mx.float32)
        agree(lse, np.asarray(expected_lse), 1e-6)
        resolution = float(mx.finfo(dtype).eps)
        agree(out.astype(mx.float32), np.asarray(expected), resolution)

    def test_float64(self):
        wide = [mx.array(x, dtype=mx.float64) for x in arrays_of(np, SHAPES)]

        out = af.attention(*wide, softcap=2.0)

        assert out.dtype == mx.float64
        # MLX's exp has the accuracy of float32 even there.
        agree(out, af.attention(*arrays_of(np, SHAPES), softcap=2.0), 1e-6)

    @pytest.mark.parametrize(("q_len", "kv_len"), [(5, 0), (0, 7), (0, 0)])
    def test_lengths_of_zero(self, q_len, kv_len):
        shapes = Shapes((2, q_len, 4), (2, kv_len, 4), (2, kv_len, 3))

        out, lse = af.attention_with_lse(*inputs(mx, shapes))

        expected, expected_lse = af.attention_with_lse(*inputs(np, shapes))
        np.testing.assert_array_equal(np.asarray(out), expected)
        np.testing.assert_array_equal(np.asarray(lse), expected_lse)

    def test_agrees_with_its_own_kernel(self):
        q, k, v = inputs(mx)

        actual = af.attention(q, k, v, is_causal=True, q_offset=2)

        expected = mx.fast.scaled_dot_product_attention(q, k, v, scale=6**-0.5, mask="causal")
        agree(actual, np.asarray(expected), 1e-5)

    @pytest.mark.errors
    def test_numpy_masks_are_another_library(self):
        with pytest.raises(TypeError, match=r"one Array API library.*mlx"):
            af.attention(*inputs(mx), mask=np.ones(7, dtype=bool))


class TestTheRest:
    def test_masks(self):
        lengths, segments = np.asarray([0, 3, 7]), np.asarray([0, 0, 1, 1, 2])

        for actual, expected in (
            (af.causal_mask(5, 7, q_offset=1, xp=mx), af.causal_mask(5, 7, q_offset=1)),
            (af.padding_mask(mx.array(lengths), 7), af.padding_mask(lengths, 7)),
            (af.segment_mask(mx.array(segments)), af.segment_mask(segments)),
        ):
            assert isinstance(actual, mx.array)
            np.testing.assert_array_equal(np.asarray(actual), expected)

    def test_merging_parts_gives_the_whole(self):
        q, k, v = inputs(mx)
        parts = [
            af.attention_with_lse(q, k[..., part, :], v[..., part, :])
            for part in (slice(0, 2), slice(2, 7))
        ]

        out, lse = af.merge_attentions(*zip(*parts, strict=True))

        expected, expected_lse = af.attention_with_lse(*inputs(np))
        agree(out, expected)
        agree(lse, expected_lse)

    @pytest.mark.parametrize("options", [{}, {"is_fused": True, "has_bias": True}], ids=str)
    def test_a_layer_and_its_gradient(self, options):
        def init(xp):
            rng = np.random.default_rng(0)
            return af.init_multi_head_attention(8, 4, rng=rng, num_kv_heads=2, xp=xp, **options)

        x = np.random.default_rng(1).normal(size=(3, 5, 8)).astype("float32")
        params = init(mx)

        out = af.multi_head_attention(params, mx.array(x), is_causal=True)
        gradient = mx.grad(lambda p: (af.multi_head_attention(p, mx.array(x)) ** 2).sum())(
            params
        )

        agree(out, af.multi_head_attention(init(np), x, is_causal=True))
        assert type(gradient) is af.MultiHeadAttentionParams
        assert [isinstance(d, tuple) for d in gradient] == [
            isinstance(p, tuple) for p in params
        ]
        assert all(np.any(np.asarray(d) != 0) for d in gradient if not isinstance(d, tuple))

    def test_parameters_saved_by_mlx(self, tmp_path):
        params = af.init_multi_head_attention(8, 4, rng=np.random.default_rng(0), xp=mx)
        path = str(tmp_path / "params.safetensors")

        mx.save_safetensors(path, af.flatten_params(params))
        loaded = af.unflatten_params(params, mx.load(path))

        assert type(loaded) is type(params)
        for x, y in zip(loaded, params, strict=True):
            assert isinstance(x, tuple) if isinstance(y, tuple) else mx.array_equal(x, y)


class TestTesting:
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
    def test_results_are_held_to_their_dtype(self, dtype):
        given = [x.astype(getattr(mx, dtype)) for x in inputs(mx)]
        options = options_for(mx, ("mask_full", "score_mod", "sinks_per_head"))

        out, lse = af.attention_with_lse(*given, **options)

        assert_attention_close(out, *given, lse=lse, **options)
        with pytest.raises(AssertionError, match="elements are wrong"):
            assert_attention_close(out * 1.1, *given, **options)
