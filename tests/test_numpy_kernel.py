"""The native kernel for NumPy arrays: it is the definition, on any number of threads."""

import math
import multiprocessing
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from oracle import oracle
from problems import (
    ALL_ARRAYS,
    ALL_FUNCTIONS,
    OPTIONS,
    PAIRS,
    SHAPES,
    arrays_of,
    assert_agrees,
    options_of,
    shape_params,
)

import attnfn as af
from attnfn._backend import _numpy_plan, _numpy_rows, _numpy_threads, numpy_namespace

threadpoolctl = pytest.importorskip("threadpoolctl", reason="without it there is one thread")

WITHOUT_SCORE_MOD = [name for name in OPTIONS if "score_mod" not in name]
EVERYTHING = {
    "arrays": tuple(name for name in ALL_ARRAYS if name != "score_mod"),
    "functions": tuple(name for name in ALL_FUNCTIONS if name != "score_mod"),
}


@pytest.fixture
def small_tiles(monkeypatch):
    """Cut problems of a few rows and keys into many tiles."""
    monkeypatch.setattr(_numpy_plan, "ROWS", 3)
    monkeypatch.setattr(_numpy_plan, "LONG_ROWS", 5)
    monkeypatch.setattr(_numpy_plan, "NARROW_ROWS", 2)
    monkeypatch.setattr(_numpy_plan, "KEYS", 3)
    monkeypatch.setattr(_numpy_plan, "MOST_KEYS", 4)
    monkeypatch.setattr(_numpy_plan, "EDGE_KEYS", 2)
    monkeypatch.setattr(_numpy_plan, "TOGETHER", 36)
    monkeypatch.setattr(_numpy_plan, "TOGETHER_FEW", 36)
    monkeypatch.setattr(_numpy_plan, "MANY_ROWS", 1)
    monkeypatch.setattr(_numpy_rows, "SAMPLE", 1)
    monkeypatch.setattr(_numpy_rows, "MANY_ROWS", 1)


@pytest.fixture
def workers(monkeypatch):
    """Return a function that sets the number of workers, also for the smallest problem."""
    monkeypatch.setattr("attnfn._backend._numpy_kernel.WORTH_A_THREAD", 0.0)
    return lambda count: monkeypatch.setenv("ATTNFN_NUM_THREADS", str(count))


def normal(*shape, seed=0, dtype="float32"):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def both(*arrays, **options):
    """Return (out, lse) of this kernel and of the definition."""
    native = af.attention_with_lse(*arrays, engine="native", **options)
    return native, af.attention_with_lse(*arrays, engine="dense", **options)


def assert_both(*arrays, dtype="float32", **options):
    for actual, expected in zip(*both(*arrays, **options), strict=True):
        assert actual.dtype == expected.dtype
        assert_agrees(actual, expected, dtype)


def blas_threads():
    return [
        x["num_threads"] for x in threadpoolctl.threadpool_info() if x["user_api"] == "blas"
    ]


