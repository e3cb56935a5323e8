"""How what was given is shown in a message, and what may be asked of it."""

from typing import Any

from .._backend import describe_kind, namespace
from .._typing import Array

__all__ = [
    "agree",
    "dtype_name",
    "is_absent",
    "listed",
    "shape_of",
    "shown",
    "shown_dtype",
    "shown_kind",
]


def shape_of(x: Array, /) -> tuple[int, ...]:
    return tuple(x.shape)


def dtype_name(dtype: Any, /) -> str:
    """Return "float32" for every library's float32."""
    name = getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or str(dtype)
    return str(name).rpartition(".")[2]


def is_absent(x: Any, /) -> bool:
    """Return whether a parameter is the empty tuple, which stands for none."""
    return isinstance(x, tuple) and not x


def agree(n: Any, m: Any, /) -> bool:
    """Return whether two sizes are equal, or one of them is not known before it is computed."""
    # Dask writes an unknown size as NaN, ndonnx as None.
    return bool(n == m) or n is None or m is None or n != n or m != m


def listed(words: Any, /, *, word: str = "and") -> str:
    *most, last = [str(w) for w in words]
    return f"{', '.join(most)} {word} {last}" if most else last


def shown_dtype(dtype: Any, /) -> str:
    """Show what was given as a dtype, with its library: "numpy int32"."""
    if isinstance(dtype, str):
        return repr(dtype)
    root = (dtype if isinstance(dtype, type) else type(dtype)).__module__.partition(".")[0]
    return dtype_name(dtype) if root == "builtins" else f"{root} {dtype_name(dtype)}"


def shown_kind(x: Any, /) -> str:
    """Say what came where a tuple was wanted, and how many there are in it."""
    kind = "None" if x is None else describe_kind(x)
    return f"a {kind} of {len(x)}" if isinstance(x, tuple | list) else kind


def shown(x: Any, /) -> str:
    """Show a value that may be an array, short enough for one sentence."""
    if namespace(x) is not None:
        return f"a {describe_kind(x)} of shape {shape_of(x)}"
    text = repr(x)
    return text if len(text) <= 60 else describe_kind(x)
