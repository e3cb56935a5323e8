"""Dask arrays run unmodified, and nothing is computed before the caller asks.

Dask is no dependency of the other tests: the nox session `libraries` installs it, and there a
missing Dask is a failure.
"""

import math

import array_api_compat.dask.array as da
import array_api_compat.numpy as np
import dask
import pytest
from problems import OPTIONS, Shapes, arrays_of, options_of

import attnfn as af

SHAPES = Shapes((3, 8, 5, 6), (3, 2, 7, 6), (3, 2, 7, 9))
EQUAL = Shapes((3, 4, 5, 6), (3, 4, 5, 6), (3, 4, 5, 6))


def refuse(*args, **kwargs):
    msg = "computed before the caller asked"
    raise AssertionError(msg)


@pytest.fixture(autouse=True)
def _nothing_is_computed():
    """Dask calls this instead of computing; `computed` brings the computation back."""
    with dask.config.set(scheduler=refuse):
        yield


def computed(x):
    return x.compute(scheduler="synchronous")


def agree(actual, expected):
    np.testing.assert_allclose(computed(actual), expected, rtol=1e-12, atol=1e-12)


def chunked():
    """Query, key and value in chunks of every axis, the lengths too."""
    return [x.rechunk((2, 1, 3, 4)) for x in arrays_of(da, SHAPES)]


def to_dask(options):
    """Turn NumPy's arrays among the options into Dask's."""
    return {
        name: tuple(map(da.asarray, x))
        if name == "segment_ids" and isinstance(x, tuple)
        else da.asarray(x)
        if isinstance(x, np.ndarray)
        else x
        for name, x in options.items()
    }


@pytest.mark.parametrize("option", OPTIONS)
class TestEveryOption:
    def test_output_and_lse_agree_with_numpy(self, option):
        if any(map(callable, options_of(np, SHAPES, (option,)).values())):
            options = options_of(da, SHAPES, (option,))
        else:
            options = to_dask(options_of(np, SHAPES, (option,)))

        out, lse = af.attention_with_lse(*chunked(), **options)

        expected, expected_lse = af.attention_with_lse(
            *arrays_of(np, SHAPES), **options_of(np, SHAPES, (option,))
        )
        assert isinstance(out, da.Array)
        assert (out.shape, out.dtype) == (expected.shape, expected.dtype)
        agree(out, expected)
        agree(lse, expected_lse)


class TestScoresAndWeights:
    @pytest.mark.parametrize("f", [af.attention_scores, af.attention_weights])
    def test_agree_with_numpy(self, f):
        names = ("mask_full", "bias_per_head", "causal", "q_offset_per_batch", "softcap")

        actual = f(*chunked()[:2], **to_dask(options_of(np, SHAPES, names)))

        agree(actual, f(*arrays_of(np, SHAPES)[:2], **options_of(np, SHAPES, names)))


class TestChunks:
    @pytest.mark.parametrize("axis", [0, 1, 2, 3])
    def test_one_axis_in_pieces(self, axis):
        arrays = [x.rechunk({axis: 2}) for x in arrays_of(da, SHAPES)]

        actual = af.attention(*arrays, is_causal=True, q_offset=2)

        agree(actual, af.attention(*arrays_of(np, SHAPES), is_causal=True, q_offset=2))

    @pytest.mark.parametrize("axis", ["batch", "length"])
    def test_unknown_sizes(self, axis):
        """Of equal heads: to group heads, Dask must know the sizes that it reshapes."""
        number = {"batch": -4, "length": -2}[axis]
        keep = np.arange(EQUAL.query[number]) != 1  # something of every chunk
        known = [np.compress(keep, x, axis=number) for x in arrays_of(np, EQUAL)]

        chosen = (slice(None),) * (number + 4) + (da.asarray(keep),)
        unknown = [x.rechunk(2)[chosen] for x in arrays_of(da, EQUAL)]
        out, lse = af.attention_with_lse(*unknown, softcap=2.0, sinks=0.5)

        assert any(math.isnan(size) for size in out.shape)
        expected, expected_lse = af.attention_with_lse(*known, softcap=2.0, sinks=0.5)
        agree(out, expected)
        agree(lse, expected_lse)

    def test_unknown_number_of_keys(self):
        keep = np.asarray([True, False, True, True, False])
        q, k, v = arrays_of(da, EQUAL)

        actual = af.attention(q, k[:, :, da.asarray(keep)], v[:, :, da.asarray(keep)])

        q, k, v = arrays_of(np, EQUAL)
        agree(actual, af.attention(q, k[:, :, keep], v[:, :, keep]))

    def test_threads_agree_with_one(self):
        actual = af.attention(*chunked(), softcap=2.0)

        many, one = actual.compute(scheduler="threads"), computed(actual)
        np.testing.assert_array_equal(many, one)


