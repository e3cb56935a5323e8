"""The oracle: attention by plain loops, one query at a time, over the keys it may attend to alone.

It shares no code and no idea with the package: no products of matrices, nothing hidden and
then taken away again. `oracle` computes in Python's float64 with exactly rounded sums,
`oracle_mpmath` in 50 digits, `oracle_gradients` by the closed form of the derivative.

Functions of positions are called once, with NumPy integer arrays.
"""

import math
from typing import Any, NamedTuple

import mpmath
import numpy as np

__all__ = [
    "OracleGradients",
    "OracleResult",
    "num_heads_of",
    "oracle",
    "oracle_gradients",
    "oracle_mpmath",
    "oracle_scores",
    "scores_shape",
]


class OracleResult(NamedTuple):
    """What attention is: `out` and its log-sum-exp; `weights` are those before dropout."""

    out: Any
    lse: Any
    weights: Any


class OracleGradients(NamedTuple):
    """In the shapes of the arguments; `scores` in the shape of the scores, before they summed to a bias."""

    query: Any
    key: Any
    value: Any
    bias: Any
    sinks: Any
    scale: Any
    scores: Any


def oracle(query, key, value, **options):
    """Compute attention in float64; without a value, `out` is None."""
    return _oracle(_Float64, query, key, value, options)


def oracle_mpmath(query, key, value, **options):
    """Compute attention in 50 digits, then round to float64."""
    with mpmath.workdps(50):
        return _oracle(_Mpmath, query, key, value, options)


def oracle_scores(query, key, **options):
    """Compute the final logits: -inf where a query may not attend."""
    problem = _read(query, key, None, **options)
    logits = _logits(_Float64, problem)
    return logits.final.astype(float).reshape(problem.scores_shape)


def num_heads_of(*arrays):
    """Return () where no array has an axis of heads, else (num_heads,)."""
    counts = [x.shape[-3] for x in arrays if x.ndim > 2]
    if not counts:
        return ()
    return (next((count for count in counts if count != 1), 1),)  # the query's, unless it is 1


def scores_shape(query, key, value=None):
    """Return (*batch, *heads, q_len, kv_len)."""
    arrays = [x for x in (query, key, value) if x is not None]
    batch = np.broadcast_shapes(*(x.shape[:-3] for x in arrays))
    return (*batch, *num_heads_of(*arrays), query.shape[-2], key.shape[-2])


# What the numbers are


class _Float64:
    number = float
    exp, log, tanh, sqrt, fsum = math.exp, math.log, math.tanh, math.sqrt, math.fsum


class _Mpmath:
    exp, log, tanh, sqrt = mpmath.exp, mpmath.log, mpmath.tanh, mpmath.sqrt

    @staticmethod
    def number(x):
        return mpmath.mpf(float(x))

    @staticmethod
    def fsum(terms):
        return mpmath.fsum(list(terms))


# From the arguments to one plain array per question


class _Problem(NamedTuple):
    """Every array has every axis: (*batch, num_heads, ...), whether it was given or not."""

    q: Any
    k: Any
    v: Any
    k_head: list  # the key head that each query head uses
    v_head: list
    allowed: Any
    bias: Any
    sinks: Any
    keep: Any
    dropout_rate: float
    scale: Any
    softcap: Any
    score_mod: Any
    scores_shape: tuple  # as the caller sees it, without an axis of heads where none has one


