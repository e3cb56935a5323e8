"""How far one rounding in each step moves attention: the unit that errors are measured in."""

import math
from typing import NamedTuple

import numpy as np

from .._reference._call import Call
from ._dense import GRADIENTS, Dense, Results, Upstream, blocks, dense, gathered, score_bound
from ._precision import Precision

__all__ = ["units"]


def units(
    call: Call,
    precision: Precision,
    outputs: dict[str, Precision],
    upstream: Upstream | None,
    /,
) -> Results:
    """Return the unit of each element of each result.

    As if each step lost a unit of rounding, by itself: the squares of what follows from that
    add up. Of a score the exponential is taken, so that what it loses is not small where it
    is more than about 1: then every weight of the row is in doubt.
    """
    whole = dense(call)
    with np.errstate(all="ignore"):
        rows = [_rows(block, precision, outputs, upstream) for block in blocks(whole)]
    squares = gathered(rows, call, upstream)
    return {name: np.sqrt(squares[name]) + to.least for name, to in outputs.items()}


def _rows(
    block: Dense,
    precision: Precision,
    outputs: dict[str, Precision],
    upstream: Upstream | None,
    /,
) -> Results:
    """Return the squares of the units of some rows, and what they add to those of gradients."""
    weights = _weights(block, precision, _scores(block, precision))
    results = _forward(block, precision, outputs, weights)
    if upstream is not None:
        results |= _backward(block, precision, outputs, weights, upstream)
    return results


class _Scores(NamedTuple):
    """Scores, and the squares of what they may have lost."""

    s: np.ndarray
    lost: np.ndarray
    slope: np.ndarray | float  # of the softcap
    lost_slope: np.ndarray | float


def _scores(block: Dense, precision: Precision, /) -> _Scores:
    u, a = precision.unit**2, precision.sums.unit**2
    allowed, q = block.allowed, block.q * block.scale
    s, terms = q @ _turned(block.k), q**2 @ _turned(block.k**2)
    lost = u * (s**2 + terms) + a * q.shape[-1] / 2 * terms
    s, lost = np.where(allowed, s, 0.0), np.where(allowed, lost, 0.0)
    if block.score_mod is not None:
        by = np.sqrt(lost)
        s, up, down = (block.score_mod(x) for x in (s, s + by, s - by))
        allowed = allowed & (s != -math.inf)
        s, up, down = (np.where(allowed, x, 0.0) for x in (s, up, down))
        lost = np.maximum(abs(up - s), abs(down - s)) ** 2 + u * s**2
    slope: np.ndarray | float = 1.0
    lost_slope: np.ndarray | float = 0.0
    if block.softcap is not None:
        s = block.softcap * np.tanh(s / block.softcap)
        slope = 1 - (s / block.softcap) ** 2
        # A tanh made of exponentials is off by units of 1, however small it is.
        lost = slope**2 * lost + 2 * (u * s**2 + a * block.softcap**2)
        lost_slope = (2 * s / block.softcap**2) ** 2 * lost + u
    if block.bias is not None:
        s = s + block.bias
        lost = lost + u * (block.bias**2 + s**2)
    return _Scores(np.where(allowed, s, -math.inf), lost, slope, lost_slope)


class _Weights(NamedTuple):
    """Weights, and the squares of their relative errors."""

    scores: _Scores
    w: np.ndarray
    w_sink: np.ndarray
    top: np.ndarray
    lse: np.ndarray
    moved: np.ndarray  # by the score
    moved_sink: np.ndarray
    common: np.ndarray  # to a row


def _weights(block: Dense, precision: Precision, scores: _Scores, /) -> _Weights:
    u, a, s = precision.unit**2, precision.sums.unit**2, scores.s
    sink = np.asarray(-math.inf) if block.sinks is None else block.sinks
    top = np.maximum(s.max(axis=-1, keepdims=True, initial=-math.inf), sink)
    top = np.where(np.isfinite(top), top, 0.0)
    w, w_sink = np.exp(s - top), np.exp(sink - top)
    total = w.sum(axis=-1, keepdims=True) + w_sink
    lse = top + np.log(total)
    total = np.where(total == 0, 1.0, total)
    w, w_sink = w / total, w_sink / total

    near, sink = (np.where(np.isfinite(x), x, 0.0) for x in (s, sink))
    peak = a * (score_bound(block, near) + abs(sink)) ** 2
    moved = _moved(scores.lost + a * (near - top) ** 2 + peak)
    moved_sink = _moved(u * sink**2 + a * (sink - top) ** 2 + peak)
    common = (w**2 * moved).sum(axis=-1, keepdims=True) + w_sink**2 * moved_sink
    return _Weights(scores, w, w_sink, top, lse, moved, moved_sink, common)


