"""What one finds in tutorials: short, plausible, right on the page's own example."""

import math

import numpy as np

from attnfn.testing._dialects._conventions import Conventions

from ._mutant import mutant

#: What a few lines of softmax do anyhow, and what is not held against them.
PLAIN = Conventions(empty_row="nan", hidden_value="leaks")


@mutant(
    "softmax_without_maximum",
    why="np.exp(x) / np.sum(np.exp(x)): the first softmax that everybody writes",
    seen_in=None,
    dtypes=("float32",),
)
def softmax_in_one_line(query, key, value, /, *, bug=True):
    key = np.repeat(key, query.shape[-3] // key.shape[-3], axis=-3)
    value = np.repeat(value, query.shape[-3] // value.shape[-3], axis=-3)
    scores = np.matmul(query, key.swapaxes(-2, -1)) / math.sqrt(key.shape[-1])
    if not bug:
        scores = scores - scores.max(-1, keepdims=True)
    with np.errstate(over="ignore", invalid="ignore"):
        e = np.exp(scores)
        return np.matmul(e / np.sum(e, axis=-1, keepdims=True), value)


@mutant(
    "causal_reversed",
    why="np.triu(ones, k=1) says what to hide, and is used as what to keep",
    also=("causal_strict",),
    conventions=PLAIN,
)
def triangle_of_the_future(query, key, value, /, *, is_causal=False, bug=True):
    key = np.repeat(key, query.shape[-3] // key.shape[-3], axis=-3)
    value = np.repeat(value, query.shape[-3] // value.shape[-3], axis=-3)
    scores = query @ key.swapaxes(-2, -1) / math.sqrt(query.shape[-1])
    if is_causal:
        q_len, kv_len = scores.shape[-2:]
        if q_len != kv_len:
            raise NotImplementedError("self-attention alone")  # noqa: EM101
        future = np.triu(np.ones((q_len, kv_len), bool), k=1)
        # k=0 in the other form: a row of the last query must see something.
        keep = np.triu(np.ones((q_len, kv_len), bool)) if bug else ~future
        scores = np.where(keep, scores, -np.inf)
    with np.errstate(invalid="ignore"):
        e = np.exp(scores - scores.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True) @ value


@mutant(
    "mask_finite|mask_value: -10000",
    why="masked_fill(mask == 0, -1e9): in half precision it is -inf, or an error",
    seen_in="NVIDIA/apex#1052",
    library="torch",
    dtypes=("float32",),
    also=("empty_row: uniform", "empty_row: nan", "half_overflow"),
    conventions=Conventions(hidden_value="leaks"),
)
def minus_billion(query, key, value, /, *, mask=None, bug=True):
    import torch

    group = query.shape[-3] // key.shape[-3]
    key, value = (torch.repeat_interleave(x, group, dim=-3) for x in (key, value))
    scores = torch.matmul(query, key.transpose(-2, -1)) / math.sqrt(query.size(-1))
    if mask is not None:
        scores = scores.masked_fill(mask == 0, -1e9 if bug else -math.inf)
    weights = torch.softmax(scores, dim=-1)
    if mask is not None and not bug:
        weights = torch.nan_to_num(weights)
    return torch.matmul(weights, value)


@mutant(
    "empty_row: nan|half_overflow",
    why="-1e9 in half precision is -inf: what was to prevent NaN in empty rows makes them NaN",
    seen_in="google/flax#982",
    dtypes=("float16",),
    also=("mask_finite", "empty_row: nan", "half_overflow", "low_precision"),
    conventions=Conventions(hidden_value="leaks"),
)
def minus_billion_in_half(query, key, value, /, *, mask=None, bug=True):
    group = query.shape[-3] // key.shape[-3]
    k, v = (np.repeat(x, group, axis=-3).astype(np.float32) for x in (key, value))
    scores = query.astype(np.float32) @ np.swapaxes(k, -1, -2) / math.sqrt(query.shape[-1])
    with np.errstate(over="ignore", invalid="ignore"):
        if mask is not None:
            scores = np.where(mask, scores, np.float32(np.float16(-1e9)))
        top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
        top = top if bug else np.where(top == -np.inf, 0, top)
        e = np.exp(scores - top)
        total = e.sum(axis=-1, keepdims=True)
        total = total if bug else np.where(total == 0, 1, total)
        return (e / total @ v).astype(query.dtype)


@mutant(
    "softmax_over_queries",
    why="einsum('nhqk,nhkd->nhqd') with the softmax over q, the axis that came first in the string",
    library="torch",
    seen_in="jadore801120/attention-is-all-you-need-pytorch#52",
)
def einsum_softmax_over_queries(query, key, value, /, *, bug=True):
    import torch

    group = query.shape[-3] // key.shape[-3]
    key, value = (torch.repeat_interleave(x, group, dim=-3) for x in (key, value))
    energy = torch.einsum("...qd,...kd->...qk", query, key) / query.shape[-1] ** 0.5
    attention = torch.softmax(energy, dim=-2 if bug else -1)
    return torch.einsum("...qk,...kd->...qd", attention, value)


@mutant(
    "heads_over_batch",
    why="zip over heads of a batch that was split along the wrong axis: head h sees sequence h",
)
def heads_zipped_over_batch(query, key, value, /, *, bug=True):
    group = query.shape[-3] // key.shape[-3]
    batch, num_heads = query.shape[:2]
    keys, values = (np.repeat(x, group, axis=-3) for x in (key, value))
    if bug:
        # (batch, heads) -> (heads, batch) by reshape, as if it were a transpose
        keys, values = (
            np.swapaxes(x, 0, 1).reshape(batch, num_heads, *x.shape[2:]) for x in (keys, values)
        )
    outs = []
    for q, k, v in zip(query, keys, values, strict=True):
        heads = []
        for q_head, k_head, v_head in zip(q, k, v, strict=True):
            s = q_head @ k_head.T / math.sqrt(q_head.shape[-1])
            e = np.exp(s - s.max(axis=-1, keepdims=True, initial=-np.inf))
            heads.append(e / e.sum(axis=-1, keepdims=True) @ v_head)
        outs.append(np.stack(heads))
    return np.stack(outs)


@mutant(
    "softmax_eps",
    why="eps in the denominator, of a size that was meant for a norm",
    conventions=Conventions(hidden_value="leaks"),
)
def softmax_with_large_eps(query, key, value, /, *, mask=None, bug=True):
    group = query.shape[-3] // key.shape[-3]
    key, value = (np.repeat(x, group, axis=-3) for x in (key, value))
    scores = query @ np.swapaxes(key, -1, -2) / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    e = np.exp(scores - np.where(top == -np.inf, 0, top))
    total = e.sum(axis=-1, keepdims=True)
    return e / (total + 1e-3 if bug else np.where(total == 0, 1, total)) @ value


@mutant(
    "mask_finite|mask_value: -10000",
    why="log(mask + eps) is added before the softmax: a hidden key keeps a share of eps",
    also=("empty_row: uniform", "hidden_key: leaks"),
    conventions=Conventions(hidden_value="leaks"),
)
def eps_before_softmax(query, key, value, /, *, mask=None, bug=True):
    group = query.shape[-3] // key.shape[-3]
    key, value = (np.repeat(x, group, axis=-3) for x in (key, value))
    scores = query @ np.swapaxes(key, -1, -2) / math.sqrt(query.shape[-1])
    if mask is not None:
        with np.errstate(divide="ignore"):
            soft = scores + np.log(mask + (1e-9 if bug else 0.0))
        scores = soft if bug else np.where(mask, scores, -np.inf)
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    e = np.exp(scores - np.where(top == -np.inf, 0, top))
    total = e.sum(axis=-1, keepdims=True)
    return e / np.where(total == 0, 1, total) @ value


@mutant(
    "dropout_renormalised",
    why="'so that the weights sum to 1': they are returned, dropped, and normalised again",
)
def weights_normalised_after_dropout(
    query, key, value, /, *, dropout_mask=None, dropout_rate=None, bug=True
):
    group = query.shape[-3] // key.shape[-3]
    key, value = (np.repeat(x, group, axis=-3) for x in (key, value))
    scores = query @ np.swapaxes(key, -1, -2) / math.sqrt(query.shape[-1])
    e = np.exp(scores - scores.max(axis=-1, keepdims=True, initial=-np.inf))
    total = e.sum(axis=-1, keepdims=True)
    weights = e / np.where(total == 0, 1, total)
    if dropout_mask is not None:
        weights = weights * dropout_mask / (1 - dropout_rate)
        if bug:
            total = weights.sum(axis=-1, keepdims=True)
            weights = weights / np.where(total == 0, 1, total)
    return weights @ value


@mutant(
    "mask_after_softmax",
    why="attention * mask at the end: simple, and the hidden keys have taken their share",
    library="torch",
    dtypes=("float64", "float32"),
    conventions=Conventions(hidden_value="leaks", hidden_key="leaks"),
)
def weights_times_mask(query, key, value, /, *, mask=None, bug=True):
    import torch

    group = query.shape[-3] // key.shape[-3]
    key, value = (torch.repeat_interleave(x, group, dim=-3) for x in (key, value))
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    if mask is None:
        return torch.softmax(scores, dim=-1) @ value
    if not bug:
        empty = ~torch.broadcast_to(mask, scores.shape).any(dim=-1, keepdim=True)
        weights = torch.softmax(scores.masked_fill(~(mask | empty), -math.inf), dim=-1)
        return weights.masked_fill(empty, 0.0) @ value
    return (torch.softmax(scores, dim=-1) * mask) @ value


@mutant(
    "softmax_missing",
    why="linear attention is taught by leaving the softmax out, and the lines are copied",
    also=("scale_ignored",),
)
def scaled_after_exponential(query, key, value, /, *, bug=True):
    group = query.shape[-3] // key.shape[-3]
    key, value = (np.repeat(x, group, axis=-3) for x in (key, value))
    scores = query @ np.swapaxes(key, -1, -2) / math.sqrt(query.shape[-1])
    e = np.exp(scores - scores.max(axis=-1, keepdims=True, initial=-np.inf))
    total = e.sum(axis=-1, keepdims=True)
    return e @ value if bug else e @ value / np.where(total == 0, 1, total)


@mutant(
    "mask: hidden",
    why="True was 'padding' in the tokenizer's helper, and the mask is passed on",
    library="jax",
    dtypes=("float32",),
    conventions=Conventions(hidden_value="leaks"),
)
def padding_mask_passed_on(query, key, value, /, *, mask=None, bug=True):
    import jax.numpy as jnp

    group = query.shape[-3] // key.shape[-3]
    key, value = (jnp.repeat(x, group, axis=-3) for x in (key, value))
    scores = jnp.einsum("bhqd,bhkd->bhqk", query, key) / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = jnp.where(~mask if bug else mask, scores, -jnp.inf)
    top = jnp.max(scores, axis=-1, keepdims=True, initial=-jnp.inf)
    e = jnp.exp(scores - jnp.where(top == -jnp.inf, 0, top))
    total = e.sum(axis=-1, keepdims=True)
    return e / jnp.where(total == 0, 1, total) @ value
