"""Where a state comes from, layer by layer, as lines between tokens."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from .._analysis import layers_of, mixing
from .._typing import Array
from ._axes import INK, check_tokens, label_rows, on_one_line, room_for, to_numpy

__all__ = ["attention_flow"]

#: Parts of the whole: what is too little to be drawn, and what is worth a number.
FAINTEST, NOTABLE = 0.002, 0.05


def attention_flow(
    weights: Float[Array, "layers num_heads length length"] | Sequence[Array],
    /,
    *,
    tokens: Sequence[str] | None = None,
    position: int = -1,
    residual: float = 0.5,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """
    Draw where one last state comes from: back through the layers, from token to token.

    A line is as thick as what it carries, a dot as large as what passes there, and the dots of
    each layer add up to the same. The shares beside the inputs are a row of
    `attnfn.attention_rollout`.

    Parameters
    ----------
    weights : sequence of arrays, or array, shape (layers, num_heads, length, length)
        The weights of each layer, from the first to the last, for one sequence: what
        `attention_weights` returns, of any library, on any device. Heads are averaged; in a
        list, a layer of two axes has one head.
    tokens : sequence of str, optional
        What stands beside the inputs, `length` of them. Default: their numbers.
    position : int, optional
        Which of the last states to follow back; negative ones count from the end. Default: -1.
    residual : float, optional
        The share of the connection around each layer, in [0, 1]. Default: 0.5.
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
        If a layer has more axes than ``(num_heads, length, length)``, layers differ in length,
        there are no layers or no tokens, `position` is not one of them, or `residual` is not in
        [0, 1].

    See Also
    --------
    attnfn.attention_rollout : The shares, as an array.

    References
    ----------
    .. [1] Abnar and Zuidema, "Quantifying Attention Flow in Transformers", 2020,
           arXiv:2005.00928.

    Examples
    --------
    >>> import numpy as np
    >>> from attnfn.plot import attention_flow
    >>> before = np.asarray([[[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    >>> ax = attention_flow([before, before], tokens=["a", "green", "tree"])
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['a', 'green', 'tree']
    """
    given = weights if isinstance(weights, list | tuple) else to_numpy(weights)
    layers, _ = layers_of([to_numpy(x) for x in given], residual)
    length = layers[0].shape[-1]
    for x in layers:
        _check_layer(x)
    _check_position(position, length)
    check_tokens("tokens", tokens, "position", length)

    flows = _flows([mixing(x, residual, xp=np) for x in layers], position)
    ax = _new_flow_axes(len(layers), length) if ax is None else ax
    _draw_lines(ax, flows)
    _draw_dots(ax, flows)
    _write(ax, flows[0].sum(axis=0), len(layers), position % length, tokens, title)
    return ax


def _flows(steps: list[Array], position: int) -> list[Array]:
    """Return what each layer hands from each of its inputs (columns) to each output (rows)."""
    reached = np.zeros(steps[-1].shape[-1])
    reached[position] = 1.0
    flows = []
    for step in reversed(steps):
        flows.append(reached[:, None] * step)
        reached = flows[-1].sum(axis=0)
    return flows[::-1]


def _draw_lines(ax: Axes, flows: list[Array]) -> None:
    lines = [
        (flow[i, j], ((layer, j), (layer + 1, i)))
        for layer, flow in enumerate(flows)
        for i, j in np.argwhere(flow > FAINTEST)
    ]
    # The strongest last, on top of the others.
    lines.sort(key=lambda line: line[0])
    amounts = np.asarray([amount for amount, _ in lines])
    ax.add_collection(
        LineCollection(
            [line for _, line in lines],
            colors=INK,
            linewidths=0.5 + 9.0 * amounts,
            alpha=0.15 + 0.6 * amounts**0.5,
            capstyle="round",
        )
    )


def _draw_dots(ax: Axes, flows: list[Array]) -> None:
    amounts = np.stack([*(flow.sum(axis=0) for flow in flows), flows[-1].sum(axis=1)])
    layer, token = np.nonzero(amounts > FAINTEST)
    ax.scatter(layer, token, s=300 * amounts[layer, token], color=INK, zorder=3, linewidths=0)
    # Where nothing passes there is still a state.
    layer, token = np.nonzero(amounts <= FAINTEST)
    ax.scatter(layer, token, s=2, color="0.8", zorder=2, linewidths=0)


def _write(
    ax: Axes,
    shares: Array,
    num_layers: int,
    position: int,
    tokens: Sequence[str] | None,
    title: str | None,
) -> None:
    length = len(shares)
    ax.set(
        xlim=(-0.35, num_layers + 0.35),
        ylim=(length - 0.4, -0.6),
        title=title,
        xlabel="layer",
    )
    ax.set_xticks(range(num_layers + 1), ["input", *range(1, num_layers + 1)])
    label_rows(ax, tokens, length, room_for(ax, length, 1))
    ax.tick_params(length=0)
    ax.tick_params(axis="y", pad=26)
    ax.spines[:].set_visible(False)
    beside: dict[str, Any] = {
        "textcoords": "offset points",
        "va": "center_baseline",
        "parse_math": False,
    }
    for token in np.flatnonzero(shares >= NOTABLE):
        ax.annotate(
            f"{shares[token]:.0%}",
            (0, token),
            (-11, 0),
            ha="right",
            fontsize=8,
            color="0.35",
            **beside,
        )
    last = str(position) if tokens is None else on_one_line(tokens[position])
    ax.annotate(last, (num_layers, position), (13, 0), ha="left", fontsize=10, **beside)


def _new_flow_axes(num_layers: int, length: int) -> Axes:
    from matplotlib import pyplot

    size = (min(1.1 * num_layers + 2.0, 14.0), min(max(0.3 * length, 1.6), 12.0) + 0.8)
    _, ax = pyplot.subplots(figsize=size, layout="constrained")
    return ax


def _check_layer(weights: Array) -> None:
    if weights.ndim > 3:
        message = (
            f"A layer of `weights` must have 3 axes at most, (num_heads, length, length); "
            f"got shape {weights.shape}. Choose a sequence first, as in x[0]."
        )
        raise ValueError(message)


def _check_position(position: int, length: int) -> None:
    if not -length <= position < length:
        message = f"`position` must be one of the {length} positions; got {position}."
        raise ValueError(message)