def _forward(
    block: Dense, precision: Precision, outputs: dict[str, Precision], row: _Weights, /
) -> Results:
    u, v, v2 = precision.unit**2, block.v, block.v**2
    added = _added(precision, block.allowed.shape[-1])
    share = 1.0 if block.share is None else block.share
    kept, by_score = row.w * share, row.w**2 * row.moved
    out = kept @ v
    # The sum of by_score * (share * v - out)^2, the sink's with a value of 0.
    spread = (by_score * share**2) @ v2 - 2 * out * ((by_score * share) @ v)
    least = precision.least_weight * share * block.allowed
    return {
        "out": (outputs["out"].unit ** 2 + added) * out**2
        + np.maximum(spread + out**2 * row.common, 0.0)
        + (2 * u + added) * (kept**2 @ v2)
        + least**2 @ v2,
        "lse": row.common
        + added
        + precision.sums.unit**2 * row.top**2
        + outputs["lse"].unit ** 2 * np.where(np.isfinite(row.lse), row.lse, 0.0) ** 2,
    }


def _backward(
    block: Dense,
    precision: Precision,
    outputs: dict[str, Precision],
    row: _Weights,
    upstream: Upstream,
    /,
) -> Results:
    u, a, (q_len, kv_len) = precision.unit**2, precision.sums.unit**2, block.allowed.shape[-2:]
    q, k, v, w = block.q * block.scale, block.k, block.v, row.w
    added, by_row = _added(precision, kv_len), _added(precision, q_len)
    relative = row.moved + row.common + u + added
    relative_sink = row.moved_sink + row.common + u + added
    share = 1.0 if block.share is None else block.share
    kept = w * share

    d_out, d_lse = upstream.d_out[..., block.rows, :], upstream.d_lse[..., block.rows, None]
    d_p, terms = d_out @ _turned(v) * share, d_out**2 @ _turned(v**2) * share**2
    lost_p = u * (d_p**2 + terms) + a * v.shape[-1] / 2 * terms
    delta = (w * d_p).sum(axis=-1, keepdims=True) - d_lse
    of_out = ((d_out * (kept @ v)) ** 2).sum(axis=-1, keepdims=True)
    lost_delta = (w**2 * (d_p**2 * relative + lost_p)).sum(axis=-1, keepdims=True)
    lost_delta = lost_delta + (u + added) * of_out + u * (delta**2 + d_lse**2)

    least = precision.least_weight**2 * block.allowed
    d_s = w * (d_p - delta)
    lost_s = d_s**2 * (relative + u) + w**2 * (lost_p + lost_delta)
    lost_s = lost_s + least * (1 + (d_p - delta) ** 2)
    d_raw = d_s * row.scores.slope
    lost_raw = lost_s * np.square(row.scores.slope) + d_s**2 * row.scores.lost_slope
    lost_raw = lost_raw + u * d_raw**2
    to = {name: outputs[name].unit ** 2 if name in outputs else 0.0 for name in GRADIENTS}
    d_q, d_k, d_v = d_raw @ k * block.scale, _turned(d_raw) @ q, _turned(kept) @ d_out
    lost_sink = row.w_sink**2 * (delta**2 * relative_sink + lost_delta)
    return {
        "query": block.scale**2 * ((lost_raw + added * d_raw**2) @ k**2) + to["query"] * d_q**2,
        "key": _turned(lost_raw + by_row * d_raw**2) @ q**2 + to["key"] * d_k**2,
        "value": _turned(kept**2 * (relative + by_row) + least) @ d_out**2
        + to["value"] * d_v**2,
        "bias": lost_s + to["bias"] * d_s**2,
        "sinks": lost_sink.sum(axis=-2, keepdims=True),
    }


def _added(precision: Precision, length: int, /) -> float:
    """Return the square of what a sum loses, in terms of that of what is added up."""
    return precision.sums.unit**2 * (length / 2 + 4)


def _moved(lost: np.ndarray, /) -> np.ndarray:
    """Return the square of what an exponential loses, from that of what its argument does."""
    return (np.expm1(np.minimum(2 * np.sqrt(lost), 50.0)) / 2) ** 2


def _turned(x: np.ndarray, /) -> np.ndarray:
    return np.swapaxes(x, -1, -2)
