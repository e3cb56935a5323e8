"""Sides that compute with NumPy: ours, and the formula as everybody writes it."""

import numpy as np

import attnfn as af

from .work import allowed, draw, options

__all__ = ["naive", "ours"]


def ours(work, engine="auto"):
    x = draw(work)
    arrays = x.query, x.key, x.value
    said = options(work, np.asarray, x)
    if not work.gradient:
        said["engine"] = engine
        return lambda: af.attention(*arrays, **said)
    if engine != "auto":
        reason = "attention_vjp takes no engine"
        raise NotImplementedError(reason)
    return lambda: af.attention_vjp(*arrays, x.d_out, **said)


def engine_of(work):
    x = draw(work)
    return af.select_engine(x.query, x.key, x.value, **options(work, np.asarray, x))


def attention(query, key, value, scale, allowed=None, bias=None, softcap=None):
    """The formula: what the weights are, and the weighted values."""
    scores = (query * scale) @ key.swapaxes(-1, -2)
    if softcap is not None:
        scores = softcap * np.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    if allowed is not None:
        scores = np.where(allowed, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights = weights / weights.sum(axis=-1, keepdims=True)
    return weights, weights @ value


def naive(work):
    x = draw(work)
    scale = np.float32(work.head_dim**-0.5)
    group = work.num_heads // work.num_kv_heads
    said = {"allowed": allowed(work, x), "bias": x.bias, "softcap": work.softcap}

    def forward():
        key, value = x.key, x.value
        if group > 1:
            key, value = np.repeat(key, group, axis=1), np.repeat(value, group, axis=1)
        return attention(x.query, key, value, scale, **said)[1]

    def gradient():
        weights, out = attention(x.query, x.key, x.value, scale, **said)
        d_weights = x.d_out @ x.value.swapaxes(-1, -2)
        d_scores = weights * (d_weights - (d_weights * weights).sum(axis=-1, keepdims=True))
        d_query = d_scores @ x.key * scale
        d_key = d_scores.swapaxes(-1, -2) @ x.query * scale
        return out, d_query, d_key, weights.swapaxes(-1, -2) @ x.d_out

    if work.gradient and (group > 1 or work.softcap is not None):
        reason = "written out for plain scores alone"
        raise NotImplementedError(reason)
    return gradient if work.gradient else forward
