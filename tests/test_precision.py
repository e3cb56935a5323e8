"""Digits: the hard numbers against 50 digits, and low precision against the plain formula in it."""

import math

import array_api_compat.numpy
import numpy as np
import pytest
from oracle import oracle, oracle_mpmath
from problems import ENGINES, Shapes, arrays_of, assert_agrees, options_of, under_jit
from support import asarray, library_of, normal, to_numpy

import attnfn as af

by_engine = pytest.mark.parametrize("engine", ENGINES)

EPS = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24, "float64": 2.0**-53}


def plain_formula(xp, query, key, value, bias=None):
    """Compute softmax(query key^T / sqrt(head_dim) + bias) value, every step in the arrays' dtype."""
    scores = query @ xp.matrix_transpose(key) / math.sqrt(query.shape[-1])
    scores = scores if bias is None else scores + bias
    exp = xp.exp(scores - xp.max(scores, axis=-1, keepdims=True))
    total = xp.astype(xp.sum(exp, axis=-1, keepdims=True), exp.dtype)
    return (exp / total) @ value


def low_precisions_of(xp):
    halves = {
        "numpy": ["float16"],
        "torch": ["float16", "bfloat16"],
        "jax": ["float16", "bfloat16"],
    }
    return [*halves.get(library_of(xp), []), "float32"]


def greatest_error(actual, expected):
    return np.abs(to_numpy(actual).astype(float) - expected).max()


class TestLowPrecision:
    """The error is at most twice that of the plain formula in the same precision."""

    @pytest.mark.parametrize("spread", [0.3, 1.0, 4.0])
    @pytest.mark.parametrize("kv_len", [8, 300])
    def test_is_as_good_as_the_plain_formula(self, xp, spread, kv_len):
        for dtype in low_precisions_of(xp):
            query = normal(xp, 2, 3, 8, 16, seed=1, dtype=dtype) * spread
            key = normal(xp, 2, 3, kv_len, 16, seed=2, dtype=dtype)
            value = normal(xp, 2, 3, kv_len, 8, seed=3, dtype=dtype)

            actual = under_jit(xp, af.attention)(query, key, value)

            exact = oracle(*map(to_numpy, (query, key, value))).out
            plain = plain_formula(xp, query, key, value)
            assert actual.dtype == getattr(xp, dtype)
            assert plain.dtype == getattr(xp, dtype)
            assert greatest_error(actual, exact) <= 2 * greatest_error(plain, exact)

    def test_is_as_good_as_the_plain_formula_with_a_great_bias(self, xp):
        for dtype in low_precisions_of(xp):
            query, key, value = (
                normal(xp, 2, 9, 16, seed=seed, dtype=dtype) for seed in range(3)
            )
            bias = normal(xp, 9, 9, seed=5, dtype=dtype) * 30

            actual = af.attention(query, key, value, bias=bias)

            exact = oracle(*map(to_numpy, (query, key, value)), bias=to_numpy(bias)).out
            plain = plain_formula(xp, query, key, value, bias)
            assert greatest_error(actual, exact) <= 2 * greatest_error(plain, exact)

    @pytest.mark.libraries("numpy", "torch", "jax", reason="strict has no halves")
    @by_engine
    def test_of_halves_is_the_exact_result_rounded(self, xp, engine):
        """Half of one unit in the last place, and float32's share of it."""
        for dtype in set(low_precisions_of(xp)) - {"float32"}:
            query, key, value = (
                normal(xp, 2, 9, 16, seed=seed, dtype=dtype) for seed in range(3)
            )

            out, lse = af.attention_with_lse(query, key, value, engine=engine)

            exact = oracle(*map(to_numpy, (query, key, value)))
            np.testing.assert_allclose(
                to_numpy(out), exact.out, rtol=1.01 * EPS[dtype], atol=1e-6
            )
            np.testing.assert_allclose(to_numpy(lse), exact.lse, rtol=1e-6)

    @pytest.mark.parametrize(
        "option", ["softcap", "mask_full", "sinks_per_head", "score_mod", "bias_full"]
    )
    @pytest.mark.libraries("numpy", "torch", "jax", reason="strict has no halves")
    def test_of_halves_is_as_good_with_every_kind_of_option(self, xp, option):
        shapes = Shapes((2, 4, 6, 8), (2, 2, 6, 8), (2, 2, 6, 5))
        plain = array_api_compat.numpy
        exact = oracle(*arrays_of(plain, shapes), **options_of(plain, shapes, [option]))
        for dtype in set(low_precisions_of(xp)) - {"float32"}:
            options = options_of(xp, shapes, [option], dtype)

            out, lse = af.attention_with_lse(*arrays_of(xp, shapes, dtype), **options)

            np.testing.assert_allclose(
                to_numpy(out), exact.out, rtol=1.01 * EPS[dtype], atol=1e-6
            )
            np.testing.assert_allclose(to_numpy(lse), exact.lse, rtol=1e-6, atol=1e-6)


