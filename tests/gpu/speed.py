"""Time attention on a GPU beside its peers, interleaved, and print medians and ratios.

``python tests/gpu/speed.py`` prints a table; nothing of it is asserted.
"""

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

import attnfn as af

ROUNDS, WARM_UP = 7, 3
#: Calls that are on their way at once, as in a network: a device is not waited for after each.
CALLS = 10


class Case(NamedTuple):
    name: str
    sides: dict[str, Callable[[], Any]]  # the first is the peer
    wait: Callable[[Any], Any]


def main() -> None:
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, jax {jax.__version__}")
    print()
    print(f"{'case':46} {'side':30} {'ms':>9} {'quartiles':>17} {'speed':>6} {'MiB':>7}")
    for case in (*torch_cases(), *jax_cases()):
        report(case)
        sys.stdout.flush()


def report(case: Case) -> None:
    times: dict[str, list[float]] = {}
    peaks: dict[str, float] = {}
    sides = dict(case.sides)
    for name, call in case.sides.items():
        try:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            for _ in range(WARM_UP):
                case.wait(call())
            peaks[name] = (torch.cuda.max_memory_allocated() - before) / 2**20
        except Exception as error:
            print(f"{case.name:46} {name:30} {type(error).__name__}: {str(error)[:90]!r}")
            del sides[name]
    for _ in range(ROUNDS):
        for name, call in sides.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                result = call()
            case.wait(result)
            times.setdefault(name, []).append(1e3 * (time.perf_counter() - start) / CALLS)
    if not times:
        return
    peer = statistics.median(next(iter(times.values())))
    for name, found in times.items():
        low, middle, high = statistics.quantiles(found, n=4)
        spread = f"{low:.3f} to {high:.3f}"
        print(
            f"{case.name:46} {name:30} {middle:9.3f} {spread:>17}"
            f" {peer / middle:6.2f} {peaks[name]:7.0f}"
        )


def drawn(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]


# PyTorch


def wait_for_cuda(_: Any) -> None:
    torch.cuda.synchronize()


def torch_cases() -> list[Case]:
    square = [(4, 16, 4096, 64)] * 3
    cases = []
    for dtype in ("float32", "bfloat16"):
        half = {"compute_dtype": torch.bfloat16} if dtype == "bfloat16" else {}
        for causal in (False, True):
            query, key, value = on_cuda(dtype, *square)
            ours = partial(af.attention, query, key, value, is_causal=causal)
            sides = {
                "SDPA": partial(sdpa, query, key, value, is_causal=causal),
                "auto": ours,
                "blockwise": partial(ours, engine="blockwise"),
                "dense": partial(ours, engine="dense"),
            }
            if half:
                sides["auto, compute_dtype=bfloat16"] = partial(ours, **half)
            name = f"torch {dtype} 4x16x4096x64{' causal' if causal else ''}"
            cases.append(Case(name, sides, wait_for_cuda))
            sides = {
                "SDPA": partial(step, sides["SDPA"], query, key, value),
                "auto": partial(step, ours, query, key, value),
                **(
                    {
                        "auto, compute_dtype=bfloat16": partial(
                            step, partial(ours, **half), query, key, value
                        )
                    }
                    if half
                    else {}
                ),
            }
            cases.append(Case(f"{name} gradient", sides, wait_for_cuda))
    cases.append(torch_window())
    cases.append(torch_decode())
    cases.append(torch_mask())
    cases.extend(torch_lengths())
    return cases


