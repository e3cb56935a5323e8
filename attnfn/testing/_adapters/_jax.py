"""JAX's function, and those of the libraries on it."""

from collections.abc import Callable
from typing import Any

from ..._typing import Array
from .._subject import Subject
from ._call import Call
from ._signature import Place, Signature, Vjp, subject

__all__ = ["flax_like", "jax_like", "keras_like"]


def _int32(x: Array, call: Call) -> Array:
    return call.xp.astype(call.xp.asarray(x), call.xp.int32)


def _bounded(window: tuple[int | None, int | None], call: Call) -> tuple[int, int]:
    """Return a window whose open sides reach everything."""
    everything = call.q_len + call.kv_len
    left, right = (everything if side is None else side for side in window)
    return left, right


_JAX = Signature(
    places={
        "mask": Place(("mask",)),
        "bias": Place(("bias",)),
        "is_causal": Place(("is_causal", "causal")),
        "window_size": Place(("local_window_size",), _bounded),
        "lengths": Place(("key_value_seq_lengths",), _int32),
        "scale": Place(("scale",)),
        "softcap": Place(("logits_soft_cap",)),
    },
    is_length_first=True,
    lse={"return_residual": True},
    is_lse_length_first=True,
)


def jax_like(function: Callable[..., Any], /, *, vjp: Vjp | None = None) -> Subject:
    """
    Adapt a function with the signature of `jax.nn.dot_product_attention`.

    ``function(query, key, value, bias, mask, scale, is_causal, key_value_seq_lengths,
    local_window_size, return_residual)``, whichever of them it has, with axes ``(batch, length,
    num_heads, dim)``. Masks and biases are given their four axes. The open side of a window is
    given as a number that reaches everything.

    Parameters
    ----------
    function : function of (query, key, value)
        Returns the output, with the log-sum-exp if asked for it.
    vjp : function of (query, key, value, d_out), optional
        Its gradients, called as `function` is. Default: those that its library finds.

    Returns
    -------
    Subject
        What every check can ask.

    Examples
    --------
    >>> import jax
    >>> from attnfn.testing import jax_like
    >>> subject = jax_like(jax.nn.dot_product_attention)
    >>> sorted(subject.options)
    ['bias', 'is_causal', 'lengths', 'mask', 'scale', 'window_size']
    >>> query, key, value = jax.numpy.zeros((3, 2, 4, 8))  # 2 heads, 4 positions
    >>> subject.attention(query, key, value, window_size=(1, 0)).shape
    (2, 4, 8)
    """
    return subject(function, _JAX, vjp=vjp)


_FLAX = Signature(
    places={
        "mask": Place(("mask",)),
        "bias": Place(("bias",)),
        "is_causal": Place(("is_causal",)),
    },
    is_length_first=True,
)


def flax_like(function: Callable[..., Any], /, *, vjp: Vjp | None = None) -> Subject:
    """
    Adapt a function with the signature of Flax's `dot_product_attention`.

    ``function(query, key, value, bias, mask, is_causal)``, whichever of them it has, with axes
    ``(batch, length, num_heads, dim)``. Masks and biases are given their four axes.

    Parameters
    ----------
    function : function of (query, key, value)
        Returns the output.
    vjp : function of (query, key, value, d_out), optional
        Its gradients, called as `function` is. Default: those that its library finds.

    Returns
    -------
    Subject
        What every check can ask.

    Examples
    --------
    >>> from attnfn.testing import flax_like
    >>> def attention(query, key, value, bias=None, mask=None): ...
    >>> sorted(flax_like(attention).options)
    ['bias', 'mask']
    """
    return subject(function, _FLAX, vjp=vjp)


_KERAS = Signature(
    places={
        "mask": Place(("mask",)),
        "bias": Place(("bias",)),
        "is_causal": Place(("is_causal",)),
        "scale": Place(("scale",)),
        "softcap": Place(("attn_logits_soft_cap",)),
    },
    is_length_first=True,
)


def keras_like(function: Callable[..., Any], /, *, vjp: Vjp | None = None) -> Subject:
    """
    Adapt a function with the signature of Keras's `ops.dot_product_attention`.

    ``function(query, key, value, bias, mask, scale, is_causal, attn_logits_soft_cap)``,
    whichever of them it has, with axes ``(batch, length, num_heads, dim)``. Masks and biases
    are given their four axes. Arrays are those of Keras's backend.

    Parameters
    ----------
    function : function of (query, key, value)
        Returns the output.
    vjp : function of (query, key, value, d_out), optional
        Its gradients, called as `function` is. Default: those that its library finds.

    Returns
    -------
    Subject
        What every check can ask.

    Examples
    --------
    >>> from attnfn.testing import keras_like
    >>> def attention(query, key, value, mask=None, scale=None, attn_logits_soft_cap=None): ...
    >>> sorted(keras_like(attention).options)
    ['mask', 'scale', 'softcap']
    """
    return subject(function, _KERAS, vjp=vjp)
