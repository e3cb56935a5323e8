"""What every test needs: arrays of any library, made from NumPy and taken back."""

import numpy as np

__all__ = ["asarray", "device_of", "library_of", "normal", "to_numpy", "x64"]


def library_of(xp):
    """Return "numpy", "torch", "jax", "array_api_strict", whatever the namespace's full name is."""
    name = xp.__name__.removeprefix("array_api_compat.")
    return name.partition(".")[0]


def asarray(xp, array, dtype=None):
    """Turn a NumPy array into one of `xp`'s; `dtype` is a name, such as "bfloat16"."""
    array = np.array(array)  # torch warns about arrays that are not writable
    if dtype is None:
        return xp.asarray(array)
    if dtype in ("float16", "bfloat16"):
        return xp.astype(xp.asarray(array.astype("float32")), getattr(xp, dtype))
    return xp.asarray(array.astype(dtype), dtype=getattr(xp, dtype))


def normal(xp, *shape, seed=0, dtype="float64"):
    """Draw standard normal numbers: the same ones on every library."""
    return asarray(xp, np.random.default_rng(seed).normal(size=shape), dtype)


def to_numpy(x):
    """Copy any library's array to NumPy; halves come back as float32."""
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        x = x.float() if x.dtype.is_floating_point and x.dtype.itemsize == 2 else x
        return x.numpy().copy()
    if type(x).__module__.startswith("array_api_strict"):
        return np.array(x._array)
    array = np.array(x)
    return (
        array.astype("float32")
        if array.dtype.itemsize == 2 and array.dtype.kind in "fV"
        else array
    )


def device_of(x):
    """Return the device of an array, or None where its library has no such thing."""
    return getattr(x, "device", None)


def x64(enabled):
    """Return a context in which JAX has 64 bits, or not, whatever it has outside of it."""
    import jax

    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(enabled)
    from jax.experimental import enable_x64  # JAX before 0.8

    return enable_x64(enabled)
