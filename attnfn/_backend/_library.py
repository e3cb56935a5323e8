"""Which library an array is from, and our module for it."""

import sys
from functools import cache
from types import ModuleType
from typing import Any

import array_api_compat
import numpy as np

from .._typing import Array, Namespace

__all__ = [
    "chosen_namespace",
    "describe_kind",
    "has_dtype",
    "library_name",
    "namespace",
    "native_kernel",
    "numpy_generator",
    "numpy_namespace",
    "special_library",
    "special_namespace",
    "wide_float",
]

#: NumPy follows the standard by itself; its wrapper in array_api_compat loads all of NumPy.
numpy_namespace: Namespace = np
numpy_generator = np.random.Generator

#: Our module for torch, once it is loaded.
_module_for_torch: list[ModuleType] = []


def namespace(x: Any) -> Namespace | None:
    """Return the Array API namespace of an array, None for anything else."""
    if isinstance(x, np.ndarray):
        return np
    library = special_library(x)
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


def special_library(x: Any) -> ModuleType | None:
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


def special_namespace(xp: Namespace) -> ModuleType | None:
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
    library = special_namespace(xp)
    return xp if library is None else library.namespace()


def native_kernel(x: Array) -> ModuleType | None:
    """Return the module of the library's own kernel: `supports` and `attention`."""
    if isinstance(x, np.ndarray):
        return _kernel_of_ours()
    library = special_library(x)
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


def has_dtype(dtype: Any, xp: Namespace) -> bool:
    """Return whether arrays of `dtype` can exist: JAX may have float64 switched off."""
    library = special_namespace(xp)
    return True if library is None else library.has_dtype(dtype)


def wide_float(xp: Namespace, device: Any) -> Any:
    """Return float64 where arrays can have it, else float32."""
    library = special_namespace(xp)
    if library is not None:
        return library.wide_float(device)
    if xp is np:
        return np.float64
    # MLX has float64 on some devices, and cannot be asked.
    info = getattr(xp, "__array_namespace_info__", None)
    known = info().dtypes(device=device, kind="real floating") if info else {}
    return known.get("float64", xp.float32)
