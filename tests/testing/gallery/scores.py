"""What a score is, got wrong: the scale, the bias, the cap."""

import math

import numpy as np

from ._mutant import mutant
from ._pieces import grouped, hidden, key_of, positions, softmax


@mutant("scale_ignored", why="the default is worked out inside, and the argument never arrives")
def scale_always_root(query, key, value, /, *, scale=None, mask=None, bug=True):
    if scale is None or bug:
        scale = query.shape[-1] ** -0.5
    scores = np.einsum("bhqd,bhdk->bhqk", query, key_of(query, key)) * scale
    scores, v = hidden(scores, grouped(value, query.shape[-3]), True if mask is None else mask)
    return np.einsum("bhqk,bhkd->bhqd", softmax(scores)[0], v)


@mutant(
    "scale_twice",
    why="the caller scales the query, and so does the kernel",
    dtypes=("float64", "float32"),
)
def scale_twice(query, key, value, /, *, scale=None, bug=True):
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    query = query * scale
    scores = query @ key_of(query, key)
    if bug:
        scores = scores * scale
    return softmax(scores)[0] @ grouped(value, query.shape[-3])


@mutant(
    "scale_of_model_dim",
    why="the root is taken of the width before the heads were split",
)
def scale_of_the_model(
    query, key, value, /, *, scale=None, is_causal=False, q_offset=None, bug=True
):
    batch, num_heads, q_len, head_dim = query.shape
    width = num_heads * head_dim if bug else head_dim
    scale = 1 / math.sqrt(width) if scale is None else scale
    out = np.zeros((batch, num_heads, q_len, value.shape[-1]), query.dtype)
    p, j = positions(q_len, key.shape[-2], q_offset)
    for h in range(num_heads):
        g = h // (num_heads // key.shape[1])
        s = scale * query[:, h] @ np.swapaxes(key[:, g], -1, -2)
        allowed = (j <= p) if is_causal else np.ones_like(j <= p)
        allowed = allowed[:, 0] if allowed.ndim == 4 else allowed
        s, v = hidden(s, value[:, g], allowed)
        out[:, h] = softmax(s)[0] @ v
    return out


@mutant("scale_of_value_dim", why="head_dim is read from the value, which mostly has the same")
def scale_of_the_value(query, key, value, /, *, scale=None, bug=True):
    head_dim = value.shape[-1] if bug else key.shape[-1]
    scale = 1 / math.sqrt(head_dim) if scale is None else scale
    scores = query @ key_of(query, key) * scale
    return softmax(scores)[0] @ grouped(value, query.shape[-3])


@mutant(
    "default_scale: one",
    why="a port from T5 or from a kernel that expects the query scaled: without a scale, none",
)
def scale_left_to_the_caller(query, key, value, /, *, scale=None, bias=None, bug=True):
    if scale is None:
        scale = 1.0 if bug else 1 / math.sqrt(query.shape[-1])
    scores = query @ key_of(query, key) * scale
    scores = scores if bias is None else scores + bias
    scores, v = hidden(scores, grouped(value, query.shape[-3]), scores != -np.inf)
    return softmax(scores)[0] @ v


@mutant("bias_ignored", why="a bias is accepted for the signature's sake, and only logged")
def bias_ignored(query, key, value, /, *, bias=None, scale=None, bug=True):
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = query @ key_of(query, key) * scale
    if bias is not None and not bug:
        scores = scores + bias
    scores, v = hidden(scores, grouped(value, query.shape[-3]), scores != -np.inf)
    return softmax(scores)[0] @ v


