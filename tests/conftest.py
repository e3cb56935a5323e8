"""The `xp` fixture: every test that asks for it runs once per array library."""

import importlib
import sys
import warnings
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

#: array_api_strict first: it refuses whatever the standard does not promise.
LIBRARIES = {
    "array_api_strict": "array_api_strict",
    "numpy": "array_api_compat.numpy",
    "torch": "array_api_compat.torch",
    "jax": "jax.numpy",
}


def pytest_addoption(parser):
    parser.addoption(
        "--xp",
        action="append",
        choices=sorted(LIBRARIES),
        help="run on this array library only; may be given several times",
    )


def load(library):
    if library == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)
    with warnings.catch_warnings():
        # array_api_strict warns that flags changed from their defaults when they are set.
        warnings.simplefilter("ignore")
        return importlib.import_module(LIBRARIES[library])


def pytest_generate_tests(metafunc):
    if "xp" in metafunc.fixturenames:
        wanted = metafunc.config.getoption("--xp") or list(LIBRARIES)
        only = metafunc.definition.get_closest_marker("libraries")
        if only is not None:
            wanted = [name for name in wanted if name in only.args]
        metafunc.parametrize("xp", wanted, indirect=True)


@pytest.fixture(autouse=True)
def _few_rows_at_once(monkeypatch):
    """Cut even the shortest queries into tiles, so that every test of an engine meets their edges."""
    from attnfn import _tiles

    monkeypatch.setattr(_tiles, "LEAST_ROWS", 1)
    monkeypatch.setattr(_tiles, "MOST_ROWS", 2)


@pytest.fixture
def xp(request):
    """An array namespace; `@pytest.mark.libraries("torch", "jax", reason=...)` narrows the choice."""
    pytest.importorskip(LIBRARIES[request.param].replace("array_api_compat.torch", "torch"))
    return load(request.param)
