"""The cases are right about what is right, and tell conventions and mistakes apart."""

import numpy as np
import pytest

from attnfn.testing import DIALECTS, FEATURES, oracle_vjp, oracle_with_lse
from attnfn.testing._case import posed
from attnfn.testing._cases import cases_of
from attnfn.testing._conventions import Conventions
from attnfn.testing._judgement import is_near
from attnfn.testing._model import Model
from attnfn.testing._simulate import simulate
from attnfn.testing._simulated_gradients import simulate_gradients
from attnfn.testing._translate import translated

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
