"""The corners where implementations differ, each with the answer decided here."""

import contextlib
import math
from functools import partial

import array_api_compat.numpy
import numpy as np
import pytest
from oracle import oracle, oracle_scores
from problems import (
    ALL_ARRAYS,
    ALL_FUNCTIONS,
    ENGINES,
    NAMED_ENGINES,
    SHAPES,
    Shapes,
    arrays_of,
    assert_agrees,
    gradients_of,
    options_of,
    under_jit,
)
from support import asarray, device_of, library_of, normal, to_numpy, x64

import attnfn as af

by_engine = pytest.mark.parametrize("engine", ENGINES)
by_named_engine = pytest.mark.parametrize("engine", NAMED_ENGINES)
differentiable = pytest.mark.libraries("torch", "jax", reason="the others do not differentiate")
with_halves = pytest.mark.libraries("numpy", "torch", "jax", reason="strict has no halves")

SQUARE = Shapes((2, 4, 4, 6), (2, 2, 4, 6), (2, 2, 4, 5))


def hidden(xp, allowed, number=-math.inf, dtype="float64"):
    """Return a bias that hides what is not allowed."""
    return asarray(xp, np.where(allowed, 0.0, number), dtype)


def loss_of(xp, query, key, value, **options):
    """Return a number in which every element of output and live lse has a weight of its own."""
    out, lse = af.attention_with_lse(query, key, value, **options)
    lse = xp.where(lse == -math.inf, 0.0, lse)
    return xp.sum(out * ramp(xp, out)) + xp.sum(lse * ramp(xp, lse))


def ramp(xp, like):
    shape = tuple(like.shape)
    return asarray(xp, np.linspace(-1, 2, math.prod(shape)).reshape(shape))


# Rows 0 and 3 of four may attend to nothing; rows 1 and 2 to something.
ALIVE = np.asarray([[0, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]], dtype=bool)


def alive_by_functions(xp):
    """Return ALIVE[p, j] computed from positions."""
    table = asarray(xp, ALIVE.astype("int64"))

    def alive(q_pos, kv_pos):
        rows, columns = (asarray(xp, np.arange(4)) for _ in range(2))
        is_row = xp.astype(q_pos == xp.reshape(rows, (1, 4)), xp.int64)
        is_column = xp.astype(xp.reshape(columns, (4, 1)) == kv_pos, xp.int64)
        return (is_row @ table @ is_column) > 0

    return alive


def _alive_bias_function(xp):
    alive = alive_by_functions(xp)
    zero = asarray(xp, np.zeros((1, 1)))
    return {"bias": lambda q_pos, kv_pos: xp.where(alive(q_pos, kv_pos), zero, -math.inf)}


def _alive_score_mod(xp):
    alive = alive_by_functions(xp)
    return {"score_mod": lambda s, q_pos, kv_pos: xp.where(alive(q_pos, kv_pos), s, -math.inf)}


#: Every way to leave a row with nothing.
CAUSES = {
    "mask": lambda xp: {"mask": asarray(xp, ALIVE)},
    "mask_of_everything": lambda xp: {"mask": asarray(xp, np.zeros(4, dtype=bool))},
    "mask_function": lambda xp: {"mask": alive_by_functions(xp)},
    "causal_before_the_keys": lambda xp: {"is_causal": True, "q_offset": -2},
    "window_past_the_keys": lambda xp: {"window_size": (1, None), "q_offset": 3},
    "window_before_the_keys": lambda xp: {"window_size": (None, 1), "q_offset": -3},
    "segments": lambda xp: {
        "segment_ids": (
            asarray(xp, np.asarray([5, 1, 2, 7])),
            asarray(xp, np.asarray([1, 1, 2, 3])),
        )
    },
    "bias": lambda xp: {"bias": hidden(xp, ALIVE)},
    "bias_function": _alive_bias_function,
    "score_mod": _alive_score_mod,
    "score_mod_and_softcap": lambda xp: _alive_score_mod(xp) | {"softcap": 2.0},
    "mask_and_bias_together": lambda xp: {
        "mask": asarray(xp, np.asarray([0, 1, 0, 1], dtype=bool)),
        "bias": hidden(xp, np.asarray([1, 0, 1, 0], dtype=bool)),
    },
}
by_cause = pytest.mark.parametrize("cause", CAUSES)


class TestRowWithNothingAllowed:
    @by_cause
    @by_engine
    def test_has_output_zero_and_lse_minus_infinity(self, xp, engine, cause):
        query, key, value = arrays_of(xp, SQUARE)
        plain = array_api_compat.numpy
        expected = oracle(*arrays_of(plain, SQUARE), **CAUSES[cause](plain))
        dead = expected.lse == -math.inf

        out, lse = af.attention_with_lse(query, key, value, **CAUSES[cause](xp), engine=engine)

        assert dead.any()
        assert np.array_equal(to_numpy(out)[dead], np.zeros_like(expected.out[dead]))
        assert_agrees(out, expected.out)
        assert_agrees(lse, expected.lse)

    @by_cause
    def test_has_weights_zero_and_scores_minus_infinity(self, xp, cause):
        query, key, _ = arrays_of(xp, SQUARE)
        plain = array_api_compat.numpy
        expected_key = arrays_of(plain, SQUARE)[:2]

        weights = af.attention_weights(query, key, **CAUSES[cause](xp))
        scores = af.attention_scores(query, key, **CAUSES[cause](xp))

        assert_agrees(weights, oracle(*expected_key, None, **CAUSES[cause](plain)).weights)
        assert_agrees(scores, oracle_scores(*expected_key, **CAUSES[cause](plain)))

    @by_cause
    def test_has_the_sink_alone_as_lse(self, xp, cause):
        query, key, value = arrays_of(xp, SQUARE)
        plain = array_api_compat.numpy
        expected = oracle(*arrays_of(plain, SQUARE), **CAUSES[cause](plain), sinks=0.75)
        dead = oracle(*arrays_of(plain, SQUARE), **CAUSES[cause](plain)).lse == -math.inf

        out, lse = af.attention_with_lse(query, key, value, **CAUSES[cause](xp), sinks=0.75)

        assert np.array_equal(to_numpy(lse)[dead], np.full(dead.sum(), 0.75))
        assert np.array_equal(to_numpy(out)[dead], np.zeros_like(expected.out[dead]))
        assert_agrees(out, expected.out)
        assert_agrees(lse, expected.lse)

    def test_has_lse_minus_infinity_under_a_sink_of_minus_infinity(self, xp):
        query, key, value = arrays_of(xp, SQUARE)
        mask = asarray(xp, ALIVE)

        out, lse = af.attention_with_lse(query, key, value, mask=mask, sinks=-math.inf)

        expected = oracle(*map(to_numpy, (query, key, value)), mask=ALIVE)
        assert_agrees(out, expected.out)
        assert_agrees(lse, expected.lse)

    @differentiable
    @by_cause
    @by_named_engine
    def test_has_gradients_zero(self, xp, engine, cause):
        arrays = arrays_of(xp, SQUARE)
        weights = af.attention_weights(*arrays[:2], **CAUSES[cause](xp))
        dead_rows = (to_numpy(weights) == 0).all(-1)
        unused_keys = (to_numpy(weights) == 0).all(-2).reshape(2, 2, 2, 4).all(2)

        gradients = gradients_of(
            xp, lambda *x: loss_of(xp, *x, **CAUSES[cause](xp), engine=engine), *arrays
        )

        d_query, d_key, d_value = map(to_numpy, gradients)
        assert all(np.isfinite(d).all() for d in (d_query, d_key, d_value))
        assert not d_query[dead_rows].any()
        assert not d_key[unused_keys].any()
        assert not d_value[unused_keys].any()

    @differentiable
    @by_cause
    def test_has_gradients_zero_even_where_its_own_lse_is_asked(self, xp, cause):
        arrays = arrays_of(xp, SQUARE)

        def loss_with_infinity(*x):
            out, lse = af.attention_with_lse(*x, **CAUSES[cause](xp))
            return xp.sum(out * ramp(xp, out)) + xp.sum(lse * ramp(xp, lse))

        actual = gradients_of(xp, loss_with_infinity, *arrays)

        expected = gradients_of(xp, lambda *x: loss_of(xp, *x, **CAUSES[cause](xp)), *arrays)
        for a, e in zip(actual, expected, strict=True):
            assert_agrees(a, to_numpy(e))

    @pytest.mark.libraries("numpy", reason="errstate is NumPy's")
    @by_cause
    def test_makes_no_warning(self, xp, cause):
        query, key, value = arrays_of(xp, SQUARE)

        with np.errstate(divide="raise", invalid="raise", over="raise"):
            out = af.attention(query, key, value, **CAUSES[cause](xp))

        assert np.isfinite(out).all()

    @pytest.mark.libraries("jax", reason="debug_nans is JAX's")
    @pytest.mark.parametrize("cause", ["mask", "bias", "score_mod_and_softcap"])
    def test_makes_no_nan_on_the_way(self, xp, cause):
        import jax

        arrays = arrays_of(xp, SQUARE)

        with jax.debug_nans(True):
            gradients = gradients_of(
                xp, lambda *x: loss_of(xp, *x, **CAUSES[cause](xp)), *arrays
            )

        assert all(np.isfinite(to_numpy(d)).all() for d in gradients)


