"""Layers, with weights that change nothing, so that the attention inside can be asked."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from ..._typing import Array
from .._subject import Subject
from ._call import Call, added_least, described, folded, unfolded
from ._checks import check_no_groups, check_one_width, check_options
from ._parameters import Parameters
from ._signature import Place, Signature, name_of, subject

__all__ = ["equinox_like", "hf_eager_like", "torch_multi_head_like", "x_transformers_like"]


def torch_multi_head_like(
    layer: Callable[..., Any], /, *, need_weights: bool = False, is_training: bool = True
) -> Subject:
    """
    Adapt a layer with the signature of PyTorch's `nn.MultiheadAttention`.

    ``layer(embed_dim, num_heads, batch_first=True, dtype, device)`` is made for each call, its
    projections the identity. True in a mask hides a key, as there. A mask is given as
    ``attn_mask``, lengths as ``key_padding_mask``, causal order as an ``attn_mask`` and its
    hint ``is_causal``; what there is one place for is combined as a user would. There is a
    head of keys for each of queries, and values have their width: anything else is refused.

    Parameters
    ----------
    layer : function of (embed_dim, num_heads)
        The class, or what else returns a layer with its parameters.
    need_weights : bool, optional
        Whether it is called for weights, too, for which it has code of its own. Default: False.
    is_training : bool, optional
        Whether it is in the mode of training. Default: True.

    Returns
    -------
    Subject
        What every check can ask.

    Examples
    --------
    >>> import torch
    >>> from attnfn.testing import torch_multi_head_like
    >>> sorted(torch_multi_head_like(torch.nn.MultiheadAttention).options)
    ['bias', 'is_causal', 'lengths', 'mask']
    """
    options = frozenset({"bias", "is_causal", "lengths", "mask"})
    name = name_of(layer)

    def attention(query: Array, key: Array, value: Array, /, **given: Any) -> Array:
        import torch

        check_options(given, options, name)
        call = folded(described(query, key, value, given))
        check_no_groups(call.query, call.key, name)
        check_one_width(call.query, call.value, name)
        num_heads, width = call.query.shape[1], call.query.shape[1] * call.query.shape[-1]
        made = layer(
            width, num_heads, batch_first=True, dtype=query.dtype, device=query.device
        ).train(is_training)
        eye = torch.eye(width, dtype=query.dtype, device=query.device)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.requires_grad_(False)
                if parameter.ndim == 2:
                    parameter.copy_(torch.cat([eye] * (parameter.shape[0] // width)))
                else:
                    parameter.zero_()
        x = (torch.flatten(torch.moveaxis(x, -3, -2), -2) for x in call[:3])
        out = made(*x, need_weights=need_weights, **_multi_head_masks(call))[0]
        out = torch.unflatten(out, -1, (num_heads, -1))
        return unfolded(call, torch.moveaxis(out, -2, -3))

    return Subject(attention, options, name=name)


def _multi_head_masks(call: Call) -> dict[str, Any]:
    """Return a layer's masks, in which True hides."""
    import torch

    given = call.options
    mask, bias = given.get("mask"), given.get("bias")
    found: dict[str, Any] = {}
    if "is_causal" in given:
        later = torch.ones(call.q_len, call.kv_len, dtype=torch.bool, device=call.query.device)
        later = later.triu(1)
        found["is_causal"] = mask is None and bias is None
        mask = later if mask is None else mask | later
    if bias is not None:
        mask = bias if mask is None else torch.where(mask, -math.inf, bias)
    if mask is not None:
        if mask.ndim > 2:
            sizes = (*call.query.shape[:2], call.q_len, call.kv_len)
            mask = mask.expand(sizes).flatten(0, 1)
        found["attn_mask"] = mask
    if "lengths" in given:
        positions = torch.arange(call.kv_len, device=call.query.device)
        padding = positions >= given["lengths"][:, None]
        if bias is not None:  # two dtypes are deprecated
            padding = torch.zeros_like(padding, dtype=bias.dtype).masked_fill(
                padding, -math.inf
            )
        found["key_padding_mask"] = padding
    return found


