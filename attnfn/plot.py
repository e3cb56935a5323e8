"""Pictures of attention weights, with Matplotlib."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from ._typing import Array

try:
    from matplotlib import colormaps
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
except ImportError as error:
    message = f'attnfn.plot needs Matplotlib: pip install "attnfn[plot]" ({error}).'
    raise ImportError(message, name=error.name) from error

__all__ = ["attention_heat_map"]


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
        What stands beside the rows, `q_len` of them. Default: their numbers.
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
    values = _to_numpy(weights)
    _check_weights(values)
    q_len, kv_len = values.shape
    _check_tokens("q_tokens", q_tokens, "row", q_len)
    _check_tokens("kv_tokens", kv_tokens, "column", kv_len)

    ax = _new_axes(q_len, kv_len) if ax is None else ax
    # NaN is not a small weight: it must not look like one.
    colours = colormaps["Blues"].with_extremes(bad="0.7")
    greatest = values[np.isfinite(values)].max(initial=0.0) or 1.0
    image = ax.imshow(values, cmap=colours, vmin=0.0, vmax=greatest, aspect="equal")
    ax.figure.colorbar(image, ax=ax, label="weight", shrink=0.8)
    ax.set(title=title, xlabel="attends to (key)", ylabel="token (query)")
    ax.xaxis.set_ticks_position("top")
    ax.xaxis.set_label_position("top")
    _label(ax.xaxis, kv_tokens, kv_len, rotation=45, ha="left", rotation_mode="anchor")
    _label(ax.yaxis, q_tokens, q_len)
    _part_cells(ax, q_len, kv_len)
    return ax


def _new_axes(q_len: int, kv_len: int) -> Axes:
    # Here, so that drawing on given axes chooses no backend.
    from matplotlib import pyplot

    # Inches: half of one for a cell, as long as the page is large enough.
    width, height = (min(max(0.5 * n, 2.0), 12.0) for n in (kv_len, q_len))
    _, ax = pyplot.subplots(figsize=(width + 2.0, height + 1.2), layout="constrained")
    return ax


def _label(axis: Axis, tokens: Sequence[str] | None, n: int, **options: Any) -> None:
    """Write the tokens beside the cells, or some of their numbers."""
    if tokens is None:
        axis.set_ticks(range(0, n, math.ceil(n / 12)))
        return
    font_size = min(10.0, max(4.0, 400.0 / n))
    # A token may hold a $, which would be read as mathematics.
    axis.set_ticks(range(n), tokens, parse_math=False, fontsize=font_size, **options)


def _part_cells(ax: Axes, q_len: int, kv_len: int) -> None:
    """Draw white lines between the cells."""
    ax.set_xticks(np.arange(kv_len - 1) + 0.5, minor=True)
    ax.set_yticks(np.arange(q_len - 1) + 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=min(1.0, 20.0 / max(q_len, kv_len)))
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)


def _to_numpy(x: Array) -> Array:
    """Copy an array of any library to the CPU, in float64."""
    if hasattr(x, "detach"):  # PyTorch: part of a graph, on a GPU, of a dtype NumPy has not
        x = x.detach().cpu().double()
    elif hasattr(x, "get"):  # CuPy
        x = x.get()
    return np.asarray(x, dtype=np.float64)


def _check_weights(weights: Array) -> None:
    if weights.ndim != 2:
        message = (
            f"`weights` must have 2 axes, (q_len, kv_len); got shape {weights.shape}. "
            "Choose a head first, as in weights[0]."
        )
        raise ValueError(message)
    if 0 in weights.shape:
        message = f"`weights` must have a row and a column; got shape {weights.shape}."
        raise ValueError(message)


def _check_tokens(name: str, tokens: Sequence[str] | None, line: str, n: int) -> None:
    if tokens is not None and len(tokens) != n:
        message = (
            f"`{name}` must have one token per {line} of `weights`, {n}; got {len(tokens)}."
        )
        raise ValueError(message)
