"""200 mutants are found and named, and attention that is right is called right."""

import pytest
from testing.gallery import GALLERY
from testing.naming import check
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


class TestRightAttention:
    @pytest.mark.parametrize("mutant", GALLERY.values(), ids=GALLERY)
    @pytest.mark.filterwarnings("ignore")
    def test_a_mutant_without_its_bug_is_right(self, mutant):
        report = check(mutant, bug=False)

        assert report.is_right, str(report)
        assert not report.diagnoses

    def test_nothing_is_said_against_it(self, capsys):
        found = alarms(range(3))
        false = [alarm for alarm in found if alarm.wrong]

        with capsys.disabled():
            print(f"\n{len(false)} false alarms in {len(found)} checks: {false}")
        assert not false
