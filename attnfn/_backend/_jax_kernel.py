"""JAX's own kernel, ``dot_product_attention``, which on a GPU is cuDNN's.

It is for halves that are computed in halves, which `compute_dtype` has to ask for, and returns
no log-sum-exp. On a CPU it keeps all scores, and rows of ours are faster.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from .._typing import Array

__all__ = ["attention", "is_worth_it", "supports"]

IMPLEMENTATION: Any = "cudnn"


def supports(problem: Any, /) -> str | None:
    """Return what this kernel cannot do of a problem, None if it can do all of it."""
    if not _is_on_gpu():
        return f"jax arrays on the device {jax.default_backend()}"
    if problem.dtype not in (jnp.float16, jnp.bfloat16):
        return f"the compute dtype {jnp.dtype(problem.dtype)}"
    for name in ("score_mod", "softcap", "sinks", "dropout_mask"):
        if getattr(problem, name) is not None:
            return f"`{name}`"
    for name in ("mask", "bias"):
        if callable(getattr(problem, name)):
            return f"a function given as `{name}`"
    is_sized = all(type(n) is int and n > 0 for n in (*problem.shape, problem.v.shape[-1]))
    if problem.wants_lse or not is_sized:
        return "the log-sum-exp, or lengths that are not known or 0"
    return None


def is_worth_it(problem: Any, /) -> bool:  # noqa: ARG001
    """Return whether the kernel is faster than the definition."""
    return True


def attention(problem: Any, definition: Any, /) -> tuple[Array, None]:
    """Return the output in the compute dtype, and None for the lse."""
    *batch, num_heads, q_len, kv_len = (
        problem.shape if len(problem.shape) > 2 else (1, *problem.shape)
    )
    q, k, v = (x.astype(problem.dtype) for x in (problem.q, problem.k, problem.v))
    q = q * jnp.asarray(problem.scale, problem.dtype)
    q = _laid_out(q, batch, num_heads)
    k, v = (_laid_out(x, batch, problem.num_kv_heads) for x in (k, v))

    allowed = definition.allowed(problem)
    bias = problem.bias
    if allowed is not None:
        allowed = _by_batch(allowed, batch, num_heads, q_len, kv_len)
        # What no query of a group may see is kept out, whatever it holds.
        grouped = allowed.reshape(-1, problem.num_kv_heads, problem.group * q_len, kv_len)
        seen = jnp.moveaxis(jnp.any(grouped, axis=2), 1, 2)[..., None]
        k, v = (jnp.where(seen, x, 0) for x in (k, v))
    out = jax.nn.dot_product_attention(
        q,
        k,
        v,
        bias=None if bias is None else _by_batch(bias, batch, num_heads, q_len, kv_len),
        mask=allowed,
        scale=1.0,
        implementation=IMPLEMENTATION,
    )
    if allowed is not None:
        # It takes the mean of all values where nothing is allowed.
        alive = jnp.moveaxis(jnp.any(allowed, axis=-1), 1, 2)
        out = jnp.where(alive[..., None], out, 0)
    out = jnp.moveaxis(out, 1, 2)
    return out.reshape(*problem.shape[:-1], out.shape[-1]), None


def _is_on_gpu() -> bool:
    return jax.default_backend() == "gpu"


def _laid_out(x: Array, batch: list[int], heads: int, /) -> Array:
    """Return (..., heads, length, dim) as (batch, length, heads, dim)."""
    length, dim = x.shape[-2:]
    x = jnp.broadcast_to(x, (*batch, heads, length, dim))
    return jnp.moveaxis(x.reshape(math.prod(batch), heads, length, dim), 1, 2)


def _by_batch(x: Array, batch: list[int], heads: int, q_len: int, kv_len: int, /) -> Array:
    """Return what belongs to the scores with one batch axis, written out."""
    return jnp.broadcast_to(x, (*batch, heads, q_len, kv_len)).reshape(-1, heads, q_len, kv_len)
