"""What the tests beside the libraries themselves share: float64 on JAX, and a record of differences."""

import os

import numpy as np
import pytest
from support import to_numpy

os.environ["KERAS_BACKEND"] = "jax"  # before Keras is imported
os.environ["HF_HUB_OFFLINE"] = "1"

#: The greatest difference seen in each layout, relative to the greatest output.
DIFFERENCES = {}


@pytest.fixture(autouse=True, scope="session")
def _float64_on_jax():
    import jax

    jax.config.update("jax_enable_x64", True)


@pytest.fixture
def agree():
    """`agree(what, actual, expected, tolerance)`: assert it, and keep the difference for the report."""

    def check(what, actual, expected, tolerance):
        actual, expected = to_numpy(actual), to_numpy(expected)
        assert actual.shape == expected.shape
        assert actual.dtype == expected.dtype
        difference = np.abs(actual - expected).max() / np.abs(expected).max()
        DIFFERENCES[what] = max(DIFFERENCES.get(what, 0.0), float(difference))
        assert difference <= tolerance

    return check


def pytest_terminal_summary(terminalreporter):
    if DIFFERENCES:
        terminalreporter.section("greatest difference to each library, of the greatest output")
        for what, difference in DIFFERENCES.items():
            terminalreporter.line(f"{difference:8.1e}  {what}")