#: One axis of length 0 each.
EMPTY = {
    "batch": Shapes((0, 4, 3, 6), (0, 2, 5, 6), (0, 2, 5, 7)),
    "heads": Shapes((2, 0, 3, 6), (2, 0, 5, 6), (2, 0, 5, 7)),
    "query_heads_over_one_kv_head": Shapes((2, 0, 3, 6), (2, 1, 5, 6), (2, 1, 5, 7)),
    "q_len": Shapes((2, 4, 0, 6), (2, 2, 5, 6), (2, 2, 5, 7)),
    "kv_len": Shapes((2, 4, 3, 6), (2, 2, 0, 6), (2, 2, 0, 7)),
    "q_len_and_kv_len": Shapes((2, 4, 0, 6), (2, 2, 0, 6), (2, 2, 0, 7)),
    "value_dim": Shapes((2, 4, 3, 6), (2, 2, 5, 6), (2, 2, 5, 0)),
    "head_dim": Shapes((2, 4, 3, 0), (2, 2, 5, 0), (2, 2, 5, 7)),
    "everything": Shapes((0, 0, 0, 0), (0, 0, 0, 0), (0, 0, 0, 0)),
}
by_empty_axis = pytest.mark.parametrize("axis", EMPTY)


class TestAxisOfLengthZero:
    @by_empty_axis
    @pytest.mark.parametrize(
        "names",
        [("scale",), ALL_ARRAYS, ALL_FUNCTIONS],
        ids=["plain", "arrays", "functions"],
    )
    @by_named_engine
    def test_gives_zeros_or_nothing_in_the_right_shape(self, xp, engine, axis, names):
        query, key, value = arrays_of(xp, EMPTY[axis])
        options = options_of(xp, EMPTY[axis], names)
        plain = array_api_compat.numpy
        expected = oracle(
            *arrays_of(plain, EMPTY[axis]), **options_of(plain, EMPTY[axis], names)
        )

        compute = under_jit(xp, partial(af.attention_with_lse, **options, engine=engine))
        out, lse = compute(query, key, value)

        assert_agrees(out, expected.out)
        assert_agrees(lse, expected.lse)
        assert out.dtype == query.dtype

    @by_empty_axis
    def test_gives_weights_and_scores_of_the_right_shape(self, xp, axis):
        query, key, _ = arrays_of(xp, EMPTY[axis])

        weights = under_jit(xp, partial(af.attention_weights, scale=0.5))(query, key)
        scores = under_jit(xp, partial(af.attention_scores, scale=0.5))(query, key)

        assert tuple(weights.shape) == tuple(scores.shape) == EMPTY[axis].scores

    def test_of_kv_len_is_an_empty_row(self, xp):
        query, key, value = arrays_of(xp, EMPTY["kv_len"])

        out, lse = af.attention_with_lse(query, key, value)

        assert np.array_equal(to_numpy(out), np.zeros((2, 4, 3, 7)))
        assert np.array_equal(to_numpy(lse), np.full((2, 4, 3), -math.inf))

    def test_of_head_dim_weighs_all_keys_the_same(self, xp):
        query, key, _ = arrays_of(xp, EMPTY["head_dim"])

        weights = af.attention_weights(query, key, scale=1.0)

        np.testing.assert_allclose(to_numpy(weights), np.full((2, 4, 3, 5), 0.2), rtol=1e-15)

    @pytest.mark.errors
    def test_of_head_dim_has_no_default_scale(self, xp):
        query, key, value = arrays_of(xp, EMPTY["head_dim"])

        with pytest.raises(ValueError, match="scale"):
            af.attention(query, key, value)

    @differentiable
    @by_empty_axis
    def test_has_gradients_of_the_right_shape(self, xp, axis):
        arrays = arrays_of(xp, EMPTY[axis])

        loss = under_jit(xp, lambda *x: loss_of(xp, *x, scale=0.5))
        gradients = gradients_of(xp, loss, *arrays)

        assert [tuple(d.shape) for d in gradients] == list(EMPTY[axis])
        assert all(np.isfinite(to_numpy(d)).all() for d in gradients)


# Keys 1 and 3 are seen by no query of SQUARE, or by those after them alone.
_NEITHER = np.asarray([1, 0, 1, 0], dtype=bool)
HIDERS = {
    "mask_of_keys": lambda xp: {"mask": asarray(xp, _NEITHER)},
    "mask_matrix": lambda xp: {"mask": asarray(xp, np.tile(_NEITHER, (4, 1)))},
    "mask_function": lambda xp: {"mask": lambda q_pos, kv_pos: (q_pos * 0 + kv_pos) % 2 == 0},
    "mask_and_bias": lambda xp: {
        "mask": asarray(xp, _NEITHER),
        "bias": asarray(xp, np.ones((4, 4))),
    },
    "mask_and_softcap": lambda xp: {"mask": asarray(xp, _NEITHER), "softcap": 2.0},
    "mask_and_score_mod": lambda xp: {
        "mask": asarray(xp, _NEITHER),
        "score_mod": lambda s, q_pos, kv_pos: s * s,
    },
    "mask_and_sink": lambda xp: {"mask": asarray(xp, _NEITHER), "sinks": 0.5},
    "mask_and_dropout": lambda xp: {
        "mask": asarray(xp, _NEITHER),
        "dropout_mask": asarray(xp, ALIVE),
        "dropout_rate": 0.5,
    },
    "segments": lambda xp: {
        "segment_ids": (
            asarray(xp, np.asarray([1, 2, 1, 2])),
            asarray(xp, np.asarray([1, 7, 2, 8])),
        )
    },
    "window": lambda xp: {"window_size": (0, 0), "mask": asarray(xp, _NEITHER)},
    "causal": lambda xp: {"is_causal": True},
    "causal_window": lambda xp: {"is_causal": True, "window_size": (1, 0)},
    "half_of_the_heads": lambda xp: {
        "mask": asarray(xp, np.asarray([_NEITHER] * 2 + [~_NEITHER] * 2).reshape(1, 4, 1, 4))
    },
}
by_hider = pytest.mark.parametrize("hider", HIDERS)
by_bad_number = pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=str)


