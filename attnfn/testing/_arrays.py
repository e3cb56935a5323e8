"""Arrays of any library and device, in NumPy; and positions on the way back, for functions."""

from typing import Any

import array_api_compat
import numpy as np

from .._backend import device, library_name, namespace
from .._checks import dtype_name
from .._typing import Array

__all__ = ["dtype_of", "is_array", "put_beside", "to_float64", "to_numpy"]


def is_array(x: Any, /) -> bool:
    """Return whether `x` is an array of any library, 0-d ones included, and not a number."""
    return namespace(x) is not None


def dtype_of(x: Any, /) -> str:
    """Return the name of an array's dtype, "bfloat16" on every library."""
    return dtype_name(x.dtype)


def to_numpy(x: Any, /) -> np.ndarray:
    """
    Copy to NumPy what any library has on any device, or nested lists.

    No value changes. What NumPy has no dtype for, such as bfloat16, comes back as float32.
    """
    xp = namespace(x)
    library = "" if xp is None else library_name(xp)
    if library == "torch":
        x = x.detach().resolve_conj().cpu()
        has_own = x.dtype.itemsize > 1 and dtype_of(x) != "bfloat16"
        x = x.numpy() if has_own or not x.dtype.is_floating_point else x.float().numpy()
    elif library == "array_api_strict":
        assert xp is not None
        x = x.to_device(xp.Device("CPU_DEVICE"))
    elif library == "mlx":
        assert xp is not None
        x = x.astype(xp.float32) if x.dtype == xp.bfloat16 else x
    elif library == "cupy":
        x = x.get()
    array = np.array(x)
    # The dtypes of ml_dtypes, which JAX's arrays have here, are void to NumPy.
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def to_float64(x: Any, /) -> np.ndarray:
    """Copy to NumPy as `to_numpy` does, every number as a float64."""
    return to_numpy(x).astype(np.float64)


def put_beside(x: np.ndarray, like: Any, /) -> Array:
    """Copy a NumPy array to the library and the device of another array.

    Next to what is no array it stays in NumPy. The dtype stays, too, where the library has it.
    """
    xp = namespace(like)
    if xp is None or xp is np:
        return x.copy()
    if library_name(xp) == "mlx":  # which has no float64 on a GPU, and int32 by default
        return xp.array(x.astype(np.int32 if x.dtype.kind == "i" else np.float32))
    xp = array_api_compat.array_namespace(like)
    where = device(like)
    return xp.asarray(x.copy()) if where is None else xp.asarray(x.copy(), device=where)
