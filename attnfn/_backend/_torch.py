"""What is different about PyTorch."""

import itertools
import math
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import ModuleType
from typing import Any, TypeVar

import array_api_compat.torch
import torch
from torch.utils.checkpoint import checkpoint

from .._typing import Array, Namespace
from ._loop import Add, Body, Rows, loop

__all__ = [
    "add_block",
    "affine",
    "all_finite",
    "can_be_cut",
    "compiled",
    "constant",
    "device",
    "differentiated_as",
    "exp_or_zero",
    "full_precision",
    "greatest",
    "has_dtype",
    "heads_at_once",
    "is_autocasting",
    "is_in_forward_mode",
    "is_transforming",
    "known_finite",
    "looks_once",
    "map_rows",
    "maps_heads",
    "may_have_gradient",
    "may_look",
    "may_look_freely",
    "may_overwrite",
    "most_tiles",
    "namespace",
    "native_kernel",
    "norm",
    "normal_cdf",
    "running_sum",
    "sees_any",
    "sigmoid",
    "unless_nonfinite",
    "variable",
    "wide_float",
    "with_gradient",
    "working_set",
    "write",
]

T = TypeVar("T")

_QUIET: AbstractContextManager[None] = nullcontext()

LOG2_E = math.log2(math.e)
#: Classes without anything of their own.
_PLAIN = (torch.Tensor, torch.nn.Parameter)
_WIDE = (torch.float32, torch.float64)
#: The module of the kernel, once it is loaded.
_kernel: list[ModuleType] = []
_functorch = torch._C._functorch

#: exp of this is the smallest normal number.
_LEAST = {t: math.log(torch.finfo(t).smallest_normal) for t in (torch.float32, torch.float64)}


def namespace() -> Namespace:
    # array_api_compat.array_namespace goes through lru_cache, of which torch.compile warns.
    return array_api_compat.torch


def device(x: Array) -> Any:
    return x.device


def affine(x: Array, weight: Array, bias: Array) -> Array:
    # A sum of its own is a fresh array, which takes a tenth of the time of the product. Under
    # autocast it has another dtype.
    if is_autocasting(x):
        return x @ weight + bias
    return torch.nn.functional.linear(x, weight.mT, bias)


def constant(x: Array) -> Array:
    return x.detach()


def clipped(x: Array, least: int, most: int) -> None:
    """Return nothing: a slice that starts at a tensor waits for its value."""


def compiled(function: Callable[..., T], problem: Any, /, *arrays: Any) -> T:
    return function(problem, *arrays)


def with_gradient(forward: Any, backward: Any, problem: Any, /) -> tuple[Array, Array]:
    if torch.compiler.is_compiling():
        # What is compiled is differentiated by the compiler, which would not see into ours.
        return forward(problem)
    from ._torch_gradient import with_gradient

    return with_gradient(forward, backward, problem)


def native_kernel(x: Array) -> ModuleType:  # noqa: ARG001
    # To import what has been imported takes as long as ten questions. But a graph would have
    # to be made again once this variable has changed.
    if _kernel and not torch.compiler.is_compiling():
        return _kernel[0]
    from . import _torch_kernel

    if not torch.compiler.is_compiling():
        _kernel.append(_torch_kernel)
    return _torch_kernel


def unless_nonfinite(trusting: Any, careful: Callable[..., T], problem: Any, /) -> T:  # noqa: ARG001
    return careful(problem)


def differentiated_as(careful: Callable[..., T], fast: Any, problem: Any, /) -> T:  # noqa: ARG001
    return careful(problem)


def variable(n: int | Array) -> int | Array:
    return n


def heads_at_once(x: Array) -> int:
    return 1 if x.device.type == "cpu" and not torch.compiler.is_compiling() else sys.maxsize


def working_set(x: Array) -> int:
    return (8 if x.device.type == "cpu" else 256) * 2**20


