"""The composed mutants: right without their faults, wrong with each of them."""

from types import SimpleNamespace

import numpy as np
import pytest
from oracle import oracle, oracle_gradients
from testing import composed, composed_gradients
from testing.composed import Recipe
from testing.composed_gradients import GradientRecipe
from testing.naming import naming_of

from attnfn.testing._diagnosis._faults import FAULTS
from attnfn.testing._dialects._conventions import Conventions
from attnfn.testing._dialects._translate import translated


def faults_of(slots):
    return [name for names in slots.values() for name in names]


def core(query, key, value, **options):
    return oracle(query, key, value, **options)[:2]


class TestWithoutFaults:
    @pytest.mark.parametrize("engine, tile", [("plain", 8), ("online", 8), ("online", 33)])
    def test_it_is_right(self, engine, tile):
        recipe = Recipe(faults=frozenset(), engine=engine, tile=tile)
        right = translated(core, Conventions())
        for (query, key, value), options in list(composed.problems())[:15]:
            out, lse = composed.attention_with_lse(recipe, query, key, value, **options)

            exact, exact_lse = right(query, key, value, **options)
            np.testing.assert_allclose(out, exact, rtol=1e-11, atol=1e-11)
            np.testing.assert_allclose(lse, exact_lse, rtol=1e-11, atol=1e-11)

    def test_so_are_its_gradients(self):
        recipe = GradientRecipe(faults=frozenset())
        for arrays, options in composed_gradients.problems():
            found = composed_gradients.backward(recipe, *arrays, **options)

            right = oracle_gradients(*arrays, **options)
            wanted = (right.query, right.key, right.value, right.bias, right.sinks)
            for x, y in zip(found, [x for x in wanted if x is not None], strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-11)


class TestFaults:
    @pytest.mark.parametrize("fault", faults_of(composed.SLOTS))
    def test_each_shows_by_itself(self, fault):
        engine = "online" if fault.startswith("tile_") else "plain"

        assert composed.expected(Recipe(faults=frozenset({fault}), engine=engine)) == {fault}

    @pytest.mark.parametrize("fault", faults_of(composed_gradients.SLOTS))
    def test_each_shows_in_the_gradients(self, fault):
        assert composed_gradients.expected(GradientRecipe(faults=frozenset({fault}))) == {fault}

    def test_one_that_another_hides_is_not_expected(self):
        recipe = Recipe(faults=frozenset({"bias_ignored", "bias: before_scale"}))

        assert composed.expected(recipe) == {"bias_ignored"}

    def test_they_are_all_there_are(self):
        here = {*faults_of(composed.SLOTS), *faults_of(composed_gradients.SLOTS)}

        # By hand the lse has no gradient; nothing is in halves; a score_mod is a function.
        left_out = {"gradient_without_lse", "half_overflow", "score_mod_ignored"}
        assert set(FAULTS) - here == left_out


class TestDraw:
    def test_the_same_seed_draws_the_same(self):
        assert composed.draw(7) == composed.draw(7)
        assert composed_gradients.draw(7) == composed_gradients.draw(7)

    def test_every_fault_is_drawn(self):
        drawn = set().union(*(composed.draw(seed).faults for seed in range(1000)))

        assert drawn == set(faults_of(composed.SLOTS))


class TestNaming:
    @pytest.mark.parametrize(
        "names, expected, missing, wrong",
        [
            ([("a",)], ["a"], set(), set()),
            ([("a",)], ["a|b"], set(), set()),
            ([("c", "a")], ["a"], set(), set()),
            ([("a",), ("c",)], ["a"], set(), {"c"}),
            ([], ["a"], {"a"}, set()),
            ([("also",)], ["a"], {"a"}, set()),
        ],
    )
    def test_it_counts_what_is_not_named_and_what_is_wrongly(
        self, names, expected, missing, wrong
    ):
        diagnoses = [SimpleNamespace(name=n, alternatives=tuple(rest)) for n, *rest in names]
        report = SimpleNamespace(is_right=False, diagnoses=diagnoses)

        naming = naming_of(report, expected, also=["also"])

        assert (naming.missing, naming.wrong) == (missing, wrong)
