"""The figures that the tests of the examples report."""

import pytest

figures = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def report(pytestconfig):
    """`report(line)`: a figure to be printed at the end of the session."""
    return pytestconfig.stash.setdefault(figures, []).append


def pytest_terminal_summary(terminalreporter, config):
    if config.stash.get(figures, []):
        terminalreporter.section("figures")
        for line in config.stash[figures]:
            terminalreporter.write_line(line)
