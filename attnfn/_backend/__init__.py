"""The only package that knows which array libraries exist.

Whatever must differ from one library to the next is a function here, with the same meaning on
all of them; the rest of attnfn is written against the Array API standard.
"""

import math
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from types import ModuleType
from typing import Any, TypeVar

import array_api_compat
import numpy as np

from .._typing import Array, Namespace
from ._loop import Add, Body, Rows, loop
from ._normal_cdf import normal_cdf_by_polynomial

__all__ = [
    "add_block",
    "affine",
    "arange",
    "block",
    "bounds",
    "can_be_cut",
    "chosen_namespace",
    "clipped",
    "compiled",
    "constant",
    "describe_kind",
    "device",
    "differentiated_as",
    "divided",
    "exp_or_zero",
    "few_rows_product",
    "from_numpy",
    "full",
    "full_precision",
    "greatest",
    "has_dtype",
    "heads_at_once",
    "if_any",
    "is_autocasting",
    "is_bool",
    "is_integer",
    "is_real",
    "is_small",
    "known_bound",
    "known_finite",
    "library_name",
    "looks_once",
    "lowered",
    "map_each",
    "map_heads",
    "map_rows",
    "maps_heads",
    "may_have_gradient",
    "may_look",
    "may_overwrite",
    "most_tiles",
    "namespace",
    "native_kernel",
    "normal_cdf",
    "numpy_generator",
    "numpy_namespace",
    "plain",
    "row_max",
    "row_sum",
    "running_sum",
    "scalar",
    "sees_any",
    "share_device",
    "sigmoid",
    "span_between",
    "transposed",
    "unless_nonfinite",
    "variable",
    "vector",
    "wide_float",
    "with_gradient",
    "working_set",
    "write",
]

#: NumPy follows the standard by itself; its wrapper in array_api_compat loads all of NumPy.
numpy_namespace: Namespace = np
numpy_generator = np.random.Generator

S = TypeVar("S")
T = TypeVar("T")

#: Their arrays are plans of what is to be computed.
LAZY_LIBRARIES = ("dask", "ndonnx")

#: exp of less than this is a denormal number, or zero.
_LEAST = {np.dtype(t): math.log(np.finfo(t).smallest_normal) for t in (np.float32, np.float64)}
#: So few numbers that a look at them takes longer than whatever it can spare.
SMALL = 4096
#: Scores of a problem from which on other threads are worth being waited for.
WORTH_THREADS = 2**17

#: So few rows by so many columns had better be multiplied the other way round.
FEW_ROWS, MANY_COLUMNS = 16, 1024

#: What fits into the cache of a core, or nearly so.
CPU_WORKING_SET = 4 * 2**20

#: Our module for torch, once it is loaded.
_module_for_torch: list[ModuleType] = []

_QUIET: AbstractContextManager[None] = nullcontext()


def namespace(x: Any) -> Namespace | None:
    """Return the Array API namespace of an array, None for anything else."""
    if isinstance(x, np.ndarray):
        return np
    library = _special_library(x)
    if library is not None:
        return library.namespace()
    # A scalar of NumPy's is a number; and a symbolic size is an int to torch.compile, which
    # cannot be asked for its attributes. Whatever has no dtype is not worth asking either: the
    # resolver goes through lru_cache, of which torch.compile warns.
    if isinstance(x, np.generic | int | float) or not hasattr(x, "dtype"):
        return None
    try:
        return array_api_compat.array_namespace(x)
    except TypeError:
        return None


def _special_library(x: Any) -> ModuleType | None:
    """Return our module for torch or JAX if `x` is one of theirs, without importing either."""
    if isinstance(x, np.ndarray):
        return None
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, getattr(torch, "Tensor", ())):
        # To import what has been imported takes longer than all the rest. But a graph would
        # have to be made again once this variable has changed.
        if torch.compiler.is_compiling():
            from . import _torch

            return _torch
        if not _module_for_torch:
            from . import _torch

            _module_for_torch.append(_torch)
        return _module_for_torch[0]
    jax = sys.modules.get("jax")
    if jax is not None and isinstance(x, getattr(jax, "Array", ())):
        from . import _jax

        return _jax
    return None


def _special_namespace(xp: Namespace) -> ModuleType | None:
    # Not the resolver's questions, which go through lru_cache.
    library = library_name(xp)
    if library == "torch":
        from . import _torch

        return _torch
    if library == "jax":
        from . import _jax

        return _jax
    return None


