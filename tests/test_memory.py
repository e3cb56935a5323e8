"""Memory grows with the length, not with its square: measured in fresh processes.

No call may take more, beyond its inputs and results, than a quarter of the scores of one head
in float32: whatever keeps them, or as much as a bool mask of their size, is above that.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(),
    reason="the resident peak is read on Linux alone",
)

#: What takes long is measured where there are fewer scores.
LONG, SHORTER = 8192, 4096


def quarter(length):
    """Return the MiB of a quarter of length * length numbers: 64 of 256, or 16 of 64."""
    return length**2 / 2**20


#: A process that has run before would hide a peak in memory that it kept. What is loaded or
#: started at the first call is loaded by a small one. Compiled functions are called with the
#: same shapes beforehand, so that it is the call that is measured and not the compiler.
PROGRAM = """
import gc, math, sys
import numpy as np
import attnfn as af

def resident(name):
    with open("/proc/self/status") as lines:
        return next(int(x.split()[1]) for x in lines if x.startswith(name)) / 1024

def arrays(heads, length, dim):
    draw = np.random.default_rng(0).standard_normal
    return [draw((1, heads, length, dim), dtype="float32") for _ in "qkv"]

{body}

for x in warm_ups:
    call(*x)
gc.collect()
open("/proc/self/clear_refs", "w").write("5")  # the peak is that from here on
before = resident("VmRSS")
results = call(*inputs)
peak = resident("VmHWM") - before
print(peak - sum(x.nbytes for x in results if x is not None) / 2**20)
"""

ON_NUMPY = """
warm_ups, inputs = [arrays(1, 64, {dim})], arrays({heads}, {length}, {dim})
"""

ON_TORCH = """
import torch

def leaves(arrays):
    return [torch.asarray(x).requires_grad_() for x in arrays]

warm_ups = [leaves(arrays(1, 1024, 32))]
inputs = leaves(arrays(1, {length}, 32))
for x in inputs:
    x.grad = torch.zeros_like(x)

def call(q, k, v):
    out = af.attention(q, k, v, engine={engine!r}, **{options})
    out.sum().backward()
    return [out]
"""

ON_JAX = """
import jax

inputs = [jax.device_put(x) for x in arrays(1, 8192, 32)]
warm_ups = [inputs]
compiled = jax.jit({function})

def call(*arrays):
    return jax.block_until_ready(jax.tree.leaves(compiled(*arrays)))
"""


def peak(body):
    """Return the MiB that a call takes at most beyond its inputs and results."""
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        # What is freed goes back at once: the peak is what is in use.
        "MALLOC_MMAP_THRESHOLD_": "131072",
        "MALLOC_TRIM_THRESHOLD_": "131072",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{body}", body)],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


class TestNumpy:
    @staticmethod
    def of(call, heads=1, length=LONG, dim=32):
        program = ON_NUMPY.format(heads=heads, length=length, dim=dim)
        return peak(f"{program}\ncall = lambda *x: {call}")

    def test_native(self):
        used = self.of("[af.attention(*x, engine='native')]", heads=2, length=16384, dim=64)

        assert used < quarter(LONG)  # a sixteenth of what one head has here

    def test_blockwise(self):
        used = self.of("[af.attention(*x, engine='blockwise')]", length=SHORTER)

        assert used < quarter(SHORTER)

    def test_gradient_in_closed_form(self):
        used = self.of("[*af.attention_vjp(*x, x[2])[:3]]", length=SHORTER)

        assert used < quarter(SHORTER)

    def test_dense_would_not_pass(self):
        used = self.of("[af.attention(*x, engine='dense')]", length=SHORTER)

        assert used > 4 * quarter(SHORTER)


class TestTorch:
    @pytest.fixture(autouse=True)
    def _is_there(self):
        pytest.importorskip("torch", reason="these tests are about PyTorch")

    @pytest.mark.parametrize(
        "named, options",
        [("blockwise", {"softcap": 20.0}), ("native", {"window_size": (255, 0)})],
        ids=["blockwise", "native window"],
    )
    def test_forward_and_backward(self, named, options):
        used = peak(ON_TORCH.format(length=SHORTER, engine=named, options=options))

        assert used < quarter(SHORTER)


class TestJax:
    @pytest.fixture(autouse=True)
    def _is_there(self):
        pytest.importorskip("jax", reason="these tests are about JAX")

    def test_forward(self):
        function = "lambda *x: af.attention(*x, engine='blockwise')"

        assert peak(ON_JAX.format(function=function)) < quarter(LONG)

    def test_gradient(self):
        function = (
            "jax.grad(lambda *x: af.attention(*x, engine='blockwise').sum(), argnums=(0, 1, 2))"
        )

        assert peak(ON_JAX.format(function=function)) < quarter(LONG)