class TestAttention:
    @pytest.mark.parametrize("name", WITHOUT_SCORE_MOD)
    @pytest.mark.parametrize("shapes", shape_params())
    def test_agrees_with_the_oracle(self, shapes, name):
        shapes = SHAPES[shapes]
        arrays = arrays_of(numpy_namespace, shapes)
        options = options_of(numpy_namespace, shapes, [name])

        out, lse = af.attention_with_lse(*arrays, engine="native", **options)

        expected = oracle(*arrays, **options)
        assert_agrees(out, expected.out)
        assert_agrees(lse, expected.lse)

    @pytest.mark.usefixtures("small_tiles")
    @pytest.mark.parametrize("name", WITHOUT_SCORE_MOD)
    @pytest.mark.parametrize("shapes", shape_params())
    def test_in_many_tiles_is_the_definition(self, shapes, name):
        shapes = SHAPES[shapes]
        arrays = arrays_of(numpy_namespace, shapes, "float32")

        assert_both(*arrays, **options_of(numpy_namespace, shapes, [name], "float32"))

    @pytest.mark.usefixtures("small_tiles")
    @pytest.mark.parametrize(
        "limits",
        [{}, {"most_total": 0.5}, {"headroom": 0.0, "most_total": 1.5}],
        ids=["in passing", "with care", "both"],
    )
    @pytest.mark.parametrize("name", WITHOUT_SCORE_MOD)
    @pytest.mark.parametrize("shapes", shape_params("distinct", "equal_grouped", "longer"))
    def test_with_a_maximum_is_the_definition(self, monkeypatch, shapes, name, limits):
        float32 = np.dtype("float32")
        changed = _numpy_plan.LIMITS[float32]._replace(no_maximum=-1.0, **limits)
        monkeypatch.setitem(_numpy_plan.LIMITS, float32, changed)
        shapes = SHAPES[shapes]
        arrays = arrays_of(numpy_namespace, shapes, "float32")

        assert_both(*arrays, **options_of(numpy_namespace, shapes, [name], "float32"))

    @pytest.mark.usefixtures("small_tiles")
    @pytest.mark.parametrize(("many", "rows"), [(8, 5), (9, 3)])
    @pytest.mark.parametrize("options", [{}, {"is_causal": True}], ids=["plain", "causal"])
    def test_tiles_of_more_rows_where_units_are_many(self, monkeypatch, options, many, rows):
        monkeypatch.setattr(_numpy_plan, "MANY_UNITS", many)
        monkeypatch.setattr(_numpy_plan, "LINE", 1)
        monkeypatch.setattr(_numpy_plan, "TOGETHER", 1)
        seen, add = [], _numpy_rows.RunningRows.add

        def spying(self, keys, asked):
            seen.append(self.num_rows)
            add(self, keys, asked)

        monkeypatch.setattr(_numpy_rows.RunningRows, "add", spying)
        arrays = [normal(2, 20, 4, seed=seed) for seed in range(3)]  # 8 units of 5 rows

        assert_both(*arrays, **options)

        assert max(seen) == rows

    @pytest.mark.parametrize("first", ["all", "none", "some"])
    @pytest.mark.parametrize("others", ["all", "none", "some"])
    def test_mask_whose_first_row_is_unlike_the_others(self, first, others):
        arrays = normal(2, 40, 8), normal(2, 30, 8, seed=1), normal(2, 30, 8, seed=2)
        kinds = {"all": True, "none": False, "some": np.arange(30) % 3 == 0}
        mask = np.empty((40, 30), bool)
        mask[0], mask[1:] = kinds[first], kinds[others]

        assert_both(*arrays, mask=mask)

    @pytest.mark.usefixtures("small_tiles")
    def test_two_options_together(self):
        shapes = SHAPES["distinct"]
        arrays = arrays_of(numpy_namespace, shapes)

        for pair in PAIRS:
            if not {"score_mod", "score_mod_curved", "score_mod_of_minus_inf"} & set(pair):
                assert_both(
                    *arrays, dtype="float64", **options_of(numpy_namespace, shapes, pair)
                )

    @pytest.mark.usefixtures("small_tiles")
    @pytest.mark.parametrize("names", EVERYTHING.values(), ids=EVERYTHING)
    @pytest.mark.parametrize("shapes", shape_params())
    def test_all_options_together(self, shapes, names):
        shapes = SHAPES[shapes]
        arrays = arrays_of(numpy_namespace, shapes)

        assert_both(*arrays, dtype="float64", **options_of(numpy_namespace, shapes, names))

    @pytest.mark.parametrize("factor", [1.0, 10.0, 1000.0])
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"is_causal": True},
            {"window_size": (100, 7)},
            {"window_size": (None, 300)},
            {"mask": np.random.default_rng(1).random((900, 900)) < 0.5},
            {"mask": np.arange(900) < 500},
            {"segment_ids": np.arange(900) // 70},
            {"bias": normal(2, 900, 900, seed=2)},
            {"softcap": 5.0, "is_causal": True},
            {"sinks": 3.0},
        ],
        ids=lambda options: ",".join(options) or "plain",
    )
    def test_tiles_of_the_usual_size(self, options, factor):
        query, key, value = (normal(4, 900, 16), normal(2, 900, 16), normal(2, 900, 8))
        if "bias" in options:
            query = query[:2]
        query = (factor * query).astype("float32")

        (out, lse), _ = both(query, key, value, **options)

        wide = [x.astype(float) for x in (query, key, value)]
        expected = af.attention_with_lse(*wide, engine="dense", **options)
        # Rounding grows with the logits, whoever computes them.
        tolerance = 3e-6 * max(1.0, factor)
        np.testing.assert_allclose(out, expected[0], atol=tolerance, rtol=tolerance)
        np.testing.assert_allclose(lse, expected[1], atol=tolerance, rtol=tolerance)

    def test_a_maximum_that_rises_from_tile_to_tile(self):
        key = np.repeat(np.linspace(-1, 1, 4000, dtype="float32")[:, None], 4, axis=1)
        query = np.full((300, 4), 200.0, "float32")

        assert_both(query, key, normal(4000, 3), scale=1.0)

    def test_float16_is_computed_in_float32(self):
        arrays = [normal(2, 300, 8, seed=i, dtype="float16") for i in range(3)]

        out = af.attention(*arrays, engine="native")

        wide = [x.astype("float32") for x in arrays]
        expected = af.attention(*wide, engine="native").astype("float16")
        assert out.dtype == np.float16
        np.testing.assert_array_equal(out, expected)

    @pytest.mark.parametrize("compute_dtype", [np.float32, np.float64])
    def test_in_another_dtype(self, compute_dtype):
        assert_both(*(normal(2, 40, 8, seed=i) for i in range(3)), compute_dtype=compute_dtype)

    @pytest.mark.parametrize("turn", [lambda x: np.moveaxis(x, -2, -3), lambda x: x.mT])
    def test_any_memory_layout(self, turn):
        arrays = [turn(turn(normal(5, 5, 5, seed=i)).copy()) for i in range(3)]

        assert_both(*arrays)

    @pytest.mark.parametrize(
        "shapes",
        [
            ((2, 0, 4), (2, 3, 4), (2, 3, 5)),
            ((2, 3, 4), (2, 0, 4), (2, 0, 5)),
            ((2, 3, 4), (2, 3, 4), (2, 3, 0)),
            ((0, 2, 3, 4), (0, 2, 3, 4), (0, 2, 3, 4)),
        ],
    )
    def test_axes_of_length_zero(self, shapes):
        assert_both(
            *map(np.ones, shapes),
            sinks=1.0,
            segment_ids=(np.zeros(shapes[0][-2], int), np.zeros(shapes[1][-2], int)),
        )

    def test_rows_that_may_attend_to_nothing(self):
        arrays = [normal(2, 400, 8, seed=i) for i in range(3)]
        mask = np.arange(400)[:, None] >= np.arange(400) + 100

        out, lse = af.attention_with_lse(*arrays, mask=mask, engine="native")

        assert (out[:, :100] == 0).all()
        assert (lse[:, :100] == -math.inf).all()
        assert np.isfinite(lse[:, 100:]).all()

    @pytest.mark.usefixtures("small_tiles")
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("which", [0, 1, 2])
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"is_causal": True},
            {"window_size": (2, 1)},
            {"mask": np.arange(10) != 4},
            {"segment_ids": np.arange(10) // 3, "sinks": 0.5},
            {"mask": np.zeros((10, 10), bool)},
            {"bias": np.where(np.arange(10) == 4, -math.inf, 0.0).astype("float32")},
        ],
    )
    def test_a_number_that_is_not_finite_goes_no_further_than_it_may(
        self, options, which, value
    ):
        arrays = [normal(4, 10, 6), normal(2, 10, 6, seed=1), normal(2, 10, 6, seed=2)]
        arrays[which][1, 4, 2] = value

        assert_both(*arrays, **options)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_one_query_and_a_key_that_is_not_finite(self, value):
        query, key, content = normal(2, 1, 8), normal(2, 50, 8), normal(2, 50, 8)
        key[1, 7, 3] = value

        assert_both(query, key, content, q_offset=49, is_causal=True)
        assert_both(query, key, content, q_offset=3, is_causal=True)

    @pytest.mark.parametrize("hidden", [1e30, -3e38, math.inf, math.nan])
    def test_what_is_hidden_does_not_leak(self, hidden):
        query, key, value = 20 * normal(600, 16), normal(600, 16), normal(600, 16)
        expected = af.attention(query, key[:500], value[:500], engine="dense")
        value[500:] = hidden

        out = af.attention(query, key, value, mask=np.arange(600) < 500, engine="native")

        assert_agrees(out, expected, "float32")

    @pytest.mark.parametrize("q_len", [1, 300])
    @pytest.mark.parametrize("least", [-math.inf, np.finfo(np.float32).min, -1e30])
    def test_a_bias_that_hides(self, least, q_len):
        query, key, value = 20 * normal(q_len, 8), normal(300, 8), normal(300, 8)
        bias = np.where(np.random.default_rng(3).random((q_len, 300)) < 0.5, least, 0.0)
        bias[0] = least

        assert_both(query, key, value, bias=bias.astype("float32"))

    @pytest.mark.parametrize(
        "options",
        [{}, {"is_causal": True}, {"window_size": (3, 5)}, {"window_size": (20, None)}],
        ids=["plain", "causal", "window", "window_left"],
    )
    def test_heads_that_share_keys_and_rows_that_do_not_fill_a_tile(self, options):
        query, key, value = normal(2, 12, 333, 8), normal(2, 4, 333, 8), normal(2, 4, 333, 5)

        assert_both(9 * query, key, value, **options)

    @pytest.mark.parametrize("q_len", [1, 2, 7])
    def test_few_queries_with_many_keys(self, q_len):
        query, key, value = normal(6, q_len, 8), normal(2, 9000, 8), normal(2, 9000, 8)

        assert_both(query, key, value, is_causal=True, q_offset=9000 - q_len)

    @pytest.mark.parametrize(
        "options", [{}, {"mask": np.arange(9000) < 8000}], ids=["", "mask"]
    )
    def test_a_step_of_decoding_is_left_to_the_definition(self, options):
        arrays = normal(32, 1, 8), normal(8, 9000, 8), normal(8, 9000, 8)

        assert_both(*arrays, **options)
        assert af.select_engine(*arrays, **options) == "dense"
        assert af.select_engine(*arrays, **options, softcap=2.0) == "native"

    def test_weights_that_would_be_denormal(self):
        query, key, value = normal(300, 1), normal(300, 1), normal(300, 4)
        query[...] = 1.0
        key[:, 0] = -np.linspace(0, 118, 300)

        assert_both(query, key, value, scale=1.0)

    def test_a_huge_sink(self):
        arrays = [normal(2, 300, 8, seed=i) for i in range(3)]

        assert_both(*arrays, sinks=np.asarray([200.0, -200.0], "float32"))

    @pytest.mark.usefixtures("small_tiles")
    def test_functions_see_every_head_and_are_called_once_for_all(self):
        arrays = [normal(2, 4, 9, 6, seed=i) for i in range(3)]
        asked = []

        def bias(q_pos, kv_pos):
            asked.append(q_pos.shape[-2] * kv_pos.shape[-1])
            return np.ones((4, 1, 1), "float32") * (q_pos - kv_pos)

        af.attention(*arrays, bias=bias, engine="native")

        assert (
            sum(asked) == 9 * 9 + 1
        )  # and one question beforehand: how many heads are answered

    def test_arguments_are_not_changed(self):
        arrays = [normal(2, 300, 8, seed=i) for i in range(3)]
        mask, bias = np.tri(300, dtype=bool), normal(300, 300)
        before = [x.copy() for x in (*arrays, mask, bias)]

        af.attention(*arrays, mask=mask, bias=bias, engine="native")

        for x, was in zip((*arrays, mask, bias), before, strict=True):
            np.testing.assert_array_equal(x, was)

    def test_the_results_of_two_calls_are_two_arrays(self):
        arrays = [normal(2, 30, 8, seed=i) for i in range(3)]
        out = af.attention(*arrays, engine="native")
        was = out.copy()

        af.attention(*arrays[::-1], engine="native")

        np.testing.assert_array_equal(out, was)

    @pytest.mark.errors
    def test_score_mod_is_refused_by_name(self):
        x = np.ones((1, 3, 4))

        with pytest.raises(NotImplementedError, match=r"'native' cannot do `score_mod`"):
            af.attention(x, x, x, score_mod=lambda s, p, j: s, engine="native")

    @pytest.mark.errors
    def test_other_libraries_are_refused_by_name(self):
        xp = pytest.importorskip("array_api_strict")
        x = xp.ones((1, 3, 4))

        with pytest.raises(NotImplementedError, match="cannot do array_api_strict arrays"):
            af.attention(x, x, x, engine="native")