def spoil(array, number, where=(1, 3)):
    """Return NumPy's copy with rows of the first batch entry and head replaced by `number`."""
    array = to_numpy(array)
    for row in where:
        array[0, 0, row, row % 2 :] = number  # the first column of row 3 remains
    return array


class TestNotFiniteKeysAndValues:
    @by_bad_number
    @by_hider
    @by_engine
    def test_reach_those_rows_alone_that_may_attend_to_them(self, xp, engine, hider, bad):
        query, key, value = arrays_of(array_api_compat.numpy, SQUARE)
        key, value = spoil(key, bad, where=[1]), spoil(value, bad, where=[3])
        expected = oracle(query, key, value, **HIDERS[hider](array_api_compat.numpy))

        out, lse = af.attention_with_lse(
            *(asarray(xp, x) for x in (query, key, value)), **HIDERS[hider](xp), engine=engine
        )

        assert np.isfinite(expected.out).any()
        assert_agrees(out, expected.out)
        assert_agrees(lse, expected.lse)

    @by_bad_number
    @by_hider
    def test_reach_those_weights_and_scores_alone_that_may_attend_to_them(self, xp, hider, bad):
        query, key, _ = arrays_of(array_api_compat.numpy, SQUARE)
        key = spoil(key, bad)
        plain = {
            n: x for n, x in HIDERS[hider](array_api_compat.numpy).items() if "drop" not in n
        }
        options = {n: x for n, x in HIDERS[hider](xp).items() if "drop" not in n}
        expected = oracle(query, key, None, **plain)
        arrays = [asarray(xp, x) for x in (query, key)]

        weights = af.attention_weights(*arrays, **options)
        plain.pop("sinks", None), options.pop("sinks", None)
        scores = af.attention_scores(*arrays, **options)

        assert_agrees(weights, expected.weights)
        assert_agrees(scores, oracle_scores(query, key, **plain))

    @by_bad_number
    @pytest.mark.parametrize("hider", [name for name in HIDERS if "mask_" in name])
    def test_change_no_bit_of_the_other_rows(self, xp, hider, bad):
        query, key, value = arrays_of(xp, SQUARE)
        bad_key, bad_value = (asarray(xp, spoil(x, bad)) for x in (key, value))

        actual = af.attention(query, bad_key, bad_value, **HIDERS[hider](xp))

        zero_key, zero_value = (asarray(xp, spoil(x, 0.0)) for x in (key, value))
        expected = af.attention(query, zero_key, zero_value, **HIDERS[hider](xp))
        assert np.array_equal(to_numpy(actual), to_numpy(expected))

    @differentiable
    @by_bad_number
    @pytest.mark.parametrize("hider", [name for name in HIDERS if "mask_" in name])
    @by_named_engine
    def test_change_no_gradient_where_hidden(self, xp, engine, hider, bad):
        query, key, value = arrays_of(xp, SQUARE)
        bad_key, bad_value = (asarray(xp, spoil(x, bad)) for x in (key, value))

        actual = gradients_of(
            xp,
            lambda *x: loss_of(xp, *x, **HIDERS[hider](xp), engine=engine),
            *(query, bad_key, bad_value),
        )

        expected = gradients_of(
            xp,
            lambda *x: loss_of(xp, *x, **HIDERS[hider](xp), engine=engine),
            query,
            key,
            value,
        )
        for a, e in zip(actual, expected, strict=True):
            assert_agrees(a, to_numpy(e))
        assert not to_numpy(actual[1])[:, :, [1, 3]].any()
        assert not to_numpy(actual[2])[:, :, [1, 3]].any()

    @differentiable
    @by_bad_number
    @pytest.mark.parametrize("where", ["key", "value"])
    def test_change_no_gradient_of_what_their_readers_do_not_touch(self, xp, where, bad):
        query, key, value = arrays_of(xp, SQUARE)
        options = {"segment_ids": asarray(xp, np.asarray([0, 0, 1, 1]))}
        spoilt = {"key": key, "value": value}
        spoilt[where] = asarray(xp, spoil(spoilt[where], bad, where=[1]))

        actual = gradients_of(
            xp, lambda *x: loss_of(xp, *x, **options), query, spoilt["key"], spoilt["value"]
        )

        expected = gradients_of(xp, lambda *x: loss_of(xp, *x, **options), query, key, value)
        for a, e in zip(map(to_numpy, actual), map(to_numpy, expected), strict=True):
            assert_agrees(a[:, :, 2:], e[:, :, 2:])  # the other segment
            assert_agrees(a[1], e[1])  # the other batch entry
            assert_agrees(a[:, -1], e[:, -1])  # the other head

    @differentiable
    def test_change_no_gradient_of_queries_that_precede_them(self, xp):
        query, key, value = arrays_of(xp, SQUARE)
        bad_key = asarray(xp, spoil(key, math.nan, where=[3]))

        d_query, *_ = gradients_of(
            xp, lambda *x: loss_of(xp, *x, is_causal=True), query, bad_key, value
        )

        expected, *_ = gradients_of(
            xp, lambda *x: loss_of(xp, *x, is_causal=True), query, key, value
        )
        assert_agrees(d_query[:, :, :3], to_numpy(expected)[:, :, :3])

    @pytest.mark.parametrize("where", ["key", "value"])
    def test_are_not_hidden_by_a_bias_of_minus_infinity(self, xp, where):
        query, key, value = arrays_of(xp, SQUARE)
        spoilt = {"key": key, "value": value}
        spoilt[where] = asarray(xp, spoil(spoilt[where], math.nan, where=[1]))

        out = af.attention(query, spoilt["key"], spoilt["value"], bias=hidden(xp, _NEITHER))

        assert np.isnan(to_numpy(out)[0, :2]).all()
        assert np.isfinite(to_numpy(out)[1:]).all()
        assert np.isfinite(to_numpy(out)[0, 2:]).all()

    def test_leave_the_lse_alone_where_the_value_is_bad(self, xp):
        query, key, value = arrays_of(xp, SQUARE)
        bad_value = asarray(xp, spoil(value, math.nan))

        out, lse = af.attention_with_lse(query, key, bad_value)

        assert np.isnan(to_numpy(out)[0, :2]).all()
        assert_agrees(lse, oracle(*map(to_numpy, (query, key, value))).lse)

    @pytest.mark.parametrize("great", [1e30, 1e300])
    def test_are_not_the_only_ones_kept_out(self, xp, great):
        query, key, value = arrays_of(xp, SQUARE)
        great_key, great_value = (asarray(xp, spoil(x, great)) for x in (key, value))
        mask = asarray(xp, _NEITHER)

        actual = af.attention(query, great_key, great_value, mask=mask)

        expected = af.attention(query, key, value, mask=mask)
        assert np.array_equal(to_numpy(actual), to_numpy(expected))

    @differentiable
    @pytest.mark.parametrize(
        "options",
        [{}, {"softcap": 2.0}, {"sinks": 0.5}, {"score_mod": lambda s, *_: s * s * s / 64}],
        ids=lambda options: "".join(options) or "plain",
    )
    @by_named_engine
    def test_are_not_the_only_ones_kept_out_of_gradients(self, xp, engine, options):
        """Finite numbers so great that their products with anything are not."""
        query, key, value = arrays_of(xp, SQUARE)
        great_key, great_value = (asarray(xp, spoil(x, 1e308)) for x in (key, value))
        options = {"mask": asarray(xp, _NEITHER), "engine": engine, **options}

        def loss(*arrays):
            return 1e10 * loss_of(xp, *arrays, **options)

        actual = gradients_of(xp, loss, query, great_key, great_value)

        expected = gradients_of(xp, loss, query, key, value)
        for a, e in zip(actual, expected, strict=True):
            assert_agrees(a, to_numpy(e))

    @by_bad_number
    def test_of_a_bias_do_not_matter_where_hidden(self, xp, bad):
        query, key, value = arrays_of(xp, SQUARE)
        bias = asarray(xp, np.where(_NEITHER, 0.5, bad))
        mask = asarray(xp, _NEITHER)

        out, lse = af.attention_with_lse(query, key, value, mask=mask, bias=bias)

        expected = oracle(
            *map(to_numpy, (query, key, value)), mask=_NEITHER, bias=np.full(4, 0.5)
        )
        assert_agrees(out, expected.out)
        assert_agrees(lse, expected.lse)


