"""The benchmark runs, and says what is true of given numbers; what it measures is no test."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark import history, machine, tables
from benchmark.cases import CASES, SIDES
from benchmark.fresh import measured_afresh
from benchmark.measure import slopes, spread
from benchmark.page import write
from benchmark.work import Work, allowed, draw, tiny

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Run everything on tiny arrays; return the folder of the docs and the finished process."""
    docs = tmp_path_factory.mktemp("docs")
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "benchmark", "--quick", "--page", "--docs", str(docs)]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    return docs, done


class TestQuick:
    def test_no_side_fails(self, quick):
        _, done = quick

        assert "FAILED" not in done.stdout
        assert done.returncode == 0, done.stderr

    def test_every_case_is_measured_or_refused(self, quick):
        docs, _ = quick
        run = history.newest(docs / "benchmark" / "history.jsonl")

        assert [record["case"] for record in run["results"]] == [case.name for case in CASES]
        for record, case in zip(run["results"], CASES, strict=True):
            told = {*record.get("sides", ()), *record.get("refused", ())}
            assert told == {case.ours, *case.peers}

    def test_the_page_names_every_case_and_shows_its_pictures(self, quick):
        docs, _ = quick
        page = (docs / "benchmark.md").read_text(encoding="utf-8")

        assert [case.name for case in CASES if f"| {case.name} |" not in page] == []
        for picture in ("goals.svg", "lengths.svg"):
            assert f"(benchmark/{picture})" in page
            assert "<svg" in (docs / "benchmark" / picture).read_text(encoding="utf-8")


class TestCases:
    def test_names_are_unique(self):
        assert len({case.name for case in CASES}) == len(CASES)

    def test_every_side_is_known(self):
        for case in CASES:
            for side in (case.ours, *case.peers):
                assert side == "unscaled" or side.partition(", ")[0] in SIDES

    def test_unscaled_differs_by_the_size_of_the_scores_alone(self):
        for case in CASES:
            if case.unscaled is not None:
                assert case.unscaled == case.work._replace(greatest=None)


class TestWork:
    def test_scores_are_as_great_as_asked(self):
        x = draw(Work(16, 16, greatest=118.0))

        scores = x.query @ x.key.swapaxes(-1, -2) / 8

        assert abs(scores).max() == pytest.approx(118.0, rel=1e-5)

    def test_allowed_is_the_window_up_to_the_query_itself(self):
        work = Work(6, 6, window=(2, 0))

        seen = allowed(work, draw(work))

        assert [[j for j in range(6) if row[j]] for row in seen][3:] == [
            [1, 2, 3],
            [2, 3, 4],
            [3, 4, 5],
        ]


class TestSides:
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"is_causal": True},
            {"window": (7, 0)},
            {"mask": "unstructured"},
            {"has_bias": True},
            {"softcap": 2.0},
            {"num_kv_heads": 2, "num_heads": 4},
        ],
        ids=str,
    )
    def test_everyone_computes_the_same(self, changes):
        import numpy as np
        from support import to_numpy

        from benchmark.sides import side

        work = tiny(Work(32, 32, num_heads=8, num_kv_heads=8))._replace(**changes)
        expected = side("naive NumPy", work)()
        turned = {"keras.ops", "jax.nn"}  # (batch, length, heads, dim)
        others = set(SIDES) - {"attnfn layer", "nn.MultiheadAttention", "naive NumPy"}
        compared = 0

        for label in sorted(others - {"torch flex"}):  # it takes half a minute
            try:
                found = side(label, work)()
            except NotImplementedError:
                continue
            found = to_numpy(found[0] if isinstance(found, list) else found)
            found = found.swapaxes(1, 2) if label in turned else found
            np.testing.assert_allclose(found, expected, atol=2e-5, err_msg=label)
            compared += 1

        assert compared >= 5

    def test_the_layer_is_that_of_torch(self):
        from benchmark.sides import side

        work = Work(4, 4, batch=2, num_heads=2, num_kv_heads=2, head_dim=4)
        import torch

        torch.testing.assert_close(
            side("attnfn layer", work)(), side("nn.MultiheadAttention", work)()
        )


