"""What the package promises about itself, beyond what its functions compute."""

import importlib
import inspect
import itertools
import re
import subprocess
import sys
import tomllib
import typing
from pathlib import Path

import numpydoc.docscrape
import numpydoc.validate
import pytest

import attnfn as af

ROOT = Path(__file__).parents[1]
PUBLIC = [f"attnfn.{name}" for name in af.__all__]
# Rooms with a door of their own: `attnfn.plot.attention_heat_map`.
ROOMS = ["attnfn.convert", "attnfn.plot", "attnfn.testing", "attnfn.testing.strategies"]
PUBLIC += [f"{room}.{name}" for room in ROOMS for name in importlib.import_module(room).__all__]


def resolve(path):
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


FUNCTIONS = [path for path in PUBLIC if inspect.isfunction(resolve(path))]
CLASSES = [path for path in PUBLIC if inspect.isclass(resolve(path))]
DOCUMENTED = FUNCTIONS + CLASSES


def run_python(code):
    """Run a program in an interpreter that has imported nothing yet."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )


class TestNames:
    def test_are_sorted(self):
        assert list(af.__all__) == sorted(af.__all__)

    def test_are_all_that_the_package_shows(self):
        shown = {
            name
            for name, value in vars(af).items()
            if not name.startswith("_") and not inspect.ismodule(value)
        }

        assert shown == {name for name in af.__all__ if not name.startswith("__")}

    def test_modules_are_private_or_rooms_of_their_own(self):
        modules = {m.__name__ for m in vars(af).values() if inspect.ismodule(m)}

        own = {name for name in modules if name.startswith("attnfn.")}
        public = {name for name in own if not name.removeprefix("attnfn.").startswith("_")}

        assert public <= set(ROOMS)

    @pytest.mark.parametrize("path", DOCUMENTED)
    def test_are_functions_or_classes_that_know_their_name(self, path):
        assert resolve(path).__name__ == path.rpartition(".")[2]

    def test_are_all_in_the_docs(self):
        listed = (ROOT / "docs" / "api.md").read_text(encoding="utf-8").split()

        assert [path for path in PUBLIC if path.removeprefix("attnfn.") not in listed] == []


class TestSignatures:
    @pytest.mark.parametrize("path", FUNCTIONS)
    def test_arrays_are_positional_only_and_choices_keyword_only(self, path):
        parameters = inspect.signature(resolve(path)).parameters.values()

        either = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]

        assert either == []

    @pytest.mark.parametrize("path", FUNCTIONS)
    def test_are_annotated_whole(self, path):
        signature = inspect.signature(resolve(path))

        bare = [p.name for p in signature.parameters.values() if p.annotation is p.empty]

        assert bare == []
        assert signature.return_annotation is not signature.empty

    @pytest.mark.parametrize("path", FUNCTIONS)
    def test_annotation_and_docstring_tell_the_same_shapes(self, path):
        function = resolve(path)
        doc = numpydoc.docscrape.FunctionDoc(function)
        told = {name.strip(): p.type for p in doc["Parameters"] for name in p.name.split(",")}
        told["return"] = doc["Returns"][0].type if len(doc["Returns"]) == 1 else ""

        for name, hint in typing.get_type_hints(function).items():
            axes = getattr(hint, "dim_str", "...").split()
            if "..." in axes or not told.get(name):  # several shapes, told in words
                continue
            shape = "(" + ", ".join(axes) + ("," if len(axes) == 1 else "") + ")"
            shape = shape.replace("*batch", "...")
            assert shape in told[name], f"{path}({name})"


class TestDocstrings:
    CHECKS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "numpydoc_validation"
    ]["checks"]

    @pytest.mark.parametrize("path", DOCUMENTED)
    def test_have_the_form_of_numpydoc(self, path):
        found = numpydoc.validate.validate(path)["errors"]

        errors = [f"{code} {text}" for code, text in found if code not in self.CHECKS]

        assert self.CHECKS[0] == "all"  # the others are taken away from it
        assert errors == []

    @pytest.mark.parametrize("path", FUNCTIONS)
    def test_of_functions_have_parameters_returns_and_examples(self, path):
        doc = numpydoc.docscrape.FunctionDoc(resolve(path))

        missing = [s for s in ("Parameters", "Returns", "Examples") if not doc[s]]

        assert missing == []

    @pytest.mark.parametrize("path", DOCUMENTED)
    def test_show_an_example_that_prints_something(self, path):
        lines = inspect.getdoc(resolve(path)).splitlines()

        after = [b for a, b in itertools.pairwise(lines) if a.startswith((">>>", "..."))]

        assert any(line.strip() and not line.startswith((">>>", "...")) for line in after)


class TestImport:
    @pytest.mark.parametrize("library", ["jax", "torch", "matplotlib", "array_api_strict"])
    def test_loads_no_array_library_but_numpy(self, library):
        result = run_python(f"import attnfn, sys; sys.exit({library!r} in sys.modules)")

        assert result.returncode == 0, result.stderr


class TestReadme:
    @pytest.mark.parametrize("command", ["attnfn", "nox"])
    def test_has_the_command_that_ci_runs(self, command):
        lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()

        commands = [x for x in lines if re.fullmatch(rf"python3 -m venv .*[ /]{command}", x)]

        assert len(commands) == 1
