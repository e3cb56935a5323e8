"""Every comparison, as data: what is computed, by whom, and what is to be reached."""

from typing import NamedTuple

from .work import Work

__all__ = ["CASES", "SIDES", "Case"]

#: The function that makes a side's call, as module:function. Sides of ours take an engine,
#: as in "attnfn on torch, dense"; without one it is "auto".
SIDES = {
    "attnfn on numpy": "on_numpy:ours",
    "attnfn on torch": "on_torch:ours",
    "attnfn on jax": "on_jax:ours",
    "attnfn layer": "on_torch:multi_head",
    "naive NumPy": "on_numpy:naive",
    "naive JAX": "on_jax:naive",
    "torch SDPA": "on_torch:sdpa",
    "torch SDPA by slices": "on_torch:sliced",
    "torch eager": "on_torch:eager",
    "torch flex": "on_torch:flex",
    "nn.MultiheadAttention": "on_torch:module",
    "jax.nn": "on_jax:functional",
    "keras.ops": "on_others:keras_ops",
    "onnxruntime": "on_others:onnx_operator",
}

NUMPY, TORCH, JAX = "attnfn on numpy", "attnfn on torch", "attnfn on jax"
NAIVE, SDPA, JAX_NN, KERAS, ONNX = (
    "naive NumPy",
    "torch SDPA",
    "jax.nn",
    "keras.ops",
    "onnxruntime",
)
SLICES, EAGER, FLEX = "torch SDPA by slices", "torch eager", "torch flex"


class Case(NamedTuple):
    """Ours, beside others. A peer's number is how many times as good ours is to be, or None."""

    name: str
    work: Work
    ours: str
    peers: dict[str, float | None]
    measure: str = "time"  # or "memory", "compile", "growth of time", "growth of memory"
    at_most: float | None = None  # for ours, in the unit of the measure
    lengths: tuple[int, ...] = ()  # of which growth is the exponent
    #: The same side at other work instead of another side, in `peers` as "unscaled".
    unscaled: Work | None = None


def square(length: int, **changes: object) -> Work:
    return Work(length, length)._replace(**changes)


def window(length: int, **changes: object) -> Work:
    return square(length, window=(255, 0), **changes)


CASES = []


def case(name, work, ours, peers=(), **more):
    peers = dict.fromkeys(peers) if isinstance(peers, tuple) else peers
    CASES.append(Case(name, work, ours, peers, **more))


# Lengths, with causal order and without.
for is_causal, order in ((False, ""), (True, ", causal")):
    everyone = (NAIVE, SDPA, KERAS, ONNX)
    for length in (256, 1024, 4096):
        case(f"numpy {length}{order}", square(length, is_causal=is_causal), NUMPY, everyone[:2])
    case(
        f"numpy 2048{order}",
        square(2048, is_causal=is_causal),
        NUMPY,
        {NAIVE: 5.0 if is_causal else 3.0, SDPA: 0.6, KERAS: 10.0, ONNX: None},
    )
    case(f"numpy 16384{order}", square(16384, is_causal=is_causal), NUMPY, (SDPA,))
    for length in (256, 1024, 2048, 4096, 16384):
        work = square(length, is_causal=is_causal)
        case(f"torch {length}{order}", work, TORCH, {SDPA: 0.95})
    for length in (256, 1024, 4096):
        case(f"jax {length}{order}", square(length, is_causal=is_causal), JAX, (JAX_NN,))
    case(
        f"jax 2048{order}",
        square(2048, is_causal=is_causal),
        JAX,
        {JAX_NN: 4.0 if is_causal else 3.0},
    )
    case(f"jax 16384{order}", square(16384, is_causal=is_causal), JAX)
    for length in (2048, 4096):
        work = square(length, is_causal=is_causal, dtype="bfloat16")
        case(f"torch {length} bfloat16{order}", work, TORCH, (SDPA,))

# Gradients: the output, and what it says about query, key and value.
for is_causal, order in ((False, ""), (True, ", causal")):
    work = square(2048, is_causal=is_causal, gradient=True)
    case(f"numpy 2048{order}, gradient", work, NUMPY, (NAIVE, SDPA))
    case(f"torch 2048{order}, gradient", work, TORCH, {SDPA: 0.95, EAGER: None})
    case(f"jax 2048{order}, gradient", work, JAX, {JAX_NN: 4.0 if is_causal else 3.0})

# Masks as arrays.
padding = square(1024, batch=4, mask="padding")
case("numpy 4 x 1024, padding", padding, NUMPY, (NAIVE, SDPA, KERAS, ONNX))
case("torch 4 x 1024, padding", padding, TORCH, (SDPA,))
case("jax 4 x 1024, padding", padding, JAX, (JAX_NN,))
random = square(1024, mask="unstructured")
case(
    "numpy 1024, unstructured mask",
    random,
    NUMPY,
    {SDPA: 1.3, NAIVE: 2.0, KERAS: None, ONNX: None},
)
case("torch 1024, unstructured mask", random, TORCH, {SDPA: 2.5})
case("jax 1024, unstructured mask", random, JAX, (JAX_NN,))

# A window of 256 keys, the query's own included.
near = window(8192)
case("numpy 8192, window 256", near, NUMPY, {SDPA: 10.0, SLICES: None})
case("torch 8192, window 256", near, TORCH, {SDPA: 12.0, SLICES: 0.85, FLEX: 1.0})
case(
    "torch 8192, window 256, gradient",
    near._replace(gradient=True),
    TORCH,
    {SDPA: 5.0, SLICES: None},
)
case("numpy 8192, window 256, gradient", near._replace(gradient=True), NUMPY, (SLICES,))
case("jax 2048, window 256", window(2048), JAX, (JAX_NN,))
case("jax 2048, window 256, gradient", window(2048, gradient=True), JAX, (JAX_NN,))

