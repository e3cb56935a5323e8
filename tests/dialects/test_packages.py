"""Every dialect that can be installed here, beside the package that speaks it."""

import importlib
import os
import warnings
from importlib.metadata import version

import numpy as np
import pytest
from dialects.cases import asked, assert_same, cases

import attnfn as af
from attnfn.testing import DIALECTS

pytestmark = [
    pytest.mark.dialects,
    # What packages warn of while they are called is theirs to mend.
    pytest.mark.filterwarnings("default"),
]

CALLS = {}
with warnings.catch_warnings(action="ignore"):
    for family in ("jax", "keras", "mlx", "models", "onnx", "torch"):
        CALLS |= importlib.import_module(f"dialects.by_{family}").CALLS

CASES = cases()
#: Pallas takes blocks of 128 rows.
IN_BLOCKS = cases(few=128, many=256)

#: What a package refuses, by its dialect and the case: its words, or the test's.
REFUSED = {
    ("keras_multi_head_attention", "mask of heads"): "could not be broadcast",
    ("keras_multi_head_attention", "window of sides"): "one number for both sides",
    ("mlx", "causal, mask"): "one argument for both",
    ("mlx", "causal, mask of keys"): "one argument for both",
    ("mlx", "causal, bias"): "one argument for both",
    ("ort_group_query_attention", "causal, fewer keys"): "same sequence length",
    ("ort_group_query_attention", "lengths, causal, square"): "same sequence length",
    ("ort_group_query_attention", "window"): "is_unidirectional_",
    ("ort_group_query_attention", "window of sides"): "is_unidirectional_",
    ("ort_group_query_attention", "window, fewer queries"): "is_unidirectional_",
    ("torch_multi_head_attention_eval", "fewer queries"): "Sizes of tensors must match",
    **{
        ("jax_splash", title): "more dimensions than allowed"  # of NumpyMask: (q_len, kv_len)
        for title in ("mask of keys", "mask of heads", "causal, mask of keys")
    },
}
#: Where a package does not do what it does elsewhere, which its notes say.
ASTRAY = {
    # Causal order is taken for as many queries as the mask has rows.
    ("onnx_23", "causal, mask of keys"),
    ("onnx_24", "causal, mask of keys"),
    ("onnx_25", "causal, mask of keys"),
    # A row is set to 0 where the mask leaves it nothing, but not where causal order does.
    ("x_transformers", "causal, fewer keys"),
}

if os.environ["KERAS_BACKEND"] == "numpy":
    for title in ("groups", "mask, groups", "causal, groups"):
        REFUSED["keras_ops", title] = "could not be broadcast"
if os.environ["KERAS_BACKEND"] == "torch":
    REFUSED["keras_ops", "bias, mask"] = "Only one of `bias` and `mask`"
    ASTRAY.add(("keras_ops", "empty row of a bias"))  # 0, as PyTorch has it
    # The mask is added, a number that is neither -inf nor swallows a score in float32.
    for name in ("keras_ops", "keras_multi_head_attention"):
        ASTRAY |= {(name, "NaN in a hidden key"), (name, "float16, empty row")}

#: What comes back from float64 as float32.
NO_FLOAT64 = {
    "jax_splash",
    "mlx",
    "ort_group_query_attention",
    "torch_multi_head_attention_eval",
}
NO_FLOAT16 = {"ort_group_query_attention"}


def asked_of(name):
    """The cases that a dialect has the features for."""
    all_of_them = IN_BLOCKS if name == "jax_splash" else CASES
    return {
        title: case
        for title, case in all_of_them.items()
        if case.needs <= DIALECTS[name].features
        and title != "float64"
        and not (title.startswith("float16") and name in NO_FLOAT16)
    }


QUESTIONS = [(name, title) for name in CALLS for title in asked_of(name)]


def answers(name, case):
    """What the package and the dialect make of a case: (out, lse) of each."""
    dialect = DIALECTS[name]
    options = asked(case, dialect.conventions)
    found = CALLS[name](case.query, case.key, case.value, **options)
    return found, dialect.attention_with_lse(case.query, case.key, case.value, **options)


class TestEveryPackage:
    def test_no_verified_dialect_is_left_out(self):
        verified = {
            name for name, dialect in DIALECTS.items() if dialect.evidence == "verified"
        }

        assert {*CALLS, "attnfn", "onnx_before_corrections"} == verified

    @pytest.mark.parametrize("name", CALLS)
    def test_it_is_the_version_that_the_dialect_names(self, name):
        package, _, number = DIALECTS[name].source.partition(" ")

        assert version(package).partition("+")[0] == number  # +cpu

    @pytest.mark.parametrize("name, title", [x for x in QUESTIONS if x not in REFUSED])
    def test_it_answers_what_its_dialect_says(self, name, title):
        (out, lse), (expected, expected_lse) = answers(name, asked_of(name)[title])

        tolerance = 3e-3 if "float16" in title else 3e-5
        if (name, title) in ASTRAY:
            with pytest.raises(AssertionError):
                assert_same(out, expected, tolerance)
            return
        assert_same(out, expected, tolerance)
        if "lse" in DIALECTS[name].features:
            assert_same(lse, expected_lse, tolerance)

    @pytest.mark.parametrize("name, title", [x for x in QUESTIONS if x in REFUSED])
    def test_it_refuses_what_the_table_says(self, name, title):
        with pytest.raises(Exception, match=REFUSED[name, title]):
            answers(name, asked_of(name)[title])

    @pytest.mark.parametrize("name", [name for name in CALLS if name not in NO_FLOAT64])
    def test_it_computes_float64_as_its_dialect_says(self, name):
        case = CASES["float64"]

        out, _ = CALLS[name](case.query, case.key, case.value)

        error = np.abs(np.asarray(out) - af.attention(case.query, case.key, case.value)).max()
        if DIALECTS[name].conventions.softmax_dtype == "float32":
            assert 1e-9 < error < 1e-6
        else:
            assert error < 1e-14
