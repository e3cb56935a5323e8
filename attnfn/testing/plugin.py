"""The pytest plugin: ``pytest --attention mypackage.kernels:attention``, one test a feature."""

import importlib
import os
import sys
from collections.abc import Iterator
from textwrap import wrap
from typing import Any

import pytest

from ._checks import check_dialect, check_features
from ._dialects import DIALECTS
from ._questions._cases import FEATURES, cases_of
from ._subject import Subject
from ._verdicts._conformance import check_attention, subject_of
from ._verdicts._libraries import library_of
from ._verdicts._report import Row, table

__all__ = ["Attention", "AttentionFeatures", "AttentionTest"]

#: The name under which a report carries what was found, also from one process to another.
FOUND = "attention"


class Attention:
    """The plugin of one run: it reads the options, and adds the tests to the session."""

    def __init__(self, config: pytest.Config) -> None:
        self.functions = {
            spec: _loaded("--attention", spec, config) for spec in config.getoption("attention")
        }
        self.dtypes = config.getoption("attention_dtype") or ["float32"]
        self.features = config.getoption("attention_feature") or list(FEATURES)
        self.dialect = config.getoption("attention_dialect")
        self.library = config.getoption("attention_library") or "numpy"
        self.device = config.getoption("attention_device")
        vjp = config.getoption("attention_vjp")
        self.vjp = _loaded("--attention-vjp", vjp, config) if vjp else None
        try:
            check_features(self.features, FEATURES)
            check_dialect(self.dialect or "attnfn", DIALECTS)
            library_of(self.library, self.dtypes, self.device)
            for function in self.functions.values():
                subject_of(function, self.dialect)
        except (ImportError, TypeError, ValueError) as error:
            text = f"--attention: {error}"
            raise pytest.UsageError(text) from error
        # Without paths nothing else is tested. pytest-xdist tells its processes no paths.
        told = getattr(config, "workerinput", {})
        self.is_alone = told.get(FOUND, config.args_source != config.ArgsSource.ARGS)
        if self.is_alone:
            config.args = []

    @pytest.hookimpl(optionalhook=True)  # type: ignore[untyped-decorator]
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a process of pytest-xdist whether nothing else is tested."""
        node.workerinput[FOUND] = self.is_alone

    @pytest.hookimpl(tryfirst=True)  # type: ignore[untyped-decorator]
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[Any]) -> None:
        """Add a test for each feature and dtype, before -k and its like choose among them."""
        for spec, function in self.functions.items():
            features = AttentionFeatures.from_parent(
                session, name=spec, nodeid=spec, plugin=self, function=function
            )
            items += session.genitems(features)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print what was found as a table."""
        found: dict[str, list[Row]] = {}
        for reports in terminalreporter.stats.values():
            for report in reports:
                for name, row in getattr(report, "user_properties", ()):
                    if name == FOUND and getattr(report, "when", "") == "call":
                        found.setdefault(report.nodeid.rpartition("::")[0], []).append(
                            Row(*row)
                        )
        if not found or terminalreporter.verbosity < 0:
            return
        terminalreporter.section("attention")
        order = {name: i for i, name in enumerate(FEATURES)}
        for spec, rows in found.items():
            rows.sort(key=lambda row: (order[row.feature], row.dtype))
            terminalreporter.line(
                f"{spec}, held to {DIALECTS[self.dialect or 'attnfn'].title}\n"
            )
            for line in _lines(rows):
                terminalreporter.line(line)


class AttentionFeatures(pytest.Collector):  # type: ignore[misc]
    """One function, whose tests are its features."""

    def __init__(self, *, plugin: Attention, function: Any, **more: Any) -> None:
        super().__init__(**more)
        self.plugin, self.function = plugin, function

    def collect(self) -> Iterator[pytest.Item]:
        """Return a test for each feature and dtype that there are cases of."""
        for feature in self.plugin.features:
            dtypes = {dtype for case in cases_of(feature) for dtype in case.dtypes}
            for dtype in self.plugin.dtypes:
                if not dtypes or dtype in dtypes:
                    yield AttentionTest.from_parent(
                        self, name=f"{feature}[{dtype}]", feature=feature, dtype=dtype
                    )


class AttentionTest(pytest.Item):  # type: ignore[misc]
    """One feature in one dtype."""

    def __init__(self, *, feature: str, dtype: str, **more: Any) -> None:
        super().__init__(**more)
        self.feature, self.dtype = feature, dtype

    def runtest(self) -> None:
        """Ask the function, and fail with what a report says where it is wrong."""
        plugin = self.parent.plugin
        report = check_attention(
            self.parent.function,
            dialect=plugin.dialect,
            library=plugin.library,
            dtypes=(self.dtype,),
            features=(self.feature,),
            vjp=plugin.vjp,
            device=plugin.device,
        )
        (row,) = report.rows
        self.user_properties.append((FOUND, list(row)))
        if row.verdict in ("absent", "refused"):
            pytest.skip(f"{row.verdict}: {row.why}")
        if row.verdict == "wrong":
            said = "; ".join(diagnosis.sentence for diagnosis in report.diagnoses) or row.why
            text = f"{said}\n\n{report}"
            raise _WrongError(text)

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        """Return the report where the function is wrong, a traceback where we are."""
        if isinstance(excinfo.value, _WrongError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """Return what stands above a failure."""
        return self.path, None, f"{self.parent.name}::{self.name}"


class _WrongError(Exception):
    """The function is wrong; the text is a report."""


def _lines(rows: list[Row]) -> list[str]:
    """Return a table of what there is, and the names of what there is not."""
    present = [row for row in rows if row.verdict != "absent"]
    cells: list[tuple[str, ...]] = [row[:4] for row in present]
    lines = table(("feature", "dtype", "verdict", "why"), cells)
    absent = ", ".join(dict.fromkeys(row.feature for row in rows if row.verdict == "absent"))
    return lines + (["", *wrap(f"absent: {absent}", 96)] if absent else [])


def _loaded(option: str, spec: str, config: pytest.Config) -> Any:
    """Return what is named as MODULE:NAME, or say what there is."""
    module_name, colon, name = spec.partition(":")
    if not (module_name and colon and name):
        text = f"{option} must be MODULE:NAME, as in mypackage.kernels:attention; got {spec!r}"
        raise pytest.UsageError(text)
    for folder in (os.fspath(config.invocation_params.dir), os.fspath(config.rootpath)):
        if folder not in sys.path:  # pytest itself does not look there
            sys.path.append(folder)
    try:
        found = importlib.import_module(module_name)
    except ImportError as error:
        text = f"{option} {spec}: {error}"
        raise pytest.UsageError(text) from error
    for part in name.split("."):
        if not hasattr(found, part):
            there = [
                x for x in vars(found) if not x.startswith("_") and _can_be_asked(found, x)
            ]
            known = ", ".join(there) or "nothing to call"
            text = f"{option} {spec}: {module_name} has no {part!r}; it has {known}"
            raise pytest.UsageError(text)
        found = getattr(found, part)
    return found


def _can_be_asked(module: Any, name: str) -> bool:
    value = getattr(module, name)
    own = getattr(value, "__module__", module.__name__) == module.__name__
    return isinstance(value, Subject) or (callable(value) and own)
