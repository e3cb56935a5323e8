"""The array libraries that may be installed here, and the way to each and back."""

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from .._typing import Array

__all__ = ["LIBRARIES", "Library", "Place", "places"]


class Library(NamedTuple):
    """An array library: its name, the module with its functions, the way back to NumPy."""

    name: str
    module: str
    to_numpy: Callable[[Array], Array] = np.asarray


LIBRARIES = (
    Library("numpy", "numpy"),
    Library("array_api_strict", "array_api_strict", np.from_dlpack),
    Library("torch", "torch", lambda x: x.numpy(force=True)),
    Library("jax", "jax.numpy"),
    Library("cupy", "cupy", lambda x: x.get()),
    Library("mlx", "mlx.core"),
    Library("dask", "dask.array"),
)


class Place(NamedTuple):
    """A library on one of its devices."""

    library: Library
    xp: ModuleType
    device: Any  # None is the library's default, and all that some libraries have

    def asarray(self, x: Any) -> Any:
        """Take a NumPy array there; leave everything else as it is."""
        if not isinstance(x, np.ndarray):
            return x
        place = {} if self.device is None else {"device": self.device}
        return self.xp.asarray(x, **place)

    def version(self) -> str:
        root = sys.modules[self.xp.__name__.partition(".")[0]]
        return str(getattr(root, "__version__", getattr(self.xp, "__version__", "?")))

    def device_name(self) -> str:
        device = getattr(self.asarray(np.zeros(1, "float32")), "device", None)
        if device is None:
            # MLX knows where it computes, its arrays do not.
            device = getattr(self.xp, "default_device", lambda: "cpu")()
        name = str(getattr(device, "platform", device))
        # Some write a device as a call of its class.
        call = re.search(r"Device\('?(\w+)", name)
        return call[1] if call else name


def places(library: Library) -> Iterator[Place]:
    """
    Import a library and go through its devices: none, if it is not installed.

    An installation that is broken raises whatever it raises.
    """
    try:
        xp = importlib.import_module(library.module)
    except ModuleNotFoundError as error:
        # Something that an installed library needs may be missing too: that is broken.
        if error.name in (library.module, library.module.partition(".")[0]):
            return
        raise
    yield Place(library, xp, None)
    # PyTorch stays on the CPU unless told otherwise.
    accelerator = getattr(xp, "accelerator", None)
    if accelerator is not None and accelerator.is_available():
        yield Place(library, xp, accelerator.current_accelerator())