def on_cuda(dtype: str, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    kind = getattr(torch, dtype)
    return [torch.asarray(x, device="cuda").to(kind).requires_grad_() for x in drawn(*shapes)]


def step(call: Callable[[], torch.Tensor], *inputs: torch.Tensor) -> Any:
    return torch.autograd.grad(call().sum(), inputs)


def torch_window() -> Case:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    query, key, value = (x.detach() for x in on_cuda("bfloat16", *[(1, 16, 16384, 64)] * 3))
    seen = create_block_mask(
        lambda b, h, i, j: (i - j <= 256) & (i >= j), None, None, 16384, 16384, device="cuda"
    )
    flex = torch.compile(flex_attention)
    ours = partial(af.attention, query, key, value, window_size=(256, 0))
    sides = {
        "flex_attention, compiled": lambda: flex(query, key, value, block_mask=seen),
        "auto": ours,
        "auto, compute_dtype=bfloat16": partial(ours, compute_dtype=torch.bfloat16),
        "blockwise": partial(ours, engine="blockwise"),
    }
    return Case("torch bfloat16 window 256 of 16384", sides, wait_for_cuda)


def torch_lengths() -> list[Case]:
    """What no kernel of PyTorch's can do on a device."""
    cases = []
    for length in (256, 1024, 4096):
        query, key, value = on_cuda("float32", *[(4, 16, length, 64)] * 3)
        sides = {
            engine: partial(
                af.attention, query, key, value, is_causal=True, softcap=20.0, engine=engine
            )
            for engine in ("dense", "blockwise")
        }
        name = f"torch float32 4x16x{length}x64 softcap"
        cases.append(Case(name, sides, wait_for_cuda))
        slopes = {side: partial(step, f, query, key, value) for side, f in sides.items()}
        cases.append(Case(f"{name} gradient", slopes, wait_for_cuda))
    return cases


def torch_decode() -> Case:
    shapes = [(8, 32, 1, 128), (8, 8, 8192, 128), (8, 8, 8192, 128)]
    query, key, value = (x.detach() for x in on_cuda("bfloat16", *shapes))
    ours = partial(af.attention, query, key, value)
    sides = {
        "SDPA": partial(sdpa, query, key, value, enable_gqa=True),
        "auto": ours,
        "auto, compute_dtype=bfloat16": partial(ours, compute_dtype=torch.bfloat16),
    }
    return Case("torch bfloat16 decode 8x32(8)x1x8192", sides, wait_for_cuda)


def torch_mask() -> Case:
    query, key, value = (x.detach() for x in on_cuda("float32", *[(4, 16, 2048, 64)] * 3))
    mask = torch.asarray(np.random.default_rng(1).random((2048, 2048)) < 0.8, device="cuda")
    sides = {
        "SDPA": partial(sdpa, query, key, value, attn_mask=mask),
        "auto": partial(af.attention, query, key, value, mask=mask),
        "dense": partial(af.attention, query, key, value, mask=mask, engine="dense"),
    }
    return Case("torch float32 mask 4x16x2048", sides, wait_for_cuda)


# JAX


def jax_cases() -> list[Case]:
    cases = []
    for length in (256, 512, 1024, 2048):
        inputs = [jnp.asarray(x) for x in drawn(*[(4, 16, length, 64)] * 3)]
        sides = {
            engine: partial(af.attention, is_causal=True, engine=engine)
            for engine in ("dense", "blockwise")
        }
        name = f"jax float32 4x16x{length}x64 causal"
        forward = {side: partial(jax.jit(f), *inputs) for side, f in sides.items()}
        cases.append(Case(name, forward, jax.block_until_ready))
        backward = {side: partial(jax.jit(slope(f)), *inputs) for side, f in sides.items()}
        cases.append(Case(f"{name} gradient", backward, jax.block_until_ready))
    for dtype in ("float32", "bfloat16"):
        for causal in (False, True):
            query, key, value = (jnp.asarray(x, dtype) for x in drawn(*[(4, 16, 4096, 64)] * 3))
            laid_out = [jnp.moveaxis(x, 1, 2) for x in (query, key, value)]
            name = f"jax {dtype} 4x16x4096x64{' causal' if causal else ''}"
            inputs = (query, key, value)
            peer = partial(jax.nn.dot_product_attention, is_causal=causal)
            ours = partial(af.attention, is_causal=causal)
            sides = {
                "jax.nn": (peer, laid_out),
                "auto": (ours, inputs),
                "auto, products in TF32": (in_tf32(ours), inputs),
                "dense": (partial(ours, engine="dense"), inputs),
            }
            if dtype == "bfloat16":
                sides["jax.nn, cuDNN"] = (partial(peer, implementation="cudnn"), laid_out)
                sides["auto, compute_dtype=bfloat16"] = (
                    partial(ours, compute_dtype=jnp.bfloat16),
                    inputs,
                )
            forward = {side: partial(jax.jit(f), *x) for side, (f, x) in sides.items()}
            cases.append(Case(name, forward, jax.block_until_ready))
            backward = {side: partial(jax.jit(slope(f)), *x) for side, (f, x) in sides.items()}
            cases.append(Case(f"{name} gradient", backward, jax.block_until_ready))
    return cases


def in_tf32(call: Callable[..., Any]) -> Callable[..., Any]:
    def rounded(*inputs: Any) -> Any:
        with jax.default_matmul_precision("tensorfloat32"):
            return call(*inputs)

    return rounded


def slope(call: Callable[..., Any]) -> Callable[..., Any]:
    return jax.grad(lambda *x: jnp.sum(call(*x).astype("float32")), argnums=(0, 1, 2))


if __name__ == "__main__":
    main()