def _read(
    query,
    key,
    value,
    *,
    mask=None,
    bias=None,
    is_causal=False,
    window_size=None,
    q_offset=None,
    segment_ids=None,
    scale=None,
    softcap=None,
    score_mod=None,
    sinks=None,
    dropout_mask=None,
    dropout_rate=None,
):
    query, key = np.asarray(query, float), np.asarray(key, float)
    value = None if value is None else np.asarray(value, float)
    public = scores_shape(query, key, value)
    heads = num_heads_of(*(x for x in (query, key, value) if x is not None))
    batch = public[: len(public) - 2 - len(heads)]
    num_heads = heads[0] if heads else 1
    full = (*batch, num_heads, *public[-2:])

    q_pos, kv_pos = _positions(q_offset, batch, *full[-2:])

    def over_scores(term):
        term = np.asarray(term(q_pos, kv_pos) if callable(term) else term)
        while term.ndim > len(public):
            term = term[0]
        return np.broadcast_to(np.broadcast_to(term, public).reshape(full), full)

    allowed = np.full(full, fill_value=True)
    if mask is not None:
        allowed &= over_scores(mask)
    p = np.broadcast_to(q_pos, full)
    j = np.broadcast_to(kv_pos, full)
    if is_causal:
        allowed &= j <= p
    if window_size is not None:
        left, right = window_size
        allowed &= True if left is None else p - left <= j
        allowed &= True if right is None else j <= p + right
    if segment_ids is not None:
        allowed &= np.broadcast_to(_same_segment(segment_ids), full)

    return _Problem(
        q=_all_axes(query, batch),
        k=_all_axes(key, batch),
        v=None if value is None else _all_axes(value, batch),
        k_head=_head_map(num_heads, key),
        v_head=[] if value is None else _head_map(num_heads, value),
        allowed=allowed,
        bias=None if bias is None else over_scores(bias).astype(float),
        sinks=None if sinks is None else np.broadcast_to(np.asarray(sinks, float), full[:-2]),
        keep=None if dropout_mask is None else over_scores(dropout_mask),
        dropout_rate=0.0 if dropout_rate is None else float(dropout_rate),
        scale=None if scale is None else float(scale),
        softcap=None if softcap is None else float(softcap),
        score_mod=None if score_mod is None else lambda s: score_mod(s, q_pos, kv_pos),
        scores_shape=public,
    )


def _positions(q_offset, batch, q_len, kv_len):
    rows = np.arange(q_len)[:, None]
    offset = np.asarray(0 if q_offset is None else q_offset).astype(int)
    if offset.ndim:
        assert offset.shape == batch
        rows = rows + offset[..., None, None, None]
    else:
        rows = rows + offset
    return rows, np.arange(kv_len)[None, :]


def _same_segment(segment_ids):
    q_ids, kv_ids = (
        segment_ids if isinstance(segment_ids, tuple) else (segment_ids, segment_ids)
    )
    q_ids, kv_ids = np.asarray(q_ids), np.asarray(kv_ids)
    return q_ids[..., None, :, None] == kv_ids[..., None, None, :]


def _all_axes(x, batch):
    x = x if x.ndim > 2 else x[None]
    return np.broadcast_to(x, (*batch, *x.shape[-3:]))


