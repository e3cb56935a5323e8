"""Cutting one wide axis into heads and laying the heads side by side again."""

import numpy as np
import pytest
from support import asarray, normal, to_numpy

import attnfn as af

#: Batch axes are free.
BATCHES = [(), (2,), (2, 3), (0,), (2, 1, 0)]
by_batch = pytest.mark.parametrize("batch", BATCHES, ids=str)
by_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


def assert_close(actual, expected, tolerance=1e-12):
    actual = to_numpy(actual)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


class TestSplitHeads:
    @by_batch
    def test_gives_each_head_the_features_that_follow_one_another(self, xp, batch):
        x = normal(xp, *batch, 5, 12)

        actual = af.split_heads(x, 3)

        features = to_numpy(x)
        expected = np.stack([features[..., 4 * h : 4 * h + 4] for h in range(3)], axis=-3)
        assert np.array_equal(to_numpy(actual), expected)

    @pytest.mark.parametrize("dtype", ["int32", "bool", "complex128", "float32"])
    def test_keeps_any_dtype(self, xp, dtype):
        x = asarray(xp, np.arange(8).reshape(2, 4), dtype)

        actual = af.split_heads(x, 2)

        assert actual.dtype == getattr(xp, dtype)
        assert np.array_equal(to_numpy(actual)[1], to_numpy(x)[:, 2:])

    @pytest.mark.parametrize("num_heads", [1, 6, np.int64(2)])
    def test_takes_any_divisor(self, xp, num_heads):
        x = normal(xp, 5, 6)

        actual = af.split_heads(x, num_heads)

        assert tuple(actual.shape) == (num_heads, 5, 6 // num_heads)

    @pytest.mark.parametrize(("shape", "heads"), [((0, 6), (3, 0, 2)), ((5, 0), (3, 5, 0))])
    def test_may_be_empty(self, xp, shape, heads):
        actual = af.split_heads(normal(xp, *shape), 3)

        assert tuple(actual.shape) == heads


class TestMergeHeads:
    @by_batch
    def test_undoes_the_splitting(self, xp, batch):
        x = normal(xp, *batch, 5, 12)

        actual = af.merge_heads(af.split_heads(x, 3))

        assert np.array_equal(to_numpy(actual), to_numpy(x))

    @by_batch
    def test_is_undone_by_the_splitting(self, xp, batch):
        x = normal(xp, *batch, 3, 5, 4)

        actual = af.split_heads(af.merge_heads(x), 3)

        assert np.array_equal(to_numpy(actual), to_numpy(x))

    @pytest.mark.parametrize(
        ("shape", "merged"), [((3, 0, 2), (0, 6)), ((3, 5, 0), (5, 0)), ((0, 5, 2), (5, 0))]
    )
    def test_may_be_empty(self, xp, shape, merged):
        actual = af.merge_heads(normal(xp, *shape))

        assert tuple(actual.shape) == merged


class TestProjectHeads:
    @pytest.mark.parametrize("has_bias", [False, True])
    @by_batch
    def test_multiplies_by_the_matrix_of_each_head(self, xp, batch, has_bias):
        x, weight = normal(xp, *batch, 5, 7), normal(xp, 7, 3, 4, seed=1)
        bias = normal(xp, 3, 4, seed=2) if has_bias else ()

        actual = af.project_heads(x, weight, bias)

        expected = np.einsum("...lm,mhd->...hld", to_numpy(x), to_numpy(weight))
        assert_close(actual, expected + (to_numpy(bias)[:, None, :] if has_bias else 0))

    def test_tells_equal_sizes_apart(self, xp):
        x, weight, bias = (
            normal(xp, 4, 4, 4),
            normal(xp, 4, 4, 4, seed=1),
            normal(xp, 4, 4, seed=2),
        )

        actual = af.project_heads(x, weight, bias)

        expected = np.einsum("blm,mhd->bhld", to_numpy(x), to_numpy(weight))
        assert_close(actual, expected + to_numpy(bias)[:, None, :])

    def test_is_the_splitting_of_one_wide_product(self, xp):
        x, weight = normal(xp, 2, 5, 6), normal(xp, 6, 3, 4, seed=1)

        actual = af.project_heads(x, weight)

        wide = x @ xp.reshape(weight, (6, 12))
        assert_close(actual, to_numpy(af.split_heads(wide, 3)))

    @by_dtype
    def test_keeps_the_dtype(self, xp, dtype):
        x, weight, bias = (normal(xp, *s, dtype=dtype) for s in [(5, 7), (7, 3, 4), (3, 4)])

        actual = af.project_heads(x, weight, bias)

        assert actual.dtype == getattr(xp, dtype)

    @pytest.mark.libraries("torch", "jax", reason="the others have no bfloat16")
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_keeps_halves(self, xp, dtype):
        x, weight, bias = (normal(xp, *s, dtype=dtype) for s in [(5, 7), (7, 3, 4), (3, 4)])

        actual = af.project_heads(x, weight, bias)

        assert actual.dtype == getattr(xp, dtype)
        expected = (
            np.einsum("lm,mhd->hld", to_numpy(x), to_numpy(weight)) + to_numpy(bias)[:, None]
        )
        assert_close(actual, expected, 0.05)

    @pytest.mark.parametrize(
        ("x", "weight"), [((0, 7), (7, 3, 4)), ((5, 7), (7, 0, 4)), ((5, 7), (7, 3, 0))]
    )
    def test_may_be_empty(self, xp, x, weight):
        actual = af.project_heads(normal(xp, *x), normal(xp, *weight))

        assert tuple(actual.shape) == (weight[1], x[0], weight[2])

    def test_of_no_features_is_the_bias(self, xp):
        bias = normal(xp, 3, 4)

        actual = af.project_heads(normal(xp, 5, 0), normal(xp, 0, 3, 4), bias)

        assert_close(actual, np.broadcast_to(to_numpy(bias)[:, None], (3, 5, 4)))


class TestCombineHeads:
    @pytest.mark.parametrize("has_bias", [False, True])
    @by_batch
    def test_adds_up_the_product_of_each_head(self, xp, batch, has_bias):
        x, weight = normal(xp, *batch, 3, 5, 4), normal(xp, 3, 4, 7, seed=1)
        bias = normal(xp, 7, seed=2) if has_bias else ()

        actual = af.combine_heads(x, weight, bias)

        expected = np.einsum("...hld,hdm->...lm", to_numpy(x), to_numpy(weight))
        assert_close(actual, expected + (to_numpy(bias) if has_bias else 0))

    def test_tells_equal_sizes_apart(self, xp):
        x, weight, bias = (
            normal(xp, 4, 4, 4, 4),
            normal(xp, 4, 4, 4, seed=1),
            normal(xp, 4, seed=2),
        )

        actual = af.combine_heads(x, weight, bias)

        assert_close(
            actual, np.einsum("bhld,hdm->blm", to_numpy(x), to_numpy(weight)) + to_numpy(bias)
        )

    @by_dtype
    def test_keeps_the_dtype(self, xp, dtype):
        x, weight, bias = (normal(xp, *s, dtype=dtype) for s in [(3, 5, 4), (3, 4, 7), (7,)])

        actual = af.combine_heads(x, weight, bias)

        assert actual.dtype == getattr(xp, dtype)

    @pytest.mark.libraries("torch", "jax", reason="the others have no bfloat16")
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_keeps_halves(self, xp, dtype):
        x, weight, bias = (normal(xp, *s, dtype=dtype) for s in [(3, 5, 4), (3, 4, 7), (7,)])

        actual = af.combine_heads(x, weight, bias)

        assert actual.dtype == getattr(xp, dtype)
        expected = np.einsum("hld,hdm->lm", to_numpy(x), to_numpy(weight)) + to_numpy(bias)
        assert_close(actual, expected, 0.05)

    @pytest.mark.parametrize(
        ("x", "weight"),
        [((3, 0, 4), (3, 4, 7)), ((3, 5, 4), (3, 4, 0)), ((0, 5, 4), (0, 4, 7))],
    )
    def test_may_be_empty(self, xp, x, weight):
        actual = af.combine_heads(normal(xp, *x), normal(xp, *weight))

        assert_close(actual, np.zeros((x[1], weight[2])))

    def test_undoes_a_projection_by_an_orthogonal_matrix(self, xp):
        x = normal(xp, 2, 5, 6)
        matrix, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))
        weight = asarray(xp, matrix.reshape(6, 3, 2))

        actual = af.combine_heads(
            af.project_heads(x, weight), asarray(xp, matrix.T.reshape(3, 2, 6))
        )

        assert_close(actual, to_numpy(x))
