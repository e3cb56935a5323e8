"""Measure one side once, in a process of its own: `measured_afresh` starts it.

A process that has run before would hide a peak in memory that it kept, and a compilation in
what is cached. `tracemalloc` sees neither BLAS nor PyTorch nor JAX, so it is the resident
size that is read.
"""

import contextlib
import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from .cases import SIDES
from .sides import side
from .work import Work, tiny

__all__ = ["measured_afresh", "measured_here"]

STATUS = Path("/proc/self/status")


def measured_afresh(what, label, work):
    """Return MiB beyond inputs and results ("memory"), or seconds ("compile")."""
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        # What is freed goes back at once: the peak is what is in use.
        "MALLOC_MMAP_THRESHOLD_": "131072",
        "MALLOC_TRIM_THRESHOLD_": "131072",
    }
    command = [sys.executable, "-m", f"{__package__}.fresh", what, label, json.dumps(work)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        )
    answer = json.loads(done.stdout.splitlines()[-1])
    if isinstance(answer, str):
        raise NotImplementedError(answer)
    return answer


def memory(label, work):
    """Return by how many MiB the resident size rises during a call, beyond its results.

    Less than 1 MiB is noise, and counts as 1.
    """
    if not STATUS.exists():
        reason = "the resident peak is read on Linux alone"
        raise NotImplementedError(reason)
    side(label, tiny(work))()  # loads what is loaded at the first call
    call = side(label, work)
    gc.collect()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak is that from here on
    before = resident("VmRSS")
    results = call()
    return max(1.0, (resident("VmHWM") - before - size(results)) / 2**20)


def resident(name):
    line = next(x for x in STATUS.read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) * 1024


def size(results):
    """Return the bytes of an array, or of the arrays in a tuple or list."""
    if isinstance(results, tuple | list):
        return sum(map(size, results))
    return getattr(results, "nbytes", 0)


def compile_time(label, work):
    call = side(label, work, SIDES[label.partition(", ")[0]] + "_to_compile")
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measured_here(what, label, work):
    """Return the same, measured in this process, which has run before."""
    return {"memory": memory, "compile": compile_time}[what](label, work)


def main(what, label, work):
    try:
        answer = measured_here(what, label, work)
    except NotImplementedError as error:
        answer = str(error)
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:3], Work(*json.loads(sys.argv[3])))
