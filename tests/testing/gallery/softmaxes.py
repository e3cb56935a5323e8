"""The softmax, its sinks and its log-sum-exp, got wrong."""

import math

import numpy as np

from attnfn.testing._dialects._conventions import Conventions

from ._mutant import mutant
from ._pieces import grouped, hidden, key_of, positions, softmax


@mutant(
    "softmax_without_maximum",
    why="exp(scores) / sum, as the formula says; it overflows where scores pass 88 in float32",
    dtypes=("float32", "float64"),
)
def softmax_by_the_formula(query, key, value, /, *, mask=None, scale=None, bug=True):
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * scale) @ key_of(query, key)
    scores, v = hidden(scores, grouped(value, query.shape[-3]), True if mask is None else mask)
    if not bug:
        return softmax(scores)[0] @ v
    with np.errstate(over="ignore", invalid="ignore"):
        shares = np.exp(scores)
        total = shares.sum(axis=-1, keepdims=True)
        return (shares / np.where(total == 0, 1, total)) @ v


@mutant(
    "softmax_over_queries",
    why="softmax(dim=1) or dim=-2: right shapes, and for each key the weights sum to 1",
    seen_in="datawhalechina/llms-from-scratch-cn#54",
)
def softmax_over_queries(query, key, value, /, *, scale=None, bug=True):
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * scale) @ key_of(query, key)
    axis = -2 if bug else -1
    shares = np.exp(scores - scores.max(axis=axis, keepdims=True, initial=-np.inf))
    weights = shares / shares.sum(axis=axis, keepdims=True)
    return weights @ grouped(value, query.shape[-3])


@mutant(
    "softmax_over_heads",
    why="softmax(dim=1) once the scores have an axis of heads",
    seen_in="labmlai/annotated_deep_learning_paper_implementations#262",
)
def softmax_over_heads(query, key, value, /, *, scale=None, bug=True):
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = np.einsum("bhqd,bhdk->bhqk", query, key_of(query, key)) * scale
    axis = 1 if bug else 3
    shares = np.exp(scores - scores.max(axis=axis, keepdims=True, initial=-np.inf))
    weights = shares / shares.sum(axis=axis, keepdims=True)
    return np.einsum("bhqk,bhkd->bhqd", weights, grouped(value, query.shape[1]))


@mutant(
    "softmax_base_2",
    why="exp2 is what the hardware has, and the factor log2(e) was forgotten",
    also=("lse_base: 2",),
    returns_lse=True,
)
def softmax_with_exp2(query, key, value, /, *, mask=None, scale=None, bug=True):
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    factor = scale if bug else scale / math.log(2)
    scores = (query * factor) @ key_of(query, key)
    scores, v = hidden(scores, grouped(value, query.shape[-3]), True if mask is None else mask)
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    top = np.where(top == -np.inf, 0, top)
    shares = np.exp2(scores - top)
    total = shares.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        lse = (top + np.log2(total))[..., 0]
    out = shares / np.where(total == 0, 1, total) @ v
    return out, (lse if bug else lse * math.log(2))