def chosen_namespace(xp: Namespace | None) -> Namespace:
    """Return the namespace that an `xp` asks for, as the standard has it; NumPy for None."""
    if xp is None:
        return np
    # PyTorch's own lacks `isdtype` and `astype`.
    library = _special_namespace(xp)
    return xp if library is None else library.namespace()


def native_kernel(x: Array) -> ModuleType | None:
    """Return the module of the library's own kernel: `supports` and `attention`."""
    if isinstance(x, np.ndarray):
        return _kernel_of_ours()
    library = _special_library(x)
    return None if library is None else library.native_kernel(x)


@cache
def _kernel_of_ours() -> ModuleType:
    from . import _numpy_kernel

    return _numpy_kernel


def library_name(xp: Namespace) -> str:
    """Return what people call the library: "numpy", "torch", "jax", "array_api_strict"."""
    return xp.__name__.removeprefix("array_api_compat.").partition(".")[0]


def describe_kind(x: Any) -> str:
    """Say what an object is, for an error message: "numpy ndarray", "list"."""
    own = namespace(x)
    name = type(x).__name__
    if own is not None:
        # The class of a JAX array is ArrayImpl, or a tracer's.
        return f"{library_name(own)} {'Array' if library_name(own) == 'jax' else name}"
    root = type(x).__module__.partition(".")[0]
    return name if root == "builtins" else f"{root} {name}"


def device(x: Array) -> Any:
    """Return where to make a new array that is to meet `x`; None is the library's default."""
    if isinstance(x, np.ndarray):
        return None
    library = _special_library(x)
    return _device(x) if library is None else library.device(x)


def _device(x: Array) -> Any:
    # MLX arrays have no device.
    return getattr(x, "device", None)


def share_device(x: Array, /, *others: Array) -> bool:
    """Return whether arrays of one class are all on the same device, as `device` tells it."""
    library = _special_library(x)
    where = _device if library is None else library.device
    first = where(x)
    # Not `all` of a generator, which a small call would feel.
    for other in others:  # noqa: SIM110
        if where(other) != first:
            return False
    return True


def arange(n: int, xp: Namespace, device: Any) -> Array:
    """Return 0, 1, ..., n - 1, in the library's default integer type."""
    # MLX and others take no `device=`, so it is passed only where there is one.
    return xp.arange(n) if device is None else xp.arange(n, device=device)


def scalar(value: float, dtype: Any, xp: Namespace, device: Any) -> Array:
    """Return one number as a 0-d array."""
    if device is None:
        return xp.asarray(value, dtype=dtype)
    return xp.asarray(value, dtype=dtype, device=device)


def vector(values: Sequence[float], dtype: Any, xp: Namespace, device: Any) -> Array:
    """Return some numbers as an array of one axis."""
    if device is None:
        return xp.asarray(list(values), dtype=dtype)
    return xp.asarray(list(values), dtype=dtype, device=device)


def from_numpy(x: Array, xp: Namespace, dtype: Any, device: Any) -> Array:
    """Copy a float64 NumPy array to another library, rounding once for float32 and wider."""
    # Where x64 is off, JAX has no array to put a float64 into.
    x = x if dtype == xp.float64 else x.astype(np.float32)
    out = xp.asarray(x) if device is None else xp.asarray(x, device=device)
    return out if out.dtype == dtype else xp.astype(out, dtype)


def full(shape: tuple[int, ...], value: float, dtype: Any, xp: Namespace, device: Any) -> Array:
    """Return an array of one number everywhere."""
    if device is None:
        return xp.full(shape, value, dtype=dtype)
    return xp.full(shape, value, dtype=dtype, device=device)


def block(x: Array, start: int | Array, size: int, axis: int) -> Array:
    """Return `size` positions along an axis (counted from the last), wherever they start."""
    if isinstance(start, int):
        return x[(..., slice(start, start + size), *[slice(None)] * (-axis - 1))]
    library = _special_library(x)
    assert library is not None, "only a traced start is not an int, and only JAX traces one"
    return library.block(x, start, size, axis)


def maps_heads(x: Array) -> bool:
    """Return whether `map_heads` is how to go from head to head."""
    library = _special_library(x)
    return False if library is None else library.maps_heads(x)