# A cap on the scores.
capped = square(2048, softcap=20.0)
case("numpy 2048, softcap", capped, NUMPY, (NAIVE, ONNX))
case("torch 2048, softcap", capped, TORCH, {EAGER: 3.0, FLEX: None})
case("torch 2048, softcap, gradient", capped._replace(gradient=True), TORCH, {EAGER: 3.0})
case("jax 2048, softcap", capped, JAX)

# A bias for each head.
biased = square(1024, has_bias=True)
case("numpy 1024, bias", biased, NUMPY, (NAIVE, SDPA, KERAS, ONNX))
case("torch 1024, bias", biased, TORCH, (SDPA, EAGER))
case("jax 1024, bias", biased, JAX, (JAX_NN,))

# 32 heads over 8, and one query beside the keys so far.
grouped = square(1024, num_heads=32)
case("numpy 1024, 32 heads over 8", grouped, NUMPY, (NAIVE, SDPA))
case("torch 1024, 32 heads over 8", grouped, TORCH, (SDPA,))
case("jax 1024, 32 heads over 8", grouped, JAX, (JAX_NN,))
step = Work(1, 8192)
case("numpy 1 of 8192", step, NUMPY, {NAIVE: 1.0, SDPA: None})
case("torch 1 of 8192", step, TORCH, {SDPA: 1.0})
case("jax 1 of 8192", step, JAX, {JAX_NN: 1.0})
step = Work(1, 8192, num_heads=32)
case("numpy 1 of 8192, 32 heads over 8", step, NUMPY, {NAIVE: 5.0, SDPA: 1.5})
case("torch 1 of 8192, 32 heads over 8", step, TORCH, {SDPA: 1.5})
case("jax 1 of 8192, 32 heads over 8", step, JAX, (JAX_NN,))

# Scores up to 118: weights too small for a normal number of the dtype.
for ours in (NUMPY, TORCH, JAX):
    native = () if ours == JAX else (", native",)  # it has none on a CPU
    for engine in ("", ", dense", ", blockwise", *native):
        case(
            f"{ours.removeprefix('attnfn on ')} 1024, scores to 118{engine}",
            square(1024, greatest=118.0),
            ours + engine,
            {"unscaled": 1 / 1.5},
            unscaled=square(1024),
        )
    case(
        f"{ours.removeprefix('attnfn on ')} 1024, scores to 118, gradient",
        square(1024, greatest=118.0, gradient=True),
        ours,
        {"unscaled": 1 / 1.5},
        unscaled=square(1024, gradient=True),
    )

# A whole layer, and a call so small that what is computed does not count.
layer = Work(100, 100, batch=32)
case("torch layer, inference", layer, "attnfn layer", {"nn.MultiheadAttention": 0.9})
case(
    "torch layer, training",
    layer._replace(gradient=True),
    "attnfn layer",
    {"nn.MultiheadAttention": 1.0},
)
small = square(8, num_heads=1, num_kv_heads=1, head_dim=8)
case("numpy small call", small, NUMPY, {NAIVE: 1 / 2.5})
case("torch small call", small, TORCH, (SDPA, EAGER))
case("jax small call", small, JAX, {"naive JAX": 1.0})

# How time grows with length: the slope in log-log.
far = (1024, 2048, 4096, 8192)
for name, ours, peers in (
    ("numpy", NUMPY, ()),
    ("torch", TORCH, (SDPA,)),
    ("jax", JAX, ()),
):
    case(f"{name} time", square(1024), ours, peers, measure="growth of time", lengths=far)
    case(
        f"{name} time, window 256",
        window(8192),
        ours,
        measure="growth of time",
        lengths=(8192, 16384, 32768, 65536),
        at_most=1.046,  # 8.8 times the time for 8 times the length
    )
    case(
        f"{name} memory",
        square(1024),
        ours,
        measure="growth of memory",
        lengths=(2048, 4096, 8192),
    )
case(
    "naive memory",
    square(512),
    NAIVE,
    measure="growth of memory",
    lengths=(1024, 2048, 4096),
)

# The resident peak of a fresh process, beyond inputs and results.
case("numpy 16384 memory", square(16384), NUMPY, (SDPA,), measure="memory", at_most=64.0)
case("numpy 2048 memory", square(2048), NUMPY, (NAIVE, KERAS, ONNX), measure="memory")
case("torch 4096 memory", square(4096), TORCH, (SDPA, EAGER), measure="memory")
case("jax 2048 memory", square(2048), JAX, {JAX_NN: 8.0}, measure="memory")
work = square(2048, gradient=True)
case("jax 2048, gradient memory", work, JAX, {JAX_NN: 8.0}, measure="memory")
case("numpy 2048, gradient memory", work, NUMPY, (NAIVE,), measure="memory")
case("torch 2048, gradient memory", work, TORCH, (SDPA, EAGER), measure="memory")
work = square(4096, softcap=20.0, gradient=True)
case("torch 4096, softcap, gradient memory", work, TORCH, (EAGER,), measure="memory")
work = window(8192, gradient=True)
case("torch 8192, window 256, gradient memory", work, TORCH, (SLICES,), measure="memory")

# What the first call of a process waits for: forward, and then the gradient.
for is_causal, order in ((False, ""), (True, ", causal")):
    work = square(2048, is_causal=is_causal)
    case(f"jax 2048{order} compile", work, JAX, (JAX_NN,), measure="compile", at_most=5.0)
