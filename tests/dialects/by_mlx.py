"""MLX's attention on the CPU."""

import mlx.core as mx
import numpy as np
from dialects.by_torch import one_slot


def fast(query, key, value, *, mask=None, bias=None, is_causal=False, scale=None, sinks=None):
    given = one_slot(mask, bias)
    if is_causal and given is not None:
        message = "there is one argument for both"
        raise TypeError(message)
    array = None if given is None else mx.array(given)
    out = mx.fast.scaled_dot_product_attention(
        *map(mx.array, (query, key, value)),
        scale=query.shape[-1] ** -0.5 if scale is None else scale,
        mask="causal" if is_causal else array,
        sinks=None if sinks is None else mx.array(sinks),
    )
    return np.array(out), None


CALLS = {"mlx": fast}