def looks_once(x: Array) -> bool:
    """Return whether a loop over rows is compiled, and had better be of few operations.

    Then what is not finite is looked for once, by `if_any`, and keys and values lie (..., dim,
    kv_len), as do the gradients that are added up: a product (dim, rows) @ (rows, kv_len) has
    the few rows turned, where (kv_len, rows) @ (rows, dim) would have all the weights.
    """
    library = _special_library(x)
    return False if library is None else library.looks_once(x)


def if_any(flags: tuple[Array, ...], compute: Callable[[], T]) -> T:
    """Return what `compute` does if a flag is set, zeros like it if none is."""
    library = _special_library(flags[0])
    assert library is not None, "`looks_once` has said so"
    return library.if_any(flags, compute)


def map_heads(
    body: Callable[[dict[str, Array]], tuple[Array, Array]], arrays: dict[str, Array]
) -> tuple[Array, Array]:
    """Call `body` at every position of axis 0 of some arrays, and stack its results."""
    library = _special_library(next(iter(arrays.values())))
    assert library is not None, "`maps_heads` has said so"
    return library.map_heads(body, arrays)


def map_each(function: Callable[[S], T], items: list[S], problem: Any, /) -> list[T]:
    """Return what a function of ours makes of each part of a problem.

    With NumPy's arrays, on every core. BLAS has one thread meanwhile, so that no bit depends
    on the number of cores.
    """
    if not isinstance(problem.q, np.ndarray) or math.prod(problem.shape) < WORTH_THREADS:
        return [function(item) for item in items]
    from ._numpy_threads import map_on_threads

    return map_on_threads(function, items)


def map_rows(
    body: Body, add: Add, start: int, count: int, size: int, sums: Any, x: Array
) -> tuple[Any, Rows]:
    """Call `body` at start, start + size, ...: `count` times, for rows and for parts of sums.

    The rows, axis -2 of each array, are collected in order; ``add(sums, parts, start)`` returns
    the sums to go on with. Nothing of one call is kept for a derivative but its arguments. `x`
    tells the library.
    """
    library = _special_library(x)
    starts = range(start, start + count * size, size)
    if library is None:
        return loop(body, add, starts, sums)
    return library.map_rows(body, add, starts, sums, x)


def add_block(x: Array, part: Array, row: int | Array, column: int | Array) -> Array:
    """Return `x` with `part` added to a block of its last two axes; `x` itself is given up."""
    library = _special_library(x)
    if library is not None:
        return library.add_block(x, part, row, column)
    height, width = part.shape[-2:]
    x[..., row : row + height, column : column + width] += part
    return x


def write(x: Array, new: Array, start: Array, is_donated: bool) -> Array:
    """Return `x` with `new` in the positions from `start` on, along axis -2.

    `start` is 0-d or has the axes of `x` before the last three. It may be anything: what falls
    outside of `x` is dropped. `new` has no more positions than `x`. Only if `is_donated` may
    `x` itself be written to.
    """
    if isinstance(x, np.ndarray):
        return _write_numpy(x, new, start, is_donated)
    library = _special_library(x)
    if library is not None:
        return library.write(x, new, start, is_donated)
    xp = namespace(x)
    assert xp is not None
    n, where = new.shape[-2], device(x)
    # Which of the new ones belongs into each position: (..., 1, length, 1).
    which = xp.astype(arange(x.shape[-2], xp, where), start.dtype) - start[..., None]
    found = new
    if n > 1 and start.ndim:
        at = xp.broadcast_to(xp.clip(which, 0, n - 1)[..., None, :, None], x.shape)
        found = xp.take_along_axis(new, at, axis=-2)
    elif n > 1:
        found = xp.take(new, xp.clip(which, 0, n - 1), axis=-2)
    is_new = ((which >= 0) & (which < n))[..., None, :, None]
    return xp.where(is_new if start.ndim else is_new[0, ...], found, x) if n else x


def _write_numpy(x: Array, new: Array, start: Array, is_donated: bool) -> Array:
    out = x if is_donated and x.flags.writeable else x.copy()
    n, length = new.shape[-2], x.shape[-2]
    for at in np.ndindex(start.shape):
        first = int(start[at])
        here = slice(min(max(first, 0), length), min(max(first + n, 0), length))
        there = slice(here.start - first, here.stop - first)
        if here.stop > here.start:
            out[(*at, ..., here, slice(None))] = new[(*at, ..., there, slice(None))]
    return out


