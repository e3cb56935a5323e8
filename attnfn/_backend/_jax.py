"""What is different about JAX."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp

from .._typing import Array, Namespace

__all__ = [
    "constant",
    "device",
    "full_precision",
    "has_dtype",
    "is_autocasting",
    "namespace",
]


def namespace() -> Namespace:
    return jnp


def device(x: Array) -> Any:
    # JAX moves an array that is not committed to where it is needed. Only an array that the
    # caller has put on one device is a reason to put others there too.
    if isinstance(x, jax.core.Tracer) or not x.committed or len(x.devices()) > 1:
        return None
    return x.device


def constant(x: Array) -> Array:
    return jax.lax.stop_gradient(x)


def is_autocasting(x: Array) -> bool:  # noqa: ARG001 (the same question is asked of torch)
    return False


def full_precision(x: Array) -> AbstractContextManager[Any]:  # noqa: ARG001
    return nullcontext()


def has_dtype(dtype: Any) -> bool:
    return bool(jax.dtypes.canonicalize_dtype(dtype) == dtype)
