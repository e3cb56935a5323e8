"""A wrong answer as code to paste, with what came of it and what was wanted."""

from typing import Any

import numpy as np

from ._asked import Asked

__all__ = ["example_of"]

#: How an array is written in each library; others are written in NumPy.
_IMPORTS = {
    "torch": ("import torch", "torch.tensor"),
    "jax": ("import jax.numpy as jnp", "jnp.asarray"),
    "mlx": ("import mlx.core as mx", "mx.array"),
}
_NUMPY = ("import numpy as np", "np.asarray")
#: More numbers than this are no example to read.
MOST_NUMBERS = 400


def example_of(asked: Asked, called: str, library: str) -> str:
    """Return the case as code that calls what is `called`, and the row that is wrong."""
    case, dtype = asked.case, asked.question.dtype
    first, make = _IMPORTS.get(library, _NUMPY)
    xp = make.partition(".")[0]
    arrays = {"query": case.query, "key": case.key, "value": case.value}
    arrays |= {n: x for n, x in case.options.items() if isinstance(x, np.ndarray)}
    if sum(x.size for x in arrays.values()) > MOST_NUMBERS:
        lines = [f"# {case.name} of shapes {_shapes(asked)}"]
    else:
        lines = [first]
        lines += [f"{n} = {_written(x, make, xp, dtype)}" for n, x in arrays.items()]
    given = ["query", "key", "value"]
    given += [f"{n}={_option(n, x)}" for n, x in case.options.items()]
    if called.endswith(".attention") and asked.misses and asked.misses[0].part == "lse":
        called += "_with_lse"
    lines.append(f"{called}({', '.join(given)})")
    return "\n".join([*lines, *_comments(asked)])


def _written(x: np.ndarray, make: str, xp: str, dtype: str) -> str:
    numbers = str(x.tolist()).replace("inf", 'float("inf")').replace("nan", 'float("nan")')
    numbers = numbers.replace(".0,", ".,").replace(".0]", ".]")
    is_real = x.dtype.kind == "f"
    return f"{make}({numbers}, dtype={xp}.{dtype})" if is_real else f"{make}({numbers})"


def _option(name: str, x: Any) -> str:
    if isinstance(x, np.ndarray):
        return name
    if isinstance(x, tuple):
        return f"({', '.join(_option('', part) for part in x)})" if name else str(x)
    if callable(x):
        return x.__name__
    return repr(x)


def _shapes(asked: Asked) -> str:
    return ", ".join(str(x.shape) for x in (asked.case.query, asked.case.key, asked.case.value))


def _comments(asked: Asked) -> list[str]:
    if not asked.misses:
        return [f"# {', '.join(asked.answer.faults)}"]
    miss, trace = asked.misses[0], asked.question.trace
    lines = [f"# {miss.part} at {miss.at}: got {_row(miss.got)}, wanted {_row(miss.wanted)}"]
    if miss.part in ("out", "lse") and len(miss.at) == trace.allowed.ndim - 1:
        keys = np.flatnonzero(trace.allowed[miss.at])
        lines.append(f"# which may attend to {_keys(keys)} of {trace.allowed.shape[-1]} keys")
    return lines


def _row(x: np.ndarray) -> str:
    return np.array2string(np.asarray(x), precision=4, threshold=8, separator=", ")


def _keys(keys: np.ndarray) -> str:
    if not keys.size:
        return "none"
    is_run = keys[-1] - keys[0] + 1 == keys.size and keys.size > 2
    return f"{keys[0]} to {keys[-1]}" if is_run else ", ".join(map(str, keys))