def greatest(x: int | Array) -> int | None:
    """Return the greatest of some integers if their values are at hand, else None."""
    if isinstance(x, int):
        return x
    if isinstance(x, np.ndarray):
        return int(x.max()) if x.size else 0
    library = _special_library(x)
    return None if library is None else library.greatest(x)


def compiled(function: Callable[..., T], problem: Any, /, *arrays: Any) -> T:
    """Call a function of ours with a problem that holds no function of the caller's.

    What compiles a loop does it once for each set of shapes and options, not at every call.
    """
    library = _special_library(problem.q)
    if library is None:
        return function(problem, *arrays)
    return library.compiled(function, problem, *arrays)


def unless_nonfinite(
    trusting: Callable[[Any], tuple[T, tuple[Array, ...]]],
    careful: Callable[[Any], T],
    problem: Any,
    /,
) -> T:
    """Return what `trusting` does if the arrays that it returns besides are finite.

    Otherwise, and wherever this cannot be told without looking, what `careful` does.
    """
    library = _special_library(problem.q)
    if library is None:
        return careful(problem)
    return library.unless_nonfinite(trusting, careful, problem)


def differentiated_as(careful: Callable[..., T], fast: Callable[..., T], problem: Any, /) -> T:
    """Return what `fast` does, with the derivatives of `careful`, of which it has the values.

    Where a library cannot tell them apart, what `careful` does.
    """
    library = _special_library(problem.q)
    if library is None:
        return careful(problem)
    return library.differentiated_as(careful, fast, problem)


def can_be_cut(problem: Any, /) -> bool:
    """Return whether rows of a problem can be computed a few at a time, and had better be."""
    if isinstance(problem.q, np.ndarray):
        return True
    if not all(type(n) is int for n in problem.shape):
        return False
    library = _special_library(problem.q)
    if library is not None:
        return library.can_be_cut(problem)
    # The graph of a lazy array would grow with the square of the tiles.
    return library_name(problem.xp) not in LAZY_LIBRARIES


def variable(n: int | Array, x: Array) -> int | Array:
    """Return an integer such that `compiled` does not compile again when it changes."""
    library = _special_library(x)
    return n if library is None else library.variable(n)


def most_tiles(x: Array) -> int:
    """Return how many times a loop may be unrolled: a compiler has to read them all."""
    library = _special_library(x)
    return sys.maxsize if library is None else library.most_tiles()


def heads_at_once(x: Array) -> int:
    """Return how many key/value heads to work on together: one where caches are small."""
    library = _special_library(x)
    return 1 if library is None else library.heads_at_once(x)


def with_gradient(
    forward: Callable[[Any], tuple[Array, Array]],
    backward: Callable[..., dict[str, Array | None]],
    problem: Any,
    /,
) -> tuple[Array, Array]:
    """Return ``forward(problem)``, with the gradients of `backward` where a library asks.

    ``backward(problem, d_out, d_lse, (out, lse))`` returns them by the name of the field. JAX
    differentiates by itself.
    """
    library = _special_library(problem.q)
    if library is None:
        return forward(problem)
    return library.with_gradient(forward, backward, problem)


def working_set(x: Array) -> int:
    """Return how many bytes the scores at hand, and what is made of them, may take."""
    library = _special_library(x)
    return CPU_WORKING_SET if library is None else library.working_set(x)


def bounds(x: int | Array) -> tuple[int, int] | None:
    """Return the least and the greatest of some integers, None where that is not known.

    As with `known_finite`, only NumPy's arrays are asked.
    """
    if isinstance(x, int):
        return x, x
    if isinstance(x, np.ndarray) and x.size:
        return int(x.min()), int(x.max())
    return None


def span_between(x: Array, between: tuple[int, int] | None) -> tuple[int, int] | None:
    """Return the span of the last axis outside of which no integer is between two bounds."""
    if between is None or not isinstance(x, np.ndarray):
        return None
    inside = (x >= between[0]) & (x <= between[1])
    (found,) = np.nonzero(inside.any(axis=tuple(range(x.ndim - 1))))
    return (int(found[0]), int(found[-1]) + 1) if found.size else (0, 0)


def clipped(x: Array, least: int, most: int) -> Array | None:
    """Return a position between two bounds, None unless a `block` may start there."""
    library = _special_library(x)
    return None if library is None else library.clipped(x, least, most)