def _one(rows):
    return np.asarray(rows, dtype=float)[None]


_VALUE = _one([[1.0, -2.0], [3.0, 0.5], [-0.25, 7.0]])
_MIXED = _one([[1.0, 0.5], [-0.75, 2.0], [0.25, -1.5]])

#: (query, key, value, options): numbers that lose all digits in a careless order of operations.
HARD_CASES = {
    "logits_of_plus_and_minus_1e4": (_MIXED * 100, _MIXED * 100, _VALUE, {"scale": 1.0}),
    "logits_all_of_1e4_and_close": (
        _one([[100.0, 1.0], [100.0, -1.0], [100.0, 0.0]]),
        _one([[100.0, 0.5], [100.0, 0.25], [100.0, -1.0]]),
        _VALUE,
        {"scale": 1.0},
    ),
    "logits_all_of_minus_1e4_and_close": (
        _one([[100.0, 1.0], [100.0, -1.0], [100.0, 0.0]]),
        _one([[-100.0, 0.5], [-100.0, 0.25], [-100.0, -1.0]]),
        _VALUE,
        {"scale": 1.0},
    ),
    "one_huge_logit": (
        _MIXED,
        _one([[1e5, 0.0], [0.0, 1.0], [1.0, 0.0]]),
        _VALUE,
        {"scale": 1.0},
    ),
    "one_huge_negative_logit": (
        _MIXED,
        _one([[-1e5, 0.0], [0.0, 1.0], [1.0, 0.0]]),
        _VALUE,
        {"scale": 1.0},
    ),
    "ties": (_MIXED, _one([[1.0, 2.0]] * 3), _VALUE, {}),
    "ties_of_the_two_greatest": (
        _one([[300.0, 0.0]] * 3),
        _one([[1.0, 2.0], [1.0, -2.0], [0.5, 0.0]]),
        _VALUE,
        {"scale": 1.0},
    ),
    "logits_of_zero": (_MIXED * 0, _MIXED, _VALUE, {}),
    "weights_that_are_denormal": (
        _one([[95.0, 0.0], [103.0, 0.0], [740.0, 0.0]]),
        _one([[0.0, 0.0], [-1.0, 0.0], [-2.0, 0.0]]),
        _VALUE,
        {"scale": 1.0},
    ),
    "inputs_of_1e30_against_1e-30": (_MIXED * 1e30, _MIXED * 1e-30, _VALUE, {"scale": 1.0}),
    "inputs_of_1e30_under_a_small_scale": (
        _MIXED * 1e30,
        _MIXED,
        _VALUE,
        {"scale": 1e-30},
    ),
    "values_of_1e30": (_MIXED, _MIXED, _VALUE * 1e30, {}),
    "values_that_are_tiny": (_MIXED, _MIXED, _VALUE * 1e-30, {}),
    "values_that_cancel": (
        _one([[1.0, 0.0]] * 3),
        _one([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]),
        _one([[1e6, 1.0], [-1e6, 1.0], [1.0, 1.0]]),
        {},
    ),
    "rows_of_minus_infinity": (
        _MIXED,
        _MIXED,
        _VALUE,
        {
            "bias": np.asarray(
                [[-math.inf] * 3, [0.0, -math.inf, 1e4], [-1e4, -math.inf, -math.inf]]
            )
        },
    ),
    "bias_of_the_greatest_number": (
        _MIXED,
        _MIXED,
        _VALUE,
        {"bias": np.asarray([[3e38, 0.0, 0.0], [-3e38, 0.5, -3e38], [0.0, -3e38, 1.0]])},
    ),
    "sink_far_above": (_MIXED, _MIXED, _VALUE, {"sinks": 60.0}),
    "sink_far_below": (_MIXED, _MIXED, _VALUE, {"sinks": -1e4}),
    "sink_above_all_by_1e4": (_MIXED, _MIXED, _VALUE, {"sinks": 1e4}),
    "softcap_of_great_logits": (_MIXED * 1e3, _MIXED * 1e3, _VALUE, {"softcap": 30.0}),
    "softcap_that_is_not_reached": (_MIXED, _MIXED, _VALUE, {"softcap": 1e6}),
    "lse_near_zero": (
        _one([[0.0, 0.0]] * 3),
        _MIXED,
        _VALUE,
        {"bias": np.log(np.asarray([[0.5, 0.25, 0.25]] * 3))},
    ),
}


