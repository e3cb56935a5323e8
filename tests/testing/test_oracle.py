"""The oracle is right: beside plain loops that share nothing with it, and beside attention."""

import math
import subprocess
import sys

import mpmath
import numpy as np
import oracle as loops
import pytest
from problems import (
    ALL_ARRAYS,
    ALL_FUNCTIONS,
    OPTIONS,
    SHAPES,
    Shapes,
    arrays_of,
    assert_agrees,
    options_of,
    shape_params,
)
from support import asarray, to_numpy, x64

import attnfn as af
from attnfn.testing import oracle, oracle_vjp, oracle_weights, oracle_with_lse

SMALL = Shapes((2, 4, 3, 4), (2, 2, 5, 4), (2, 2, 5, 3))
SQUARE = Shapes((2, 4, 5, 4), (2, 2, 5, 4), (2, 2, 5, 3))
CLOSED = [name for name in OPTIONS if "score_mod" not in name]


def growing_rows(shapes=SMALL):
    """A bool mask whose first row is empty and whose last is full."""
    mask = np.arange(shapes.q_len)[:, None] * 2 > np.arange(shapes.kv_len)
    mask[-1] = True
    return mask


def assert_is_oracle(shapes, names):
    given, options = arrays_of(np, shapes), options_of(np, shapes, names)

    out, lse = oracle_with_lse(*given, **options)

    expected = loops.oracle(*given, **options)
    assert_agrees(out, expected.out)
    assert_agrees(lse, expected.lse)


class TestOracle:
    @pytest.mark.parametrize("option", OPTIONS)
    @pytest.mark.parametrize("shapes", shape_params("distinct", "plain", "one_query_head"))
    def test_agrees_with_plain_loops(self, shapes, option):
        assert_is_oracle(SHAPES[shapes], (option,))

    @pytest.mark.parametrize("names", [ALL_ARRAYS, ALL_FUNCTIONS], ids=["arrays", "functions"])
    @pytest.mark.parametrize("shapes", shape_params())
    def test_agrees_with_plain_loops_on_all_options_at_once(self, shapes, names):
        assert_is_oracle(SHAPES[shapes], names)

    @pytest.mark.parametrize("names", [ALL_ARRAYS, ALL_FUNCTIONS], ids=["arrays", "functions"])
    def test_agrees_with_attention_on_every_library(self, xp, names):
        given, options = arrays_of(xp, SQUARE), options_of(xp, SQUARE, names)

        assert_agrees(af.attention(*given, **options), oracle(*given, **options))

    @pytest.mark.parametrize("axis", ["batch", "heads", "q_len", "kv_len", "value_dim"])
    @pytest.mark.parametrize("sinks", [None, 0.5])
    def test_is_zero_or_empty_where_a_length_is_0(self, axis, sinks):
        sizes = {"batch": 2, "heads": 3, "q_len": 4, "kv_len": 5, "value_dim": 6} | {axis: 0}
        batch, heads, q_len, kv_len, value_dim = sizes.values()
        given = (
            np.ones((batch, heads, q_len, 2)),
            np.ones((batch, heads, kv_len, 2)),
            np.ones((batch, heads, kv_len, value_dim)),
        )

        out, lse = oracle_with_lse(*given, sinks=sinks)

        assert out.shape == (batch, heads, q_len, value_dim)
        assert lse.shape == (batch, heads, q_len)
        if axis == "kv_len":
            assert (out == 0).all()
            assert (lse == (-math.inf if sinks is None else sinks)).all()

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("which", range(3), ids=["query", "key", "value"])
    @pytest.mark.parametrize("softcap", [None, 2.0])
    def test_gives_nan_to_rows_that_may_see_it_and_to_no_other(self, which, bad, softcap):
        given = list(arrays_of(np, SMALL))
        given[which][:, :, 1, 0] = bad
        options = {"mask": growing_rows(), "softcap": softcap}

        out, lse = oracle_with_lse(*given, **options)

        expected = loops.oracle(*given, **options)
        assert_agrees(out, expected.out)
        assert_agrees(lse, expected.lse)
        assert np.isnan(out).any()
        assert np.isfinite(out).any()

    @pytest.mark.parametrize("softcap", [None, 2.0])
    def test_hides_the_key_where_a_score_mod_returns_minus_inf(self, softcap):
        allowed = growing_rows()
        given = arrays_of(np, SMALL)

        def score_mod(scores, q_pos, kv_pos):
            return np.where(allowed[q_pos, kv_pos], scores, -math.inf)

        out = oracle(*given, score_mod=score_mod, softcap=softcap, q_offset=0)

        assert_agrees(out, oracle(*given, mask=allowed, softcap=softcap))
        assert (out[:, :, 0] == 0).all()

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
    @pytest.mark.libraries("torch", "jax", reason="NumPy and strict have no bfloat16")
    def test_takes_every_dtype_as_exactly_the_numbers_it_holds(self, xp, dtype):
        given = arrays_of(xp, SMALL, dtype)

        out = oracle(*given)

        assert out.dtype == np.float64
        assert_agrees(out, oracle(*arrays_of(np, SMALL)))

    def test_takes_tensors_that_want_a_gradient(self):
        torch = pytest.importorskip("torch")
        given = [torch.from_numpy(x).requires_grad_() for x in arrays_of(np, SMALL)]

        assert_agrees(oracle(*given), oracle(*arrays_of(np, SMALL)))

    @pytest.mark.free_axes
    def test_takes_nested_lists(self):
        out = oracle([[0, 0]], [[1, 2], [3, 4]], [[1], [2]], mask=[True, True])

        assert out.tolist() == [[1.5]]

    @pytest.mark.libraries("array_api_strict", reason="it has devices on every machine")
    def test_takes_arrays_of_any_device(self, xp):
        given = arrays_of(xp, SMALL, device=xp.Device("device1"))

        def bias(q_pos, kv_pos):
            assert q_pos.device == xp.Device("device1")
            return xp.astype(kv_pos - q_pos, xp.float64)

        out = oracle(*given, bias=bias, q_offset=0)

        assert_agrees(out, loops.oracle(*arrays_of(np, SMALL), bias=lambda p, j: j - p).out)

    @pytest.mark.libraries("jax", reason="its float64 has to be switched on")
    def test_calls_a_score_mod_in_float64_whatever_the_query_is(self, xp):
        given = arrays_of(xp, SMALL, "float32")
        seen = []

        def score_mod(scores, q_pos, kv_pos):
            seen.append(str(scores.dtype))
            return scores * 3

        with x64(False):
            out = oracle(*given, score_mod=score_mod, q_offset=0)

        assert seen == ["float64"]
        assert_agrees(out, oracle(*arrays_of(np, SMALL), scale=3 / 2))