class TestWorkers:
    @pytest.mark.parametrize(
        "options",
        [
            {"is_causal": True},
            {"bias": lambda p, j: np.abs(p - j) / -9},
            {"segment_ids": np.arange(700) // 99},
        ],
        ids=["causal", "function", "segments"],
    )
    def test_any_number_gives_the_same_bits(self, workers, options):
        arrays = [4 * normal(3, 700, 16, seed=i) for i in range(3)]
        results = []

        for count in (1, 2, 3, 7):
            workers(count)
            results.append(af.attention_with_lse(*arrays, engine="native", **options))

        for out, lse in results[1:]:
            np.testing.assert_array_equal(out, results[0][0])
            np.testing.assert_array_equal(lse, results[0][1])

    def test_any_number_gives_the_same_bits_of_what_is_computed_in_rows(self, workers):
        query, key, value, d_out = (normal(n, 300, 16, seed=n) for n in (6, 3, 3, 6))
        found = []

        for count in (1, 2, 7):
            workers(count)
            vjp = af.attention_vjp(query, key, value, d_out, is_causal=True)
            jvp = af.attention_jvp((query, key, value), (query, key, value), is_causal=True)
            out = af.attention(query, key, value, is_causal=True, engine="blockwise")
            found.append([*vjp[:3], *jvp[0], *jvp[1], out])

        for results in found[1:]:
            for x, first in zip(results, found[0], strict=True):
                np.testing.assert_array_equal(x, first)

    def test_several_are_at_work(self, workers):
        workers(3)
        seen, together = set(), threading.Barrier(3)

        def mask(q_pos, kv_pos):
            if q_pos.size > 1 and threading.get_ident() not in seen:
                seen.add(threading.get_ident())
                together.wait(timeout=10)
            return kv_pos >= 0

        af.attention(*(normal(2000, 4) for _ in range(3)), mask=mask, engine="native")

        assert len(seen) == 3

    def test_calls_from_several_threads_do_not_disturb_each_other(self, workers):
        workers(2)
        arrays = [[normal(2, 500, 8, seed=10 * j + i) for i in range(3)] for j in range(6)]
        expected = [af.attention(*x, engine="native") for x in arrays]
        before, wrong = blas_threads(), []

        def call(j):
            for _ in range(5):
                if not np.array_equal(af.attention(*arrays[j], engine="native"), expected[j]):
                    wrong.append(j)

        callers = [threading.Thread(target=call, args=(j,)) for j in range(6)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()

        assert not wrong
        assert blas_threads() == before

    def test_a_call_made_inside_a_worker_runs_there(self, workers):
        workers(3)
        x = normal(600, 8)
        inner = normal(2, 300, 8)
        expected = af.attention(inner, inner, inner, engine="native")
        found = []

        def mask(q_pos, kv_pos):
            found.append(af.attention(inner, inner, inner, engine="native"))
            return q_pos >= kv_pos

        out = af.attention(x, x, x, mask=mask, engine="native")

        assert_agrees(out, af.attention(x, x, x, is_causal=True, engine="dense"), "float32")
        assert all(np.array_equal(y, expected) for y in found)

    def test_blas_has_one_thread_meanwhile_and_its_own_afterwards(self, workers):
        workers(2)
        before, during = blas_threads(), []

        def mask(q_pos, kv_pos):
            if q_pos.size > 1:
                during.extend(blas_threads())
            return q_pos >= kv_pos

        af.attention(*(normal(600, 8) for _ in range(3)), mask=mask, engine="native")

        assert set(during) == {1}
        assert blas_threads() == before

    def test_blas_is_held_whichever_thread_calls(self, workers):
        workers(1)
        during = []

        def mask(q_pos, kv_pos):
            if q_pos.size > 1:
                during.append(blas_threads())
            return q_pos >= kv_pos

        def call():
            af.attention(*(normal(40, 8) for _ in range(3)), mask=mask, engine="native")

        call()
        other = threading.Thread(target=call)
        other.start()
        other.join()

        assert during == [[1] * len(during[0])] * 2

    @pytest.mark.parametrize("fails_in", ["every", "other"])
    def test_an_exception_reaches_the_caller_and_blas_has_its_threads_back(
        self, workers, fails_in
    ):
        workers(2)
        before, caller = blas_threads(), threading.get_ident()

        def mask(q_pos, kv_pos):
            is_other = threading.get_ident() != caller
            if q_pos.size > 1 and (fails_in == "every" or is_other):
                msg = "not today"
                raise LookupError(msg)
            if q_pos.size > 1:
                time.sleep(0.05)
            return q_pos >= kv_pos

        with pytest.raises(LookupError, match="not today"):
            af.attention(*(normal(2000, 8) for _ in range(3)), mask=mask, engine="native")

        assert blas_threads() == before

    @pytest.mark.parametrize("count", [1, 3])
    def test_nothing_is_warned_of_whatever_the_caller_asked_for(self, workers, count):
        workers(count)
        arrays = [30 * normal(2, 600, 8, seed=i) for i in range(3)]
        mask = np.tri(600, 600, -9, dtype=bool)

        with np.errstate(all="raise"):
            out = af.attention(*arrays, mask=mask, engine="native")

        assert np.isfinite(out).all()

    @pytest.mark.parametrize("count", [1, 3])
    def test_functions_run_under_the_callers_errstate(self, workers, count):
        workers(count)

        def bias(q_pos, kv_pos):
            return np.zeros(kv_pos.shape) / (q_pos * 0)

        with (
            np.errstate(all="raise"),
            pytest.raises(FloatingPointError, match="invalid value"),
        ):
            af.attention(*(normal(600, 8) for _ in range(3)), bias=bias, engine="native")

    @pytest.mark.errors
    @pytest.mark.parametrize("text", ["many", "0", "-3", "1.5", "2 3"])
    def test_a_number_of_threads_that_is_none_is_refused(self, monkeypatch, text):
        monkeypatch.setenv("ATTNFN_NUM_THREADS", text)
        x = normal(3, 4)

        with pytest.raises(
            ValueError, match=f"`ATTNFN_NUM_THREADS` must be a whole number .*; got '{text}'"
        ):
            af.attention(x, x, x, engine="native")

    def test_are_as_many_as_cores_unless_something_is_said(self, monkeypatch):
        monkeypatch.delenv("ATTNFN_NUM_THREADS", raising=False)
        unset = _numpy_threads.num_workers()

        monkeypatch.setenv("ATTNFN_NUM_THREADS", "")
        empty = _numpy_threads.num_workers()

        assert empty == unset
        assert 1 <= unset <= (os.cpu_count() or 1)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
    @pytest.mark.filterwarnings("ignore:.*fork")
    def test_a_forked_child_has_threads_of_its_own(self, workers):
        workers(2)
        arrays = [normal(2, 600, 8, seed=i) for i in range(3)]
        expected, before = af.attention(*arrays, engine="native"), blas_threads()
        context = multiprocessing.get_context("fork")
        results = context.SimpleQueue()
        is_inside, may_go_on = threading.Event(), threading.Event()

        def mask(q_pos, kv_pos):
            is_inside.set()
            may_go_on.wait(20)
            return q_pos >= kv_pos

        def child():
            were = blas_threads()
            results.put((af.attention(*arrays, engine="native"), were, blas_threads()))

        # Another thread is in the middle of a call, with BLAS held to one thread.
        caller = threading.Thread(
            target=lambda: af.attention(*arrays, mask=mask, engine="native")
        )
        caller.start()
        is_inside.wait(20)
        process = context.Process(target=child)
        process.start()
        process.join(30)
        may_go_on.set()
        caller.join()

        assert process.exitcode == 0
        out, were, are = results.get()
        np.testing.assert_array_equal(out, expected)
        assert were == before
        assert are == before
        assert blas_threads() == before

    def test_without_threadpoolctl_one_thread_does_it(self):
        code = (
            "import sys; sys.modules['threadpoolctl'] = None\n"
            "import numpy as np, attnfn as af, threading\n"
            "x = np.ones((4, 1500, 64), 'float32')\n"
            "np.testing.assert_allclose(af.attention(x, x, x, engine='native'), 1, 1e-5)\n"
            "assert threading.active_count() == 1"
        )

        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

        assert done.returncode == 0, done.stderr


class TestMemory:
    def test_grows_with_the_length_not_with_its_square(self):
        """At 4096, all scores of a head are 64 MiB."""
        code = (
            "import numpy as np, attnfn as af, resource\n"
            "q, k, v = (np.ones((4, 4096, 64), 'float32') for _ in range(3))\n"
            "small = [x[:, :64] for x in (q, k, v)]\n"
            "af.attention(*small, engine='native', is_causal=True)\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "out = af.attention(q, k, v, engine='native', is_causal=True)\n"
            "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "print((after - before) / 1024 - out.nbytes / 2**20)\n"
        )
        pytest.importorskip("resource", reason="it tells the peak")

        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )

        assert float(done.stdout) < 32