def row_max(x: Array, xp: Namespace) -> Array:
    """Return the greatest number of each row (axis -1), and keep the axis."""
    # NumPy's functions take twice as long as this where arrays are small.
    if isinstance(x, np.ndarray):
        return np.maximum.reduce(x, axis=-1, keepdims=True)
    return xp.max(x, axis=-1, keepdims=True)


def row_sum(x: Array, xp: Namespace) -> Array:
    """Return the sum of each row (axis -1), and keep the axis."""
    if isinstance(x, np.ndarray):
        return np.add.reduce(x, axis=-1, keepdims=True)
    return xp.sum(x, axis=-1, keepdims=True)


def sees_any(allowed: Array, bad: Array, xp: Namespace) -> Array:
    """Return which rows of `allowed` are True at a key that is `bad`: (..., q_len, 1)."""
    library = _special_library(allowed)
    if library is None:
        return xp.any(allowed & bad, axis=-1, keepdims=True)
    return library.sees_any(allowed, bad)


def transposed(x: Array, xp: Namespace) -> Array:
    """Return `x` with its last two axes exchanged."""
    if isinstance(x, np.ndarray):
        return x.mT
    # Not matrix_transpose, which torch.autograd cannot batch.
    *batch, a, b = range(x.ndim)
    return xp.permute_dims(x, (*batch, b, a))


def few_rows_product(rows: Array, columns: Array) -> Array:
    """Return ``rows @ columns``, fast also for a few rows and many columns on NumPy.

    BLAS takes three to seven times as long for them as for as many rows and few columns.
    """
    is_numpy = isinstance(rows, np.ndarray)
    if is_numpy and 1 < rows.shape[-2] <= FEW_ROWS and columns.shape[-1] >= MANY_COLUMNS:
        return np.ascontiguousarray((columns.mT @ rows.mT).mT)
    return rows @ columns


def affine(x: Array, weight: Array, bias: Array) -> Array:
    """Return ``x @ weight + bias``: in one step where the library has one."""
    library = _special_library(x)
    return x @ weight + bias if library is None else library.affine(x, weight, bias)


def constant(x: Array) -> Array:
    """Return `x` with all its derivatives zero."""
    library = _special_library(x)
    return x if library is None else library.constant(x)


def full_precision(x: Array, *, is_trusted: bool = False) -> AbstractContextManager[Any]:
    """Return a context in which float32 means float32 and a weight may round to zero.

    Of what is trusted to be finite it is looked at later whether it was, and nothing is said.
    """
    if isinstance(x, np.ndarray):
        if is_trusted:
            return np.errstate(all="ignore")
        # A score far below the row's greatest: the difference may be -inf, the weight 0.
        return np.errstate(over="ignore", under="ignore")
    library = _special_library(x)
    return _QUIET if library is None else library.full_precision(x)


def is_autocasting(x: Array) -> bool:
    """Return whether the library itself is about to change the dtypes of products of `x`."""
    library = _special_library(x)
    return False if library is None else library.is_autocasting(x)


def known_finite(x: Array) -> bool:
    """Return True if `x` was seen to hold no NaN and no inf; False says nothing.

    Only arrays whose values are at hand are asked. Elsewhere the answer would be baked into a
    trace, or wait for a device.
    """
    if isinstance(x, np.ndarray):
        return math.isfinite(known_bound(x)) or bool(np.isfinite(x).all())
    library = _special_library(x)
    return False if library is None else library.known_finite(x)


def known_bound(x: Array) -> float:
    """Return what no number in `x` is farther from 0 than, NaN or inf if that is not known.

    As with `known_finite`, only NumPy's arrays are asked.
    """
    if not isinstance(x, np.ndarray):
        return math.inf
    # A sum of squares is finite only if every number is. It may overflow though all are.
    flat = x.ravel("K")
    return math.sqrt(flat.dot(flat))


def may_look(*arrays: Array) -> bool:
    """Return whether values are at hand, and nothing is to be differentiated."""
    if isinstance(arrays[0], np.ndarray):
        return True
    library = _special_library(arrays[0])
    return False if library is None else library.may_look_freely(*arrays)


def may_overwrite(*arrays: Array) -> bool:
    """Return whether none of some arrays is kept for a derivative."""
    library = _special_library(arrays[0])
    return True if library is None else library.may_overwrite(*arrays)


