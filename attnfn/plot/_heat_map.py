"""Weights as colours: one head, or all of them side by side."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage

from .._typing import Array
from ._axes import (
    WEIGHT_COLOURS,
    check_tokens,
    label_columns,
    label_rows,
    new_axes,
    part_cells,
    room_for,
    settle,
    to_numpy,
)

__all__ = ["attention_head_grid", "attention_heat_map"]


def attention_heat_map(
    weights: Float[Array, "q_len kv_len"],
    /,
    *,
    q_tokens: Sequence[str] | None = None,
    kv_tokens: Sequence[str] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """
    Draw the weights of one head: a row per query, a column per key, the darker the more.

    Parameters
    ----------
    weights : array, shape (q_len, kv_len)
        What `attention_weights` returns, for one head and one sequence; of any library, on any
        device. Colours run from 0 to the greatest of them; a NaN is grey.
    q_tokens : sequence of str, optional
        What stands beside the rows, `q_len` of them. Where there is no room for all, every
        second one is left out, or more. Default: the numbers of the rows.
    kv_tokens : sequence of str, optional
        What stands above the columns, `kv_len` of them. Default: their numbers.
    title : str, optional
        What stands over it all. Default: nothing.
    ax : matplotlib.axes.Axes, optional
        Where to draw. Default: the axes of a new figure of ``matplotlib.pyplot``, sized to the
        number of tokens.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on; ``.figure`` is the figure, to save or to show.

    Raises
    ------
    ValueError
        If `weights` has not two axes of at least one row and column each, or if there are more
        or fewer tokens than rows or columns.

    See Also
    --------
    attnfn.attention_weights : What is drawn.
    attention_head_grid : All heads.

    Examples
    --------
    The second token looks at the first, and a little at itself:

    >>> import numpy as np
    >>> from attnfn.plot import attention_heat_map
    >>> weights = np.asarray([[1.0, 0.0], [0.8, 0.2]])
    >>> ax = attention_heat_map(weights, q_tokens=["the", "river"], kv_tokens=["the", "river"])
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['the', 'river']
    >>> ax.figure.savefig("river.png")  # doctest: +SKIP
    """
    values = to_numpy(weights)
    _check_weights(values, 2, "(q_len, kv_len)", "a row and a column", "head", "weights[0]")
    q_len, kv_len = values.shape
    check_tokens("q_tokens", q_tokens, "row", q_len)
    check_tokens("kv_tokens", kv_tokens, "column", kv_len)

    is_new = ax is None
    ax = new_axes(q_len, kv_len) if ax is None else ax
    room = room_for(ax, q_len, kv_len)
    image = _draw(ax, values, _greatest(values), room)
    _add_scale(ax.figure, image, ax)
    ax.set(title=title, xlabel="attends to (key)", ylabel="token (query)")
    label_columns(ax, kv_tokens, kv_len, room)
    label_rows(ax, q_tokens, q_len, room)
    if is_new:
        settle(ax)
    return ax


def attention_head_grid(
    weights: Float[Array, "num_heads q_len kv_len"],
    /,
    *,
    q_tokens: Sequence[str] | None = None,
    kv_tokens: Sequence[str] | None = None,
    head_titles: Sequence[str] | None = None,
    title: str | None = None,
    num_columns: int | None = None,
    figure: Figure | SubFigure | None = None,
) -> Figure | SubFigure:
    """
    Draw the weights of every head, side by side and on one scale of colours.

    Parameters
    ----------
    weights : array, shape (num_heads, q_len, kv_len)
        What `attention_weights` returns, for one sequence; of any library, on any device.
        Colours run from 0 to the greatest of all; a NaN is grey.
    q_tokens : sequence of str, optional
        What stands beside the rows, `q_len` of them. Default: the numbers of the rows.
    kv_tokens : sequence of str, optional
        What stands above the columns, `kv_len` of them. Default: their numbers.
    head_titles : sequence of str, optional
        What stands below each head, `num_heads` of them. Default: "head 0", "head 1", ...
    title : str, optional
        What stands over it all. Default: nothing.
    num_columns : int, optional
        How many heads stand side by side, 1 or more. Default: 4, and 8 for more than 16 heads.
    figure : matplotlib.figure.Figure, optional
        Where to draw. Default: a new figure of ``matplotlib.pyplot``, sized to the heads.

    Returns
    -------
    matplotlib.figure.Figure
        The figure drawn on, to save or to show; ``.axes`` are the heads and the scale.

    Raises
    ------
    ValueError
        If `weights` has not three axes of size 1 or more, `num_columns` is below 1, or there
        are more or fewer tokens or titles than needed.

    See Also
    --------
    attention_heat_map : One head, larger.

    Examples
    --------
    >>> import numpy as np
    >>> from attnfn.plot import attention_head_grid
    >>> weights = np.stack([np.eye(3), np.full((3, 3), 1 / 3)])
    >>> figure = attention_head_grid(weights, head_titles=["itself", "everything"])
    >>> [ax.get_xlabel() for ax in figure.axes[:2]]
    ['itself', 'everything']
    """
    values = to_numpy(weights)
    _check_weights(
        values,
        3,
        "(num_heads, q_len, kv_len)",
        "a head, a row and a column",
        "sequence",
        "weights[0]",
    )
    num_heads, q_len, kv_len = values.shape
    check_tokens("q_tokens", q_tokens, "row", q_len)
    check_tokens("kv_tokens", kv_tokens, "column", kv_len)
    check_tokens("head_titles", head_titles, "head", num_heads)
    if num_columns is not None and num_columns < 1:
        message = f"`num_columns` must be 1 or more; got {num_columns}."
        raise ValueError(message)

    num_columns = min(num_heads, num_columns or (4 if num_heads <= 16 else 8))
    num_rows = math.ceil(num_heads / num_columns)
    figure = _new_grid(num_rows, num_columns, q_len, kv_len) if figure is None else figure
    grid = figure.subplots(num_rows, num_columns, squeeze=False)
    room = room_for(grid[0, 0], q_len, kv_len)
    for head, ax in enumerate(grid.flat):
        if head >= num_heads:
            ax.set_axis_off()
            continue
        image = _draw(ax, values[head], _greatest(values), room)
        label_columns(ax, kv_tokens, kv_len, room)
        label_rows(ax, q_tokens, q_len, room)
        row, column = divmod(head, num_columns)
        ax.tick_params(labeltop=row == 0, labelleft=column == 0)
        ax.xaxis.set_label_position("bottom")
        ax.set_xlabel(head_titles[head] if head_titles else f"head {head}", fontsize=9)
    _add_scale(figure, image, list(grid.flat))
    figure.supylabel("token (query)", fontsize=10)
    figure.supxlabel("attends to (key)", fontsize=10)
    if title is not None:
        figure.suptitle(title)
    return figure


def _draw(ax: Axes, values: Array, greatest: float, room: float) -> AxesImage:
    """Colour the cells."""
    image = ax.imshow(values, cmap=WEIGHT_COLOURS, vmin=0.0, vmax=greatest, aspect="equal")
    q_len, kv_len = values.shape
    part_cells(ax, q_len, kv_len, room)
    return image


def _add_scale(figure: Any, image: AxesImage, beside: Axes | list[Axes]) -> None:
    bar = figure.colorbar(image, ax=beside, label="weight", shrink=0.6, aspect=30, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=9)


def _new_grid(num_rows: int, num_columns: int, q_len: int, kv_len: int) -> Figure:
    from matplotlib import pyplot

    # Inches: a head takes 1.2 to 3 of them, the page 18.
    longer = max(q_len, kv_len)
    cell = max(0.2, 1.2 / longer)
    cell = min(cell, 3.0 / longer, 18.0 / (num_columns * kv_len), 18.0 / (num_rows * q_len))
    width, height = max(cell * kv_len, 0.8) + 0.15, max(cell * q_len, 0.8) + 0.35
    size = (num_columns * width + 1.8, num_rows * height + 1.2)
    return pyplot.figure(figsize=size, layout="constrained")


def _greatest(values: Array) -> float:
    return float(values[np.isfinite(values)].max(initial=0.0)) or 1.0


def _check_weights(
    weights: Array, ndim: int, layout: str, least: str, choice: str, example: str
) -> None:
    if weights.ndim != ndim:
        message = (
            f"`weights` must have {ndim} axes, {layout}; got shape {weights.shape}. "
            f"Choose a {choice} first, as in {example}."
        )
        raise ValueError(message)
    if 0 in weights.shape:
        message = f"`weights` must have {least}; got shape {weights.shape}."
        raise ValueError(message)
