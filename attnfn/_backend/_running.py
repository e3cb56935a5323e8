"""How work is done: in what order, compiled, differentiated, in which precision."""

import math
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import numpy as np

from .._typing import Array
from ._library import library_name, special_library
from ._loop import Add, Body, Rows, loop

__all__ = [
    "can_be_cut",
    "compiled",
    "constant",
    "differentiated_as",
    "full_precision",
    "heads_at_once",
    "if_any",
    "is_autocasting",
    "looks_once",
    "map_each",
    "map_heads",
    "map_rows",
    "maps_heads",
    "may_have_gradient",
    "may_look",
    "may_overwrite",
    "most_tiles",
    "unless_nonfinite",
    "variable",
    "with_gradient",
    "working_set",
]

S = TypeVar("S")
T = TypeVar("T")

#: Their arrays are plans of what is to be computed.
LAZY_LIBRARIES = ("dask", "ndonnx")
#: Scores of a problem from which on other threads are worth being waited for.
WORTH_THREADS = 2**17
#: What fits into the cache of a core, or nearly so.
CPU_WORKING_SET = 4 * 2**20

_QUIET: AbstractContextManager[None] = nullcontext()


def maps_heads(x: Array) -> bool:
    """Return whether `map_heads` is how to go from head to head."""
    library = special_library(x)
    return False if library is None else library.maps_heads(x)


def looks_once(x: Array) -> bool:
    """Return whether a loop over rows is compiled, and had better be of few operations.

    Then what is not finite is looked for once, by `if_any`, and keys and values lie (..., dim,
    kv_len), as do the gradients that are added up: a product (dim, rows) @ (rows, kv_len) has
    the few rows turned, where (kv_len, rows) @ (rows, dim) would have all the weights.
    """
    library = special_library(x)
    return False if library is None else library.looks_once(x)


def if_any(flags: tuple[Array, ...], compute: Callable[[], T]) -> T:
    """Return what `compute` does if a flag is set, zeros like it if none is."""
    library = special_library(flags[0])
    assert library is not None, "`looks_once` has said so"
    return library.if_any(flags, compute)


def map_heads(
    body: Callable[[dict[str, Array]], tuple[Array, Array]], arrays: dict[str, Array]
) -> tuple[Array, Array]:
    """Call `body` at every position of axis 0 of some arrays, and stack its results."""
    library = special_library(next(iter(arrays.values())))
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
    library = special_library(x)
    starts = range(start, start + count * size, size)
    if library is None:
        return loop(body, add, starts, sums)
    return library.map_rows(body, add, starts, sums, x)


def compiled(function: Callable[..., T], problem: Any, /, *arrays: Any) -> T:
    """Call a function of ours with a problem that holds no function of the caller's.

    What compiles a loop does it once for each set of shapes and options, not at every call.
    """
    library = special_library(problem.q)
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
    library = special_library(problem.q)
    if library is None:
        return careful(problem)
    return library.unless_nonfinite(trusting, careful, problem)


def differentiated_as(careful: Callable[..., T], fast: Callable[..., T], problem: Any, /) -> T:
    """Return what `fast` does, with the derivatives of `careful`, of which it has the values.

    Where a library cannot tell them apart, what `careful` does.
    """
    library = special_library(problem.q)
    if library is None:
        return careful(problem)
    return library.differentiated_as(careful, fast, problem)


def can_be_cut(problem: Any, /) -> bool:
    """Return whether rows of a problem can be computed a few at a time, and had better be."""
    if isinstance(problem.q, np.ndarray):
        return True
    if not all(type(n) is int for n in problem.shape):
        return False
    library = special_library(problem.q)
    if library is not None:
        return library.can_be_cut(problem)
    # The graph of a lazy array would grow with the square of the tiles.
    return library_name(problem.xp) not in LAZY_LIBRARIES


def variable(n: int | Array, x: Array) -> int | Array:
    """Return an integer such that `compiled` does not compile again when it changes."""
    library = special_library(x)
    return n if library is None else library.variable(n)


def most_tiles(x: Array) -> int:
    """Return how many times a loop may be unrolled: a compiler has to read them all."""
    library = special_library(x)
    return sys.maxsize if library is None else library.most_tiles()


def heads_at_once(x: Array) -> int:
    """Return how many key/value heads to work on together: one where caches are small."""
    library = special_library(x)
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
    library = special_library(problem.q)
    if library is None:
        return forward(problem)
    return library.with_gradient(forward, backward, problem)


def working_set(x: Array) -> int:
    """Return how many bytes the scores at hand, and what is made of them, may take."""
    library = special_library(x)
    return CPU_WORKING_SET if library is None else library.working_set(x)


def constant(x: Array) -> Array:
    """Return `x` with all its derivatives zero."""
    library = special_library(x)
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
    library = special_library(x)
    return _QUIET if library is None else library.full_precision(x)


def is_autocasting(x: Array) -> bool:
    """Return whether the library itself is about to change the dtypes of products of `x`."""
    library = special_library(x)
    return False if library is None else library.is_autocasting(x)


def may_look(*arrays: Array) -> bool:
    """Return whether values are at hand, and nothing is to be differentiated."""
    if isinstance(arrays[0], np.ndarray):
        return True
    library = special_library(arrays[0])
    return False if library is None else library.may_look_freely(*arrays)


def may_overwrite(*arrays: Array) -> bool:
    """Return whether none of some arrays is kept for a derivative."""
    library = special_library(arrays[0])
    return True if library is None else library.may_overwrite(*arrays)


def may_have_gradient(x: Array) -> bool:
    """Return whether something may be differentiated by way of `x`."""
    if isinstance(x, np.ndarray):
        return False
    library = special_library(x)
    return True if library is None else library.may_have_gradient(x)
