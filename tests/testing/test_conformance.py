"""A right function is found right on every library, and a wrong call is told what it may be."""

import math

import numpy as np
import pytest

import attnfn as af
from attnfn.testing import ConformanceReport, check_attention
from attnfn.testing._subject import OPTIONS, Subject

OURS = Subject(
    af.attention,
    OPTIONS - {"lengths"},
    af.attention_with_lse,
    name="attention",
)


def wrong(report):
    return {(row.feature, row.dtype): row.why for row in report.rows if row.verdict == "wrong"}


def without_maximum(query, key, value, /):
    scores = query @ np.swapaxes(key, -1, -2) / math.sqrt(query.shape[-1])
    weights = np.exp(scores)
    return weights / weights.sum(axis=-1, keepdims=True) @ value


class TestRightFunctions:
    @pytest.mark.parametrize("seed", range(3))
    def test_ours_is_right_on_numpy_with_its_closed_form(self, seed):
        report = check_attention(
            OURS, vjp=af.attention_vjp, dtypes=("float32", "float64"), seed=seed
        )

        assert wrong(report) == {}
        assert report.is_right
        assert {row.feature for row in report.rows if row.verdict == "absent"} == {
            "lengths",
            "gradients_lengths",
            "gradients_lse",
        }

    def test_ours_is_right_on_torch_in_every_dtype(self):
        pytest.importorskip("torch")

        report = check_attention(
            OURS, library="torch", dtypes=("float32", "bfloat16", "float16", "float64")
        )

        assert wrong(report) == {}
        assert report.counts["refused"] == 0

    def test_ours_is_right_on_array_api_strict(self):
        report = check_attention(OURS, library="array_api_strict", vjp=af.attention_vjp)

        assert wrong(report) == {}

    def test_ours_is_right_on_jax(self):
        pytest.importorskip("jax")
        features = ("plain", "causal", "empty_rows", "hidden_value", "gradients_sinks")

        report = check_attention(OURS, library="jax", features=features)

        assert [row.verdict for row in report.rows] == ["right"] * len(features)


class TestVerdicts:
    def test_what_the_signature_has_no_place_for_is_absent(self):
        subject = Subject(lambda q, k, v, /: af.attention(q, k, v), frozenset())

        report = check_attention(subject, features=("plain", "mask"))

        assert [row.verdict for row in report.rows] == ["right", "absent"]
        assert report.rows[1].why == "no mask"

    def test_what_raises_is_refused_with_its_words(self):
        def attention(query, key, value, /, *, mask=None):
            if mask is not None:
                message = "no masks yet"
                raise NotImplementedError(message)
            return af.attention(query, key, value)

        report = check_attention(
            Subject(attention, frozenset({"mask"})), features=("plain", "mask")
        )

        assert report.rows[1][2:4] == ("refused", "NotImplementedError: no masks yet")
        assert report.is_right

    def test_a_softmax_without_its_maximum_is_wrong_where_logits_are_large(self):
        subject = Subject(without_maximum, frozenset())

        report = check_attention(subject, features=("plain", "large_logits"))

        assert [row.verdict for row in report.rows] == ["right", "wrong"]
        assert not report.is_right


class TestWrongCalls:
    @pytest.mark.parametrize(
        "options, words",
        [
            ({"features": ("plane",)}, r"`features` must be among plain, value_dim, .*'plane'"),
            ({"library": "tensorflow"}, r'`library` must be "array_api_strict", .*tensorflow'),
            ({"dialect": "flash"}, r"`dialect` must be a Dialect or among attnfn, torch_sdpa"),
            ({"dtypes": ("bfloat16",)}, r"`dtypes` must be dtypes that numpy has; .*bfloat16"),
            ({"dtypes": ("int8",)}, r'`dtypes` must be among "float16", .*int8'),
        ],
    )
    def test_are_told_what_there_is(self, options, words):
        with pytest.raises(ValueError, match=words):
            check_attention(OURS, **options)

    def test_a_name_alone_is_no_collection_of_features(self):
        with pytest.raises(TypeError, match="`features` must be a collection of names"):
            check_attention(OURS, features="plain")

    def test_what_cannot_be_called_cannot_be_checked(self):
        with pytest.raises(
            TypeError, match="`function` must be a function or a Subject; got i"
        ):
            check_attention(7)


class TestReport:
    def test_survives_json(self):
        subject = Subject(without_maximum, frozenset())
        report = check_attention(subject, features=("plain", "large_logits", "mask"))

        again = ConformanceReport.from_json(report.to_json())

        assert again == report

    def test_dtypes_of_which_the_same_is_to_be_said_share_a_line(self):
        report = check_attention(OURS, features=("plain",), dtypes=("float32", "float64"))

        lines = str(report).splitlines()

        assert sum(line.startswith("plain") for line in lines) == 1
        assert "in float32, float64" in lines[0]
