"""Backward passes got wrong: by hand in NumPy, and by what autograd was told."""

import inspect
import math

import numpy as np

from ._mutant import GALLERY, Mutant, mutant
from ._pieces import (
    grouped,
    hidden,
    key_of,
    positions,
    softmax,
    torch_attention,
    torch_scores,
)

# In NumPy: a forward pass, and a backward pass that computes the weights again, as kernels do


def _scores(query, key, options):
    """Return the scores before anything is hidden, the slope of the cap, and the scale."""
    scale = options.get("scale")
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores, slope = (query * scale) @ key_of(query, key), 1.0
    if options.get("softcap") is not None:
        bent = np.tanh(scores / options["softcap"])
        scores, slope = options["softcap"] * bent, 1 - bent**2
    if options.get("bias") is not None:
        scores = scores + options["bias"]
    return scores, slope, scale


def _allowed(scores, options):
    allowed = scores != -np.inf
    if options.get("mask") is not None:
        allowed = allowed & options["mask"]
    if options.get("is_causal"):
        p, j = positions(*scores.shape[-2:], options.get("q_offset"))
        allowed = allowed & (j <= p)
    return allowed


def _forward(query, key, value, /, **options):
    scores, _, _ = _scores(query, key, options)
    scores, v = hidden(scores, grouped(value, query.shape[-3]), _allowed(scores, options))
    weights, _ = softmax(scores, options.get("sinks"))
    if options.get("dropout_mask") is not None:
        weights = np.where(options["dropout_mask"], weights, 0) / (1 - options["dropout_rate"])
    return weights @ v


def _backward(query, key, value, d_out, /, *, wrong=None, **options):
    num_heads, num_kv_heads = query.shape[1], key.shape[1]
    raw, slope, scale = _scores(query, key, options)
    allowed = _allowed(raw, options)
    scores, v = hidden(raw, grouped(value, num_heads), allowed)
    sinks = options.get("sinks")
    weights, lse = softmax(scores, None if wrong == "gradient_without_sinks" else sinks)

    left_out = {"gradient_through_mask": "mask", "gradient_without_causal": "is_causal"}
    if options.get(left_out.get(wrong)) is not None:
        # exp(scores - lse) with the forward pass's lse: what was hidden gets a weight.
        allowed = _allowed(raw, {**options, left_out[wrong]: None})
        top = np.where(lse == -np.inf, np.inf, lse)[..., None]
        weights, v = np.where(allowed, np.exp(raw - top), 0), grouped(value, num_heads)

    kept, d_weights = weights, d_out @ np.swapaxes(v, -1, -2)
    if options.get("dropout_mask") is not None and wrong != "gradient_without_dropout":
        share = options["dropout_mask"] / (1 - options["dropout_rate"])
        kept, d_weights = kept * share, d_weights * share
    out = _forward(query, key, value, **options)
    delta = (d_out * out).sum(axis=-1, keepdims=True)
    if wrong == "gradient_without_delta":
        delta = np.zeros_like(delta)

    d_bias = d_scores = weights * (d_weights - delta)
    if wrong != "gradient_without_softcap":
        d_scores = np.where(allowed, d_scores * slope, 0)
    seen = np.broadcast_to(allowed, raw.shape).any(axis=-2)[..., None]
    k = np.where(seen, grouped(key, num_heads), 0)
    factor = 1.0 if wrong == "gradient_without_scale" else scale
    d_query = d_scores @ k * factor
    d_key = np.swapaxes(d_scores, -1, -2) @ query * factor
    d_value = np.swapaxes(kept, -1, -2) @ d_out
    if wrong == "gradient_without_groups":
        # Each head writes, and the last of a group stays.
        group = num_heads // num_kv_heads
        d_key, d_value = d_key[:, group - 1 :: group], d_value[:, group - 1 :: group]
    else:
        d_key, d_value = (_over_groups(x, num_kv_heads) for x in (d_key, d_value))

    gradients = [d_query, d_key, d_value]
    if options.get("bias") is not None:
        gradients.append(_sum_to(d_bias, np.shape(options["bias"])))
    if sinks is not None:
        sink_weight = 1 - weights.sum(axis=-1)  # there is no dropout beside sinks here
        d_sinks = -(sink_weight * delta[..., 0]).sum(axis=-1)
        d_sinks = -d_sinks if wrong == "gradient_of_sinks_sign" else d_sinks
        gradients.append(_sum_to(d_sinks, np.shape(sinks)))
    return tuple(gradients)


def _sum_to(x, shape):
    """Sum over axes that were broadcast."""
    x = x.sum(axis=tuple(range(x.ndim - len(shape))))
    axes = tuple(i for i, n in enumerate(shape) if n == 1 and x.shape[i] != 1)
    return x.sum(axis=axes, keepdims=True)