class TestNotFiniteQuery:
    @by_bad_number
    def test_spoils_its_own_row_alone(self, xp, bad):
        query, key, value = arrays_of(xp, SQUARE)
        bad_query = asarray(xp, spoil(query, bad, where=[1]))

        out, lse = af.attention_with_lse(bad_query, key, value, is_causal=True)

        expected = oracle(*map(to_numpy, (bad_query, key, value)), is_causal=True)
        assert np.isnan(expected.out).sum() == value.shape[-1]
        assert_agrees(out, expected.out)
        assert_agrees(lse, expected.lse)

    @by_bad_number
    def test_changes_nothing_in_an_empty_row(self, xp, bad):
        query, key, value = arrays_of(xp, SQUARE)
        bad_query = asarray(xp, spoil(query, bad, where=[0, 3]))
        mask = asarray(xp, ALIVE)

        out, lse = af.attention_with_lse(bad_query, key, value, mask=mask)

        expected = oracle(*map(to_numpy, (query, key, value)), mask=ALIVE)
        assert_agrees(out, expected.out)
        assert_agrees(lse, expected.lse)

    @differentiable
    @by_bad_number
    @by_named_engine
    def test_changes_no_gradient_in_an_empty_row(self, xp, engine, bad):
        query, key, value = arrays_of(xp, SQUARE)
        bad_query = asarray(xp, spoil(query, bad, where=[0, 3]))
        options = {"mask": asarray(xp, ALIVE), "engine": engine}

        actual = gradients_of(xp, lambda *x: loss_of(xp, *x, **options), bad_query, key, value)

        expected = gradients_of(xp, lambda *x: loss_of(xp, *x, **options), query, key, value)
        for a, e in zip(actual, expected, strict=True):
            assert_agrees(a, to_numpy(e))


def _hide_by_bias(xp):
    return {"bias": hidden(xp, ALIVE)}


def _hide_by_score_mod(xp):
    bias = xp.reshape(hidden(xp, ALIVE), (-1,))

    def score_mod(scores, q_pos, kv_pos):
        at = q_pos * ALIVE.shape[1] + kv_pos
        return scores + xp.reshape(xp.take(bias, xp.reshape(at, (-1,))), at.shape)

    return {"score_mod": score_mod}


def _hide_by_score_mod_below_softcap(xp):
    return _hide_by_score_mod(xp) | {"softcap": 1.5}


def _hide_by_bias_above_softcap(xp):
    return _hide_by_bias(xp) | {"softcap": 1.5}


class TestMinusInfinity:
    """In a bias, or returned by a function of the scores, it hides a key as a mask does."""

    HIDERS = (
        (_hide_by_bias, {}),
        (_hide_by_score_mod, {}),
        (_hide_by_score_mod_below_softcap, {"softcap": 1.5}),
        (_hide_by_bias_above_softcap, {"softcap": 1.5}),
    )
    by_hider = pytest.mark.parametrize(("hide", "others"), HIDERS)

    @by_hider
    @by_engine
    def test_gives_what_a_mask_gives(self, xp, engine, hide, others):
        query, key, value = arrays_of(xp, SQUARE)

        out, lse = af.attention_with_lse(query, key, value, **hide(xp), engine=engine)

        expected = oracle(*map(to_numpy, (query, key, value)), mask=ALIVE, **others)
        assert_agrees(out, expected.out)
        assert_agrees(lse, expected.lse)

    @by_hider
    def test_gives_weights_of_exactly_zero(self, xp, hide, others):
        query, key, _ = arrays_of(xp, SQUARE)

        weights = af.attention_weights(query, key, **hide(xp))

        assert not to_numpy(weights)[..., ~ALIVE].any()

    @differentiable
    @by_hider
    @by_named_engine
    def test_gives_the_gradients_of_a_mask(self, xp, engine, hide, others):
        arrays = arrays_of(xp, SQUARE)

        actual = gradients_of(
            xp, lambda *x: loss_of(xp, *x, **hide(xp), engine=engine), *arrays
        )

        masked = {"mask": asarray(xp, ALIVE), **others}
        expected = gradients_of(
            xp, lambda *x: loss_of(xp, *x, **masked, engine=engine), *arrays
        )
        for a, e in zip(actual, expected, strict=True):
            assert_agrees(a, to_numpy(e))

    @differentiable
    @by_named_engine
    def test_has_gradient_zero_itself(self, xp, engine):
        query, key, value = arrays_of(xp, SQUARE)

        (d_bias,) = gradients_of(
            xp,
            lambda bias: loss_of(xp, query, key, value, bias=bias, engine=engine),
            hidden(xp, ALIVE),
        )

        assert np.isfinite(to_numpy(d_bias)).all()
        assert not to_numpy(d_bias)[~ALIVE].any()
        assert to_numpy(d_bias)[ALIVE].all()


