"""What weights say: how spread each row is, and where what many layers mix came from."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

from jaxtyping import Float

from ._backend import arange
from ._backend import device as device_of
from ._checks import (
    check_floating,
    check_ndim,
    check_one_device,
    check_one_dtype,
    check_one_library,
    check_one_square,
    check_share,
    check_some_layers,
)
from ._numerics import cast
from ._typing import Array, ArrayT, Namespace

__all__ = ["attention_entropy", "attention_rollout", "layers_of", "mixing"]

LAYOUT = "(..., num_heads, length, length)"


def attention_entropy(
    weights: Float[ArrayT, "*batch q_len kv_len"], /
) -> Float[ArrayT, "*batch q_len"]:
    r"""
    Entropy of each row of attention weights: how spread what a query looks at is.

    .. math:: H_i = -\sum_j w_{ij} \log w_{ij}, \qquad 0 \log 0 = 0

    in nats, the unit of the natural logarithm. It is 0 where a query looks at one key alone,
    :math:`\log n` where it looks at `n` keys alike; :math:`e^{H}` is a number of keys. Heads of
    low entropy are the ones that point [1]_; entropy that falls to 0 in training is a sign of
    trouble [2]_.

    Parameters
    ----------
    weights : array, shape (..., q_len, kv_len)
        What `attention_weights` returns, real floating.

    Returns
    -------
    array, shape (..., q_len)
        In nats, in the dtype of `weights`; halves are computed in float32. An empty row has
        0. The share of a sink is not among the weights, and adds nothing.

    Raises
    ------
    ValueError
        If `weights` has fewer than 2 axes.
    TypeError
        If `weights` is not an array, or not real floating.

    See Also
    --------
    attention_weights : Makes the weights.

    Notes
    -----
    A weight of 0 passes no gradient, although the slope is infinite there.

    References
    ----------
    .. [1] Clark et al., "What Does BERT Look At?", 2019, arXiv:1906.04341, 3.3.
    .. [2] Zhai et al., "Stabilizing Transformer Training by Preventing Attention Entropy
           Collapse", 2023, arXiv:2303.06296.

    Examples
    --------
    Each query looks at its own key and at all before it alike, at 1, 2, 3 and 4 keys:

    >>> import numpy as np
    >>> import attnfn as af
    >>> query = key = np.zeros((4, 2))
    >>> entropy = af.attention_entropy(af.attention_weights(query, key, is_causal=True))
    >>> np.exp(entropy).round(6)
    array([1., 2., 3., 4.])
    """
    xp = check_one_library(weights=weights)
    check_floating(xp=xp, weights=weights)
    check_ndim("weights", weights, 2, "(..., num_heads, q_len, kv_len)")
    w = cast(weights, _wide(weights, xp=xp), xp=xp)
    # Not `w > 0`, which would take a NaN for nothing.
    log = xp.log(xp.where(w == 0, 1.0, w))
    # 0 - x, since -x of a row with one weight of 1 is -0.
    return cast(0.0 - xp.sum(w * log, axis=-1), weights.dtype, xp=xp)


def attention_rollout(
    weights: Float[ArrayT, "layers *batch num_heads length length"] | Sequence[ArrayT],
    /,
    *,
    residual: float = 0.5,
) -> Float[ArrayT, "*batch length length"]:
    r"""
    Attention rollout: what part of each last state comes from each input, over all layers.

    .. math::

        \tilde W^{(l)} = r I + (1 - r) \frac{1}{H} \sum_h W^{(l)}_h, \qquad
        \mathit{rollout} = A^{(L)} \cdots A^{(2)} A^{(1)}, \qquad
        A^{(l)}_i = \tilde W^{(l)}_i \Big/ \sum_j \tilde W^{(l)}_{ij}

    as in [1]_: the heads of a layer are averaged, the connection around the layer is mixed in,
    rows are made to add up to 1, and the layers are multiplied, the last one leftmost.

    Parameters
    ----------
    weights : sequence of arrays, or array, shape (layers, ..., num_heads, length, length)
        The weights of each layer, from the first to the last, as `attention_weights` returns
        them for self-attention; real floating. Layers in a list may differ in their number of
        heads, and an array of two axes has one head.
    residual : float, optional
        The share `r` of the connection around each layer, in [0, 1]. Default: 0.5, as the
        paper has it; 0.0 leaves that connection out.

    Returns
    -------
    array, shape (..., length, length)
        A row per last state, a column per input; in the dtype of `weights`, halves are
        computed in float32. Rows add up to 1. An empty row of a layer keeps its own state; with
        ``residual=0.0`` it stays empty.

    Raises
    ------
    ValueError
        If there is no layer, shapes differ in more than the number of heads, the last two axes
        differ, or `residual` is not in [0, 1].
    TypeError
        If something is not an array, not real floating, or `residual` not a number.

    See Also
    --------
    attention_weights : Makes the weights.
    attnfn.plot.attention_flow : Draws what is multiplied here.

    Notes
    -----
    It follows weights alone: neither what the values hold nor what the layers do between one
    attention and the next.

    References
    ----------
    .. [1] Abnar and Zuidema, "Quantifying Attention Flow in Transformers", 2020,
           arXiv:2005.00928, 3.

    Examples
    --------
    In each of two layers a position takes half from itself, half from the one before it:

    >>> import numpy as np
    >>> import attnfn as af
    >>> before = np.asarray([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    >>> af.attention_rollout([before, before])
    array([[1.  , 0.  , 0.  ],
           [0.75, 0.25, 0.  ],
           [0.25, 0.5 , 0.25]])
    """
    layers, xp = layers_of(weights, residual)
    mixed = (mixing(x, residual, xp=xp) for x in layers)
    rollout = reduce(lambda below, layer: layer @ below, mixed)
    return cast(rollout, layers[0].dtype, xp=xp)


def layers_of(
    weights: Array | Sequence[Array], residual: float, /
) -> tuple[list[Array], Namespace]:
    """Check what a rollout is made of; return the weights of each layer, and a namespace."""
    check_share("residual", residual)
    is_list = isinstance(weights, list | tuple)
    given = (
        {f"weights[{i}]": x for i, x in enumerate(weights)} if is_list else {"weights": weights}
    )
    check_some_layers(len(given))
    xp = check_one_library(**given)
    check_one_device(**given)
    check_floating(xp=xp, **given)
    check_one_dtype(**given)
    if not is_list:
        stacked: Array = given["weights"]
        check_ndim("weights", stacked, 3, f"(layers, {LAYOUT[1:]}")
        given = {f"weights[{i}]": stacked[i, ...] for i in range(stacked.shape[0])}
        check_some_layers(len(given))
    for name, x in given.items():
        check_ndim(name, x, 2, LAYOUT)
    check_one_square(**given)
    return list(given.values()), xp


def mixing(weights: Array, residual: float, /, *, xp: Namespace) -> Array:
    """Return what each state takes from each of the layer's inputs: rows of 1, or of 0."""
    w = cast(weights, _wide(weights, xp=xp), xp=xp)
    if w.ndim > 2:
        # No heads pass nothing on: a sum of 0, not a mean of nothing.
        w = xp.sum(w, axis=-3) / max(w.shape[-3], 1)
    pos = arange(w.shape[-1], xp, device_of(w))
    w = (1 - residual) * w
    w = xp.where(pos[:, None] == pos[None, :], w + residual, w)
    total = xp.sum(w, axis=-1, keepdims=True)
    return w / xp.where(total == 0, 1.0, total)


def _wide(x: Array, /, *, xp: Namespace) -> Any:
    """Return the dtype to compute in: float32 for halves, else their own."""
    return xp.result_type(x.dtype, xp.float32)
