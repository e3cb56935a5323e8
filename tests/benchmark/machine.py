"""What the figures depend on beside the code: the machine, the versions, the variables."""

import datetime
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["PACKAGES", "cleaned", "describe", "restart_cleaned"]

PACKAGES = ("numpy", "torch", "jax", "keras", "onnxruntime", "threadpoolctl")

#: Variables that choose kernels, numbers of threads, flags of a compiler or a cache: what is
#: measured is each library as it is installed, on all cores. Without compiled files every fresh
#: process takes 5 s to import PyTorch.
TUNING = re.compile(
    r"^(OPENBLAS|GOTO|BLAS|BLIS|MKL|NVPL|VECLIB|ACCELERATE|OMP|GOMP|KMP|NUMEXPR|DNNL|ONEDNN|"
    r"ATEN|TORCH|TORCHINDUCTOR|PYTORCH|ORT|XLA|JAX|TF|KERAS|NPY|NUMPY|MALLOC|GLIBC_TUNABLES|"
    r"LD_PRELOAD|ATTNFN|PYTHONDONTWRITEBYTECODE)($|_)"
)


def cleaned(variables):
    """Return the variables of the environment without those that tune a library."""
    return {name: value for name, value in variables.items() if not TUNING.match(name)}


def restart_cleaned(arguments):
    """Run this program anew if a variable tunes a library: they are read once, at the start."""
    clean = cleaned(os.environ)
    if clean != dict(os.environ):
        clean["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        command = [sys.executable, "-m", __package__, *arguments]
        sys.exit(subprocess.run(command, env=clean, check=False).returncode)


def describe():
    """Return what a line of the history says about the circumstances."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
        "commit": commit(),
        "machine": {"cpu": cpu(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": {"python": platform.python_version(), **versions()},
    }


def versions():
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def cpu():
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(line.split("\t", 1) for line in lines if "\t" in line)
    named = {name.strip(): fact.strip(": \t") for name, fact in facts.items()}
    if "model name" not in named:
        return platform.machine()
    numbers = f"family {named.get('cpu family')}, model {named.get('model')}"
    return f"{named['model name']} ({numbers})"


def commit():
    """Return the commit that is measured, with a star if the package has changed since."""

    def git(*arguments):
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=10", "HEAD") + (
            "*" if git("status", "--porcelain", "--", ":/attnfn") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return None
