"""Libraries of kernels: flash-attention, FlashInfer, xformers, MLX."""

import functools
import math
from collections.abc import Callable
from typing import Any

from ..._backend import chosen_namespace, namespace
from ..._typing import Array, Namespace
from .._subject import Subject
from ._call import Call, added, described, folded, unfolded
from ._checks import check_function, check_no_right_side, check_options, check_same_for_heads
from ._parameters import Parameters
from ._signature import Place, Signature, Vjp, name_of, subject

__all__ = ["flash_attention_like", "flashinfer_like", "mlx_like", "xformers_like"]


def _one_for_each_head(x: Any, call: Call) -> Array:
    """Return sinks as (num_heads,), unless they differ between sequences."""
    if getattr(x, "ndim", 0) == 0:
        x = call.xp.full((call.query.shape[-3],), float(x), dtype=call.query.dtype)
    return x


def _int32(x: Array, call: Call) -> Array:
    return call.xp.astype(call.xp.asarray(x), call.xp.int32)


def _flash(unbounded: int | None) -> Signature:
    def window(
        sides: tuple[int | None, int | None], _call: Call
    ) -> tuple[int | None, int | None]:
        left, right = (unbounded if side is None else side for side in sides)
        return left, right

    return Signature(
        places={
            "is_causal": Place(("causal",)),
            "window_size": Place(("window_size",), window),
            "scale": Place(("softmax_scale",)),
            "softcap": Place(("softcap",)),
            "sinks": Place(("learnable_sink", "s_aux"), _one_for_each_head),
            "lengths": Place(("cache_seqlens", "seqused_k"), _int32),
        },
        is_length_first=True,
        lse={"return_lse": True, "return_softmax_lse": True, "return_attn_probs": True},
    )


def flash_attention_like(
    function: Callable[..., Any],
    /,
    *,
    unbounded: int | None = -1,
    vjp: Vjp | None = None,
) -> Subject:
    """
    Adapt a function with the signature of flash-attention's `flash_attn_func`.

    ``function(q, k, v, softmax_scale, causal, window_size, softcap, return_attn_probs)``,
    whichever of them it has, with axes ``(batch, length, num_heads, dim)``. So has
    `flash_attn_with_kvcache`, whose ``cache_seqlens`` is how many keys each sequence has,
    and ``return_softmax_lse``; and ``learnable_sink``, where there is one.

    Parameters
    ----------
    function : function of (q, k, v)
        Returns the output, with the log-sum-exp ``(batch, num_heads, length)``, and whatever
        else, if asked for it.
    unbounded : int or None, optional
        How the open side of a window is written: None since flash-attention 4. Default: -1.
    vjp : function of (q, k, v, d_out), optional
        Its gradients, called as `function` is. Default: those that its library finds.

    Returns
    -------
    Subject
        What every check can ask.

    Examples
    --------
    >>> from attnfn.testing import flash_attention_like
    >>> def flash_attn_func(q, k, v, softmax_scale=None, causal=False, return_attn_probs=False):
    ...     ...
    >>> sorted(flash_attention_like(flash_attn_func).options)
    ['is_causal', 'scale']
    >>> def flash_attn_with_kvcache(q, k_cache, v_cache, cache_seqlens=None, causal=False): ...
    >>> sorted(flash_attention_like(flash_attn_with_kvcache).options)
    ['is_causal', 'lengths']
    """
    return subject(function, _flash(unbounded), vjp=vjp)


_FLASHINFER = {
    "mask": "custom_mask",
    "is_causal": "causal",
    "window_size": "window_left",
    "scale": "sm_scale",
    "softcap": "logits_soft_cap",
}


def flashinfer_like(function: Callable[..., Any], /) -> Subject:
    """
    Adapt a function with the signature of FlashInfer's `single_prefill_with_kv_cache`.

    ``function(q, k, v, custom_mask, causal, sm_scale, window_left, logits_soft_cap,
    return_lse)``, whichever of them it has, with axes ``(length, num_heads, dim)``: it is
    called for one sequence after another. A mask has to be the same for all heads, and a window
    can have no right side but that of causal order.

    Parameters
    ----------
    function : function of (q, k, v)
        Returns the output, with the log-sum-exp ``(length, num_heads)`` if asked for it.

    Returns
    -------
    Subject
        What every check can ask.

    Examples
    --------
    >>> from attnfn.testing import flashinfer_like
    >>> def prefill(q, k, v, custom_mask=None, causal=False, window_left=-1): ...
    >>> sorted(flashinfer_like(prefill).options)
    ['is_causal', 'mask', 'window_size']
    """
    parameters = Parameters(function)
    options = {option for option, own in _FLASHINFER.items() if own in parameters}
    name = name_of(function)

    def keywords(call: Call, b: int) -> dict[str, Any]:
        found = {}
        for option, x in call.options.items():
            own = _FLASHINFER[option]
            if option == "mask":
                check_same_for_heads(option, x, name)
                mask = x[min(b, x.shape[0] - 1), 0, ...]
                found[own] = call.xp.broadcast_to(mask, (call.q_len, call.kv_len))
            elif option == "window_size":
                check_no_right_side(x, is_causal="is_causal" in call.options, name=name)
                found[own] = -1 if x[0] is None else x[0]
            else:
                found[own] = x
        return found

    def result(
        arrays: tuple[Array, Array, Array], given: dict[str, Any], *, has_lse: bool
    ) -> Any:
        check_options(given, options, name)
        call = folded(described(*arrays, given))
        asking = {"return_lse": True} if has_lse else {}
        rows = []
        for b in range(call.query.shape[0]):
            q, k, v = (call.xp.moveaxis(x[b, ...], -3, -2) for x in call[:3])
            rows.append(function(q, k, v, **keywords(call, b), **asking))
        outs = [call.xp.moveaxis(row[0] if has_lse else row, -2, -3) for row in rows]
        out = unfolded(call, call.xp.stack(outs))
        if not has_lse:
            return out
        lse = call.xp.stack([call.xp.moveaxis(row[1], -1, -2) for row in rows])
        return out, unfolded(call, lse, axes=2)

    def attention(query: Array, key: Array, value: Array, /, **given: Any) -> Array:
        return result((query, key, value), given, has_lse=False)

    def attention_with_lse(
        query: Array, key: Array, value: Array, /, **given: Any
    ) -> tuple[Array, Array]:
        return result((query, key, value), given, has_lse=True)

    return Subject(
        attention,
        frozenset(options),
        attention_with_lse if "return_lse" in parameters else None,
        name=name,
    )