class TestFresh:
    @pytest.mark.skipif(sys.platform != "linux", reason="the resident peak is read on Linux")
    def test_the_naive_peak_holds_its_scores(self):
        work = Work(512, 512)  # scores of 8 MiB, and at least two arrays of their size

        assert measured_afresh("memory", "naive NumPy", work) > 15.0

    def test_a_refusal_comes_back_with_its_reason(self):
        with pytest.raises(NotImplementedError, match="has no softcap"):
            measured_afresh("compile", "jax.nn", Work(8, 8, softcap=1.0))


class TestNumbers:
    def test_spread_is_the_median_and_the_quartiles(self):
        assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == [3.0, 2.0, 4.0]

    def test_time_that_grows_with_the_square_has_exponent_2(self):
        case = next(case for case in CASES if case.name == "numpy time")
        samples = {(case.ours, n): [1e-9 * n**2, 2e-9 * n**2] for n in case.lengths}

        exponents, points = slopes(case, samples)

        assert exponents[case.ours] == pytest.approx([2.0, 2.0])
        assert points[case.ours]["2048"] == pytest.approx(1.5e-9 * 2048**2, rel=1e-3)

    def test_a_goal_is_reached_by_the_median_or_within_the_spread(self):
        assert tables.verdict([3.0, 2.9, 3.1], 3.0) == "reached"
        assert tables.verdict([2.9, 2.8, 3.1], 3.0) == "within the spread"
        assert tables.verdict([2.5, 2.4, 2.6], 3.0) == "missed"
        assert tables.verdict([60.0, 59.0, 65.0], 64.0, is_limit=True) == "reached"
        assert tables.verdict([66.0, 63.0, 67.0], 64.0, is_limit=True) == "within the spread"


def run_of(ratio, low, high):
    record = {
        "case": "numpy 2048",
        "measure": "time",
        "ratios": {"torch SDPA": [ratio, low, high]},
    }
    return {"machine": {"cores": 2}, "results": [record]}


class TestHistory:
    def test_the_last_line_of_the_same_machine_is_found(self, tmp_path):
        path = tmp_path / "benchmark" / "history.jsonl"
        for number, cores in enumerate((2, 2, 64)):
            history.append(path, {"number": number, "machine": {"cores": cores}})

        assert history.newest(path, {"cores": 2})["number"] == 1
        assert history.newest(path)["number"] == 2
        assert history.newest(path, {"cores": 3}) is None
        assert all(json.loads(line) for line in path.read_text().splitlines())

    def test_a_ratio_that_fell_is_named_with_both_numbers(self):
        before, now = run_of(1.0, 0.95, 1.05), run_of(0.8, 0.78, 0.82)

        (found,) = history.worse(before, now)

        assert found == ("numpy 2048", "torch SDPA", [1.0, 0.95, 1.05], [0.8, 0.78, 0.82])

    def test_noise_and_progress_are_not_named(self):
        before = run_of(1.0, 0.8, 1.2)

        assert history.worse(before, run_of(0.8, 0.7, 0.9)) == []  # the spreads overlap
        assert history.worse(before, run_of(0.9, 0.88, 0.92)) == []
        assert history.worse(before, run_of(2.0, 1.9, 2.1)) == []

    def test_an_exponent_that_rose_is_named_also_from_zero(self):
        def run(exponent):
            record = {"case": "jax memory", "measure": "growth of memory"}
            return {"results": [{**record, "sides": {"attnfn on jax": [exponent] * 3}}]}

        assert history.worse(run(0.0), run(0.1)) == []
        assert len(history.worse(run(0.0), run(1.0))) == 1


class TestMachine:
    def test_variables_that_tune_a_library_are_left_out(self):
        given = {
            "HOME": "/root",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_CORETYPE": "Haswell",
            "XLA_FLAGS": "",
            "JAX_PLATFORMS": "cpu",
            "TERM": "dumb",
        }

        assert machine.cleaned(given) == {"HOME": "/root", "TERM": "dumb"}

    def test_the_circumstances_go_on_the_page(self, tmp_path):
        run = {**machine.describe(), "results": []}

        write(tmp_path, run)

        page = (tmp_path / "benchmark.md").read_text(encoding="utf-8")
        assert f"numpy {run['versions']['numpy']}" in page