@mutant(
    "mask_ignored",
    why="one slot for both: where a bias is given, the mask is not read",
)
def mask_lost_to_bias(query, key, value, /, *, mask=None, bias=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    allowed = np.ones_like(scores, bool)
    if bias is not None:
        scores = scores + bias
        allowed = scores != -np.inf
    if mask is not None and (bias is None or not bug):
        allowed = allowed & mask
    scores, v = hidden(scores, grouped(value, query.shape[-3]), allowed)
    return softmax(scores)[0] @ v


@mutant(
    "bias_twice", why="the bias is folded into the accumulator's start, and added again after"
)
def bias_in_the_accumulator(query, key, value, /, *, bias=None, scale=None, bug=True):
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = np.zeros((*query.shape[:-1], key.shape[-2]), query.dtype)
    if bias is not None:
        scores += bias
    scores += (query * scale) @ key_of(query, key)
    if bias is not None and bug:
        scores += bias
    scores, v = hidden(scores, grouped(value, query.shape[-3]), scores != -np.inf)
    return softmax(scores)[0] @ v


@mutant("bias_first_head", why="the bias has no stride for heads: every head reads the first's")
def bias_of_first_head(query, key, value, /, *, bias=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    if bias is not None:
        full = np.broadcast_to(bias, scores.shape)
        scores = scores + (full[:, :1] if bug else full)
    scores, v = hidden(scores, grouped(value, query.shape[-3]), scores != -np.inf)
    return softmax(scores)[0] @ v


@mutant(
    "bias_first_batch", why="one table for all sequences: ALiBi has no batch, a given bias may"
)
def bias_of_first_sequence(query, key, value, /, *, bias=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    if bias is not None:
        full = np.broadcast_to(bias, scores.shape)
        scores = scores + (full[:1] if bug else full)
    scores, v = hidden(scores, grouped(value, query.shape[-3]), scores != -np.inf)
    return softmax(scores)[0] @ v


@mutant(
    "bias: before_scale",
    why="the bias goes into the product's accumulator, and the scale is applied to the sum",
    seen_in="tenstorrent/tt-metal#42891",
)
def bias_is_scaled(query, key, value, /, *, bias=None, scale=None, softcap=None, bug=True):
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    products = query @ key_of(query, key)
    bias = np.zeros_like(products) if bias is None else bias
    products = products * scale
    if softcap is not None:
        products = softcap * np.tanh(products / softcap)
    scores = products + (bias * scale if bug else bias)
    scores, v = hidden(scores, grouped(value, query.shape[-3]), scores != -np.inf)
    return softmax(scores)[0] @ v


@mutant(
    "softcap: after_bias",
    why="the cap is put last, as its formula reads; a bias of -inf then hides nothing",
    seen_in="onnx/onnx#7865",
)
def softcap_after_bias(query, key, value, /, *, softcap=None, bias=None, mask=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    bias = 0.0 if bias is None else bias
    if softcap is not None:
        if bug:
            scores = softcap * np.tanh((scores + bias) / softcap)
        else:
            scores = softcap * np.tanh(scores / softcap) + bias
    else:
        scores = scores + bias
    allowed = (scores != -np.inf) & (True if mask is None else mask)
    scores, v = hidden(scores, grouped(value, query.shape[-3]), allowed)
    return softmax(scores)[0] @ v


@mutant(
    "softcap_ignored",
    why="the cap is in the kernel's parameters, and not in the kernel",
    seen_in="sgl-project/sgl-kernel-xpu#491",
)
def softcap_never_read(
    query, key, value, /, *, softcap=None, is_causal=False, q_offset=None, bug=True
):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    if softcap is not None and not bug:
        scores = softcap * np.tanh(scores / softcap)
    p, j = positions(*scores.shape[-2:], q_offset)
    allowed = (j <= p) if is_causal else True
    scores, v = hidden(scores, grouped(value, query.shape[-3]), allowed)
    return softmax(scores)[0] @ v


@mutant("softcap_clips", why="'capped' is read as clip(scores, -cap, cap)")
def softcap_as_clip(query, key, value, /, *, softcap=None, mask=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    if softcap is not None:
        bent = softcap * np.tanh(scores / softcap)
        scores = np.clip(scores, -softcap, softcap) if bug else bent
    scores, v = hidden(scores, grouped(value, query.shape[-3]), True if mask is None else mask)
    return softmax(scores)[0] @ v


@mutant(
    "softcap_not_multiplied",
    why="the scale was divided by the cap beforehand, and nobody multiplies after tanh",
)
def softcap_left_small(query, key, value, /, *, softcap=None, scale=None, bug=True):
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    if softcap is None:
        scores = (query * scale) @ key_of(query, key)
    else:
        scores = np.tanh((query * (scale / softcap)) @ key_of(query, key))
        scores = scores if bug else scores * softcap
    return softmax(scores)[0] @ grouped(value, query.shape[-3])


@mutant(
    "score_mod_ignored",
    why="the modified scores are computed beside the scores, and the scores go on",
)
def score_mod_never_called(query, key, value, /, *, score_mod=None, q_offset=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    if score_mod is not None and not bug:
        scores = score_mod(scores, *positions(*scores.shape[-2:], q_offset))
    return softmax(scores)[0] @ grouped(value, query.shape[-3])