class TestGreatLogits:
    @with_halves
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    @by_engine
    def test_of_halves_do_not_overflow(self, xp, engine, dtype):
        if library_of(xp) == "numpy" and dtype == "bfloat16":
            dtype = "float16"  # NumPy has one half
        query = normal(xp, 2, 3, 4, dtype=dtype) * 12000
        key, value = (
            normal(xp, 2, 5, 4, seed=1, dtype=dtype) * 12000,
            normal(xp, 2, 5, 3, dtype=dtype),
        )

        out, lse = af.attention_with_lse(query, key, value, engine=engine)

        expected = oracle(*map(to_numpy, (query, key, value)))
        np.testing.assert_allclose(to_numpy(out), expected.out, rtol=4e-3, atol=4e-3)
        np.testing.assert_allclose(to_numpy(lse), expected.lse, rtol=1e-5)
        assert np.abs(expected.lse).max() > 65504

    GREATEST = (("float32", 1.6e38), ("float64", 0.8e308))

    @pytest.mark.parametrize(("dtype", "great"), GREATEST)
    @by_engine
    def test_up_to_half_the_limit_do_not_overflow(self, xp, engine, dtype, great):
        query, key, value = self.problem(xp, dtype, great)

        out, lse = af.attention_with_lse(query, key, value, scale=1.0, engine=engine)

        np.testing.assert_array_equal(to_numpy(out), [[[1, 2], [3, 4], [1, 2]]])
        np.testing.assert_allclose(to_numpy(lse), [[great, great, great / 2]], rtol=1e-6)

    # Two logits this far apart have no difference: NumPy says so, and the result is right.
    @pytest.mark.filterwarnings("ignore:overflow encountered in subtract:RuntimeWarning")
    @pytest.mark.parametrize(("dtype", "great"), [("float32", 3.3e38), ("float64", 1.7e308)])
    @by_engine
    def test_up_to_the_limit_give_the_right_result(self, xp, engine, dtype, great):
        query, key, value = self.problem(xp, dtype, great)

        out, lse = af.attention_with_lse(query, key, value, scale=1.0, engine=engine)

        np.testing.assert_array_equal(to_numpy(out), [[[1, 2], [3, 4], [1, 2]]])
        np.testing.assert_allclose(to_numpy(lse), [[great, great, great / 2]], rtol=1e-6)

    def problem(self, xp, dtype, great):
        query = asarray(xp, np.asarray([[[1.0], [-1.0], [0.5]]]), dtype)
        key = asarray(xp, np.asarray([[[great], [-great], [0.0]]]), dtype)
        value = asarray(xp, np.asarray([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]]), dtype)
        return query, key, value

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_need_room_after_the_scale_alone(self, xp, dtype):
        great = {"float32": 1e25, "float64": 1e200}[dtype]
        query, key, value = (normal(xp, 2, 3, 4, seed=seed, dtype=dtype) for seed in range(3))

        query, key = query * great, key * great

        out = af.attention(query, key, value, scale=1 / great)

        expected = oracle(*map(to_numpy, (query, key, value)), scale=1 / great)
        np.testing.assert_allclose(to_numpy(out), expected.out, rtol=1e-5, atol=1e-5)

    @differentiable
    @by_named_engine
    def test_have_finite_gradients(self, xp, engine):
        query, key, value = (normal(xp, 2, 3, 4, seed=seed) for seed in range(3))

        gradients = gradients_of(
            xp, lambda *x: loss_of(xp, *x, engine=engine), query * 1e100, key * 1e100, value
        )

        assert all(np.isfinite(to_numpy(d)).all() for d in gradients)

    @differentiable
    def test_have_finite_gradients_below_a_softcap(self, xp):
        query, key, value = (normal(xp, 2, 3, 4, seed=seed) for seed in range(3))

        gradients = gradients_of(
            xp, lambda *x: loss_of(xp, *x, softcap=5.0), query * 1e100, key * 1e100, value
        )

        assert all(np.isfinite(to_numpy(d)).all() for d in gradients)


class Recorder:
    """A function of positions that remembers what it was asked."""

    def __init__(self, answer):
        self.answer, self.calls = answer, []

    def __call__(self, *arguments):
        self.calls.append(arguments)
        return self.answer(*arguments)

    def pairs(self):
        """Return every (row, column) that was asked, of any batch entry."""
        asked = set()
        for *_, q_pos, kv_pos in self.calls:
            rows, columns = np.unique(to_numpy(q_pos)), np.unique(to_numpy(kv_pos))
            asked |= {(int(i), int(j)) for i in rows for j in columns}
        return asked


def _record(xp, argument):
    """Return a recorder for an argument and the options that carry it."""
    if argument == "score_mod":
        recorder = Recorder(lambda s, q_pos, kv_pos: s * 1.0)
    elif argument == "bias":
        recorder = Recorder(lambda q_pos, kv_pos: xp.astype(q_pos - kv_pos, xp.float64))
    else:
        recorder = Recorder(lambda q_pos, kv_pos: q_pos >= kv_pos)
    options = {argument: recorder}
    if argument == "dropout_mask":
        options["dropout_rate"] = 0.5
    return recorder, options


by_function = pytest.mark.parametrize("argument", ["mask", "bias", "dropout_mask", "score_mod"])


