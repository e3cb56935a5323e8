"""A report reads well, and its example is small and runs."""

import math

import numpy as np
import pytest

from attnfn.testing import ConformanceReport, Subject, check_attention


def first_mask(query, key, value, /, *, mask=None):
    """Attention in which every head is given the mask of the first."""
    scores = query @ np.swapaxes(key, -1, -2) / math.sqrt(query.shape[-1])
    mask = np.asarray(True) if mask is None else mask
    scores = np.where(mask[:, :1] if mask.ndim > 2 else mask, scores, -np.inf)
    top = scores.max(axis=-1, keepdims=True)
    e = np.exp(scores - np.where(top == -np.inf, 0, top))
    total = e.sum(axis=-1, keepdims=True)
    return e / np.where(total == 0, 1, total) @ value


SUBJECT = Subject(first_mask, frozenset({"mask"}), name="first_mask")


@pytest.fixture(scope="module")
def report():
    return check_attention(SUBJECT, features=("plain", "mask", "mask_per_head", "causal"))


class TestReport:
    def test_says_what_is_wrong_in_the_row(self, report):
        row = next(row for row in report.rows if row.feature == "mask_per_head")

        assert (row.verdict, row.why) == ("wrong", "every head is given the mask of the first")

    def test_shows_a_small_input_that_runs(self, report):
        row = next(row for row in report.rows if row.feature == "mask_per_head")
        code, _, comment = row.example.partition("# out")
        names = {"subject": SUBJECT}

        exec(code, names)

        assert names["query"].shape[:3] == (1, 2, 1)
        assert names["key"].shape[-1] == 1
        assert "which may attend to" in comment

    @pytest.mark.parametrize(
        ("dialect", "called"),
        [(None, "attention(query"), ("torch_sdpa", "torch_like(attention).attention(query")],
    )
    def test_calls_the_function_as_it_was_asked(self, dialect, called):
        def attention(query, key, value, is_causal=False):
            return np.zeros_like(query[..., : value.shape[-1]])

        report = check_attention(attention, dialect=dialect, features=("plain",))

        assert f"\n{called}, key, value)\n" in report.rows[0].example

    def test_fits_a_terminal(self, report):
        lines = [line for line in str(report).splitlines() if not line.startswith("    ")]

        assert max(map(len, lines)) <= 100
        assert "mask_first_head: every head is given the mask of the first." in str(report)

    def test_survives_json_with_its_diagnoses(self, report):
        assert ConformanceReport.from_json(report.to_json()) == report
        assert report.to_dict()["diagnoses"][0]["name"] == "mask_first_head"

    def test_is_a_table_in_markdown(self, report):
        lines = report.to_markdown().splitlines()

        assert lines[0] == "| feature | verdict | why |"
        assert "| plain | right |  |" in lines