class TestDigits:
    @pytest.mark.parametrize(
        "names", [("causal", "bias_matrix", "softcap", "sinks_per_head"), ALL_ARRAYS]
    )
    def test_agree_with_plain_loops_in_as_many(self, names):
        given, options = arrays_of(np, SQUARE), options_of(np, SQUARE, names)

        out, lse = oracle_with_lse(*given, **options, digits=50)

        expected = loops.oracle_mpmath(*given, **options)
        assert_agrees(out.astype(float), expected.out)
        assert_agrees(lse.astype(float), expected.lse)

    @pytest.mark.free_axes
    @pytest.mark.parametrize("digits", [20, 50, 200])
    def test_are_as_many_as_asked_for(self, digits):
        query, key, value = np.ones((1, 3)), np.ones((3, 3)), np.eye(3)

        out, lse = oracle_with_lse(query, key, value, digits=digits)

        with mpmath.workdps(digits + 5):
            unit = mpmath.mpf(10) ** -digits
            assert 0 < abs(out[0, 0] - mpmath.mpf(1) / 3) < 10 * unit
            assert abs(lse[0] - mpmath.sqrt(3) - mpmath.log(3)) < 10 * unit

    def test_reach_the_gradients(self):
        given, options = arrays_of(np, SMALL), {"softcap": 2.0, "sinks": 0.5}
        d_out = np.ones((*SMALL.scores[:-1], 3))

        found = oracle_vjp(*given, d_out, **options, digits=40)

        for x, expected in zip(found, oracle_vjp(*given, d_out, **options), strict=True):
            if np.shape(expected) != (0,):
                assert_agrees(np.asarray(x).astype(float), expected)
        assert isinstance(found.query[0, 0, 0, 0], mpmath.mpf)

    def test_keep_the_corners(self):
        given = list(arrays_of(np, SMALL))
        given[1][:, :, 1, 0] = math.nan
        options = {"mask": growing_rows()}

        out, lse = oracle_with_lse(*given, **options, digits=20)

        expected = oracle_with_lse(*given, **options)
        with np.errstate(invalid="ignore"):  # NumPy 2.1 warns of a NaN that becomes a float
            out, lse = out.astype(float), lse.astype(float)
        assert_agrees(out, expected[0])
        assert_agrees(lse, expected[1])

    @pytest.mark.errors
    def test_must_be_a_number_of_them(self):
        x = np.ones((1, 1))

        with pytest.raises(TypeError, match=r"^`digits` must be an int; got 1\.5\.$"):
            oracle(x, x, x, digits=1.5)