class TestFunctions:
    @by_function
    @by_engine
    def test_get_positions_with_two_axes(self, xp, engine, argument):
        query, key, value = arrays_of(xp, SHAPES["distinct"])
        recorder, options = _record(xp, argument)

        af.attention(query, key, value, **options, q_offset=2, engine=engine)

        for *_, q_pos, kv_pos in recorder.calls:
            assert (q_pos.ndim, q_pos.shape[1]) == (2, 1)
            assert (kv_pos.ndim, kv_pos.shape[0]) == (2, 1)
        assert recorder.pairs() >= {(i + 2, j) for i in range(5) for j in range(7)}

    @by_function
    @by_engine
    def test_get_positions_with_batch_axes_where_the_offset_has_them(
        self, xp, engine, argument
    ):
        query, key, value = arrays_of(xp, SHAPES["distinct"])
        recorder, options = _record(xp, argument)
        q_offset = asarray(xp, np.asarray([-4, 0, 9]))

        af.attention(query, key, value, **options, q_offset=q_offset, engine=engine)

        for *_, q_pos, kv_pos in recorder.calls:
            assert (*q_pos.shape[:2], q_pos.shape[3]) == (3, 1, 1)
            assert (kv_pos.ndim, kv_pos.shape[0]) == (2, 1)
        asked = recorder.pairs()
        assert asked >= {(i + o, j) for i in range(5) for o in (-4, 0, 9) for j in range(7)}

    @by_function
    @pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
    def test_get_positions_of_one_signed_integer_dtype(self, xp, argument, dtype):
        query, key, value = arrays_of(xp, SHAPES["distinct"])
        recorder, options = _record(xp, argument)
        q_offset = asarray(xp, np.asarray(2), dtype)

        af.attention(query, key, value, **options, q_offset=q_offset)

        for *_, q_pos, kv_pos in recorder.calls:
            assert q_pos.dtype == kv_pos.dtype
            assert q_pos.dtype in (xp.int32, xp.int64)

    @by_function
    @pytest.mark.libraries("array_api_strict", reason="the others have one device here")
    def test_get_positions_on_the_device_of_the_query(self, xp, argument):
        device = xp.Device("device1")
        query, key, value = arrays_of(xp, SHAPES["distinct"], device=device)
        recorder, options = _record(xp, argument)

        af.attention(query, key, value, **options, q_offset=0)

        for *_, q_pos, kv_pos in recorder.calls:
            assert device_of(q_pos) == device_of(kv_pos) == device

    @by_engine
    def test_of_the_scores_get_every_batch_entry_and_head(self, xp, engine):
        query, key, value = arrays_of(xp, SHAPES["distinct"], "float32")
        recorder, options = _record(xp, "score_mod")

        af.attention(query, key, value, **options, q_offset=0, engine=engine)

        for scores, q_pos, kv_pos in recorder.calls:
            assert tuple(scores.shape) == (3, 8, q_pos.shape[-2], kv_pos.shape[-1])
            assert scores.dtype == xp.float32

    @with_halves
    def test_of_the_scores_get_the_compute_dtype(self, xp):
        query, key, value = arrays_of(xp, SHAPES["one_head"], "float16")
        recorder, options = _record(xp, "score_mod")

        af.attention(query, key, value, **options)

        assert all(scores.dtype == xp.float32 for scores, *_ in recorder.calls)

    @pytest.mark.parametrize("argument", ["mask", "bias", "score_mod"])
    def test_are_called_for_weights_too(self, xp, argument):
        query, key, _ = arrays_of(xp, SHAPES["distinct"])
        recorder, options = _record(xp, argument)

        af.attention_weights(query, key, **options, q_offset=0)

        assert recorder.pairs() >= {(i, j) for i in range(5) for j in range(7)}

    @by_engine
    def test_may_return_one_column_or_one_row(self, xp, engine):
        query, key, value = arrays_of(xp, SQUARE)

        actual = af.attention(
            query,
            key,
            value,
            mask=lambda q_pos, kv_pos: kv_pos != 1,
            bias=lambda q_pos, kv_pos: xp.astype(kv_pos, xp.float64) / 2,
            dropout_mask=lambda q_pos, kv_pos: q_pos != 2,
            dropout_rate=0.5,
            engine=engine,
        )

        expected = oracle(
            *map(to_numpy, (query, key, value)),
            mask=np.arange(4) != 1,
            bias=np.arange(4) / 2,
            dropout_mask=(np.arange(4) != 2)[:, None],
            dropout_rate=0.5,
        )
        assert_agrees(actual, expected.out)

    @by_engine
    def test_decide_at_each_pair_alone(self, xp, engine):
        """A function that answers for one row and column at a time is as good as any."""
        query, key, value = arrays_of(xp, SQUARE)
        allowed = np.random.default_rng(5).random((4, 4)) < 0.6

        actual = af.attention(query, key, value, mask=_lookup(xp, allowed), engine=engine)

        assert_agrees(actual, oracle(*map(to_numpy, (query, key, value)), mask=allowed).out)


def _lookup(xp, allowed):
    """Return the function of positions that reads a table, whatever positions are asked."""
    table = asarray(xp, allowed.reshape(-1))

    def look_up(q_pos, kv_pos):
        places = q_pos * allowed.shape[1] + kv_pos
        return xp.reshape(xp.take(table, xp.reshape(places, (-1,)), axis=0), places.shape)

    return look_up


class TestQOffset:
    OFFSETS = (-100, -3, -1, 0, 1, 2, 5, 1000, 2**30)

    @pytest.mark.parametrize("offset", OFFSETS)
    @by_engine
    def test_places_the_queries_anywhere(self, xp, engine, offset):
        query, key, value = arrays_of(xp, SHAPES["distinct"])
        options = {"window_size": (3, 1), "q_offset": offset}

        out, lse = af.attention_with_lse(query, key, value, **options, engine=engine)

        expected = oracle(*map(to_numpy, (query, key, value)), **options)
        assert_agrees(out, expected.out)
        assert_agrees(lse, expected.lse)

    @pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "int64"])
    @pytest.mark.parametrize("is_per_batch", [False, True])
    def test_may_have_any_integer_dtype(self, xp, dtype, is_per_batch):
        query, key, value = arrays_of(xp, SHAPES["distinct"])
        offset = np.asarray([0, 1, 100] if is_per_batch else 0)
        q_offset = asarray(xp, offset, dtype)
        options = {"window_size": (3, None)}

        actual = af.attention(query, key, value, **options, q_offset=q_offset)

        expected = oracle(*map(to_numpy, (query, key, value)), **options, q_offset=offset)
        assert_agrees(actual, expected.out)

    def test_may_be_an_array_without_axes(self, xp):
        query, key, value = arrays_of(xp, SHAPES["distinct"])

        actual = af.attention(
            query, key, value, is_causal=True, q_offset=asarray(xp, np.asarray(1))
        )

        expected = af.attention(query, key, value, is_causal=True, q_offset=1)
        assert_agrees(actual, to_numpy(expected))

    @pytest.mark.libraries("jax", reason="JAX alone traces")
    @pytest.mark.parametrize("dtype", ["uint8", "int32"])
    def test_may_be_traced(self, xp, dtype):
        import jax

        query, key, value = arrays_of(xp, SHAPES["distinct"])
        compiled = jax.jit(
            lambda o: af.attention(query, key, value, is_causal=True, q_offset=o)
        )

        actual = [compiled(asarray(xp, np.asarray(offset), dtype)) for offset in (0, 2, 9)]

        for result, offset in zip(actual, (0, 2, 9), strict=True):
            expected = oracle(
                *map(to_numpy, (query, key, value)), is_causal=True, q_offset=offset
            )
            assert_agrees(result, expected.out)


class TestEqualLengths:
    @pytest.mark.parametrize(
        "options", [{"is_causal": True}, {"window_size": (1, 1)}, {"window_size": (0, None)}]
    )
    def test_mean_an_offset_of_zero(self, xp, options):
        query, key, value = arrays_of(xp, SQUARE)

        actual = af.attention(query, key, value, **options)

        expected = af.attention(query, key, value, **options, q_offset=0)
        assert np.array_equal(to_numpy(actual), to_numpy(expected))


class TestWindow:
    BOUNDS = ((0, 0), (1, 0), (0, 2), (2, 1), (None, 1), (1, None), (None, None), (50, 50))

    @pytest.mark.parametrize("window_size", BOUNDS, ids=str)
    @by_engine
    def test_has_inclusive_bounds(self, xp, engine, window_size):
        query, key, value = arrays_of(xp, SHAPES["distinct"])
        left, right = (math.inf if bound is None else bound for bound in window_size)
        distance = np.arange(7)[None] - np.arange(5)[:, None]

        actual = af.attention(
            query, key, value, window_size=window_size, q_offset=0, engine=engine
        )

        mask = (distance >= -left) & (distance <= right)
        assert_agrees(actual, oracle(*map(to_numpy, (query, key, value)), mask=mask).out)

    def test_of_zero_to_the_right_and_no_bound_to_the_left_is_causal(self, xp):
        query, key, value = arrays_of(xp, SQUARE)

        actual = af.attention(query, key, value, window_size=(None, 0))

        expected = af.attention(query, key, value, is_causal=True)
        assert_agrees(actual, to_numpy(expected))


