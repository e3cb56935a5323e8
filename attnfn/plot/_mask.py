"""A mask as two colours."""

from collections.abc import Sequence

from jaxtyping import Bool
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from .._typing import Array
from ._axes import (
    HIDDEN,
    check_tokens,
    label_columns,
    label_rows,
    new_axes,
    part_cells,
    room_for,
    settle,
    to_numpy,
)

__all__ = ["mask_picture"]

ALLOWED = "#2070b4"


def mask_picture(
    mask: Bool[Array, "q_len kv_len"],
    /,
    *,
    q_tokens: Sequence[str] | None = None,
    kv_tokens: Sequence[str] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """
    Draw a mask: a row per query, a column per key, blue where the query may attend to the key.

    Parameters
    ----------
    mask : array, shape (q_len, kv_len), bool
        True where the query may attend to the key; of any library, on any device.
    q_tokens : sequence of str, optional
        What stands beside the rows, `q_len` of them. Default: the numbers of the rows.
    kv_tokens : sequence of str, optional
        What stands above the columns, `kv_len` of them. Default: their numbers.
    title : str, optional
        What stands over it all. Default: nothing.
    ax : matplotlib.axes.Axes, optional
        Where to draw. Default: the axes of a new figure of ``matplotlib.pyplot``.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on; ``.figure`` is the figure, to save or to show.

    Raises
    ------
    ValueError
        If `mask` has not two axes of at least one row and column each, or if there are more or
        fewer tokens than rows or columns.
    TypeError
        If `mask` is not bool.

    See Also
    --------
    attnfn.causal_mask, attnfn.sliding_window_mask : Masks to look at.

    Examples
    --------
    >>> import attnfn as af
    >>> from attnfn.plot import mask_picture
    >>> ax = mask_picture(af.causal_mask(4), title="causal")
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['may attend', 'hidden']
    """
    allowed = to_numpy(mask)
    _check_mask(allowed)
    q_len, kv_len = allowed.shape
    check_tokens("q_tokens", q_tokens, "row", q_len, of="mask")
    check_tokens("kv_tokens", kv_tokens, "column", kv_len, of="mask")

    is_new = ax is None
    ax = new_axes(q_len, kv_len) if ax is None else ax
    room = room_for(ax, q_len, kv_len)
    colours = ListedColormap([HIDDEN, ALLOWED])
    ax.imshow(allowed, cmap=colours, vmin=0, vmax=1, aspect="equal", interpolation="nearest")
    part_cells(ax, q_len, kv_len, room, colour="white")
    ax.set(title=title, xlabel="key", ylabel="query")
    label_columns(ax, kv_tokens, kv_len, room)
    label_rows(ax, q_tokens, q_len, room)
    ax.legend(
        handles=[Patch(color=ALLOWED, label="may attend"), Patch(color=HIDDEN, label="hidden")],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.02),
        ncols=2,
        frameon=False,
        fontsize=9,
        handlelength=1.0,
        handleheight=1.0,
    )
    if is_new:
        settle(ax)
    return ax


def _check_mask(mask: Array) -> None:
    if mask.dtype != bool:
        message = (
            "`mask` must have a bool dtype, True where the query may attend to the key; "
            "got numbers. To draw weights, use `attention_heat_map`."
        )
        raise TypeError(message)
    if mask.ndim != 2:
        message = (
            f"`mask` must have 2 axes, (q_len, kv_len); got shape {mask.shape}. "
            "Choose a head and a sequence first, as in mask[0, 0]."
        )
        raise ValueError(message)
    if 0 in mask.shape:
        message = f"`mask` must have a row and a column; got shape {mask.shape}."
        raise ValueError(message)
