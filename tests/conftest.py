"""The `xp` fixture: every test that asks for it runs once per array library."""

import importlib
import importlib.metadata
import os
import sys
import warnings
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


def is_pinned(package):
    """Return whether the release that is installed is the one in constraints.txt."""
    pins = (Path(__file__).parent / "constraints.txt").read_text().splitlines()
    try:
        return f"{package}=={importlib.metadata.version(package)}" in pins
    except importlib.metadata.PackageNotFoundError:
        return False


#: JAX compiles whatever it meets, which is most of the time that the tests take. Its own passes
#: stay as they are; the code that LLVM makes of them need not be fast, nor be made by threads.
XLA_FLAGS = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
]
if is_pinned("jaxlib"):  # a flag that a release does not know ends the process
    XLA_FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(XLA_FLAGS))
#: What one process has compiled, the others and the next run need not.
COMPILED = Path(__file__).parent.parent / ".pytest_cache" / "d" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(COMPILED))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

#: array_api_strict first: it refuses whatever the standard does not promise.
LIBRARIES = {
    "array_api_strict": "array_api_strict",
    "numpy": "array_api_compat.numpy",
    "torch": "array_api_compat.torch",
    "jax": "jax.numpy",
}

#: Those with a kernel behind `engine="native"`.
NATIVE_LIBRARIES = {"numpy", "torch"}
#: What it says of a problem that it cannot do.
REFUSAL = "'native' cannot do"


def pytest_addoption(parser):
    parser.addoption(
        "--xp",
        action="append",
        choices=sorted(LIBRARIES),
        help="run on this array library only; may be given several times",
    )
    parser.addoption(
        "--device", help="where PyTorch makes its arrays, such as cuda; JAX chooses for itself"
    )


def load(library, device=None):
    if library == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)
    if library == "torch" and device is not None:
        import torch

        torch.set_default_device(device)
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


def pytest_collection_modifyitems(config, items):
    """Leave out the native engine on libraries that have none."""

    def is_there(item):
        params = getattr(getattr(item, "callspec", None), "params", {})
        return params.get("engine") != "native" or params.get("xp") in NATIVE_LIBRARIES

    left_out = [item for item in items if not is_there(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if is_there(item)]


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """Skip a test parametrised over engines where the native one says that it cannot do it."""
    try:
        return (yield)
    except NotImplementedError as error:
        if pyfuncitem.funcargs.get("engine") != "native" or REFUSAL not in str(error):
            raise
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def _few_rows_at_once(monkeypatch):
    """Cut even the shortest queries into tiles, so that every test of an engine meets their edges."""
    monkeypatch.setattr("attnfn._tiles.LEAST_ROWS", 1)
    monkeypatch.setattr("attnfn._tiles.MOST_ROWS", 2)


@pytest.fixture(autouse=True, scope="module")
def _what_jax_compiled_is_forgotten():
    """Each compiled function maps memory, and Linux ends a process that has 65,530 maps."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


@pytest.fixture
def xp(request, monkeypatch):
    """An array namespace; `@pytest.mark.libraries("torch", "jax", reason=...)` narrows the choice."""
    pytest.importorskip(LIBRARIES[request.param].replace("array_api_compat.torch", "torch"))
    if request.param == "torch":
        monkeypatch.setattr("attnfn._backend._torch_kernel.ROWS", 2)
        monkeypatch.setattr("attnfn._backend._torch_kernel.GRADIENT_ROWS", 3)
        monkeypatch.setattr("attnfn._backend._torch_parts.MASK_SIZE", 8)
        monkeypatch.setattr("attnfn._backend._torch_tiles.LEAST_ROWS", 1)
        monkeypatch.setattr("attnfn._backend._torch_tiles.MOST_ROWS", 3)
        monkeypatch.setattr("attnfn._backend._torch_windows.ROWS", 2)
        monkeypatch.setattr("attnfn._backend._torch_windows.SCORES", 16)
    return load(request.param, request.config.getoption("--device"))
