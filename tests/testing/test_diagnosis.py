"""What is wrong is named, alone and with others, and nothing else is."""

import math

import numpy as np
import pytest

from attnfn.testing import check_attention
from attnfn.testing._subject import Subject


def attention(query, key, value, /, *, mask=None, softcap=None, is_causal=False, bugs=()):
    """Attention with mistakes that are asked for by name."""
    k, v = (np.repeat(x, query.shape[-3] // x.shape[-3], axis=-3) for x in (key, value))
    if query.shape[-3] != key.shape[-3] and "groups" in bugs:
        k, v = (
            np.concatenate([x] * (query.shape[-3] // x.shape[-3]), -3) for x in (key, value)
        )
    scores = query @ np.swapaxes(k, -1, -2) / math.sqrt(query.shape[-1])
    if softcap is not None:
        scores = (
            np.clip(scores, -softcap, softcap)
            if "cap" in bugs
            else softcap * np.tanh(scores / softcap)
        )
    allowed = np.ones(scores.shape, bool)
    if mask is not None:
        allowed &= mask[:, :1] if "mask" in bugs and mask.ndim > 2 else mask
    if is_causal:
        allowed &= np.tri(*scores.shape[-2:], k=-1 if "causal" in bugs else 0, dtype=bool)
    scores = np.where(allowed, scores, -np.inf)
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    e = np.exp(scores - np.where(top == -np.inf, 0, top))
    total = e.sum(axis=-1, keepdims=True)
    v = np.where(np.isfinite(v), v, 0)
    total = total + 3e-4 if "eps" in bugs else np.where(total == 0, 1, total)
    return e / total @ v


def names(*bugs):
    subject = Subject(
        lambda *arrays, **options: attention(*arrays, bugs=bugs, **options),
        frozenset({"mask", "softcap", "is_causal"}),
    )
    return {d.name: d for d in check_attention(subject, dtypes=("float64",)).diagnoses}


class TestDiagnosis:
    def test_of_what_is_right_is_none(self):
        assert names() == {}

    @pytest.mark.parametrize(
        "bug, name",
        [
            ("groups", "groups: tiled"),
            ("cap", "softcap_clips"),
            ("mask", "mask_first_head"),
            ("causal", "causal_strict"),
        ],
    )
    def test_names_one_mistake(self, bug, name):
        assert set(names(bug)) == {name}

    def test_names_several_at_once(self):
        found = names("groups", "cap", "mask", "eps")

        assert set(found) == {
            "groups: tiled",
            "softcap_clips",
            "mask_first_head",
            "softmax_eps",
        }

    def test_finds_a_number_from_the_answers(self):
        eps, is_unshifted = names("eps")["softmax_eps"].which

        assert eps == pytest.approx(3e-4, rel=1e-3)
        assert not is_unshifted

    def test_says_who_does_so_on_purpose_and_where_it_shows(self):
        found = names("groups")["groups: tiled"]

        assert "x_transformers" in found.dialects
        assert found.features == ("grouped_heads",)

    def test_what_nothing_accounts_for_is_unexplained(self):
        def odd(query, key, value, /, *, softcap=None):
            out = attention(query, key, value)
            return out if softcap is None else out + np.sin(1 + np.arange(out.shape[-1]))

        report = check_attention(
            Subject(odd, frozenset({"softcap"})),
            dtypes=("float64",),
            features=("plain", "softcap", "value_dim"),
        )

        assert [d.name for d in report.diagnoses] == ["unexplained"]
        assert report.diagnoses[0].features == ("softcap",)
