"""Keras's attention, on the backend that KERAS_BACKEND names."""

import keras
import numpy as np


def turned(x):
    return np.swapaxes(x, 1, 2)


def operation(query, key, value, *, mask=None, bias=None, **options):
    def like_scores(x):
        return None if x is None else np.broadcast_to(x, np.broadcast_shapes(x.shape, (1,) * 4))

    out = keras.ops.dot_product_attention(
        *map(turned, (query, key, value)),
        mask=like_scores(mask),
        bias=like_scores(bias),
        **options,
    )
    return turned(keras.ops.convert_to_numpy(out)), None


def layer(query, key, value, *, mask=None, is_causal=False, window_size=None):
    """The layer, with projections that change nothing."""
    batch, heads, q_len, dim = query.shape
    width = heads * dim
    one_number = window_size is None or is_causal or window_size[0] == window_size[1]
    if not one_number:
        message = "there is one number for both sides"
        raise TypeError(message)
    attend = keras.layers.MultiHeadAttention(
        heads,
        dim,
        use_bias=False,
        dtype=str(query.dtype),
        sliding_window=window_size[0] if window_size else None,
    )
    merged = [turned(x).reshape(batch, x.shape[2], width) for x in (query, key, value)]
    attend.build(*(x.shape for x in (merged[0], merged[2], merged[1])))
    one = np.eye(width, dtype=query.dtype)
    inner, outer = one.reshape(width, heads, dim), one.reshape(heads, dim, width)
    attend.set_weights([inner, inner, inner, outer])
    whole = None
    if mask is not None:
        whole = np.broadcast_to(mask, (batch, 1, q_len, key.shape[2]))[:, 0]
    out = attend(
        merged[0],
        value=merged[2],
        key=merged[1],
        attention_mask=whole,
        use_causal_mask=is_causal,
    )
    return turned(keras.ops.convert_to_numpy(out).reshape(batch, q_len, heads, dim)), None


CALLS = {"keras_ops": operation, "keras_multi_head_attention": layer}