def xformers_like(
    function: Callable[..., Any],
    /,
    *,
    causal: Any = None,
    returns_lse: bool = False,
) -> Subject:
    """
    Adapt a function with the signature of xformers' `memory_efficient_attention`.

    ``function(query, key, value, attn_bias, scale)``, with axes ``(batch, length, num_heads,
    dim)``; grouped heads have an axis more, ``(batch, length, groups, heads, dim)``, as there.
    ``attn_bias`` serves a mask, which is given as a bias that is -inf where it is not True; a
    bias; and, by itself, causal order.

    Parameters
    ----------
    function : function of (query, key, value)
        Returns the output, or the output and its log-sum-exp.
    causal : object, optional
        What ``attn_bias`` is for causal order: ``xformers.ops.LowerTriangularMask()`` or
        another of its kind. Default: causal order is not asked for.
    returns_lse : bool, optional
        Whether it returns ``(out, lse)``. Default: False.

    Returns
    -------
    Subject
        What every check can ask.

    Examples
    --------
    >>> from attnfn.testing import xformers_like
    >>> def memory_efficient_attention(query, key, value, attn_bias=None, scale=None): ...
    >>> sorted(xformers_like(memory_efficient_attention).options)
    ['bias', 'mask', 'scale']
    """
    places = {
        "mask": Place(("attn_bias",), lambda x, call: _whole(added(x, call), call)),
        "bias": Place(("attn_bias",), lambda x, call: _whole(x, call)),
        "scale": Place(("scale",)),
    }
    if causal is not None:
        places["is_causal"] = Place(("attn_bias",), lambda _, __: causal)

    signature = Signature(places=places, is_length_first=True)
    check_function(function)
    return subject(_with_groups(function), signature, returns_lse=returns_lse)


def _with_groups(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that takes grouped heads, by an axis of groups."""

    @functools.wraps(function)
    def grouped(q: Array, k: Array, v: Array, **keywords: Any) -> Any:
        num_heads, num_groups = q.shape[-2], k.shape[-2]
        if num_heads == num_groups:
            return function(q, k, v, **keywords)
        xp = namespace(q) or chosen_namespace(None)
        sizes = (num_groups, num_heads // num_groups)
        bias: Any = keywords.get("attn_bias")
        if getattr(bias, "ndim", 0) == 4:
            keywords["attn_bias"] = xp.reshape(bias, (bias.shape[0], *sizes, *bias.shape[2:]))
        q = xp.reshape(q, (*q.shape[:2], *sizes, q.shape[-1]))
        k, v = (
            xp.broadcast_to(x[..., None, :], (*x.shape[:2], *sizes, x.shape[-1]))
            for x in (k, v)
        )
        found = function(q, k, v, **keywords)
        return _without_groups(xp, found, num_heads)

    return grouped


def _without_groups(xp: Namespace, found: Any, num_heads: int) -> Any:
    if isinstance(found, tuple | list):
        out, lse = found[:2]  # lse: (batch, groups, heads, length)
        lse = xp.reshape(lse, (lse.shape[0], num_heads, lse.shape[-1]))
        return _without_groups(xp, out, num_heads), lse
    return xp.reshape(found, (*found.shape[:2], num_heads, found.shape[-1]))


def _whole(x: Array, call: Call) -> Array:
    """Return what is added with all its axes in full: kernels broadcast none."""
    sizes = (call.query.shape[0], call.query.shape[1], call.q_len, call.kv_len)
    return call.xp.broadcast_to(x, sizes)


def mlx_like(function: Callable[..., Any], /) -> Subject:
    """
    Adapt a function with the signature of MLX's `fast.scaled_dot_product_attention`.

    ``function(q, k, v, scale, mask, sinks)``, whichever of them it has, with axes ``(batch,
    num_heads, length, dim)``. ``mask`` serves a mask (bool), a bias (floating), and causal
    order, ``mask="causal"``, which can be had only by itself.

    Parameters
    ----------
    function : function of (q, k, v)
        Returns the output.

    Returns
    -------
    Subject
        What every check can ask.

    Examples
    --------
    >>> from attnfn.testing import mlx_like
    >>> def scaled_dot_product_attention(q, k, v, *, scale, mask=None, sinks=None): ...
    >>> sorted(mlx_like(scaled_dot_product_attention).options)
    ['bias', 'is_causal', 'mask', 'scale', 'sinks']
    """
    return subject(function, _MLX)


_MLX = Signature(
    places={
        "mask": Place(("mask",)),
        "bias": Place(("mask",)),
        "is_causal": Place(("mask",), lambda _, __: "causal"),
        "scale": Place(("scale",)),
        "sinks": Place(("sinks",), _one_for_each_head),
    },
    more=lambda call, _: {"scale": 1 / math.sqrt(call.query.shape[-1])},
)
