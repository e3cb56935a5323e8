"""The cases are right about what is right, and tell conventions and mistakes apart."""

import functools

import numpy as np
import pytest

from attnfn.testing import DIALECTS, FEATURES, oracle_vjp, oracle_with_lse
from attnfn.testing._diagnosis._hypotheses import Hypothesis, hypotheses
from attnfn.testing._dialects._conventions import Conventions
from attnfn.testing._dialects._translate import translated
from attnfn.testing._questions._case import posed
from attnfn.testing._questions._cases import cases_of
from attnfn.testing._simulation._model import Model
from attnfn.testing._simulation._simulate import simulate
from attnfn.testing._simulation._simulated_gradients import simulate_gradients
from attnfn.testing._verdicts._judgement import is_near, question_of, wanted_parts

CLEAN = {"hidden_key": "kept_out", "hidden_value": "kept_out", "softmax_dtype": "own"}
#: Each set of conventions that some implementation has, once.
CONVENTIONS = {
    dialect.conventions._replace(**CLEAN, lse_dtype="compute"): name
    for name, dialect in DIALECTS.items()
}
OF_SMALL = [name for name in FEATURES if name not in ("long_sums", "many_keys")]


class TestSimulation:
    """Without a mistake, it says what the oracle says through the conventions."""

    @pytest.mark.parametrize("conventions", CONVENTIONS, ids=CONVENTIONS.values())
    def test_is_the_oracle_in_any_conventions(self, conventions):
        core = translated(oracle_with_lse, conventions)
        for case in (case for name in OF_SMALL for case in cases_of(name)[:2]):
            if case.is_poisoned and conventions.mask_value != "-inf":
                continue  # what hides with a number lets everything through
            case = posed(case, conventions)

            trace = simulate(case, Model(conventions))
            with np.errstate(invalid="ignore"):
                out, lse = core(case.query, case.key, case.value, **case.options)

            assert is_near(trace.out, out, 1e-9).all(), case.name
            lse = np.where(np.isfinite(lse), np.maximum(lse, -1e30), lse)
            assert is_near(trace.lse, lse, 1e-9).all(), case.name

    def test_has_the_gradients_of_the_oracle(self):
        for case in (case for name in FEATURES for case in cases_of(name)):
            if "gradients" not in case.asks or "lengths" in case.options:
                continue
            model = Model(Conventions())

            found = simulate_gradients(case, model, simulate(case, model))
            wanted = oracle_vjp(
                case.query, case.key, case.value, case.d_out, d_lse=case.d_lse, **case.options
            )

            for name, gradient in found.items():
                np.testing.assert_allclose(
                    gradient, getattr(wanted, name), rtol=1e-9, atol=1e-9
                )


class TestCases:
    @pytest.mark.parametrize("name", FEATURES)
    def test_hold_numbers_that_every_dtype_has(self, name):
        for case in cases_of(name, seed=3):
            for x in (case.query, case.key, case.value):
                own = np.float16 if "float32" not in case.dtypes else np.float32
                kept = x.astype(own).astype(np.float64)
                np.testing.assert_array_equal(kept, x)

    @pytest.mark.parametrize("name", FEATURES)
    def test_are_the_same_for_one_seed(self, name):
        one, again, other = cases_of(name, 1), cases_of(name, 1), cases_of(name, 2)

        assert [case.name for case in one] == [case.name for case in again]
        for a, b in zip(one, again, strict=True):
            np.testing.assert_array_equal(a.value, b.value)
        is_drawn = name not in ("long_sums", "no_keys")
        assert is_drawn == (not np.array_equal(one[0].value, other[0].value))


def is_told_apart(hypothesis, dtype, factor):
    """Return whether a case has answers that are further apart than `factor` tolerances."""
    for case in (case for name in FEATURES for case in cases_of(name)):
        if (case.dtypes and dtype not in case.dtypes) or not hypothesis.concerns(case):
            continue
        question = question_of_case(case, dtype)
        model = hypothesis.on(question.model)
        trace = simulate(case, model, dtype=dtype)
        found = {"out": trace.out, "lse": trace.lse}
        if "gradients" in case.asks:
            gradients = simulate_gradients(case, model, trace) or {}
            found |= {f"gradient of {name}": x for name, x in gradients.items()}
        for name, wanted, tolerance in wanted_parts(question):
            if name in found and not is_near(found[name], wanted, factor * tolerance).all():
                return True
    return False


@functools.cache
def _question_of(name, number, dtype):
    return question_of(cases_of(name)[number - 1], Conventions(), dtype)


def question_of_case(case, dtype):
    return _question_of(case.feature, int(case.name.split()[-1]), dtype)


#: One of each kind: a tile of 16 stands for all tiles.
KINDS = [
    h
    for h in hypotheses(Conventions())
    if not h.is_rough
    and (not h.name.startswith("tile") or h.which[0] == 16)
    and (h.name != "softmax_eps" or h.which[0] == 1.0)  # a small one shows in float64
]


class TestDiscrimination:
    """Right and wrong, and any two conventions, are many roundings apart."""

    @pytest.mark.parametrize("hypothesis", KINDS, ids=lambda h: f"{h.name} {h.which or ''}")
    def test_each_mistake_shows_in_either_half_precision(self, hypothesis):
        assert is_told_apart(hypothesis, "float16", 20)
        assert is_told_apart(hypothesis, "bfloat16", 4)

    def test_a_small_eps_shows_in_float64(self):
        assert is_told_apart(Hypothesis("softmax_eps", (1e-9, False)), "float64", 20)
