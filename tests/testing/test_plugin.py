"""``pytest --attention`` is one test a feature, and says of a wrong one what a report does."""

import pytest

import attnfn.testing.plugin  # noqa: F401  # before pytester looks which modules there are

KERNELS = """
import numpy as np
import attnfn as af
from attnfn.testing import attnfn_like

def attention(q, k, v, mask=None, is_causal=False):
    offset = k.shape[-2] - q.shape[-2]
    return af.attention(q, k, v, mask=mask, is_causal=is_causal, q_offset=offset)

def strict(q, k, v, is_causal=False):
    mask = np.tri(q.shape[-2], k.shape[-2], -1, dtype=bool) if is_causal else None
    return af.attention(q, k, v, mask=mask)

def refusing(q, k, v, is_causal=False):
    if is_causal:
        raise NotImplementedError("not causal yet")
    return af.attention(q, k, v)

def vjp(q, k, v, d_out, is_causal=False):
    return af.attention_vjp(q, k, v, d_out, is_causal=is_causal)[:3]

adapted = attnfn_like(attention)

def _hidden(): ...
"""
#: Enough to see every verdict, and little enough to be quick.
FEW = [f"--attention-feature={name}" for name in ("plain", "mask", "causal", "softcap")]


@pytest.fixture
def check(pytester):
    """Run pytest where there is kernels.py, and a test of its own."""
    pytester.makepyfile(kernels=KERNELS, test_other="def test_other(): ...")

    def run(*args):
        return pytester.runpytest_inprocess("-p", "_attnfn_pytest", *args)

    return run


def lines(result):
    return "\n".join(result.outlines)


class TestTests:
    def test_are_one_a_feature_named_by_it(self, check):
        result = check("-v", "--attention", "kernels:attention", *FEW)

        result.assert_outcomes(passed=3, skipped=1)
        result.stdout.fnmatch_lines(["*kernels:attention::causal*float32* PASSED*"])

    def test_skip_what_there_is_no_place_for_and_say_so(self, check):
        result = check("-rs", "--attention", "kernels:attention", *FEW)

        result.stdout.fnmatch_lines(["SKIPPED*absent: no*softcap*"])

    def test_skip_what_is_refused_and_say_so(self, check):
        result = check("-rs", "--attention", "kernels:refusing", *FEW)

        result.assert_outcomes(passed=1, skipped=3)
        result.stdout.fnmatch_lines(["SKIPPED*refused: NotImplementedError: not causal yet*"])

    def test_fail_with_the_report_and_no_traceback(self, check):
        result = check("--attention", "kernels:strict", *FEW)

        result.assert_outcomes(passed=1, failed=1, skipped=2)
        failure = lines(result).partition("FAILURES")[2].partition("= attention =")[0]
        assert "strict, held to attnfn.attention" in failure
        assert "causal" in failure
        for noise in ("Traceback", ".py", "check_attention", "_WrongError"):
            assert noise not in failure

    def test_are_asked_in_each_dtype(self, check):
        dtypes = ("--attention-dtype=float16", "--attention-dtype=float64")
        result = check("-v", "--attention", "kernels:attention", *FEW[:1], *dtypes)

        result.assert_outcomes(passed=2)
        result.stdout.fnmatch_lines(["*plain?float16?*", "*plain?float64?*"])

    def test_are_of_several_functions(self, check):
        several = ("--attention=kernels:attention", "--attention=kernels:strict")
        result = check(*several, "--attention-feature=causal")

        result.assert_outcomes(passed=1, failed=1)

    def test_take_a_subject(self, check):
        result = check("--attention", "kernels:adapted", *FEW)

        result.assert_outcomes(passed=3, skipped=1)

    @pytest.mark.parametrize(
        ("vjp", "outcome"), [((), "skipped"), (("kernels:vjp",), "passed")]
    )
    def test_take_gradients(self, check, vjp, outcome):
        options = [f"--attention-vjp={name}" for name in vjp]
        chosen = "--attention-feature=gradients_causal"
        result = check("--attention", "kernels:attention", chosen, *options)

        result.assert_outcomes(**{outcome: 1})


