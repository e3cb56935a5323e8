"""What is different about JAX."""

import math
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial, reduce
from operator import or_
from types import ModuleType
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from .._typing import Array, Namespace
from ._loop import Add, Body, Rows, loop

__all__ = [
    "add_block",
    "affine",
    "block",
    "can_be_cut",
    "clipped",
    "compiled",
    "constant",
    "device",
    "differentiated_as",
    "exp_or_zero",
    "full_precision",
    "greatest",
    "has_dtype",
    "heads_at_once",
    "if_any",
    "is_autocasting",
    "known_finite",
    "looks_once",
    "map_heads",
    "map_rows",
    "maps_heads",
    "may_have_gradient",
    "may_look_freely",
    "may_overwrite",
    "most_tiles",
    "namespace",
    "native_kernel",
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


def namespace() -> Namespace:
    return jnp


def device(x: Array) -> Any:
    # JAX moves an array that is not committed to where it is needed. Only an array that the
    # caller has put on one device is a reason to put others there too.
    if isinstance(x, jax.core.Tracer) or not x.committed or len(x.devices()) > 1:
        return None
    return x.device


def block(x: Array, start: Array, size: int, axis: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(x, start, size, axis=x.ndim + axis)


def clipped(x: Array, least: int, most: int) -> Array:
    return jnp.clip(x, least, most)


def compiled(function: Callable[..., T], problem: Any, /, *arrays: Any) -> T:
    return _call(function, type(problem), *_divided(problem), arrays)


def variable(n: int | Array) -> int | Array:
    # What fits into no position is refused later, by its value.
    return jnp.asarray(n) if isinstance(n, int) and abs(n) < 2**30 else n


@partial(jax.jit, static_argnums=(0, 1, 2))
def _call(function: Any, kind: Any, static: Any, traced: Any, arrays: Any) -> Any:
    return function(kind(**dict(static), **traced), *arrays)


def unless_nonfinite(trusting: Any, careful: Callable[..., T], problem: Any, /) -> T:
    if not isinstance(problem.q, jax.core.Tracer):
        return careful(problem)
    return _unless_nonfinite(trusting, careful, type(problem), *_divided(problem))


# What is not finite would come through the rejected branch into a derivative, as 0 * NaN. So
# only what is not differentiated is computed this way.
@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2, 3))
def _unless_nonfinite(trusting: Any, careful: Any, kind: Any, static: Any, traced: Any) -> Any:
    problem = kind(**dict(static), **traced)
    found, telling = trusting(problem)
    is_finite = jnp.stack([jnp.all(jnp.isfinite(x)) for x in telling])
    return jax.lax.cond(jnp.all(is_finite), lambda: found, lambda: careful(problem))


def differentiated_as(careful: Callable[..., T], fast: Callable[..., T], problem: Any, /) -> T:
    if not isinstance(problem.q, jax.core.Tracer):
        return careful(problem)
    return _differentiated_as(fast, careful, type(problem), *_divided(problem))


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2, 3))
def _differentiated_as(fast: Any, careful: Any, kind: Any, static: Any, traced: Any) -> Any:  # noqa: ARG001
    return fast(kind(**dict(static), **traced))


@_differentiated_as.defjvp  # type: ignore[untyped-decorator]
@_unless_nonfinite.defjvp  # type: ignore[untyped-decorator]
def _careful_jvp(
    trusting: Any,  # noqa: ARG001
    careful: Any,
    kind: Any,
    static: Any,
    primals: Any,
    tangents: Any,
) -> Any:
    def compute(traced: Any) -> Any:
        return careful(kind(**dict(static), **traced))

    return jax.jvp(compute, primals, tangents)