def _head_map(num_heads, x):
    count = x.shape[-3] if x.ndim > 2 else 1
    return [0 if count == 1 else h // (num_heads // count) for h in range(num_heads)]


# The logits, step by step: derivatives go back over the same steps


class _Logits(NamedTuple):
    raw: Any
    modified: Any
    capped: Any
    final: Any


def _logits(numbers, problem):
    """The arrays hold -inf wherever `allowed` is False, and NaN at keys and queries that are not finite."""
    full = problem.allowed.shape
    if problem.scale is None:
        scale = 1 / numbers.sqrt(problem.q.shape[-1])
    else:
        scale = numbers.number(problem.scale)

    raw = np.full(full, numbers.number(0), dtype=object)
    for *batch, h, i in np.ndindex(full[:-1]):
        q = problem.q[(*batch, _query_head(problem, h), i)]
        keys = problem.k[(*batch, problem.k_head[h])]
        for j in np.flatnonzero(problem.allowed[(*batch, h, i)]):
            raw[(*batch, h, i, j)] = _product(numbers, q, keys[j], scale)

    modified = raw
    if problem.score_mod is not None:
        plain = raw if numbers is _Mpmath else raw.astype(float)
        modified = np.asarray(problem.score_mod(plain.reshape(problem.scores_shape)))
        modified = np.broadcast_to(modified, problem.scores_shape).reshape(full).astype(object)

    capped = np.full(full, numbers.number(-math.inf), dtype=object)
    final = np.full(full, numbers.number(-math.inf), dtype=object)
    for index in zip(*np.nonzero(problem.allowed), strict=True):
        s = numbers.number(math.nan) if _is_nan(raw[index]) else modified[index]
        if problem.softcap is not None and s != -math.inf:
            cap = numbers.number(problem.softcap)
            s = cap * numbers.tanh(s / cap)
        capped[index] = s
        bias = numbers.number(0 if problem.bias is None else problem.bias[index])
        final[index] = numbers.number(-math.inf) if -math.inf in (s, bias) else s + bias
    return _Logits(raw, modified, capped, final)


def _query_head(problem, h):
    return 0 if problem.q.shape[-3] == 1 else h


def _product(numbers, q, k, scale):
    if not (np.isfinite(q).all() and np.isfinite(k).all()):
        return numbers.number(math.nan)
    return numbers.fsum(
        numbers.number(x) * scale * numbers.number(y) for x, y in zip(q, k, strict=True)
    )


def _is_nan(x):
    return x != x


# The softmax and the sum over values, one row at a time


class _Row(NamedTuple):
    """One query's answer over the keys `keys`, those it may attend to."""

    keys: list
    weights: list
    kept: list  # weights after dropout
    sink_weight: Any
    lse: Any
    bad_key: bool
    bad_value: bool


def _row(numbers, problem, logits, batch, h, i):
    row = (*batch, h, i)
    keys = [int(j) for j in np.flatnonzero(problem.allowed[row])]
    scores = [logits[(*row, j)] for j in keys]
    sink = numbers.number(-math.inf if problem.sinks is None else problem.sinks[row[:-1]])

    weights, sink_weight, lse = _softmax(numbers, scores, sink)
    bad_value = problem.v is not None and any(
        not np.isfinite(problem.v[(*batch, problem.v_head[h], j)]).all() for j in keys
    )
    bad_key = any(
        not np.isfinite(problem.k[(*batch, problem.k_head[h], j)]).all() for j in keys
    )
    if bad_key or (weights and any(map(_is_nan, weights))):
        nan = numbers.number(math.nan)
        bad_key, lse, sink_weight, weights = True, nan, nan, [nan] * len(keys)

    kept = weights
    if problem.keep is not None:
        share = 1 / (1 - numbers.number(problem.dropout_rate))
        kept = [
            w * share if problem.keep[(*row, j)] else 0 * w
            for j, w in zip(keys, weights, strict=True)
        ]
    return _Row(keys, weights, kept, sink_weight, lse, bad_key, bad_value)


def _softmax(numbers, scores, sink):
    """Return the weights, the sink's weight and the log-sum-exp; nothing to attend to is 0, 0, -inf."""
    nan = numbers.number(math.nan)
    if any(map(_is_nan, scores)):
        return [nan] * len(scores), nan, nan
    top = max([*scores, sink])
    if top == -math.inf:
        return [0.0] * len(scores), 0.0, numbers.number(-math.inf)
    shares = [0.0 if s == -math.inf else numbers.exp(s - top) for s in (*scores, sink)]
    total = numbers.fsum(shares)
    *weights, sink_weight = [share / total for share in shares]
    return weights, sink_weight, top + numbers.log(total)


def _output(numbers, problem, row, batch, h):
    values = problem.v[(*batch, problem.v_head[h])]
    if row.bad_key or row.bad_value:
        return [math.nan] * values.shape[-1]
    return [
        numbers.fsum(
            w * numbers.number(values[j, d]) for j, w in zip(row.keys, row.kept, strict=True)
        )
        for d in range(values.shape[-1])
    ]


def _oracle(numbers, query, key, value, options):
    problem = _read(query, key, value, **options)
    logits = _logits(numbers, problem).final
    full = problem.allowed.shape

    lse, weights = np.zeros(full[:-1]), np.zeros(full)
    out = None if value is None else np.zeros((*full[:-1], problem.v.shape[-1]))
    for *batch, h, i in np.ndindex(full[:-1]):
        row = _row(numbers, problem, logits, batch, h, i)
        lse[(*batch, h, i)] = float(row.lse)
        weights[(*batch, h, i)][row.keys] = [float(w) for w in row.weights]
        if out is not None:
            out[(*batch, h, i)] = [float(x) for x in _output(numbers, problem, row, batch, h)]

    public = problem.scores_shape
    return OracleResult(
        None if out is None else out.reshape((*public[:-1], out.shape[-1])),
        lse.reshape(public[:-1]),
        weights.reshape(public),
    )


# Derivatives


def oracle_gradients(query, key, value, d_out, d_lse=None, **options):
    """Compute the gradients of `sum(d_out * out) + sum(d_lse * lse)`, rows of lse -inf left out.

    With `dP = d_out . v` (times what dropout keeps): `ds = w * (dP - sum(w * dP) + d_lse)`, and
    back over bias, softcap, score_mod and the product. A row that attends to NaN has gradients NaN.
    """
    query, key, value = (np.asarray(x, float) for x in (query, key, value))
    problem = _read(query, key, value, **options)
    logits = _logits(_Float64, problem)
    full = problem.allowed.shape
    d_out = np.asarray(d_out, float).reshape((*full[:-1], problem.v.shape[-1]))
    d_lse = (
        np.zeros(full[:-1]) if d_lse is None else np.asarray(d_lse, float).reshape(full[:-1])
    )

    d_scores, d_sinks = np.zeros(full), np.zeros(full[:-2])
    d_v = np.zeros(problem.v.shape)
    for *batch, h, i in np.ndindex(full[:-1]):
        here = (*batch, h, i)
        row = _row(_Float64, problem, logits.final, batch, h, i)
        if row.lse == -math.inf:
            continue
        values = problem.v[(*batch, problem.v_head[h])]
        share = 1 / (1 - problem.dropout_rate)
        d_weights = []
        for j, kept in zip(row.keys, row.kept, strict=True):
            is_kept = problem.keep is None or problem.keep[(*here, j)]
            dot = math.fsum(a * b for a, b in zip(d_out[here], values[j], strict=True))
            d_weights.append(dot * share if is_kept else 0.0)
            d_v[(*batch, problem.v_head[h], j)] += kept * d_out[here]
        delta = (
            math.fsum(w * d for w, d in zip(row.weights, d_weights, strict=True)) - d_lse[here]
        )
        for j, w, d in zip(row.keys, row.weights, d_weights, strict=True):
            d_scores[(*here, j)] = w * (d - delta)
        d_sinks[here[:-1]] -= row.sink_weight * delta

    d_raw = d_scores * _slope(problem, logits)
    d_q, d_k, d_scale = _through_the_product(problem, d_raw)
    public = problem.scores_shape
    bias, sinks = options.get("bias"), options.get("sinks")
    is_table = bias is not None and not callable(bias)
    return OracleGradients(
        query=_sum_to(d_q, query.shape),
        key=_sum_to(d_k, key.shape),
        value=_sum_to(d_v, value.shape),
        bias=_sum_to(d_scores.reshape(public), np.shape(bias)) if is_table else None,
        sinks=None if sinks is None else _sum_to(d_sinks, np.shape(sinks)),
        scale=d_scale,
        scores=d_scores.reshape(public),
    )


def _slope(problem, logits):
    """Return d(score before bias) / d(product), where anything flows at all."""
    slope = np.ones(problem.allowed.shape)
    live = problem.allowed & (logits.final.astype(float) != -math.inf)
    if problem.score_mod is not None:
        # The derivative by a complex step: exact to rounding, and the function is called as it is.
        raw = logits.raw.astype(float).reshape(problem.scores_shape)
        stepped = np.asarray(problem.score_mod(np.nan_to_num(raw) + 1e-200j), dtype=complex)
        stepped = np.broadcast_to(stepped, problem.scores_shape).reshape(slope.shape)
        slope = slope * stepped.imag / 1e-200
    if problem.softcap is not None:
        capped = np.where(live, logits.capped, 0.0).astype(float)
        slope = slope * (1 - (capped / problem.softcap) ** 2)
    return np.where(live, slope, 0.0)


def _through_the_product(problem, d_raw):
    d_q, d_k = np.zeros(problem.q.shape), np.zeros(problem.k.shape)
    scale = problem.scale
    if scale is None:
        scale = 1 / math.sqrt(problem.q.shape[-1])
    d_scale = 0.0
    for *batch, h, i, j in zip(*np.nonzero(problem.allowed), strict=True):
        d = d_raw[(*batch, h, i, j)]
        if d == 0:
            continue
        at_q, at_k = (*batch, _query_head(problem, h), i), (*batch, problem.k_head[h], j)
        d_q[at_q] += d * scale * problem.k[at_k]
        d_k[at_k] += d * scale * problem.q[at_q]
        d_scale += d * float(problem.q[at_q] @ problem.k[at_k])
    return d_q, d_k, d_scale


def _sum_to(gradient, shape):
    """Sum over the axes that were broadcast from `shape`; a missing axis of heads has size 1 here."""
    while gradient.ndim > len(shape):
        gradient = gradient.sum(0)
    shape = (1,) * (gradient.ndim - len(shape)) + tuple(shape)
    for axis, size in enumerate(shape):
        if size == 1:
            gradient = gradient.sum(axis, keepdims=True)
    return gradient.reshape(shape)
