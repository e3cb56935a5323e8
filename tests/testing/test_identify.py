"""Conventions are found out by asking, and known implementations by their conventions."""

import numpy as np
import pytest

import attnfn as af
from attnfn.testing import DIALECTS, Subject, attnfn_like, identify_dialect, torch_like
from attnfn.testing._dialects._translate import translated


def speaking(name, options):
    """Return a function that speaks a dialect."""
    core = translated(af.attention_with_lse, DIALECTS[name].conventions)
    return Subject(lambda *x, **o: core(*x, **o)[0], frozenset(options), core, name=name)


class TestIdentifyDialect:
    @pytest.mark.parametrize("name", ["jax_nn", "flash_attn2", "mlx", "keras_ops"])
    @pytest.mark.filterwarnings("ignore")  # NaN is part of some answers
    def test_finds_every_answer_of_a_dialect(self, name):
        options = {"mask", "bias", "is_causal", "window_size", "scale", "softcap", "sinks"}

        report = identify_dialect(speaking(name, options))

        for question, found in report.answers.items():
            assert getattr(DIALECTS[name].conventions, question) in found, question
        assert name in report.dialects

    def test_finds_a_mask_that_hides(self):
        def attention(query, key, value, /, *, mask=None):
            return af.attention(query, key, value, mask=None if mask is None else ~mask)

        report = identify_dialect(attention)

        assert report.answers["mask"] == ("hidden",)
        assert report.answers["empty_row"] == ("zero",)
        assert "torch_multi_head_attention" not in report.dialects  # it leaks
        assert "window_size" in report.not_asked["window"]

    def test_who_has_to_be_told_where_queries_stand_is_explicit(self):
        report = identify_dialect(attnfn_like(af.attention_with_lse, returns_lse=True))

        assert report.answers["alignment"] == ("explicit",)
        assert report.dialects == ("attnfn",)

    def test_pytorch_is_itself(self):
        torch = pytest.importorskip("torch")
        attention = torch.nn.functional.scaled_dot_product_attention

        report = identify_dialect(attention, signature=torch_like, library="torch")

        assert "torch_sdpa" in report.dialects
        assert "Agrees with torch_sdpa" in str(report)

    def test_prints_what_differs_from_the_nearest(self):
        def attention(query, key, value, /, *, mask=None):
            out = af.attention(query, key, value, mask=mask, scale=1.0)
            return np.where(np.isnan(out), 0, out)

        report = identify_dialect(attention)

        assert report.answers["default_scale"] == ("one",)
        assert "default_scale" in report.nearest["attnfn"]

    def test_wrong_calls_are_told_what_there_is(self):
        with pytest.raises(ValueError, match="`dialect` must be a Dialect or among attnfn"):
            identify_dialect(af.attention, signature="none")
        with pytest.raises(TypeError, match="`function` must be a function or a Subject"):
            identify_dialect(3)
