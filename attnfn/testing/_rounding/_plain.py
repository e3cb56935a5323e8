"""The plain formula in a given precision, each result and each step rounded to it."""

import math
from typing import Any

import numpy as np

from .._reference._call import Call
from ._dense import Dense, Results, Upstream, blocks, dense, gathered
from ._precision import Precision, rounded

__all__ = ["plain"]


def plain(
    call: Call,
    precision: Precision,
    outputs: dict[str, Precision],
    upstream: Upstream | None,
    /,
) -> Results:
    """Compute attention and its gradients as a short program in a precision would.

    Sums, and the exponentials of the softmax, are in float32 where the precision is a half's,
    one term after another: the order in which most is lost. What is added up, and what comes
    out, is rounded.
    """
    whole = dense(call)
    q, k, v = (rounded(x, precision) for x in (whole.q, whole.k, whole.v))
    whole = whole._replace(q=q, k=k, v=v)
    with np.errstate(all="ignore"):
        rows = [_rows(block, precision, upstream) for block in blocks(whole)]
        found = gathered(rows, call, upstream)
        return {name: rounded(found[name], to) for name, to in outputs.items()}


def _rows(block: Dense, precision: Precision, upstream: Upstream | None, /) -> Results:
    """Return what some rows give, and what they add to the gradients."""
    sums = precision.sums.held_in
    q, k, v = block.q, block.k, block.v

    def r(x: np.ndarray) -> np.ndarray:
        # As if no number were too large, which says nothing of how a sum is rounded.
        short = rounded(x, precision)
        return np.where(np.isinf(short), x, short).astype(sums)

    s = r(_product(q * sums(block.scale), _turned(k)))
    s = np.where(block.allowed, s, sums(0))
    if block.score_mod is not None:
        s = r(block.score_mod(s.astype(np.float64)))
    if block.softcap is not None:
        cap = sums(block.softcap)
        s = np.where(s == -math.inf, s, r(cap * np.tanh(r(s / cap))))
    capped = s
    if block.bias is not None:
        s = r(s + r(block.bias))
    s = np.where(block.allowed, s, sums(-math.inf))

    top = s.max(axis=-1, keepdims=True, initial=-math.inf)
    sink = sums(-math.inf) if block.sinks is None else block.sinks.astype(sums)
    top = np.maximum(top, sink)
    top = np.where(top == -math.inf, sums(0), top)
    e, e_sink = np.exp(s - top), np.exp(sink - top)
    total = _sum(e) + e_sink
    safe = np.where(total == 0, sums(1), total)
    w = r(e / safe)
    kept = w if block.share is None else r(w * block.share.astype(sums))
    out = _product(kept, v)
    results = {"out": out, "lse": top + np.log(total)}
    if upstream is None:
        return results

    d_out = rounded(upstream.d_out[..., block.rows, :], precision)
    d_p = r(_product(d_out, _turned(v)))
    if block.share is not None:
        d_p = r(d_p * block.share.astype(sums))
    d_lse = upstream.d_lse[..., block.rows, None].astype(sums)
    delta = _sum(d_out * rounded(out, precision)) - d_lse
    d_s = r(w * (d_p - delta))
    d_raw = d_s
    if block.softcap is not None:
        d_raw = r(d_s * (1 - (np.where(block.allowed, capped, 0) / cap) ** 2))
    return results | {
        "query": _product(d_raw, k) * sums(block.scale),
        "key": _product(_turned(d_raw), q) * sums(block.scale),
        "value": _product(_turned(kept), d_out),
        "bias": d_s,
        "sinks": -(e_sink / safe * delta).sum(axis=-2, keepdims=True),
    }


def _product(a: np.ndarray, b: np.ndarray, /) -> np.ndarray:
    """Multiply matrices, one term of the sums after another."""
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    out = np.zeros((*batch, a.shape[-2], b.shape[-1]), a.dtype)
    term = np.empty_like(out)
    for i in range(a.shape[-1]):
        np.multiply(a[..., :, i, None], b[..., None, i, :], out=term)
        out += term
    return out


def _sum(x: np.ndarray, /) -> np.ndarray:
    """Add up each row, one number after another: (..., 1)."""
    if not x.shape[-1]:
        return x.sum(axis=-1, keepdims=True)
    return np.add.accumulate(x, axis=-1)[..., -1:]


def _turned(x: np.ndarray, /) -> Any:
    return np.swapaxes(x, -1, -2)
