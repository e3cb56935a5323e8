"""What the pictures share: how arrays get here, cells, tokens beside them, colours."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import Colormap, LinearSegmentedColormap

from .._typing import Array

__all__ = [
    "HIDDEN",
    "INK",
    "WEIGHT_COLOURS",
    "check_tokens",
    "label_columns",
    "label_rows",
    "new_axes",
    "on_one_line",
    "part_cells",
    "room_for",
    "settle",
    "to_numpy",
]

#: The darkest blue, that of the greatest weight; and what is not there at all.
INK, HIDDEN = "#08306b", "#eceff4"

#: From white to blue. NaN is not a small weight: it must not look like one.
WEIGHT_COLOURS: Colormap = LinearSegmentedColormap.from_list(
    "weights", ["#ffffff", "#c9dcef", "#6aaed6", "#2070b4", INK]
).with_extremes(bad="0.7")

#: Points: the size of a token where there is room for it, and the least that can be read.
LARGE, SMALL = 10.0, 6.0


def new_axes(q_len: int, kv_len: int) -> Axes:
    """Return the axes of a new figure of pyplot's, as large as so many cells need."""
    # Here, so that drawing on given axes chooses no backend.
    from matplotlib import pyplot

    # Inches: 0.4 for a cell, as long as the page is large enough.
    width, height = (min(max(0.4 * n, 2.4), 12.0) for n in (kv_len, q_len))
    _, ax = pyplot.subplots(figsize=(width + 2.0, height + 1.2), layout="constrained")
    return ax


def label_columns(ax: Axes, tokens: Sequence[str] | None, n: int, room: float) -> None:
    """Write tokens above the columns, at a slant, or some of their numbers."""
    ax.xaxis.set_ticks_position("top")
    ax.xaxis.set_label_position("top")
    if tokens is None:
        _number(ax.xaxis, n, room)
    else:
        # At a slant, lines of text are nearer to each other than the columns.
        slanted = {"rotation": 45, "ha": "left", "rotation_mode": "anchor"}
        _label(ax.xaxis, tokens, 0.75 * room, **slanted)


def label_rows(ax: Axes, tokens: Sequence[str] | None, n: int, room: float) -> None:
    """Write tokens beside the rows, or some of their numbers."""
    if tokens is None:
        _number(ax.yaxis, n, room)
    else:
        _label(ax.yaxis, tokens, room)


def _number(axis: Axis, n: int, room: float) -> None:
    width = 7.0 * len(str(n - 1)) + 4.0
    axis.set_ticks(range(0, n, math.ceil(max(n / 12, width / max(room, 0.1)))))


def _label(axis: Axis, tokens: Sequence[str], room: float, **options: Any) -> None:
    """Write every token, or those that fit where there are `room` points for each."""
    size = min(LARGE, max(SMALL, 0.85 * room))
    shown = range(0, len(tokens), math.ceil(SMALL / max(room, 0.1)))
    # A token may hold a $, which would be read as mathematics.
    words = [on_one_line(tokens[i]) for i in shown]
    axis.set_ticks(list(shown), words, parse_math=False, fontsize=size, **options)


def room_for(ax: Axes, q_len: int, kv_len: int) -> float:
    """Return how many points wide and high a square cell can be."""
    box = ax.get_window_extent()
    figure: Any = ax.get_figure(root=True)
    return float(min(box.width / kv_len, box.height / q_len)) * 72 / float(figure.dpi)


def part_cells(ax: Axes, q_len: int, kv_len: int, room: float, colour: str = "#dde3ea") -> None:
    """Draw thin lines around all cells, and between them where these are large enough."""
    ax.set_xticks(np.arange(kv_len + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(q_len + 1) - 0.5, minor=True)
    ax.grid(which="minor", color=colour, linewidth=min(0.6, 0.03 * room) if room > 4 else 0.0)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set(color=colour, linewidth=0.6)


def settle(ax: Axes) -> None:
    """Let the layout find its place: the first time, a title above tokens is cut off."""
    figure: Any = ax.get_figure(root=True)
    figure.draw_without_rendering()


def to_numpy(x: Array) -> Array:
    """Copy an array of any library to the CPU, floating ones in float64."""
    if hasattr(x, "detach"):  # PyTorch: part of a graph, on a GPU, of a dtype NumPy has not
        x = x.detach().cpu()
        x = x.double() if x.dtype.is_floating_point else x
    elif hasattr(x, "get"):  # CuPy
        x = x.get()
    x = np.asarray(x)
    return x if x.dtype == np.bool_ else x.astype(np.float64)


def check_tokens(
    name: str, tokens: Sequence[str] | None, line: str, n: int, of: str = "weights"
) -> None:
    """Check that there is a token for every row, or for every column."""
    if tokens is not None and len(tokens) != n:
        message = f"`{name}` must have one token per {line} of `{of}`, {n}; got {len(tokens)}."
        raise ValueError(message)


def on_one_line(token: str) -> str:
    """Show line breaks and tabs as they are written in a program."""
    return "".join(x if x.isprintable() else repr(x)[1:-1] for x in token)
