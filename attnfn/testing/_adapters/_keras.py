"""Keras's layer, with weights that change nothing."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..._checks import dtype_name
from ..._typing import Array
from .._subject import Subject
from ._call import Call, described, folded, unfolded
from ._checks import check_no_groups, check_one_number, check_options, check_same_for_heads
from ._signature import name_of

__all__ = ["keras_multi_head_like"]

_OPTIONS = frozenset({"is_causal", "mask", "window_size"})


def keras_multi_head_like(layer: Callable[..., Any], /) -> Subject:
    """
    Adapt a layer with the signature of Keras's `layers.MultiHeadAttention`.

    ``layer(num_heads, key_dim, value_dim, output_shape, use_bias, dtype, sliding_window)`` is
    made for each call, its projections the identity; it is called as ``(query, value, key,
    attention_mask, use_causal_mask)``. A mask is the same for all heads, a window one number
    for both sides, and there is a head of keys for each of queries: anything else is refused.
    Arrays are those of Keras's backend.

    Parameters
    ----------
    layer : function of (num_heads, key_dim)
        The class, or what else returns a layer with its weights.

    Returns
    -------
    Subject
        What every check can ask.

    Examples
    --------
    >>> from attnfn.testing import keras_multi_head_like
    >>> def layer(num_heads, key_dim, **sizes): ...
    >>> sorted(keras_multi_head_like(layer).options)
    ['is_causal', 'mask', 'window_size']
    """
    name = name_of(layer)

    def attention(query: Array, key: Array, value: Array, /, **given: Any) -> Array:
        check_options(given, _OPTIONS, name)
        call = folded(described(query, key, value, given))
        check_no_groups(call.query, call.key, name)
        made = _made(layer, call, name)
        q, k, v = (_heads_aside(call, x) for x in call[:3])
        mask = call.options.get("mask")
        if mask is not None:
            check_same_for_heads("mask", mask, name)
            sizes = (len(q), 1, call.q_len, call.kv_len)
            mask = call.xp.broadcast_to(mask, sizes)[:, 0, ...]
        is_causal = "is_causal" in call.options
        out = made(q, value=v, key=k, attention_mask=mask, use_causal_mask=is_causal)
        out = call.xp.reshape(out, (*out.shape[:2], call.query.shape[1], -1))
        return unfolded(call, call.xp.moveaxis(out, -2, -3))

    return Subject(attention, _OPTIONS, name=name)


def _made(layer: Callable[..., Any], call: Call, name: str) -> Any:
    num_heads, width, value_width = (
        call.query.shape[1],
        call.query.shape[-1],
        call.value.shape[-1],
    )
    aside = num_heads * width, num_heads * value_width
    keywords: dict[str, Any] = {"use_bias": False, "dtype": dtype_name(call.query.dtype)}
    if value_width != width:
        keywords["output_shape"] = aside[1]
    window = call.options.get("window_size")
    if window is not None:
        check_one_number(window, is_causal="is_causal" in call.options, name=name)
        keywords["sliding_window"] = window[0]
    made = layer(num_heads, width, value_dim=value_width, **keywords)
    sizes = [(1, 1, n) for n in (aside[0], aside[1], aside[0])]
    made.build(*sizes)
    eyes = [np.eye(n) for n in aside]
    inner = [eye.reshape(len(eye), num_heads, -1) for eye in (eyes[0], eyes[0], eyes[1])]
    made.set_weights([*inner, eyes[1].reshape(num_heads, value_width, aside[1])])
    return made


def _heads_aside(call: Call, x: Array) -> Array:
    """Return (batch, heads, length, dim) as (batch, length, heads * dim)."""
    x = call.xp.moveaxis(x, -3, -2)
    return call.xp.reshape(x, (*x.shape[:2], x.shape[2] * x.shape[3]))