class TestChoice:
    def test_by_k(self, check):
        result = check("--attention", "kernels:attention", *FEW, "-k", "causal")

        result.assert_outcomes(passed=1, deselected=3)

    def test_stops_at_the_first_failure(self, check):
        result = check("--attention", "kernels:strict", *FEW, "--attention-feature=plain", "-x")

        assert "stopping after 1 failures" in lines(result)

    def test_can_be_listed(self, check):
        result = check("--attention", "kernels:strict", *FEW, "--collect-only")

        result.stdout.fnmatch_lines(
            ["<AttentionFeatures kernels:strict>", "*<AttentionTest plain?float32?>"]
        )
        assert "held to" not in lines(result)

    def test_leaves_other_tests_out_unless_there_are_paths(self, check):
        alone = check("--attention", "kernels:attention", *FEW[:1])
        beside = check("--attention", "kernels:attention", *FEW[:1], "test_other.py")

        alone.assert_outcomes(passed=1)
        beside.assert_outcomes(passed=2)

    def test_survives_several_processes(self, check, pytester):
        pytest.importorskip("xdist", reason="it is they that it is about")
        pytester.makepyfile(kernels=KERNELS, test_other="def test_other(): ...")
        args = ("-p", "_attnfn_pytest", "--attention", "kernels:strict", *FEW, "-n", "2")

        result = pytester.runpytest_subprocess(*args)

        result.assert_outcomes(passed=1, failed=1, skipped=2)
        result.stdout.fnmatch_lines(["kernels:strict, held to attnfn.attention"])


class TestSummary:
    def test_is_a_table(self, check):
        result = check("--attention", "kernels:strict", *FEW)

        result.stdout.fnmatch_lines(
            [
                "*= attention =*",
                "kernels:strict, held to attnfn.attention",
                "feature  dtype    verdict  why",
                "plain    float32  right*",
                "causal   float32  wrong*",
                "absent: mask, softcap",
            ],
            consecutive=False,
        )

    def test_is_left_out_where_pytest_is_to_be_quiet(self, check):
        result = check("--attention", "kernels:attention", *FEW, "-q")

        assert "held to" not in lines(result)


class TestUsage:
    @pytest.mark.parametrize(
        ("args", "text"),
        [
            (["--attention=kernels"], "must be MODULE:NAME"),
            (["--attention=kernel:attention"], "No module named 'kernel'"),
            (
                ["--attention=kernels:_attend"],
                "has no '_attend'; it has attention, strict, refusing, vjp, adapted",
            ),
            (["--attention=kernels:np"], "must be a function or a Subject; got module"),
            (
                ["--attention=kernels:attention", "--attention-dialect=flash"],
                "`dialect` must be a Dialect or among attnfn, torch_sdpa,",
            ),
            (
                ["--attention=kernels:attention", "--attention-feature=masks"],
                "`features` must be among plain,",
            ),
            (
                ["--attention=kernels:attention", "--attention-library=tensorflow"],
                '`library` must be "array_api_strict",',
            ),
            (
                ["--attention=kernels:attention", "--attention-dtype=int8"],
                '`dtypes` must be among "float16",',
            ),
            (["--attention-dialect=torch_sdpa"], "--attention-dialect needs --attention"),
        ],
    )
    def test_says_what_there_is(self, check, args, text):
        result = check(*args)

        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert text in "\n".join(result.errlines)


class TestNothingAsked:
    def test_costs_nothing(self, pytester):
        pytester.makepyfile(
            """
            import sys

            def test_what_is_loaded():
                assert "_attnfn_pytest" in sys.modules
                assert "attnfn" not in sys.modules  # others load NumPy
            """
        )

        result = pytester.runpytest_subprocess(
            "-p", "_attnfn_pytest", "-p", "no:hypothesispytest"
        )

        result.assert_outcomes(passed=1)