@mutant(
    "softmax_eps",
    why="a small number against division by zero, which shows where the maximum is left out",
)
def softmax_plus_eps(query, key, value, /, *, mask=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    scores, v = hidden(scores, grouped(value, query.shape[-3]), True if mask is None else mask)
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    shares = np.exp(scores - np.where(top == -np.inf, 0, top))
    total = shares.sum(axis=-1, keepdims=True)
    return shares @ v / (total + 1e-6 if bug else np.where(total == 0, 1, total))


@mutant(
    "softmax_missing",
    why="the division by the sum is left to an epilogue, which another path does not have",
)
def softmax_never_divided(query, key, value, /, *, is_causal=False, q_offset=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    p, j = positions(*scores.shape[-2:], q_offset)
    scores, v = hidden(scores, grouped(value, query.shape[-3]), (j <= p) if is_causal else True)
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    shares = np.exp(scores - np.where(top == -np.inf, 0, top))
    total = shares.sum(axis=-1, keepdims=True)
    out = shares @ v
    return out if bug else out / np.where(total == 0, 1, total)


@mutant(
    "sinks_ignored",
    why="the generic path of a kernel has no sinks, and is taken on one kind of device",
    seen_in="modular/modular#6591",
    returns_lse=True,
)
def sinks_dropped(query, key, value, /, *, sinks=None, mask=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    scores, v = hidden(scores, grouped(value, query.shape[-3]), True if mask is None else mask)
    weights, lse = softmax(scores, None if bug else sinks)
    return weights @ v, lse


@mutant(
    "sinks_first_head",
    why="the sink is indexed by row modulo heads, or not at all",
    seen_in="modular/modular#6591",
)
def sink_of_first_head(query, key, value, /, *, sinks=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    if sinks is not None and bug:
        sinks = np.broadcast_to(np.asarray(sinks), scores.shape[:-2])[..., :1]
    return softmax(scores, sinks)[0] @ grouped(value, query.shape[-3])


@mutant(
    "lse_sinks: excluded",
    why="the sink is merged into the output afterwards, and the lse is the one from before",
    seen_in="ROCm/rocm-libraries#12229",
    returns_lse=True,
)
def lse_without_sink(query, key, value, /, *, sinks=None, mask=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    scores, v = hidden(scores, grouped(value, query.shape[-3]), True if mask is None else mask)
    weights, lse = softmax(scores)
    if sinks is None:
        return weights @ v, lse
    sinks = np.broadcast_to(np.asarray(sinks)[..., None], lse.shape)
    whole = np.logaddexp(lse, sinks)
    out = weights @ v * np.exp(lse - whole)[..., None]
    return out, (lse if bug else whole)


@mutant(
    "lse_base: 2",
    why="the loop runs on exp2, and the lse is stored as it stands",
    seen_in="lightseekorg/tokenspeed#571",
    returns_lse=True,
    dtypes=("float64", "float32"),
)
def lse_in_base_2(query, key, value, /, *, mask=None, scale=None, bug=True):
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * (scale * math.log2(math.e))) @ key_of(query, key)
    scores, v = hidden(scores, grouped(value, query.shape[-3]), True if mask is None else mask)
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    top = np.where(top == -np.inf, 0, top)
    shares = np.exp2(scores - top)
    total = shares.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        lse = (top + np.log2(total))[..., 0]
    return shares / np.where(total == 0, 1, total) @ v, (lse if bug else lse * math.log(2))


@mutant(
    "lse_of_maximum",
    why="the running maximum is stored where its log-sum is meant",
    returns_lse=True,
)
def lse_is_the_maximum(query, key, value, /, *, mask=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    scores, v = hidden(scores, grouped(value, query.shape[-3]), True if mask is None else mask)
    weights, lse = softmax(scores)
    return weights @ v, (scores.max(axis=-1, initial=-np.inf) if bug else lse)


@mutant(
    "lse_without_maximum",
    why="log(sum) of the shifted exponentials, and the shift is not added back",
    returns_lse=True,
)
def lse_of_shifted_scores(query, key, value, /, *, is_causal=False, q_offset=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    p, j = positions(*scores.shape[-2:], q_offset)
    scores, v = hidden(scores, grouped(value, query.shape[-3]), (j <= p) if is_causal else True)
    weights, lse = softmax(scores)
    top = scores.max(axis=-1, initial=-np.inf)
    return weights @ v, (lse - np.where(top == -np.inf, 0, top) if bug else lse)


@mutant(
    "lse_not_logarithm",
    why="the softmax's denominator is handed out as its lse",
    also=("empty_lse: zero",),
    returns_lse=True,
)
def lse_is_the_sum(query, key, value, /, *, mask=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    scores, v = hidden(scores, grouped(value, query.shape[-3]), True if mask is None else mask)
    weights, lse = softmax(scores)
    with np.errstate(over="ignore"):
        return weights @ v, (np.exp(lse) if bug else lse)


@mutant(
    "empty_row: nan",
    why="-inf minus the maximum of a row of -inf is NaN",
    seen_in="tracel-ai/burn#4694",
    also=("empty_lse: finite",),
)
def empty_row_nan(query, key, value, /, *, mask=None, is_causal=False, q_offset=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    p, j = positions(*scores.shape[-2:], q_offset)
    allowed = ((j <= p) if is_causal else True) & (np.asarray(True) if mask is None else mask)
    scores, v = hidden(scores, grouped(value, query.shape[-3]), allowed)
    if not bug:
        return softmax(scores)[0] @ v
    with np.errstate(invalid="ignore"):
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True, initial=-np.inf))
        return shares / shares.sum(axis=-1, keepdims=True) @ v


@mutant(
    "empty_row: uniform",
    why="the least number of the dtype in place of -inf: all are equal, and each gets its share",
    also=("mask_finite",),
    conventions=Conventions(hidden_value="leaks"),
)
def empty_row_mean(query, key, value, /, *, mask=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    allowed = np.broadcast_to(True if mask is None else mask, scores.shape)
    least = np.finfo(scores.dtype).min if bug else -np.inf
    return softmax(np.where(allowed, scores, least))[0] @ grouped(value, query.shape[-3])


@mutant(
    "empty_lse: +inf",
    why="lse is set to +inf where the sum is 0, so that the backward pass gets exp(s - inf) = 0",
    returns_lse=True,
)
def empty_lse_plus_infinity(query, key, value, /, *, mask=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    scores, v = hidden(scores, grouped(value, query.shape[-3]), True if mask is None else mask)
    weights, lse = softmax(scores)
    return weights @ v, (np.where(lse == -np.inf, np.inf, lse) if bug else lse)


@mutant(
    "empty_lse: zero",
    why="the lse's buffer starts at 0, and empty rows leave early",
    returns_lse=True,
)
def empty_lse_never_written(query, key, value, /, *, lengths=None, mask=None, bug=True):
    batch, num_heads, q_len, head_dim = query.shape
    out = np.zeros((batch, num_heads, q_len, value.shape[-1]), query.dtype)
    lse = np.full((batch, num_heads, q_len), 0 if bug else -np.inf, query.dtype)
    shape = (batch, num_heads, q_len, key.shape[-2])
    mask = np.broadcast_to(True if mask is None else mask, shape)
    for b, h, i in np.ndindex(lse.shape):
        keys = np.flatnonzero(mask[b, h, i])
        keys = keys if lengths is None else keys[keys < lengths[b]]
        if not keys.size:
            continue
        g = h // (num_heads // key.shape[1])
        s = key[b, g, keys] @ query[b, h, i] / math.sqrt(head_dim)
        e = np.exp(s - s.max())
        out[b, h, i] = e @ value[b, g, keys] / e.sum()
        lse[b, h, i] = s.max() + math.log(e.sum())
    return out, lse


@mutant(
    "hidden_value: leaks",
    why="a weight of 0 times NaN is NaN: slots of a cache that were never written",
    seen_in="Dao-AILab/flash-attention#2374",
)
def nan_from_hidden_values(query, key, value, /, *, lengths=None, mask=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    allowed = np.broadcast_to(True if mask is None else mask, scores.shape)
    if lengths is not None:
        allowed = allowed & (np.arange(scores.shape[-1]) < lengths[:, None, None, None])
    scores, v = hidden(scores, grouped(value, query.shape[-3]), allowed)
    return softmax(scores)[0] @ (grouped(value, query.shape[-3]) if bug else v)


@mutant(
    "hidden_key: leaks",
    why="-inf is added instead of selected: NaN + -inf is NaN",
    seen_in="deepbeepmeep/Wan2GP#1628",
)
def nan_from_hidden_keys(query, key, value, /, *, mask=None, scale=None, bug=True):
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * scale) @ key_of(query, key)
    allowed = np.broadcast_to(True if mask is None else mask, scores.shape)
    right, v = hidden(scores, grouped(value, query.shape[-3]), allowed)
    added = scores + np.where(allowed, 0.0, -np.inf)
    return softmax(added if bug else right)[0] @ v


@mutant(
    "softmax_dtype: float32|low_precision",
    why="a cast to float32 meant for halves, done whatever the dtype is",
    seen_in="huggingface/transformers#48459",
    also=("low_precision",),
)
def softmax_in_float32(query, key, value, /, *, mask=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    scores, v = hidden(scores, grouped(value, query.shape[-3]), True if mask is None else mask)
    weights, _ = softmax(scores.astype(np.float32) if bug else scores)
    return weights.astype(query.dtype) @ v
