"""What the tests beside the packages share."""

import os

import pytest

os.environ.setdefault("KERAS_BACKEND", "numpy")  # before Keras is imported
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(autouse=True, scope="session")
def _float64_on_jax():
    import jax

    jax.config.update("jax_enable_x64", True)
