"""Sizes of axes, and whether those of several arrays meet."""

import math
from collections.abc import Mapping, Sequence

from .._typing import Array
from ._words import agree, listed, shape_of

__all__ = [
    "check_axes",
    "check_divides",
    "check_equal_sizes",
    "check_exact_ndim",
    "check_exact_shape",
    "check_head_dim",
    "check_kv_heads",
    "check_multiple",
    "check_ndim",
    "check_one_batch",
    "check_one_shape",
    "check_qkv_ndim",
    "check_sizes_meet",
]

LAYOUTS = {
    "query": "(..., num_heads, q_len, head_dim)",
    "key": "(..., num_kv_heads, kv_len, head_dim)",
    "value": "(..., num_kv_heads, kv_len, value_dim)",
}


def check_qkv_ndim(**arrays: Array) -> None:
    for name, x in arrays.items():
        if x.ndim < 2:
            check_ndim(name, x, 2, LAYOUTS[name])


def check_ndim(name: str, x: Array, least: int, layout: str, /) -> None:
    if x.ndim < least:
        msg = (
            f"`{name}` must have shape {layout}, with {least} or more axes; "
            f"got shape {shape_of(x)}."
        )
        raise ValueError(msg)


def check_exact_ndim(name: str, x: Array, ndim: int, layout: str, /) -> None:
    if x.ndim != ndim:
        msg = f"`{name}` must have shape {layout}; got shape {shape_of(x)}."
        raise ValueError(msg)


def check_equal_sizes(size: str, axis: int, /, **arrays: Array) -> None:
    """Check that one axis has the same size in all arrays."""
    sizes = [x.shape[axis] for x in arrays.values()]
    if not all(agree(n, sizes[0]) for n in sizes):
        msg = (
            f"{listed(f'`{name}`' for name in arrays)} must have the same {size} "
            f"(axis {axis}): {listed(map(str, sizes))}; "
            f"got shapes {listed(str(shape_of(x)) for x in arrays.values())}."
        )
        raise ValueError(msg)


def check_sizes_meet(size: str, /, **ends: tuple[Array, int]) -> None:
    """Check that axes which are summed over together have the same size."""
    sizes = [x.shape[axis] for x, axis in ends.values()]
    if not agree(*sizes):
        where = listed(f"axis {axis} of `{name}`" for name, (_, axis) in ends.items())
        msg = (
            f"{size} must be the same in {where}: {listed(map(str, sizes))}; "
            f"got shapes {listed(str(shape_of(x)) for x, _ in ends.values())}."
        )
        raise ValueError(msg)


def check_divides(num_heads: int, model_dim: int, shape: tuple[int, ...], /) -> None:
    if model_dim % num_heads:
        msg = (
            f"`num_heads` must divide model_dim, the last axis of `x`; "
            f"got num_heads={num_heads} for shape {shape}."
        )
        raise ValueError(msg)


def check_multiple(num_heads: int, num_kv_heads: int, /) -> None:
    if num_heads != num_kv_heads and (num_kv_heads == 0 or num_heads % num_kv_heads):
        msg = (
            f"`num_heads` must be a multiple of `num_kv_heads`, so that each key/value head "
            f"serves the same number of query heads; got num_heads={num_heads} and "
            f"num_kv_heads={num_kv_heads}. "
            f"Heads are axis -3: (..., num_heads, length, dim)."
        )
        raise ValueError(msg)


def check_kv_heads(**arrays: Array) -> None:
    """Check the heads of key and value: the same number, or one side has one."""
    heads = [x.shape[-3] for name, x in arrays.items() if name != "query" and x.ndim > 2]
    if len(heads) == 2 and 1 not in heads:
        key, value = arrays["key"], arrays["value"]
        check_equal_sizes("num_kv_heads", -3, key=key, value=value)


def check_head_dim(head_dim: int, /) -> None:
    if head_dim == 0:
        msg = (
            "`scale` must be given where head_dim is 0, since 1 / sqrt(0) is no number; "
            "got None."
        )
        raise ValueError(msg)


def check_exact_shape(
    name: str, x: Array, shapes: Sequence[tuple[int, ...]], layout: str, /
) -> None:
    """Check that a shape is one of a few, nothing broadcast."""
    own = shape_of(x)
    if not any(len(own) == len(shape) and all(map(agree, own, shape)) for shape in shapes):
        wanted = listed((str(shape) for shape in dict.fromkeys(shapes)), word="or")
        msg = f"`{name}` must have shape {layout}, here {wanted}; got shape {own}."
        raise ValueError(msg)


def check_one_shape(**arrays: Array) -> None:
    shapes = [shape_of(x) for x in arrays.values()] or [()]
    if any(len(own) != len(shapes[0]) or not all(map(agree, own, shapes[0])) for own in shapes):
        msg = (
            f"{listed(f'`{name}`' for name in arrays)} must have one shape; "
            f"got {listed(map(str, shapes))}."
        )
        raise ValueError(msg)


def check_one_batch(**arrays: Array) -> None:
    """Check that all axes but the last are the same."""
    batches = [shape_of(x)[:-1] for x in arrays.values()]
    if any(len(b) != len(batches[0]) or not all(map(agree, b, batches[0])) for b in batches):
        msg = (
            f"{listed(f'`{name}`' for name in arrays)} must have the same axes before the "
            f"last; got shapes {listed(str(shape_of(x)) for x in arrays.values())}."
        )
        raise ValueError(msg)


def check_axes(
    name: str, x: Array, axes: Sequence[Sequence[str]], sizes: Mapping[str, int], /
) -> dict[str, int]:
    """Check a shape whose sizes are products of named ones; return those it tells."""
    told: dict[str, int] = {}
    fits = len(x.shape) == len(axes)
    for n, group in zip(x.shape, axes, strict=False):
        known = math.prod(sizes[axis] for axis in group if axis in sizes)
        unknown = [axis for axis in group if axis not in sizes]
        if unknown and known and n % known == 0:
            (axis,) = unknown
            told[axis] = n // known
        else:
            fits = fits and not unknown and n == known
    if not fits:
        shown = ", ".join(" * ".join(group) for group in axes)
        shown += "," if len(axes) == 1 else ""
        found = [f"{a}={sizes[a]}" for g in axes for a in g if a in sizes and not a.isdigit()]
        also = f", where {listed(found)}" if found else ""
        msg = f"`{name}` must have the shape ({shown}){also}; got {shape_of(x)}."
        raise ValueError(msg)
    return told