def equinox_like(layer: Callable[..., Any], /) -> Subject:
    """
    Adapt a layer with the signature of Equinox's `nn.MultiheadAttention`.

    ``layer(num_heads, query_size, key_size, value_size, output_size, qk_size, vo_size, dtype,
    key)`` is made for each call, its projections the identity, and mapped over the batch. There
    is a head of keys for each of queries: anything else is refused.

    Parameters
    ----------
    layer : function of (num_heads, query_size)
        The class, or what else returns a layer with its parameters.

    Returns
    -------
    Subject
        What every check can ask.

    Examples
    --------
    >>> from attnfn.testing import equinox_like
    >>> def layer(num_heads, query_size, **sizes): ...
    >>> sorted(equinox_like(layer).options)
    ['mask']
    """
    name = name_of(layer)

    def attention(query: Array, key: Array, value: Array, /, **given: Any) -> Array:
        import jax

        check_options(given, {"mask"}, name)
        call = folded(described(query, key, value, given))
        check_no_groups(call.query, call.key, name)
        made = _equinox_layer(layer, call)
        q, k, v = (_heads_aside(call, x) for x in call[:3])
        mask = call.options.get("mask")
        if mask is None:
            out = jax.vmap(made)(q, k, v)
        else:
            sizes = (*call.query.shape[:2], call.q_len, call.kv_len)
            out = jax.vmap(made)(q, k, v, call.xp.broadcast_to(mask, sizes))
        out = call.xp.reshape(out, (*out.shape[:2], call.query.shape[1], value.shape[-1]))
        return unfolded(call, call.xp.moveaxis(out, -2, -3))

    return Subject(attention, frozenset({"mask"}), name=name)


def _equinox_layer(layer: Callable[..., Any], call: Call) -> Any:
    import jax
    from equinox import tree_at

    num_heads, width, value_width = (
        call.query.shape[1],
        call.query.shape[-1],
        call.value.shape[-1],
    )
    made = layer(
        num_heads,
        query_size=num_heads * width,
        value_size=num_heads * value_width,
        output_size=num_heads * value_width,
        qk_size=width,
        vo_size=value_width,
        dtype=call.query.dtype,
        key=jax.random.key(0),
    )

    def weights(of: Any) -> list[Any]:
        names = ("query_proj", "key_proj", "value_proj", "output_proj")
        return [getattr(of, name).weight for name in names]

    eyes = [call.xp.eye(len(x), dtype=call.query.dtype) for x in weights(made)]
    return tree_at(weights, made, eyes)


def _heads_aside(call: Call, x: Array) -> Array:
    """Return (batch, heads, length, dim) as (batch, length, heads * dim)."""
    x = call.xp.moveaxis(x, -3, -2)
    return call.xp.reshape(x, (*x.shape[:2], x.shape[2] * x.shape[3]))