def can_be_cut(problem: Any, /) -> bool:
    # A graph may be for any lengths, though they seem to be known. And in closed form there are
    # gradients, but no derivatives in forward mode.
    if torch.compiler.is_compiling():
        return False
    return not (problem.is_of_arrays and is_in_forward_mode(problem))


def is_in_forward_mode(problem: Any, /) -> bool:
    """Return whether something may ask for forward-mode derivatives of a problem."""
    if torch.compiler.is_compiling():
        # What is compiled is made of ordinary operations, or has no transform around it.
        return False
    # Without a level there are no dual numbers. To ask each array takes as long as a product.
    if torch.autograd.forward_ad._current_level >= 0:
        given = (problem.q, problem.k, problem.v, problem.bias, problem.sinks, problem.scale)
        arrays = [x for x in given if isinstance(x, torch.Tensor)]
        if any(torch.autograd.forward_ad.unpack_dual(x).tangent is not None for x in arrays):
            return True
    stack = _functorch.get_interpreter_stack() or ()
    return any(level.key() == _functorch.TransformType.Jvp for level in stack)


def most_tiles() -> int:
    return 16 if torch.compiler.is_compiling() else sys.maxsize


def maps_heads(x: Array) -> bool:  # noqa: ARG001
    return False


def looks_once(x: Array) -> bool:  # noqa: ARG001 (a loop of its own is Python's)
    return False


def sees_any(allowed: Array, bad: Array) -> Array:
    return (allowed & bad).any(dim=-1, keepdim=True)


def map_rows(body: Body, add: Add, starts: range, sums: Any, x: Array) -> tuple[Any, Rows]:  # noqa: ARG001
    # Checkpoints are for autograd alone. Under torch.func, and in a graph, rows are kept.
    if is_transforming() or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return loop(body, add, starts, sums)
    # What a given function captured may have to be differentiated. The first rows tell.
    sums, collected = loop(body, add, starts[:1], sums)
    if any(x.requires_grad for rows in collected for x in rows):
        body = partial(checkpoint, body, use_reentrant=False, preserve_rng_state=False)
    sums, others = loop(body, add, starts[1:], sums)
    return sums, collected + others


def add_block(x: Array, part: Array, row: int, column: int) -> Array:
    (height, width), (most_rows, most_columns) = part.shape[-2:], x.shape[-2:]
    if (
        is_transforming()
        or torch.compiler.is_compiling()
        or torch._C._functorch.is_legacy_batchedtensor(part)
    ):
        # Under vmap, what varies cannot be added in place to what does not.
        right, below = most_columns - column - width, most_rows - row - height
        return x + torch.nn.functional.pad(part, (column, right, row, below))
    x[..., row : row + height, column : column + width] += part
    return x


