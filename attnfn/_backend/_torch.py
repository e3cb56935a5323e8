"""What is different about PyTorch."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import array_api_compat.torch
import torch

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
    # array_api_compat.array_namespace goes through lru_cache, of which torch.compile warns.
    return array_api_compat.torch


def device(x: Array) -> Any:
    return x.device


def constant(x: Array) -> Array:
    return x.detach()


def is_autocasting(x: Array) -> bool:
    return torch.is_autocast_enabled(x.device.type) if x.device.type != "meta" else False


def full_precision(x: Array) -> AbstractContextManager[Any]:
    # Inside torch.autocast, x.float() @ y.float() is a product of halves again.
    if is_autocasting(x):
        return torch.autocast(x.device.type, enabled=False)
    return nullcontext()


def has_dtype(dtype: Any) -> bool:  # noqa: ARG001 (the same question is asked of JAX)
    return True
