"""What `python -m attnfn` prints, and what it returns when a library is wrong, broken or absent."""

import functools
import math
import os
import subprocess
import sys
from importlib import resources

import numpy as np
import pytest
from oracle import oracle as independent_oracle

import attnfn as af
from attnfn import __main__ as program
from attnfn._demo import _check, load_sentence, make_calls, shades_for
from attnfn._demo._check import Outcome, check_libraries
from attnfn._demo._grid import SHADES, draw_grid, strongest_pair
from attnfn._demo._libraries import LIBRARIES, Library
from attnfn._demo._oracle import oracle
from attnfn._demo._report import describe_outcome, verdict

NUMPY = LIBRARIES[0]


@pytest.fixture(scope="module")
def sentence():
    return load_sentence()


@pytest.fixture(scope="module")
def calls(sentence):
    return make_calls(sentence)


@pytest.fixture
def numpy_alone(monkeypatch):
    """The program as it is where no other library is installed, and in less time."""
    monkeypatch.setattr(_check, "TIMING", 0.001)
    monkeypatch.setattr(
        program, "check_libraries", functools.partial(check_libraries, libraries=[NUMPY])
    )


@pytest.fixture
def module(monkeypatch, tmp_path):
    """`module(name, source)`: a module that can be imported, as a library that is installed."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(name, source):
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return Library(name, name)

    yield make
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


class TestMain:
    def test_every_library_installed_here_agrees(self, capsys):
        status = program.main([])

        printed = capsys.readouterr().out
        assert status == 0
        for name in ("numpy", "array_api_strict", "torch", "jax"):
            assert f"\n{name} " in printed
        assert printed.splitlines()[-1].endswith("agree with the loops.")
        assert "NOT" not in printed

    @pytest.mark.parametrize("head", range(12))
    def test_fits_a_terminal(self, head, numpy_alone, capsys):
        program.main(["--head", str(head)])

        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 80
        assert f"head {head} (of 0 to 11" in " ".join(lines)

    def test_shows_the_head_that_looks_one_token_back(self, numpy_alone, capsys):
        program.main(["--head", "2"])

        lines = capsys.readouterr().out.splitlines()
        rows = [line for line in lines if "100" in line and "%" not in line]
        columns = [line.index("100") for line in rows]
        # The first token has none before it, and attends to itself.
        assert columns[0] == columns[1]
        assert np.diff(columns[1:]).tolist() == [7] * 8

    def test_prints_a_picture_into_a_file(self, numpy_alone, capsys, tmp_path):
        path = tmp_path / "head.png"

        status = program.main(["--plot", str(path)])

        assert status == 0
        assert path.read_bytes().startswith(b"\x89PNG")
        assert f"The picture is in {path}." in capsys.readouterr().out

    def test_needs_no_more_than_ascii(self):
        code = (
            "import attnfn.__main__ as program\n"
            "from attnfn._demo import check_libraries as check\n"
            "from attnfn._demo._libraries import LIBRARIES\n"
            "program.check_libraries = lambda calls: check(calls, LIBRARIES[:1])\n"
            "raise SystemExit(program.main([]))\n"
        )
        environment = {**os.environ, "PYTHONIOENCODING": "ascii"}

        out = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, check=True
        )

        assert "**58**" in out.stdout.decode("ascii")
        assert out.stdout.decode("ascii").splitlines()[-1] == "numpy agrees with the loops."

    @pytest.mark.skipif(
        sys.platform == "win32", reason="Windows calls a closed pipe an invalid argument"
    )
    def test_says_nothing_when_its_reader_has_gone(self):
        process = subprocess.Popen(
            [sys.executable, "-m", "attnfn"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        process.stdout.close()

        assert process.stderr.read() == b""
        assert process.wait() == 0
        process.stderr.close()


class TestMainRefuses:
    @pytest.mark.parametrize("head", ["12", "-1", "four", "1.5", ""])
    def test_a_head_that_is_not_there(self, head, capsys):
        with pytest.raises(SystemExit) as exit:
            program.main([f"--head={head}"])

        last = capsys.readouterr().err.splitlines()[-1]
        assert exit.value.code == 2
        assert last.endswith(
            f"argument --head: must be a whole number from 0 to 11; got {head}"
        )

    def test_a_picture_without_matplotlib(self, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        monkeypatch.delitem(sys.modules, "attnfn.plot", raising=False)

        with pytest.raises(SystemExit) as exit:
            program.main(["--plot", "head.png"])

        printed = capsys.readouterr()
        assert exit.value.code == 2
        assert 'pip install "attnfn[plot]"' in printed.err.splitlines()[-1]
        assert printed.out == ""

    @pytest.mark.parametrize(
        ("name", "reason"), [("head.xyz", "xyz"), ("nowhere/head.png", "No such file")]
    )
    def test_a_file_that_cannot_be_written(self, name, reason, capsys, tmp_path):
        with pytest.raises(SystemExit) as exit:
            program.main(["--plot", str(tmp_path / name)])

        assert exit.value.code == 2
        assert reason in capsys.readouterr().err.splitlines()[-1]


class TestCheckLibraries:
    def test_a_library_that_ignores_the_options_is_found_out(
        self, numpy_alone, monkeypatch, capsys
    ):
        monkeypatch.setattr(
            _check, "attention", lambda q, k, v, **options: af.attention(q, k, v)
        )

        status = program.main([])

        assert status == 1
        assert "WRONG" in capsys.readouterr().out

    @pytest.mark.parametrize("option", ["is_causal", "window_size", "mask", "softcap", "bias"])
    def test_each_option_that_is_ignored_is_found_out(self, option, calls, monkeypatch):
        monkeypatch.setattr(_check, "TIMING", 0.001)
        monkeypatch.setattr(
            _check,
            "attention",
            lambda *arrays, **options: af.attention(
                *arrays, **{name: x for name, x in options.items() if name != option}
            ),
        )

        (outcome,) = check_libraries(calls, [NUMPY])

        assert outcome.disagrees
        assert outcome.error > 2e-2  # more than any roughness is allowed

    def test_one_nan_is_found_out(self, calls, monkeypatch):
        def attention(*arrays, **options):
            out = af.attention(*arrays, **options)
            if "softcap" not in options:
                out[0, 0, 0] = math.nan
            return out

        monkeypatch.setattr(_check, "TIMING", 0.001)
        monkeypatch.setattr(_check, "attention", attention)

        (outcome,) = check_libraries(calls, [NUMPY])

        assert outcome.disagrees

    def test_a_result_that_would_broadcast_is_found_out(self, calls, monkeypatch):
        monkeypatch.setattr(_check, "TIMING", 0.001)
        monkeypatch.setattr(_check, "attention", lambda *x, **o: af.attention(*x, **o)[:1])

        (outcome,) = check_libraries(calls, [NUMPY])

        assert outcome.disagrees

    def test_a_call_that_raises_is_reported_and_disagrees(
        self, numpy_alone, monkeypatch, capsys
    ):
        def attention(*arrays, is_causal=False, **options):
            if is_causal:
                message = "no\nsecond line"
                raise RuntimeError(message)
            return af.attention(*arrays, **options)

        monkeypatch.setattr(_check, "attention", attention)

        status = program.main([])

        printed = capsys.readouterr().out
        assert status == 1
        assert "FAILED at causal: RuntimeError: no\n" in printed
        assert printed.endswith("numpy DOES NOT AGREE with the loops.\n")

    def test_a_library_that_is_absent_is_not_listed(self, calls):
        absent = [Library("nowhere", "nowhere"), Library("inner", "nowhere.inner")]

        assert list(check_libraries(calls, absent)) == []

    @pytest.mark.parametrize(
        ("source", "reason"),
        [
            (
                "raise RuntimeError('two versions\\nthat do not fit')",
                "RuntimeError: two versions",
            ),
            ("import gone_with_the_wind", "ModuleNotFoundError: No module named"),
            ("raise OSError('caf\\u00e9')", "OSError: caf\\xe9"),
            ("", "AttributeError: module"),
            ("def asarray(x):\n    raise OSError('no device')", "OSError: no device"),
        ],
    )
    def test_a_broken_installation_is_reported_and_disagrees_with_nothing(
        self, source, reason, calls, module
    ):
        (outcome,) = check_libraries(calls, [module("broken_library", source)])

        assert reason in outcome.broken
        assert not outcome.disagrees
        assert reason.split()[-1] in describe_outcome(outcome)

    def test_rough_products_are_allowed_their_own_rounding(self, calls, module, monkeypatch):
        # As a GPU does that multiplies in TF32: ten bits of the factors are kept.
        library = module(
            "rough",
            "import numpy\n"
            "from numpy import exp, sum\n"
            "def asarray(x):\n"
            "    if x.dtype != 'float32':\n"
            "        return x\n"
            "    bits = x.copy().view('uint32') & 0xFFFFE000\n"
            "    return bits.view('float32')\n",
        )
        monkeypatch.setattr(_check, "TIMING", 0.001)

        (outcome,) = check_libraries(calls, [library])

        assert 1e-5 < outcome.error <= outcome.allowed <= 2e-2
        assert "is rounding" in describe_outcome(outcome)


class TestVerdict:
    def test_names_each_library_once(self):
        good = Outcome("torch", error=0.0, allowed=1.0)
        bad = Outcome("jax", error=2.0, allowed=1.0)
        broken = Outcome("mlx", broken="OSError")

        text = verdict([good, good._replace(device="cuda:0"), bad, broken])

        assert text == (
            "torch agrees with the loops. jax DOES NOT AGREE with the loops. mlx cannot be used."
        )


class TestOracle:
    @pytest.mark.parametrize("group", [1, 2])
    def test_agrees_with_the_oracle_of_the_tests(self, group):
        rng = np.random.default_rng(0)
        query, key, value = (rng.normal(size=(n, 5, 4)) for n in (4, 4 // group, 4 // group))
        mask, bias = rng.random((5, 5)) < 0.5, rng.normal(size=(5, 5))
        mask[2] = False

        ours = oracle(
            query.tolist(),
            key.tolist(),
            value.tolist(),
            may_attend=lambda i, j: bool(mask[i, j]),
            bias=lambda i, j: float(bias[i, j]),
            softcap=1.5,
        )

        expected = independent_oracle(query, key, value, mask=mask, bias=bias, softcap=1.5)
        np.testing.assert_allclose(ours, expected.out, rtol=0, atol=1e-14)

    def test_the_emptied_row_is_zero(self, calls):
        (call,) = (call for call in calls if "empties" in call.name)

        assert (call.answer[:, 0] == 0).all()
        assert (call.answer[:, 1:] != 0).any()


class TestSentence:
    def test_is_small_and_comes_with_its_source_and_licence(self):
        folder = resources.files("attnfn._demo")

        assert len((folder / "minilm.npz").read_bytes()) <= 64 * 1024
        assert "all-MiniLM-L6-v2" in (folder / "minilm-SOURCE.txt").read_text("utf-8")
        assert "Apache License" in (folder / "minilm-LICENSE.txt").read_text("utf-8")

    def test_has_a_query_a_key_and_a_value_for_each_token_of_each_head(self, sentence):
        for array in (sentence.query, sentence.key, sentence.value):
            assert array.shape == (12, len(sentence.tokens), 32)
            assert array.dtype == "float32"
        assert sentence.tokens[1:-1] == [
            "the",
            "bank",
            "of",
            "the",
            "river",
            "was",
            "flooded",
            ".",
        ]


class TestGrid:
    @pytest.mark.parametrize(
        ("encoding", "kind"),
        [
            ("utf-8", "unicode"),
            ("cp437", "unicode"),
            ("ascii", "ascii"),
            ("cp1252", "ascii"),
            (None, "ascii"),
            ("unheard-of", "ascii"),
        ],
    )
    def test_shades_are_those_a_stream_can_print(self, encoding, kind):
        assert shades_for(encoding) == SHADES[kind]

    def test_cells_say_percent_and_are_the_fuller_the_more(self):
        weights = np.asarray([[0.004, 0.14, 0.2], [0.4, 0.6, 1.0]])

        grid = draw_grid(weights, ["a", "b"], SHADES["ascii"])

        _, first, second = grid.splitlines()
        assert first == "a" + " " * 10 + "14   ::20::"
        assert second == "b ==40== **60** #100##"

    def test_tokens_stand_over_their_columns(self):
        weights = np.eye(3)

        header, *rows = draw_grid(
            weights, ["one", "two", "three"], SHADES["ascii"]
        ).splitlines()

        for token, row in zip(["one", "two", "three"], rows, strict=True):
            assert row.split()[0] == token
            centre = header.index(token) + len(token) / 2
            assert abs(centre - (row.index("100") + 1.5)) <= 1.5

    def test_strongest_pair_is_of_two_words(self):
        tokens = ["[CLS]", "bank", "river", "."]
        weights = np.asarray(
            [[0.9, 0.1, 0, 0], [0.5, 0.3, 0.2, 0.0], [0, 0.1, 0.9, 0], [0, 0, 0.9, 0.1]]
        )

        assert strongest_pair(weights, tokens) == ("bank", "river", 0.2)