class TestSegments:
    def test_are_attention_on_each_alone(self, xp):
        query, key, value = arrays_of(xp, Shapes((2, 3, 6, 4), (2, 3, 6, 4), (2, 3, 6, 4)))
        segment_ids = asarray(xp, np.asarray([7, 7, 1, 1, 1, 7]))

        actual = under_jit(xp, partial(af.attention, segment_ids=segment_ids))(
            query, key, value
        )

        for places in ([0, 1, 5], [2, 3, 4]):
            parts = (asarray(xp, to_numpy(x)[:, :, places]) for x in (query, key, value))
            assert_agrees(
                to_numpy(actual)[:, :, places], to_numpy(under_jit(xp, af.attention)(*parts))
            )

    def test_are_compared_where_the_causal_order_is_too(self, xp):
        query, key, value = arrays_of(xp, SQUARE)
        ids = np.asarray([0, 0, 1, 1])

        actual = af.attention(
            query, key, value, segment_ids=asarray(xp, ids, "int32"), is_causal=True
        )

        mask = (ids[:, None] == ids) & np.tri(4, dtype=bool)
        assert_agrees(actual, oracle(*map(to_numpy, (query, key, value)), mask=mask).out)


def dtypes_of(xp):
    halves = {
        "numpy": ["float16"],
        "torch": ["float16", "bfloat16"],
        "jax": ["float16", "bfloat16"],
    }
    return [*halves.get(library_of(xp), []), "float32", "float64"]


class TestDtype:
    def test_of_the_result_is_that_of_the_query(self, xp):
        for dtype in dtypes_of(xp):
            query, key, value = arrays_of(xp, SQUARE, dtype)

            out, lse = af.attention_with_lse(query, key, value, softcap=2.0, sinks=1.0)
            weights = af.attention_weights(query, key)
            scores = af.attention_scores(query, key)

            compute_dtype = xp.float64 if dtype == "float64" else xp.float32
            assert out.dtype == getattr(xp, dtype)
            assert lse.dtype == weights.dtype == scores.dtype == compute_dtype

    @pytest.mark.parametrize(
        "option", ["scale_0d", "bias_full", "bias_per_head", "sinks_per_head", "sinks_0d"]
    )
    @by_engine
    def test_of_a_wider_option_does_not_widen_the_result(self, xp, engine, option):
        query, key, value = arrays_of(xp, SQUARE, "float32")
        options = options_of(xp, SQUARE, [option], "float64")

        out, lse = af.attention_with_lse(query, key, value, **options, engine=engine)

        expected = oracle(
            *map(to_numpy, (query, key, value)), **{n: to_numpy(x) for n, x in options.items()}
        )
        assert out.dtype == lse.dtype == xp.float32
        assert_agrees(out, expected.out, "float32")
        assert_agrees(lse, expected.lse, "float32")

    def test_of_a_wider_bias_function_does_not_widen_the_result(self, xp):
        query, key, value = arrays_of(xp, SQUARE, "float32")

        out, lse = af.attention_with_lse(
            query, key, value, bias=lambda q_pos, kv_pos: xp.astype(q_pos - kv_pos, xp.float64)
        )

        assert out.dtype == lse.dtype == xp.float32

    @pytest.mark.parametrize("option", ["bias_full", "sinks_per_head"])
    def test_of_a_narrower_option_does_not_matter(self, xp, option):
        query, key, value = arrays_of(xp, SQUARE, "float64")

        actual = af.attention(query, key, value, **options_of(xp, SQUARE, [option], "float32"))

        expected = af.attention(
            query, key, value, **options_of(xp, SQUARE, [option], "float64")
        )
        assert_agrees(actual, to_numpy(expected))

    @with_halves
    def test_of_halves_is_float32_on_the_way(self, xp):
        for dtype in set(dtypes_of(xp)) - {"float32", "float64"}:
            arrays = arrays_of(xp, SHAPES["longer"], dtype)
            wide = [xp.astype(x, xp.float32) for x in arrays]

            out, lse = af.attention_with_lse(*arrays, softcap=3.0)

            wide_out, wide_lse = af.attention_with_lse(*wide, softcap=3.0)
            rounded = xp.astype(wide_out, getattr(xp, dtype))
            assert np.array_equal(to_numpy(out), to_numpy(rounded))
            assert np.array_equal(to_numpy(lse), to_numpy(wide_lse))

    @pytest.mark.libraries("torch", reason="autocast is torch's")
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
    def test_of_the_way_ignores_autocast(self, xp, dtype):
        import torch

        arrays = arrays_of(xp, SHAPES["longer"], dtype)

        with torch.autocast("cpu", dtype=torch.bfloat16):
            out, lse = af.attention_with_lse(*arrays)

        plain_out, plain_lse = af.attention_with_lse(*arrays)
        assert out.dtype == plain_out.dtype
        assert torch.equal(out, plain_out)
        assert torch.equal(lse, plain_lse)


class TestComputeDtype:
    @by_engine
    def test_of_float64_is_exact_to_the_rounding_of_the_result(self, xp, engine):
        query, key, value = arrays_of(xp, SHAPES["distinct"], "float32")

        out, lse = af.attention_with_lse(
            query, key, value, compute_dtype=xp.float64, engine=engine
        )

        expected = oracle(*map(to_numpy, (query, key, value)))
        assert out.dtype == xp.float32
        assert lse.dtype == xp.float64
        np.testing.assert_allclose(to_numpy(out), expected.out, rtol=6e-8, atol=1e-12)
        np.testing.assert_allclose(to_numpy(lse), expected.lse, rtol=1e-13)

    def test_of_float64_reaches_weights_and_scores(self, xp):
        query, key, _ = arrays_of(xp, SHAPES["distinct"], "float32")

        weights = af.attention_weights(query, key, compute_dtype=xp.float64)
        scores = af.attention_scores(query, key, compute_dtype=xp.float64)

        assert weights.dtype == scores.dtype == xp.float64
        assert_agrees(weights, oracle(to_numpy(query), to_numpy(key), None).weights)
        assert_agrees(scores, oracle_scores(to_numpy(query), to_numpy(key)))

    @by_engine
    def test_of_float32_narrows_float64(self, xp, engine):
        query, key, value = arrays_of(xp, SHAPES["distinct"])

        out, lse = af.attention_with_lse(
            query, key, value, compute_dtype=xp.float32, engine=engine
        )

        expected = oracle(*map(to_numpy, (query, key, value)))
        assert out.dtype == xp.float64
        assert lse.dtype == xp.float32
        assert_agrees(out, expected.out, "float32")
        assert not np.allclose(to_numpy(out), expected.out, rtol=1e-12, atol=1e-12)

    @pytest.mark.errors
    @pytest.mark.libraries("jax", reason="the others always have float64")
    def test_of_float64_is_refused_where_jax_has_none(self, xp):

        with x64(False):
            query, key, value = arrays_of(xp, SHAPES["one_head"], "float32")

            with pytest.raises(TypeError, match="float64"):
                af.attention(query, key, value, compute_dtype=xp.float64)

    @pytest.mark.libraries("jax", reason="the others always have float64")
    def test_without_x64_is_float32(self, xp):

        expected = oracle(
            *arrays_of(array_api_compat.numpy, SHAPES["distinct"]),
            **options_of(array_api_compat.numpy, SHAPES["distinct"], ALL_ARRAYS),
        )

        with x64(False):
            query, key, value = arrays_of(xp, SHAPES["distinct"], "float32")
            options = options_of(xp, SHAPES["distinct"], ALL_ARRAYS, "float32")
            out, lse = af.attention_with_lse(query, key, value, **options)

        assert out.dtype == lse.dtype == xp.float32
        assert_agrees(out, expected.out, "float32")
        assert_agrees(lse, expected.lse, "float32")


