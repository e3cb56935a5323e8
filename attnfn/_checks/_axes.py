"""Axes that are to broadcast to those of the scores."""

from .._typing import Array
from ._words import agree, listed, shape_of

__all__ = [
    "check_bias_axes",
    "check_broadcast",
    "check_mask_axes",
    "check_position_axes",
    "check_rotary_axes",
]


def check_broadcast(axes: str, /, **shapes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that the given ones broadcast to."""
    out: list[int] = []
    for i in range(1, 1 + max(map(len, shapes.values()))):
        sizes = [shape[-i] for shape in shapes.values() if len(shape) >= i]
        wide = [n for n in sizes if n != 1]
        if any(not agree(n, wide[0]) for n in wide):
            msg = (
                f"The {axes} of {listed(f'`{name}`' for name in shapes)} must broadcast, so "
                f"be equal, 1 or absent; got {listed(map(str, shapes.values()))}."
            )
            raise ValueError(msg)
        out.insert(0, wide[0] if wide else 1)
    return tuple(out)


def check_mask_axes(name: str, x: Array, shape: tuple[int, ...], /) -> None:
    """Check the axes of a mask against the scores': (kv_len,), (q_len, kv_len) or all."""
    own = shape_of(x)
    # A query or key with one axis has been refused, so the scores have two axes or more.
    if len(own) not in (1, 2, len(shape)):
        msg = (
            f"`{name}` must have shape (kv_len,), (q_len, kv_len), or one axis for each of the "
            f"scores {shape}; got shape {own}. Write {name}[:, None, None, :] for "
            f"(batch, kv_len), {name}[:, None] for (batch, q_len, kv_len)."
        )
        raise ValueError(msg)
    _check_fits(name, own, shape)


def check_bias_axes(name: str, x: Array, shape: tuple[int, ...], /) -> None:
    """Check the axes of a bias: a mask's, and (num_heads, q_len, kv_len)."""
    own = shape_of(x)
    if len(own) not in (1, 2, 3, len(shape)) or len(own) > len(shape):
        msg = (
            f"`{name}` must have shape (kv_len,), (q_len, kv_len), (num_heads, q_len, kv_len), "
            f"or one axis for each of the scores {shape}; got shape {own}. Write "
            f"{name}[:, None, None, :] for (batch, kv_len), {name}[:, None] for "
            f"(batch, q_len, kv_len)."
        )
        raise ValueError(msg)
    _check_fits(name, own, shape)


def _check_fits(name: str, own: tuple[int, ...], shape: tuple[int, ...], /) -> None:
    """Check that each axis is the scores' or 1; the result is never made larger."""
    hint = f" Write {name}[:, None, None, :] for (batch, kv_len)."
    for n, wanted in zip(reversed(own), reversed(shape), strict=False):
        if n != 1 and not agree(n, wanted):
            msg = (
                f"`{name}` must broadcast to the scores (..., num_heads, q_len, kv_len) = "
                f"{shape} without enlarging them; got shape {own}."
                f"{hint if len(own) == 2 else ''}"
            )
            raise ValueError(msg)


def check_rotary_axes(cos: Array, shape: tuple[int, ...], /) -> None:
    """Check the axes of cosines and sines against those of what is to be turned."""
    own = shape_of(cos)
    if len(own) not in (2, len(shape)):
        msg = (
            f"`cos` and `sin` must have shape (length, dim / 2), or one axis for each of `x` "
            f"{shape}; got shape {own}. Write cos[:, None] for (batch, length, dim / 2), which "
            f"is what rotary_angles() gives for positions of shape (batch, length)."
        )
        raise ValueError(msg)
    fits = all(
        n == 1 or agree(n, wanted)
        for n, wanted in zip(own[-2::-1], shape[-2::-1], strict=False)
    )
    if not fits or 2 * own[-1] > shape[-1]:
        msg = (
            f"`cos` and `sin` must have the length (axis -2) of `x`, at most half as many "
            f"features (axis -1), and broadcast to it without enlarging it; "
            f"got shape {own} for `x` of shape {shape}."
        )
        raise ValueError(msg)


def check_position_axes(apart: Array, /) -> None:
    """Check how far queries and keys are apart: an array with room for the axis of heads."""
    own = shape_of(apart)
    if len(own) < 2 or (len(own) > 2 and own[-3] != 1):
        msg = (
            f"`q_pos` and `kv_pos` must have shapes (q_len, 1) and (1, kv_len), or "
            f"(*batch, 1, q_len, 1) and (*batch, 1, 1, kv_len); got {own} when broadcast."
        )
        raise ValueError(msg)
