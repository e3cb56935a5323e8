"""What pytest loads in any case: the options of ``pytest --attention``, nothing of attnfn."""

# Installed beside the package as `_attnfn_pytest`: importing the package would load NumPy in
# every run of pytest.

from typing import Any

import pytest

#: What is said of the function that ``--attention`` names.
NEED_ATTENTION = ("dialect", "library", "dtype", "feature", "device", "vjp")


def pytest_addoption(parser: Any) -> None:
    """Add what can be said on the command line."""
    group = parser.getgroup(
        "attention", "check an attention function, one test a feature (attnfn)"
    )
    group.addoption(
        "--attention",
        action="append",
        metavar="MODULE:NAME",
        help="the function, or a Subject made by an adapter; may be given several times; "
        "without paths, nothing else is tested",
    )
    group.addoption(
        "--attention-dialect",
        metavar="NAME",
        help="whose signature and conventions it has: flash_attn2, torch_sdpa, ... (attnfn)",
    )
    group.addoption(
        "--attention-library", metavar="NAME", help="of its arrays: torch, jax, ... (numpy)"
    )
    group.addoption(
        "--attention-dtype",
        action="append",
        metavar="DTYPE",
        help="to ask in; may be given several times (float32)",
    )
    group.addoption(
        "--attention-feature",
        action="append",
        metavar="NAME",
        help="to ask, such as causal; may be given several times (all)",
    )
    group.addoption(
        "--attention-device", metavar="DEVICE", help="where arrays are made: cuda, ..."
    )
    group.addoption(
        "--attention-vjp",
        metavar="MODULE:NAME",
        help="its gradients, where its library finds none: of (query, key, value, d_out)",
    )


def pytest_configure(config: Any) -> None:
    """Load the plugin itself if there is a function to check."""
    if config.getoption("attention"):
        from attnfn.testing.plugin import Attention

        config.pluginmanager.register(Attention(config), "attnfn.testing")
        return
    alone = [x for x in NEED_ATTENTION if config.getoption(f"attention_{x}", None)]
    if alone:
        text = f"--attention-{alone[0]} needs --attention MODULE:NAME, the function to check"
        raise pytest.UsageError(text)
