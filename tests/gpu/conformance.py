"""Ask attention functions on a GPU what they do: ``python tests/gpu/conformance.py``.

Prints the reports that a CPU cannot give: PyTorch's kernels for CUDA one by one, compiled
flex_attention, cuDNN behind ``jax.nn``, and attnfn's own engines.
"""

import sys
import time
from functools import partial

import jax
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import attnfn as af
from attnfn.testing import attnfn_like, check_attention, jax_like, torch_like

HALVES = ("float32", "float16", "bfloat16")


def sdpa_by(backend: SDPBackend):
    def attention(*args, **kwargs):
        with sdpa_kernel(backend):
            return torch.nn.functional.scaled_dot_product_attention(*args, **kwargs)

    return attention


def ours(**fixed):
    return attnfn_like(partial(af.attention_with_lse, **fixed), returns_lse=True)


def reports():
    on_cuda = {"library": "torch", "device": "cuda"}
    for engine in ("auto", "dense", "blockwise"):
        yield f"attnfn, {engine}, torch", ours(engine=engine), {**on_cuda, "dtypes": HALVES}
    for backend in ("MATH", "EFFICIENT_ATTENTION", "FLASH_ATTENTION", "CUDNN_ATTENTION"):
        options = {**on_cuda, "dialect": "torch_sdpa", "dtypes": HALVES}
        yield f"SDPA, {backend}", torch_like(sdpa_by(getattr(SDPBackend, backend))), options
    for kernel in ("xla", "cudnn"):
        function = partial(jax.nn.dot_product_attention, implementation=kernel)
        options = {"library": "jax", "dialect": "jax_nn", "dtypes": ("bfloat16",)}
        yield f"jax.nn, {kernel}", jax_like(function), options


def main() -> None:
    for name, function, options in reports():
        start = time.perf_counter()
        print(f"\n## {name}\n")
        print(check_attention(function, **options))
        print(f"({time.perf_counter() - start:.1f} s)")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
