"""The scripts of `docs/examples`, to be tested."""

import importlib
from pathlib import Path

import pytest

__all__ = ["EXAMPLES", "example"]

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def example(name):
    """Import a script, which imports its neighbours by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        return importlib.import_module(name)
