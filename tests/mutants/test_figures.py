"""How many of 200 drawn mutants are found and named, and how often right attention is called wrong."""

import pytest
from trials import alarms, confusions, figures_of, trials


@pytest.fixture(scope="module")
def checked():
    return trials(range(5000, 5200))


class TestMutants:
    def test_they_are_found_and_named(self, checked, capsys):
        figures = figures_of(checked)
        missing, wrong = confusions(checked)

        with capsys.disabled():
            print(f"\n{figures}\nnot named: {dict(missing)}\nwrongly named: {dict(wrong)}")
            for trial in checked:
                if not (trial.is_found and trial.is_named):
                    print(f"  {trial}")
        assert figures.found == figures.mutants
        assert figures.missing <= 0.03 * figures.mistakes
        assert figures.wrong <= 0.05 * figures.names


class TestRightAttention:
    def test_nothing_is_said_against_it(self, capsys):
        found = alarms(range(3))
        false = [alarm for alarm in found if alarm.wrong]

        with capsys.disabled():
            print(f"\n{len(false)} false alarms in {len(found)} checks: {false}")
        assert not false
