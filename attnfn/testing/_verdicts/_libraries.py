"""Array libraries, as far as a check needs them: arrays in, numbers out, and derivatives."""

import importlib
import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from ..._backend import library_name
from ..._typing import Array, Namespace
from .._checks import check_dtype_of_library, check_library

__all__ = ["LIBRARIES", "Library", "library_of", "version_of"]

#: The libraries known by name, and the module that has their arrays.
LIBRARIES = {
    "array_api_strict": "array_api_strict",
    "cupy": "array_api_compat.cupy",
    "jax": "jax.numpy",
    "mlx": "mlx.core",
    "numpy": "numpy",
    "torch": "array_api_compat.torch",
}

#: Those that can differentiate.
_DIFFERENTIATE = ("jax", "mlx", "torch")
#: Those whose arrays may lie in memory in any order.
_HAVE_STRIDES = ("cupy", "numpy", "torch")


class Library(NamedTuple):
    """An array library, and the device on which arrays are made."""

    name: str
    xp: Namespace
    device: Any = None

    @property
    def version(self) -> str:
        """Its version, "" where it does not say."""
        return version_of(self.name.replace("_", "-"))

    @property
    def has_strides(self) -> bool:
        """Whether an array can lie in memory in another order than that of its axes."""
        return self.name in _HAVE_STRIDES

    @property
    def has_gradients(self) -> bool:
        """Whether it differentiates functions."""
        return self.name in _DIFFERENTIATE

    def put(self, x: np.ndarray, dtype: str, memory: tuple[int, ...] = ()) -> Array:
        """Copy floating numbers to the library, in a dtype and an order in memory."""
        if memory and self.has_strides:
            lying = self.put(np.transpose(x, memory).copy(), dtype)
            return self.xp.permute_dims(lying, tuple(int(i) for i in np.argsort(memory)))
        if self.name == "mlx":
            return self.xp.array(x.astype(np.float32)).astype(getattr(self.xp, dtype))
        own = getattr(self.xp, dtype)
        if dtype in ("float32", "float64"):
            return self._asarray(x.astype(dtype), dtype=own)
        held = self._asarray(x.astype(np.float32))
        return held.astype(own) if hasattr(held, "astype") else self.xp.astype(held, own)

    def put_option(self, x: Any, dtype: str) -> Any:
        """Copy an option: arrays and pairs of them; what is no array stays."""
        if isinstance(x, tuple):
            return tuple(self.put_option(part, dtype) for part in x)
        if not isinstance(x, np.ndarray):
            return x
        if x.dtype.kind == "f":
            return self.put(x, dtype)
        if self.name == "mlx":
            return self.xp.array(x if x.dtype.kind == "b" else x.astype(np.int32))
        return self._asarray(x if x.dtype.kind == "b" else x.astype(np.int32))

    def _asarray(self, x: np.ndarray, **how: Any) -> Array:
        if self.device is not None:
            how["device"] = self.device
        return self.xp.asarray(x.copy(), **how)

    @contextmanager
    def wide_enough_for(self, dtype: str) -> Iterator[None]:
        """Let the library have float64 where it is asked for."""
        if self.name != "jax" or dtype != "float64":
            yield
            return
        import jax

        if hasattr(jax, "enable_x64"):
            with jax.enable_x64(True):
                yield
            return
        from jax.experimental import enable_x64  # JAX before 0.8

        with enable_x64(True):
            yield

    def vjp(
        self, function: Callable[..., Sequence[Array]], arrays: Sequence[Array]
    ) -> tuple[Sequence[Array], Callable[[Sequence[Array]], Sequence[Array | None]]]:
        """Return what a function of arrays is, and the function that takes gradients back."""
        if self.name == "torch":
            return _torch_vjp(function, arrays)
        if self.name == "mlx":
            return _mlx_vjp(self.xp, function, arrays)
        import jax

        outs, back = jax.vjp(lambda *xs: tuple(function(*xs)), *arrays)
        return outs, lambda gradients: back(tuple(gradients))


def library_of(library: str | Namespace, dtypes: Sequence[str], device: Any = None) -> Library:
    """Return a library by its name or its namespace."""
    if isinstance(library, str):
        check_library(library, LIBRARIES)
        found = Library(library, importlib.import_module(LIBRARIES[library]), device)
    else:
        name = library_name(library)
        module = LIBRARIES.get(name)
        xp = importlib.import_module(module) if module is not None else library
        found = Library(name, xp, device)
    for dtype in dtypes:
        check_dtype_of_library(dtype, found.name, found.xp)
    return found


def _torch_vjp(function: Callable[..., Sequence[Array]], arrays: Sequence[Array]) -> Any:
    import torch

    leaves = [x.detach().clone().requires_grad_() for x in arrays]
    with torch.enable_grad():
        outs = function(*leaves)

    def back(gradients: Sequence[Array]) -> Sequence[Array | None]:
        pairs = [
            (out, gradient)
            for out, gradient in zip(outs, gradients, strict=True)
            if out.requires_grad
        ]
        if not pairs:
            return [None] * len(leaves)
        ends, given = zip(*pairs, strict=True)
        return torch.autograd.grad(ends, leaves, given, allow_unused=True)

    return outs, back


def _mlx_vjp(
    mx: Namespace, function: Callable[..., Sequence[Array]], arrays: Sequence[Array]
) -> Any:
    def back(gradients: Sequence[Array]) -> Sequence[Array | None]:
        _, found = mx.vjp(lambda *xs: list(function(*xs)), list(arrays), list(gradients))
        return found

    return function(*arrays), back


def version_of(package: str) -> str:
    """Return the version of an installed package, "" for one that merely lies on the path."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