def _divided(problem: Any, /) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the fields of a problem that are no arrays, and those that are."""
    fields = problem._asdict()
    traced = {name: x for name, x in fields.items() if jax.tree.leaves(x) and _is_array(x)}
    return tuple((name, x) for name, x in fields.items() if name not in traced), traced


def _is_array(x: Any) -> bool:
    """Return whether `x` is an array, or holds nothing else."""
    return all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(x))


def with_gradient(forward: Any, backward: Any, problem: Any, /) -> tuple[Array, Array]:  # noqa: ARG001
    return forward(problem)


def native_kernel(x: Array) -> ModuleType:  # noqa: ARG001
    from . import _jax_kernel

    return _jax_kernel


def heads_at_once(x: Array) -> int:  # noqa: ARG001
    return sys.maxsize


def working_set(x: Array) -> int:  # noqa: ARG001
    # On a CPU they are those of one head: `map_heads`.
    return (24 if jax.default_backend() == "cpu" else 256) * 2**20


def can_be_cut(problem: Any, /) -> bool:
    # A loop primitive over a new function is compiled at every call: with a function in it,
    # it is only for calls that are being compiled anyway.
    return problem.is_of_arrays or isinstance(problem.q, jax.core.Tracer)


def most_tiles() -> int:
    return sys.maxsize


def maps_heads(x: Array) -> bool:
    # On an accelerator one head after the other would leave most of it idle.
    return isinstance(x, jax.core.Tracer) and jax.default_backend() == "cpu"


def looks_once(x: Array) -> bool:
    return isinstance(x, jax.core.Tracer)


def if_any(flags: tuple[Array, ...], compute: Callable[[], T]) -> T:
    nothing = jax.eval_shape(compute)

    def zeros() -> T:
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), nothing)

    is_any = reduce(or_, [jnp.any(x) for x in flags])
    return jax.lax.cond(is_any, compute, zeros)


def map_heads(
    body: Callable[[dict[str, Array]], tuple[Array, Array]], arrays: dict[str, Array]
) -> tuple[Array, Array]:
    return jax.lax.map(body, arrays)


def map_rows(body: Body, add: Add, starts: range, sums: Any, x: Array) -> tuple[Any, Rows]:
    if not isinstance(x, jax.core.Tracer):
        # A loop primitive over a new function is compiled at every call.
        return loop(body, add, starts, sums)
    if len(starts) == 1:
        return loop(jax.checkpoint(body, static_argnums=0), add, starts, sums)

    # A loop primitive: what is compiled does not grow with the length.
    def step(sums: Any, at: Array) -> tuple[Any, tuple[Array, ...]]:
        rows, parts = jax.checkpoint(body)(at)
        return add(sums, parts, at), rows

    sums, stacked = jax.lax.scan(step, sums, jnp.asarray(starts))
    moved = [jnp.moveaxis(x, 0, -3) for x in stacked]
    count = len(starts)
    return sums, [
        tuple(x.reshape(*x.shape[:-3], count * x.shape[-2], x.shape[-1]) for x in moved)
    ]


def sees_any(allowed: Array, bad: Array) -> Array:
    def look() -> Array:
        return jnp.any(allowed & bad, axis=-1, keepdims=True)

    # A condition over a new function is compiled at every call. But reducing takes a fifth of
    # the time of all the rest, and mostly nothing is bad.
    return if_any((bad,), look) if isinstance(bad, jax.core.Tracer) else look()


def add_block(x: Array, part: Array, row: int | Array, column: int | Array) -> Array:
    at = (*[0] * (x.ndim - 2), row, column)
    old = jax.lax.dynamic_slice(x, at, (*x.shape[:-2], *part.shape[-2:]))
    return jax.lax.dynamic_update_slice(x, old + part, at)


def affine(x: Array, weight: Array, bias: Array) -> Array:
    return x @ weight + bias


def constant(x: Array) -> Array:
    return jax.lax.stop_gradient(x)


def known_finite(x: Array) -> bool:  # noqa: ARG001 (its values are not at hand)
    return False


def may_look_freely(*arrays: Array) -> bool:  # noqa: ARG001
    return False


def may_overwrite(*arrays: Array) -> bool:  # noqa: ARG001
    return False


def exp_or_zero(x: Array) -> Array:
    return jnp.exp(x)


def running_sum(x: Array, axis: int) -> Array:
    return jnp.cumulative_sum(x, axis=axis)


def sigmoid(x: Array) -> Array:
    return jax.lax.logistic(x)


def normal_cdf(x: Array) -> Array:
    return 0.5 * jax.lax.erfc(-math.sqrt(0.5) * x)


def may_have_gradient(x: Array) -> bool:  # noqa: ARG001 (JAX does not tell)
    return True


def is_autocasting(x: Array) -> bool:  # noqa: ARG001 (the same question is asked of torch)
    return False


def full_precision(x: Array) -> AbstractContextManager[Any]:  # noqa: ARG001
    # A GPU rounds the factors of a product of float32 to 11 bits, a TPU to 8, unless it is told
    # not to. Whoever has chosen a precision has it.
    is_chosen = jax.config.jax_default_matmul_precision is not None
    if is_chosen or jax.default_backend() == "cpu":
        return nullcontext()
    return jax.default_matmul_precision("highest")


def has_dtype(dtype: Any) -> bool:
    return bool(jax.dtypes.canonicalize_dtype(dtype) == dtype)


def wide_float(device: Any) -> Any:  # noqa: ARG001
    return jnp.float64 if has_dtype(jnp.float64) else jnp.float32


def greatest(x: Array) -> None:
    """Return nothing: a size that follows from a value would be compiled for each."""


def write(x: Array, new: Array, start: Array, is_donated: bool) -> Array:  # noqa: ARG001
    if start.ndim == 0 and isinstance(start, jax.core.Tracer):
        # Else XLA does the update once more in whatever reads the result, each time on a copy.
        return jax.lax.cond(start < x.shape[-2], _write, lambda x, *_: x, x, new, start)
    for_each = _write
    for _ in range(start.ndim):
        for_each = jax.vmap(for_each)
    return for_each(x, new, start)


def _write(x: Array, new: Array, start: Array) -> Array:
    n = new.shape[-2]
    # An update that would reach over an end is moved by XLA to where it does not.
    first = jnp.clip(start, 0, x.shape[-2] - n)
    which = first + jnp.arange(n, dtype=start.dtype) - start
    old = jax.lax.dynamic_slice_in_dim(x, first, n, axis=x.ndim - 2)
    new = jnp.take(new, jnp.clip(which, 0, n - 1), axis=-2) if n > 1 else new
    new = jnp.where(((which >= 0) & (which < n))[:, None], new, old)
    return jax.lax.dynamic_update_slice_in_dim(x, new, first, axis=x.ndim - 2)