def exp_or_zero(x: Array, xp: Namespace) -> Array:
    """Return exp(x) of what is at most 0, and 0 where that would be a denormal number.

    Products with denormal numbers take ten times as long and more. `x` itself is given up.
    """
    if isinstance(x, np.ndarray):
        least = _LEAST.get(x.dtype)
        if least is None or x.size <= SMALL or not x.min() < least:
            return np.exp(x, out=x)
        # A product with truth values is much faster than any selection by them.
        is_normal = x >= least
        np.exp(np.maximum(x, x.dtype.type(least), out=x), out=x)
        return np.multiply(x, is_normal, out=x)
    library = _special_library(x)
    return xp.exp(x) if library is None else library.exp_or_zero(x)


def running_sum(x: Array, axis: int, xp: Namespace) -> Array:
    """Return the sums up to each position of an axis, its own included."""
    library = _special_library(x)
    return xp.cumulative_sum(x, axis=axis) if library is None else library.running_sum(x, axis)


def sigmoid(x: Array, xp: Namespace) -> Array:
    """Return 1 / (1 + exp(-x)), with derivatives of any order and without overflow."""
    library = _special_library(x)
    if library is not None:
        return library.sigmoid(x)
    exp = xp.exp(-xp.abs(x))
    return xp.where(x < 0, exp, 1.0) / (1 + exp)


def normal_cdf(x: Array, xp: Namespace) -> Array:
    """Return the probability that a standard normal number is less than each of `x`."""
    library = _special_library(x)
    return normal_cdf_by_polynomial(x, xp) if library is None else library.normal_cdf(x)


def divided(x: Array, by: Array) -> Array:
    """Return x / by; `x` itself is given up, which spares NumPy an array of its size."""
    return np.divide(x, by, out=x) if isinstance(x, np.ndarray) else x / by


def lowered(x: Array, by: Array) -> Array:
    """Return x - by; `x` itself is given up, as in `divided`."""
    in_place = isinstance(x, np.ndarray) and x.shape[:-1] == by.shape[:-1]
    return np.subtract(x, by, out=x) if in_place else x - by


def is_small(x: Array) -> bool:
    """Return whether calls of NumPy take longest, not what they do to the numbers in `x`."""
    return isinstance(x, np.ndarray) and x.size <= SMALL


def may_have_gradient(x: Array) -> bool:
    """Return whether something may be differentiated by way of `x`."""
    if isinstance(x, np.ndarray):
        return False
    library = _special_library(x)
    return True if library is None else library.may_have_gradient(x)


def has_dtype(dtype: Any, xp: Namespace) -> bool:
    """Return whether arrays of `dtype` can exist: JAX may have float64 switched off."""
    library = _special_namespace(xp)
    return True if library is None else library.has_dtype(dtype)


def wide_float(xp: Namespace, device: Any) -> Any:
    """Return float64 where arrays can have it, else float32."""
    library = _special_namespace(xp)
    if library is not None:
        return library.wide_float(device)
    if xp is np:
        return np.float64
    # MLX has float64 on some devices, and cannot be asked.
    info = getattr(xp, "__array_namespace_info__", None)
    known = info().dtypes(device=device, kind="real floating") if info else {}
    return known.get("float64", xp.float32)


def is_bool(x: Any) -> bool:
    """Return whether `x` is one truth value, Python's or NumPy's."""
    return isinstance(x, bool | np.bool_)


def is_integer(x: Any) -> bool:
    """Return whether `x` is one whole number: Python's, NumPy's, or a size in a trace."""
    if isinstance(x, bool | np.bool_):
        return False
    if isinstance(x, int | np.integer):
        return True
    # torch.SymInt, and the dimensions of an exported JAX function.
    return hasattr(x, "__index__") and not hasattr(x, "dtype")


def plain(n: Any) -> Any:
    """Turn NumPy's integers into Python's, which have no width to force on a result."""
    return n.item() if isinstance(n, np.integer) else n


def is_real(x: Any) -> bool:
    """Return whether `x` is one real number, Python's or NumPy's."""
    if isinstance(x, bool | np.bool_):
        return False
    if isinstance(x, int | float | np.integer | np.floating):
        return True
    # torch.SymFloat and torch.SymInt.
    return type(x).__module__ == "torch" and type(x).__name__ in ("SymFloat", "SymInt")
