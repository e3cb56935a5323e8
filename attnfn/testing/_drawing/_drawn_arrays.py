"""The arrays of a problem that is drawn: their shapes, numbers and layouts."""

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from ..._typing import Array, Namespace

__all__ = ["LAYOUTS", "NUMBERS", "Draw", "drawn_array", "drawn_shapes", "laid_out", "put"]

Draw = Any

#: How an array may lie in memory.
LAYOUTS = ("whole", "turned", "heads_last", "every_other", "repeated")
#: Of which numbers an array may be made.
NUMBERS = ("zeros", "ones", "ramp", "normal", "large", "denormal")
#: The least number of each dtype.
_LEAST = {
    "float16": 2.0**-24,
    "bfloat16": 2.0**-133,
    "float32": 2.0**-149,
    "float64": 2.0**-1074,
}


def drawn_shapes(
    draw: Draw,
    limits: tuple[int, int, int],
    grouped_heads: bool,
    free_axes: bool,
    no_length: bool,
) -> tuple[tuple[int, ...], ...]:
    """Draw the shapes of query, key and value."""
    max_len, max_heads, max_dim = limits
    batch = draw(st.lists(st.integers(1, 3), max_size=2))
    group = draw(st.integers(1, max_heads)) if grouped_heads else 1
    num_kv_heads = draw(st.integers(1, max_heads // group))
    q_len = draw(st.integers(1, max_len))
    is_square = draw(st.booleans())
    sizes = {
        "num_kv_heads": num_kv_heads,
        "q_len": q_len,
        "kv_len": q_len if is_square else draw(st.integers(1, max_len)),
        "head_dim": draw(st.integers(1, max_dim)),
        "value_dim": draw(st.integers(1, max_dim)),
    }
    if no_length:
        sizes[draw(st.sampled_from([*sizes, *(["batch"] if batch else [])]))] = 0
    if "batch" in sizes:
        batch[0] = 0
    few, q_len, kv_len = (sizes[name] for name in ("num_kv_heads", "q_len", "kv_len"))
    shapes = (
        (*batch, few * group, q_len, sizes["head_dim"]),
        (*batch, few, kv_len, sizes["head_dim"]),
        (*batch, few, kv_len, sizes["value_dim"]),
    )
    if not free_axes:
        return shapes
    if draw(st.booleans()):
        return tuple(shape[-2:] for shape in shapes)
    return tuple(_freed(draw, shape) for shape in shapes)


def _freed(draw: Draw, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Leave out some of the first axes, the heads only if there is one; make others 1."""
    *batch, heads, length, dim = shape
    batch = batch[draw(st.integers(0, len(batch))) :]
    batch = [draw(st.sampled_from([n, 1])) for n in batch]
    if not batch and heads == 1 and draw(st.booleans()):
        return (length, dim)
    return (*batch, heads, length, dim)


def drawn_array(draw: Draw, shape: tuple[int, ...], dtype: str, kinds: list[str]) -> np.ndarray:
    """Draw an array of one kind of numbers."""
    kind = draw(st.sampled_from(kinds))
    x: np.ndarray
    if kind == "zeros":
        x = np.zeros(shape)
    elif kind == "ones":
        x = np.ones(shape)
    elif kind == "ramp":
        x = np.arange(math.prod(shape)).reshape(shape) % 7 - 3.0
    else:
        rng = np.random.default_rng(draw(st.integers(0, 2**16 - 1)))
        # Multiples of 1/32 below 8 are numbers of every dtype.
        x = np.clip(np.round(rng.normal(size=shape) * 32) / 32, -7, 7)
        x = x * {"normal": 1.0, "large": 32.0, "denormal": 32 * _LEAST[dtype]}[kind]
    held = {"bfloat16": "float32"}.get(dtype, dtype)
    return np.asarray(x.astype(held))


def laid_out(x: np.ndarray, layout: str, dtype: str, xp: Namespace, /) -> Array:
    """Put an array into a library so that it lies in memory as asked for."""
    axes = list(range(x.ndim))
    if layout == "turned":
        axes[-1], axes[-2] = axes[-2], axes[-1]
    if layout == "heads_last" and x.ndim > 2:
        axes[-2], axes[-3] = axes[-3], axes[-2]
    if layout == "every_other":
        return put(np.repeat(x, 2, axis=-2), dtype, xp)[..., ::2, :]
    if layout == "repeated" and x.ndim > 2 and x.shape[0]:
        return xp.broadcast_to(put(x[:1], dtype, xp), x.shape)
    # Each of these orders is its own inverse.
    turned = put(np.ascontiguousarray(np.transpose(x, axes)), dtype, xp)
    return turned if axes == sorted(axes) else xp.permute_dims(turned, tuple(axes))


def put(x: np.ndarray, dtype: str, xp: Namespace, /) -> Array:
    """Copy to a library: numbers in a dtype, truth values and positions as they are."""
    if x.dtype.kind != "f":
        return xp.asarray(x.copy())
    wide = "float64" if dtype == "float64" else "float32"
    out = xp.asarray(x.astype(wide), dtype=getattr(xp, wide))
    return out if dtype == wide else xp.astype(out, getattr(xp, dtype))