class TestCorners:
    @pytest.mark.parametrize(("q_len", "kv_len"), [(5, 0), (0, 7), (0, 0)])
    def test_lengths_of_zero(self, q_len, kv_len):
        shapes = Shapes((2, q_len, 4), (2, kv_len, 4), (2, kv_len, 3))

        out, lse = af.attention_with_lse(*arrays_of(da, shapes))

        expected, expected_lse = af.attention_with_lse(*arrays_of(np, shapes))
        np.testing.assert_array_equal(computed(out), expected)
        np.testing.assert_array_equal(computed(lse), expected_lse)

    def test_nan_that_is_masked_out_stays_out(self):
        q, k, v = arrays_of(np, SHAPES)
        k[:, :, -1], v[:, :, -1] = np.nan, np.inf
        visible = np.arange(7) < 6

        arrays = [da.asarray(x) for x in (q, k, v)]
        actual = af.attention(*arrays, mask=da.asarray(visible))

        agree(actual, af.attention(q, k[:, :, :6], v[:, :, :6]))

    @pytest.mark.parametrize("dtype", ["float16", "float32"])
    def test_other_dtypes(self, dtype):
        arrays = [x.astype(dtype) for x in arrays_of(np, SHAPES)]

        out, lse = af.attention_with_lse(*map(da.asarray, arrays))

        expected, expected_lse = af.attention_with_lse(*arrays)
        assert (out.dtype, lse.dtype) == (expected.dtype, expected_lse.dtype)
        eps = float(np.finfo(dtype).eps)
        np.testing.assert_allclose(computed(out), expected, rtol=4 * eps, atol=4 * eps)

    @pytest.mark.errors
    def test_numpy_masks_are_another_library(self):
        with pytest.raises(TypeError, match=r"one Array API library.*dask"):
            af.attention(*chunked(), mask=np.ones(7, dtype=bool))


class TestTheRest:
    def test_masks(self):
        lengths, segments = np.asarray([0, 3, 7]), np.asarray([0, 0, 1, 1, 2])

        for actual, expected in (
            (af.causal_mask(5, 7, q_offset=1, xp=da), af.causal_mask(5, 7, q_offset=1)),
            (af.padding_mask(da.asarray(lengths), 7), af.padding_mask(lengths, 7)),
            (af.segment_mask(da.asarray(segments)), af.segment_mask(segments)),
        ):
            assert isinstance(actual, da.Array)
            np.testing.assert_array_equal(computed(actual), expected)

    def test_merging_parts_gives_the_whole(self):
        q, k, v = chunked()
        parts = [
            af.attention_with_lse(q, k[..., part, :], v[..., part, :])
            for part in (slice(0, 2), slice(2, 7))
        ]

        out, lse = af.merge_attentions(*zip(*parts, strict=True))

        expected, expected_lse = af.attention_with_lse(*arrays_of(np, SHAPES))
        agree(out, expected)
        agree(lse, expected_lse)

    @pytest.mark.parametrize("options", [{}, {"is_fused": True, "has_bias": True}], ids=str)
    def test_a_layer(self, options):
        def init(xp):
            rng = np.random.default_rng(0)
            return af.init_multi_head_attention(
                8, 4, rng=rng, num_kv_heads=2, dtype=xp.float64, xp=xp, **options
            )

        x = np.random.default_rng(1).normal(size=(3, 5, 8))

        out = af.multi_head_attention(init(da), da.asarray(x).rechunk(2), is_causal=True)
        weights = af.multi_head_attention_weights(init(da), da.asarray(x), is_causal=True)

        assert isinstance(out, da.Array)
        agree(out, af.multi_head_attention(init(np), x, is_causal=True))
        agree(weights, af.multi_head_attention_weights(init(np), x, is_causal=True))