def is_transforming() -> bool:
    """Return whether a transform of torch.func is at work, outside of what is compiled."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._functorch.peek_interpreter_stack() is not None


def may_look(x: Array) -> bool:
    """Return whether the values of `x` are there, and may decide how to compute.

    Not in a graph, where they would be baked in, nor on a device, which would be waited for.
    """
    return (
        type(x) in _PLAIN
        and not torch.compiler.is_compiling()
        and x.is_cpu
        and _functorch.peek_interpreter_stack() is None
        and torch._C._get_tracing_state() is None
        and torch._C._len_torch_dispatch_stack() == 0
        and not _functorch.is_legacy_batchedtensor(x)
    )


def known_finite(x: Array) -> bool:
    return may_look(x) and all_finite(x)


def all_finite(*arrays: Array) -> bool:
    """Return whether arrays hold no NaN and no inf."""
    return all(math.isfinite(norm(x)) or bool(torch.isfinite(x).all()) for x in arrays)


def norm(x: Array) -> float:
    """Return the root of the sum of all squares, in a tenth of the time of `isfinite`.

    It is finite only if every number is, though it may overflow if all are.
    """
    if x.requires_grad:
        x = x.detach()
    if x.dtype in _WIDE and x.is_contiguous():
        # BLAS uses every core, where torch has one sum up.
        flat = x.view(-1)
        return math.sqrt(torch.dot(flat, flat).item())
    if x.ndim > 1 and not x.is_contiguous():
        # Of a slice, all at once takes four times as long.
        x = torch.linalg.vector_norm(x, dim=-1)
    return float(torch.linalg.vector_norm(x).item())


def may_look_freely(*arrays: Array) -> bool:
    is_recorded = torch.is_grad_enabled() and any(x.requires_grad for x in arrays)
    return not is_recorded and all(may_look(x) for x in arrays)


def may_overwrite(*arrays: Array) -> bool:
    if is_transforming():
        return False
    return not (torch.is_grad_enabled() and any(x.requires_grad for x in arrays))


def exp_or_zero(x: Array) -> Array:
    least = _LEAST.get(x.dtype)
    if least is None:
        return torch.exp(x)
    # exp crawls over -inf, exp2 does not.
    return torch.exp2(torch.nn.functional.threshold(x, least, -math.inf) * LOG2_E)


def running_sum(x: Array, axis: int) -> Array:
    # Not cumulative_sum of array_api_compat, which asks a cache of which torch.compile warns.
    return torch.cumsum(x, dim=axis)


def sigmoid(x: Array) -> Array:
    return torch.sigmoid(x)


def normal_cdf(x: Array) -> Array:
    return 0.5 * torch.special.erfc(-math.sqrt(0.5) * x)


def may_have_gradient(x: Array) -> bool:
    return x.requires_grad or is_transforming() or torch.compiler.is_compiling()


def is_autocasting(x: Array) -> bool:
    if x.is_cpu:
        return torch.is_autocast_enabled("cpu")
    return torch.is_autocast_enabled(x.device.type) if x.device.type != "meta" else False


def full_precision(x: Array) -> AbstractContextManager[Any]:
    # Inside torch.autocast, x.float() @ y.float() is a product of halves again.
    if is_autocasting(x):
        return torch.autocast(x.device.type, enabled=False)
    return _QUIET


def has_dtype(dtype: Any) -> bool:  # noqa: ARG001 (the same question is asked of JAX)
    return True


def wide_float(device: Any) -> Any:
    # Apple's GPUs have no float64.
    return torch.float32 if torch.device(device).type == "mps" else torch.float64


def greatest(x: Array) -> int | None:
    if not may_look(x):
        return None
    return int(x.max()) if x.numel() else 0


def write(x: Array, new: Array, start: Array, is_donated: bool) -> Array:
    is_donated = is_donated and may_overwrite(x, new)
    if may_look(start) and may_look(x):
        return _write_slices(x if is_donated else x.clone(), new, start)
    # Which of the new ones belongs into each of as many positions that are there: (..., n).
    n = new.shape[-2]
    places = start.clamp(0, x.shape[-2] - n)[..., None] + torch.arange(n, device=x.device)
    which = places - start[..., None]
    shape = (*x.shape[:-2], n, x.shape[-1])
    places, which = (
        (at[..., None, :, None] if start.ndim else at[:, None]).expand(shape)
        for at in (places, which)
    )
    found = torch.where(
        (which >= 0) & (which < n), new.gather(-2, which.clamp(0, n - 1)), x.gather(-2, places)
    )
    return (x.scatter_ if is_donated else x.scatter)(-2, places, found)


def _write_slices(x: Array, new: Array, start: Array) -> Array:
    """Write into `x` itself, at places that are known."""
    n, length = new.shape[-2], x.shape[-2]
    for at in itertools.product(*map(range, start.shape)):
        first = int(start[at])
        begin, end = (min(max(i, 0), length) for i in (first, first + n))
        if end > begin:
            part = new[at].narrow(-2, begin - first, end - begin)
            x[at].narrow(-2, begin, end - begin).copy_(part)
    return x