class TestHardCases:
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("case", HARD_CASES)
    @by_engine
    def test_agree_with_fifty_digits(self, xp, engine, case, dtype):
        query, key, value, options = HARD_CASES[case]
        arrays = [asarray(xp, x, dtype) for x in (query, key, value)]
        given = {
            name: asarray(xp, x, dtype) if isinstance(x, np.ndarray) else x
            for name, x in options.items()
        }
        rounded = {n: to_numpy(x) if hasattr(x, "shape") else x for n, x in given.items()}
        exact = oracle_mpmath(*map(to_numpy, arrays), **rounded)

        out, lse = af.attention_with_lse(*arrays, **given, engine=engine)

        # An error of the logits, which is relative to them, is one of the weights.
        query, key = (np.abs(to_numpy(x)).astype(float) for x in arrays[:2])
        size = (query * options.get("scale", 0.7)) @ np.swapaxes(key, -1, -2)
        size = min(size.max(), options.get("softcap", math.inf))
        tolerance = 8 * EPS[dtype] * max(1.0, size)
        greatest = np.abs(to_numpy(arrays[2])).max()
        assert np.isfinite(exact.out).all()
        np.testing.assert_allclose(to_numpy(out), exact.out, rtol=0, atol=tolerance * greatest)
        np.testing.assert_allclose(
            to_numpy(lse), exact.lse, rtol=8 * EPS[dtype], atol=tolerance
        )

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_have_weights_that_are_normal_and_sum_to_one(self, xp, dtype):
        for query, key, _, options in HARD_CASES.values():
            given = {
                name: asarray(xp, x, dtype) if isinstance(x, np.ndarray) else x
                for name, x in options.items()
            }
            arrays = [asarray(xp, x, dtype) for x in (query, key)]

            weights = to_numpy(af.attention_weights(*arrays, **given))

            total = weights.sum(-1)
            assert ((weights >= 0) & (weights <= 1)).all()
            if "sinks" not in options:
                is_one = np.abs(total - 1) <= 4 * EPS[dtype]
                assert (is_one | (total == 0)).all()

    def test_do_not_lose_the_digits_of_weights_where_the_lse_is_great(self, xp):
        """exp(s - lse) would: at an lse of 1e6, float32 has no digit behind the point left."""
        query = asarray(xp, np.asarray([[[1e6, 1.0]]]), "float32")
        key = asarray(xp, np.asarray([[[1.0, 0.0], [1.0, 0.5], [1.0, 0.25]]]), "float32")

        weights = to_numpy(af.attention_weights(query, key, scale=1.0))

        scores = to_numpy(af.attention_scores(query, key, scale=1.0)).astype(float)
        expected = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        np.testing.assert_allclose(weights, expected, rtol=1e-6)


class TestOracle:
    """Loops in float64 with exactly rounded sums are as good as 50 digits, to float64's rounding."""

    @pytest.mark.libraries("numpy", reason="no library takes part")
    @pytest.mark.parametrize(
        "names",
        [(), ("softcap", "sinks_per_head"), ("mask_full", "bias_full", "dropout")],
        ids="-".join,
    )
    def test_agrees_with_itself_in_fifty_digits(self, xp, names):
        shapes = Shapes((2, 4, 3, 5), (2, 2, 4, 5), (2, 2, 4, 6))
        options = options_of(xp, shapes, names)

        result = oracle(*arrays_of(xp, shapes), **options)

        exact = oracle_mpmath(*arrays_of(xp, shapes), **options)
        for x, e in zip(result, exact, strict=True):
            np.testing.assert_allclose(x, e, rtol=1e-14, atol=1e-15)

    @pytest.mark.libraries("numpy", reason="no library takes part")
    def test_of_fifty_digits_has_them(self, xp):
        """Weights 1/(1 + e) and e/(1 + e), from the series of e."""
        query, key = np.asarray([[1.0]]), np.asarray([[0.0], [1.0]])

        _, lse, weights = oracle_mpmath(query, key, None, scale=1.0)

        e = sum(1 / math.factorial(n) for n in range(20))
        np.testing.assert_allclose(weights, [[1 / (1 + e), e / (1 + e)]], rtol=1e-15)
        assert_agrees(lse, [math.log(1 + e)])


@pytest.mark.libraries("numpy", reason="only there is a peak near 0 left where it is")
class TestRowsNearZero:
    @pytest.mark.parametrize("peak", [0.0, 39.0, -39.0, 41.0, -41.0, 1000.0])
    @pytest.mark.parametrize("hides", [False, True], ids=["whole", "masked"])
    def test_have_weights_as_exact_as_all_others(self, xp, peak, hides):
        query = np.asarray([[[peak], [1.0], [0.5]]], np.float32)
        key = np.asarray([[[1.0], [0.9], [0.75]]], np.float32)
        mask = np.asarray([[True, True, True], [False] * 3, [True, False, True]])
        mask = mask if hides else np.ones((3, 3), bool)

        scores = np.where(mask, query.astype(float) @ key.astype(float).mT, -np.inf)
        weights = np.exp(scores - np.where(mask.any(-1), scores.max(-1), 0.0)[..., None])
        total = weights.sum(-1, keepdims=True)
        expected = weights / np.where(total == 0, 1.0, total)

        found = af.attention(
            query, key, np.eye(3, dtype=np.float32)[None], mask=mask, scale=1.0
        )

        np.testing.assert_allclose(found, expected, rtol=1e-6 * max(1.0, abs(peak)), atol=1e-37)