def _over_groups(x, num_kv_heads):
    batch, num_heads, *rest = x.shape
    return x.reshape(batch, num_kv_heads, num_heads // num_kv_heads, *rest).sum(axis=2)


def _by_hand(name, wrong, *options, why, seen_in=None, also=()):
    """Enter a function that is right, with a backward pass that is not."""

    def function(query, key, value, /, *, bug=True, **given):
        return _forward(query, key, value, **given)

    def vjp(query, key, value, d_out, /, *, bug=True, **given):
        return _backward(query, key, value, d_out, wrong=wrong if bug else None, **given)

    names = ("query", "key", "value", *options, "bug")
    function.__signature__ = inspect.Signature(
        [
            inspect.Parameter(
                n,
                inspect.Parameter.KEYWORD_ONLY if i > 2 else inspect.Parameter.POSITIONAL_ONLY,
            )
            for i, n in enumerate(names)
        ]
    )
    GALLERY[name] = Mutant(
        name=name,
        function=function,
        expected=(wrong,),
        why=why,
        seen_in=seen_in,
        also=also,
        vjp=vjp,
    )


_by_hand(
    "backward_without_scale",
    "gradient_without_scale",
    *("scale", "mask", "bias"),
    why="the scale is folded into the query, and dS is multiplied with the query as it was",
)
_by_hand(
    "backward_without_delta",
    "gradient_without_delta",
    *("mask", "scale"),
    why="dS = P * dP: the softmax is differentiated as if it were exp",
)
_by_hand(
    "backward_through_mask",
    "gradient_through_mask",
    *("mask", "scale"),
    why="P is computed again from scores and lse, and the mask is not applied again",
)
_by_hand(
    "backward_without_causal",
    "gradient_without_causal",
    *("is_causal", "q_offset", "scale"),
    why="the backward kernel has its own copy of the masking, without the last case added",
    also=("gradient_through_mask",),
)
_by_hand(
    "backward_of_last_head_in_group",
    "gradient_without_groups",
    *("mask", "bias"),
    why="heads of a group write dK and dV to one place instead of adding there",
    seen_in="marin-community/levanter#449",
)
_by_hand(
    "backward_without_softcap",
    "gradient_without_softcap",
    *("softcap", "scale"),
    why="the cap is added to the forward kernel, and 1 - tanh^2 not to the backward one",
)
_by_hand(
    "backward_without_sinks",
    "gradient_without_sinks",
    *("sinks", "mask"),
    why="the backward pass takes the softmax over the keys alone",
)
_by_hand(
    "backward_without_dropout",
    "gradient_without_dropout",
    *("dropout_mask", "dropout_rate"),
    why="another random state in the backward pass, or none",
    seen_in="NVIDIA/apex#816",
)
_by_hand(
    "backward_sign_of_sinks",
    "gradient_of_sinks_sign",
    *("sinks", "scale"),
    why="the sink's row of dS is -P * delta, and the minus is lost where nothing is subtracted from",
)


# By autograd


@mutant(
    "gradient_without_lse",
    why="the lse is saved for the backward pass, returned, and marked as not differentiable",
    seen_in="Dao-AILab/flash-attention#404",
    library="torch",
    returns_lse=True,
)
def lse_detached(query, key, value, /, *, mask=None, bug=True):
    out, lse = torch_attention(torch_scores(query, key, mask), value, mask)
    return out, (lse.detach() if bug else lse)


@mutant(
    "gradient_missing",
    why="the bias is taken for a constant, as a mask is: nothing is learned, and nothing is said",
    library="torch",
)
def bias_detached(query, key, value, /, *, bias=None, bug=True):
    scores = torch_scores(query, key)
    if bias is not None:
        scores = scores + (bias.detach() if bug else bias)
    return torch_attention(scores, value, None)[0]


@mutant(
    "gradient_nan",
    why="NaN of empty rows is replaced after the softmax, whose gradient is NaN all the same",
    seen_in="pytorch/pytorch#41508",
    library="torch",
)
def nan_replaced_too_late(query, key, value, /, *, mask=None, bug=True):
    import torch

    scores = torch_scores(query, key, mask)
    if mask is None or not bug:
        return torch_attention(scores, value, mask)[0]
    value = torch.repeat_interleave(value, scores.shape[-3] // value.shape[-3], dim=-3)
    seen = torch.broadcast_to(mask, scores.shape).any(dim=-2)[..., None]
    weights = torch.softmax(scores + torch.where(mask, 0.0, -math.inf), dim=-1)
    return torch.nan_to_num(weights) @ torch.where(seen, value, 0.0)


@mutant(
    "gradient_without_scale",
    why="an autograd.Function whose forward scales and whose backward does not",
    library="torch",
)
def function_without_scale(query, key, value, /, *, mask=None, bug=True):
    import torch

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, q, k):
            ctx.save_for_backward(q, k)
            return q @ k.mT / math.sqrt(q.shape[-1])

        @staticmethod
        def backward(ctx, d_scores):
            q, k = ctx.saved_tensors
            scale = 1.0 if bug else 1 / math.sqrt(q.shape[-1])
            return d_scores @ k * scale, d_scores.mT @ q * scale

    key = torch.repeat_interleave(key, query.shape[-3] // key.shape[-3], dim=-3)
    if mask is not None:
        shape = (*query.shape[:-1], key.shape[-2])
        key = torch.where(torch.broadcast_to(mask, shape).any(dim=-2)[..., None], key, 0.0)
    return torch_attention(Product.apply(query, key), value, mask)[0]


@mutant(
    "gradient_without_softcap",
    why="a fast tanh without a rule for its derivative is passed over straight through",
    library="jax",
    dtypes=("float32",),
)
def straight_through_softcap(query, key, value, /, *, softcap=None, bug=True):
    import jax
    import jax.numpy as jnp

    group = query.shape[-3] // key.shape[-3]
    key, value = (jnp.repeat(x, group, axis=-3) for x in (key, value))
    scores = query @ jnp.swapaxes(key, -1, -2) / math.sqrt(query.shape[-1])
    if softcap is not None:
        bent = softcap * jnp.tanh(scores / softcap)
        scores = scores + jax.lax.stop_gradient(bent - scores) if bug else bent
    top = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True, initial=-jnp.inf))
    shares = jnp.exp(scores - jnp.where(top == -jnp.inf, 0, top))
    total = shares.sum(axis=-1, keepdims=True)
    return shares / jnp.where(total == 0, 1, total) @ value