class TestWeights:
    @pytest.mark.parametrize("option", ["mask_full", "bias_of_minus_inf", "sinks_per_head"])
    def test_agree_with_plain_loops(self, option):
        given, options = arrays_of(np, SMALL), options_of(np, SMALL, (option,))

        weights = oracle_weights(*given[:2], **options)

        assert_agrees(weights, loops.oracle(*given[:2], None, **options).weights)


class TestVjp:
    @pytest.mark.parametrize("option", CLOSED)
    @pytest.mark.parametrize("shapes", shape_params("distinct", "headless_key", "plain"))
    def test_agrees_with_plain_loops(self, shapes, option):
        shapes = SHAPES[shapes]
        given, options = arrays_of(np, shapes), options_of(np, shapes, (option,))
        rng = np.random.default_rng(3)
        d_lse = rng.normal(size=shapes.scores[:-1])
        d_out = rng.normal(size=(*d_lse.shape, shapes.value[-1]))

        found = oracle_vjp(*given, d_out, d_lse=d_lse, **options)

        expected = loops.oracle_gradients(*given, d_out, d_lse, **options)
        for name, x in found._asdict().items():
            wanted = getattr(expected, name)
            if wanted is None:
                assert x == ()
            else:
                assert_agrees(x, wanted)

    def test_agrees_with_attention_vjp_on_every_library(self, xp):
        names = [name for name in ALL_ARRAYS if name in CLOSED]
        given, options = arrays_of(xp, SQUARE), options_of(xp, SQUARE, names)
        d_out = asarray(xp, np.random.default_rng(3).normal(size=(2, 4, 5, 3)))

        found = oracle_vjp(*given, d_out, **options)

        for x, expected in zip(found, af.attention_vjp(*given, d_out, **options), strict=True):
            assert_agrees(to_numpy(expected), x)

    @pytest.mark.parametrize("which", range(3), ids=["query", "key", "value"])
    def test_passes_nothing_through_rows_that_are_nan_or_empty(self, which):
        given = list(arrays_of(np, SMALL))
        given[which][:, :, 1, 0] = math.nan
        options = {"mask": growing_rows(), "sinks": 0.5}
        d_lse = np.ones((2, 4, 3))

        found = oracle_vjp(*given, np.ones((2, 4, 3, 3)), d_lse=d_lse, **options)

        expected = af.attention_vjp(*given, np.ones((2, 4, 3, 3)), d_lse=d_lse, **options)
        for x, wanted in zip(found, expected, strict=True):
            assert np.isfinite(x).all()
            if np.shape(x) != (0,):
                assert_agrees(x, wanted)

    @pytest.mark.errors
    def test_refuses_what_has_no_closed_form_and_wrong_shapes(self):
        x = np.ones((1, 2, 3))

        with pytest.raises(NotImplementedError, match=r"^`score_mod` must be None in oracle_v"):
            oracle_vjp(x, x, x, x, score_mod=lambda s, p, j: s)
        with pytest.raises(ValueError, match=r"^`d_out` must have shape"):
            oracle_vjp(x, x, x, np.ones((2, 3)))
        with pytest.raises(ValueError, match=r"^`d_lse` must have shape"):
            oracle_vjp(x, x, x, x, d_lse=np.ones((1, 3)))


@pytest.mark.errors
class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "error", "words"),
        [
            (
                {"mask": np.ones((4, 5))},
                TypeError,
                "`mask` must have a bool dtype; got float64.",
            ),
            ({"mask": np.ones((2, 3, 5), bool)}, ValueError, "`mask` must have"),
            ({"is_causal": True}, ValueError, "`is_causal` needs `q_offset` when"),
            ({"window_size": 3}, TypeError, "`window_size` must be"),
            ({"dropout_rate": 0.5}, ValueError, "`dropout_rate` needs"),
            ({"softcap": 0.0}, ValueError, "`softcap` must be positive"),
        ],
    )
    def test_are_those_of_attention(self, options, error, words):
        given = arrays_of(np, SMALL)

        with pytest.raises(error) as expected:
            af.attention(*given, **options)
        with pytest.raises(error) as found:
            oracle(*given, **options)

        assert str(found.value) == str(expected.value)
        assert str(found.value).startswith(words)

    def test_integers_are_no_queries(self):
        x = np.ones((2, 3), int)

        with pytest.raises(TypeError, match="`query` must have a real floating dtype; got int"):
            oracle(x, x, x)

    def test_what_says_how_to_compute_is_no_option(self):
        x = np.ones((2, 3))

        with pytest.raises(TypeError, match="has no option `engine`"):
            oracle_with_lse(x, x, x, engine="dense")


class TestImport:
    def test_needs_nothing_but_numpy(self):
        heavy = ["mpmath", "hypothesis", "pytest", "torch", "jax"]
        code = f"import attnfn.testing, sys; sys.exit(any(x in sys.modules for x in {heavy}))"

        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