class TestDropout:
    @by_engine
    def test_of_rate_zero_still_drops(self, xp, engine):
        query, key, value = arrays_of(xp, SQUARE)
        keep = options_of(xp, SQUARE, ["dropout"])["dropout_mask"]

        actual = af.attention(
            query, key, value, dropout_mask=keep, dropout_rate=0.0, engine=engine
        )

        weights = to_numpy(af.attention_weights(query, key)) * to_numpy(keep)
        assert_agrees(actual, weights @ np.repeat(to_numpy(value), 2, axis=1))

    @pytest.mark.parametrize("rate", [0, 0.0, 0.5, 0.999])
    def test_divides_what_is_kept(self, xp, rate):
        query, key, value = arrays_of(xp, SQUARE)
        everything = asarray(xp, np.ones((4, 4), dtype=bool))

        actual = af.attention(query, key, value, dropout_mask=everything, dropout_rate=rate)

        assert_agrees(actual, to_numpy(af.attention(query, key, value)) / (1 - rate))

    def test_leaves_the_lse_alone(self, xp):
        query, key, value = arrays_of(xp, SQUARE)

        _, lse = af.attention_with_lse(query, key, value, **options_of(xp, SQUARE, ["dropout"]))

        assert_agrees(lse, oracle(*map(to_numpy, (query, key, value))).lse)


LAYOUTS = {
    "transposed": lambda xp, x: xp.permute_dims(
        asarray(xp, np.moveaxis(to_numpy(x), 1, 2)), (0, 2, 1, 3)
    ),
    "strided": lambda xp, x: asarray(xp, np.repeat(to_numpy(x), 2, axis=-1))[..., ::2],
    "broadcast": lambda xp, x: xp.broadcast_to(x[:1, ...], x.shape),
}


class TestInputs:
    @pytest.mark.parametrize("names", [ALL_ARRAYS, ALL_FUNCTIONS], ids=["arrays", "functions"])
    @by_engine
    def test_are_left_as_they_were(self, xp, engine, names):
        arrays = arrays_of(xp, SHAPES["distinct"])
        options = options_of(xp, SHAPES["distinct"], names)
        flat = [*arrays]
        for option in options.values():
            flat += option if isinstance(option, tuple) else [option]
        flat = [x for x in flat if hasattr(x, "shape")]
        before = [to_numpy(x) for x in flat]

        af.attention(*arrays, **options, engine=engine)

        assert len(flat) >= 6
        for x, copy in zip(flat, before, strict=True):
            assert np.array_equal(to_numpy(x), copy)

    @pytest.mark.parametrize("layout", LAYOUTS)
    @by_engine
    def test_may_lie_in_memory_in_any_way(self, xp, engine, layout):
        arrays = arrays_of(xp, SHAPES["distinct"])
        laid_out = [LAYOUTS[layout](xp, x) for x in arrays]

        actual = af.attention(*laid_out, is_causal=True, q_offset=2, engine=engine)

        expected = oracle(*map(to_numpy, laid_out), is_causal=True, q_offset=2)
        assert_agrees(actual, expected.out)

    @pytest.mark.libraries(
        "numpy", reason="the others have no negative strides or read-only arrays"
    )
    @by_engine
    def test_may_be_read_only_and_run_backwards(self, xp, engine):
        arrays = [np.flip(np.flip(x, -2).copy(), -2) for x in arrays_of(xp, SHAPES["distinct"])]
        options = options_of(xp, SHAPES["distinct"], ALL_ARRAYS)
        for x in (*arrays, *(x for x in options.values() if isinstance(x, np.ndarray))):
            x.flags.writeable = False

        actual = af.attention(*arrays, **options, engine=engine)

        assert all(x.strides[-2] < 0 for x in arrays)
        assert_agrees(actual, oracle(*arrays, **options).out)

    @pytest.mark.parametrize("names", [(), ALL_ARRAYS], ids=["plain", "all"])
    def test_give_a_result_of_their_own_kind(self, xp, names):
        arrays = arrays_of(xp, SHAPES["distinct"])
        options = options_of(xp, SHAPES["distinct"], names)

        out, lse = af.attention_with_lse(*arrays, **options)

        assert type(out) is type(lse) is type(arrays[0])
        assert device_of(out) == device_of(lse) == device_of(arrays[0])

    def test_are_not_the_result(self, xp):
        """Where one key is all there is, the output is the value, but not the same memory."""
        query, key, value = arrays_of(xp, Shapes((1, 2, 1, 4), (1, 2, 1, 4), (1, 2, 1, 4)))
        before = to_numpy(value)

        out = af.attention(query, key, value)
        with contextlib.suppress(TypeError):  # JAX refuses
            out[...] = 7.0

        assert np.array_equal(to_numpy(value), before)


class TestNumbers:
    NUMBERS = (
        {"scale": np.float64(0.75)},
        {"scale": np.float32(0.75)},
        {"scale": np.int64(2)},
        {"scale": 2},
        {"softcap": np.float64(1.5)},
        {"softcap": np.float32(1.5)},
        {"softcap": 2},
        {"sinks": np.float64(0.5)},
        {"sinks": np.float32(0.5)},
        {"sinks": 1},
        {"is_causal": True, "q_offset": np.int64(1)},
        {"is_causal": True, "q_offset": np.int32(1)},
        {"is_causal": np.bool_(True), "q_offset": 1},
        {"window_size": (np.int64(1), np.int32(2)), "q_offset": 0},
        {"dropout_rate": np.float64(0.5)},
        {"dropout_rate": np.float32(0.5)},
        {"dropout_rate": 0},
    )

    @pytest.mark.parametrize("numbers", NUMBERS, ids=str)
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_of_numpy_are_as_good_as_those_of_python(self, xp, numbers, dtype):
        arrays = arrays_of(xp, SHAPES["distinct"], dtype)
        options, plain = dict(numbers), dict(numbers)
        if "dropout_rate" in numbers:
            options |= {
                "dropout_mask": asarray(xp, np.tile([True, False], 20)[:35].reshape(5, 7))
            }
            plain |= {"dropout_mask": np.tile([True, False], 20)[:35].reshape(5, 7)}

        out, lse = af.attention_with_lse(*arrays, **options)

        expected = oracle(*map(to_numpy, arrays), **plain)
        assert out.dtype == lse.dtype == getattr(xp, dtype)
        assert_agrees(out, expected.out, dtype)
        assert_agrees(lse, expected.lse, dtype)

    def test_in_arrays_without_axes_are_too(self, xp):
        arrays = arrays_of(xp, SHAPES["distinct"])
        zero_d = {
            name: asarray(xp, np.asarray(x)) for name, x in (("scale", 0.75), ("sinks", 0.5))
        }

        actual = af.attention(*arrays, **zero_d)

        assert_agrees(actual, oracle(*map(to_numpy, arrays), scale=0.75, sinks=0.5).out)