def hf_eager_like(function: Callable[..., Any], /, *, has_sinks: bool = False) -> Subject:
    """
    Adapt a function with the signature of transformers' ``eager_attention_forward``.

    ``function(module, query, key, value, attention_mask, scaling, softcap)``, whichever of the
    last two it has, with axes ``(batch, num_heads, length, dim)``; its output has length before
    heads. A mask is given as transformers gives it: added, the least number of the dtype where
    a key is hidden. `module` is a stand-in with ``num_key_value_groups``, ``training`` and
    ``sinks``. Causal order is not among its options: a caller there puts it into the mask.

    Parameters
    ----------
    function : function of (module, query, key, value, attention_mask)
        Returns the output, and weights.
    has_sinks : bool, optional
        Whether it reads ``module.sinks``; they are -inf where none are given. Default: False.

    Returns
    -------
    Subject
        What every check can ask.

    Examples
    --------
    >>> from attnfn.testing import hf_eager_like
    >>> def eager_attention_forward(module, query, key, value, attention_mask, scaling=None):
    ...     ...
    >>> sorted(hf_eager_like(eager_attention_forward).options)
    ['bias', 'mask', 'scale']
    """
    parameters = Parameters(function, takes_any=False)  # it swallows what it does not know
    places = {
        "mask": Place(("attention_mask",), added_least),
        "bias": Place(("attention_mask",)),
        "scale": Place(("scaling",)),
        "softcap": Place(("softcap",)),
    }
    places = {option: p for option, p in places.items() if p.names[0] in parameters}

    def called(q: Array, k: Array, v: Array, *, module: Any, **keywords: Any) -> Array:
        out, _ = function(module, q, k, v, **{"attention_mask": None, **keywords})
        return out.transpose(1, 2)

    def module(call: Call, _: Parameters) -> dict[str, Any]:
        groups = call.query.shape[1] // call.key.shape[1]
        found = SimpleNamespace(
            num_key_value_groups=groups, training=False, head_dim=call.query.shape[-1]
        )
        if has_sinks:
            none = call.query.new_full((call.query.shape[1],), -math.inf)
            sinks = call.options.get("sinks", none)
            found.sinks = (
                none.new_full(none.shape, sinks) if isinstance(sinks, float) else sinks
            )
        scale = 1 / math.sqrt(call.query.shape[-1])
        return {"module": found} | ({"scaling": scale} if parameters.needs("scaling") else {})

    if has_sinks:
        places["sinks"] = Place(("sinks",), lambda _, __: {})  # the module has them
    signature = Signature(places=places, added=added_least, more=module)
    made = subject(called, signature)
    return made._replace(name=name_of(function))


def x_transformers_like(layer: Callable[..., Any], /, *, flash: bool = False) -> Subject:
    """
    Adapt a layer with the signature of `Attend` in x-transformers.

    ``layer(causal, heads, scale, flash, softclamp_logits, logit_softclamp_value,
    head_learned_sink)`` is made for each call, which is of ``(q, k, v, mask, attn_bias)``.

    Parameters
    ----------
    layer : function of keywords
        The class, or what else returns a layer with its parameters.
    flash : bool, optional
        Whether it is to use PyTorch's kernels, which have neither caps nor sinks. Default:
        False.

    Returns
    -------
    Subject
        What every check can ask.

    Examples
    --------
    >>> from attnfn.testing import x_transformers_like
    >>> def layer(*, causal=False, heads=None, scale=None, head_learned_sink=False): ...
    >>> sorted(x_transformers_like(layer).options)
    ['bias', 'is_causal', 'mask', 'scale', 'sinks']
    """
    parameters = Parameters(layer)
    own = {"is_causal": "causal", "scale": "scale"}
    if not flash:
        own |= {"softcap": "softclamp_logits", "sinks": "head_learned_sink"}
    options = frozenset({"mask", "bias"} | {x for x, name in own.items() if name in parameters})
    name = name_of(layer)

    def attention(query: Array, key: Array, value: Array, /, **given: Any) -> Array:
        check_options(given, options, name)
        call = folded(described(query, key, value, given))
        made = _attend(layer, call, flash).to(query.device)
        out, _ = made(
            *call[:3], mask=call.options.get("mask"), attn_bias=call.options.get("bias")
        )
        return unfolded(call, out)

    return Subject(attention, options, name=name)


def _attend(layer: Callable[..., Any], call: Call, flash: bool) -> Any:
    given = call.options
    keywords: dict[str, Any] = {"heads": call.query.shape[1], "flash": flash}
    if "is_causal" in given:
        keywords["causal"] = True
    if "scale" in given:
        keywords["scale"] = given["scale"]
    if "softcap" in given:
        keywords |= {"softclamp_logits": True, "logit_softclamp_value": given["softcap"]}
    if "sinks" not in given:
        return layer(**keywords)
    made = layer(**keywords, head_learned_sink=True)
    del made.head_attn_sink  # a parameter, which takes no tensor that is differentiated
    sinks = given["sinks"]
    made.head_attn_sink = (
        call.query.new_full(call.query.shape[1:2], sinks) if isinstance(sinks, float) else sinks
    )
    return made
