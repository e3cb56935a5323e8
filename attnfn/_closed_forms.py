"""The derivatives of whole rows in closed form: no library has to differentiate.

With ``w`` the weights, ``dP`` their gradient, and ``delta`` what is taken off again because
their sum stays the same:

    delta = sum(w * dP) - d_lse        sum(w * dP) is sum(d_out * out)
    ds = w * (dP - delta)              0 where the query may not attend

A weight is an exponential times a number of its row. The number is multiplied into `d_out`,
which has fewer columns than there are keys.
"""

import math
from typing import Any, NamedTuple

from ._backend import known_finite, transposed
from ._numerics import cast, exponentials, nonfinite_vectors, sum_to, without
from ._problem import AttentionProblem
from ._scores import (
    Scores,
    bad_rows,
    kept,
    product,
    product_over_rows,
    score_before_bias,
    sees,
)
from ._typing import Array

__all__ = ["Differentials", "clean_tangent", "pull_back", "push_forward"]


class Differentials(NamedTuple):
    """One array for each that has a derivative, in its shape; None: not there, or zero."""

    q: Array | None = None
    k: Array | None = None
    v: Array | None = None
    bias: Array | None = None
    sinks: Array | None = None


def clean_tangent(problem: AttentionProblem, tangent: Differentials, /) -> Differentials:
    """Do to a tangent what `clean` does to its problem."""
    xp = problem.xp

    def cleaned(x: Array, dx: Array | None) -> Array | None:
        if dx is None:
            return None
        bad = nonfinite_vectors(cast(x, problem.dtype, xp=xp), xp=xp)
        return without(cast(dx, problem.dtype, xp=xp), bad, xp=xp)

    d_q = cleaned(problem.q, tangent.q)
    return tangent._replace(
        q=None if d_q is None else d_q * problem.scale,
        k=cleaned(problem.k, tangent.k),
        v=cleaned(problem.v, tangent.v),
    )


def pull_back(
    problem: AttentionProblem,
    d_out: Array,
    d_lse: Array | None,
    saved: tuple[Array, Array] | None = None,
    /,
) -> Differentials:
    """Return the gradients of a clean problem.

    `d_lse` and a saved lse have an axis of 1 at the end, where an output has the values'.
    """
    xp = problem.xp
    row = _attended(problem, saved)
    d_out = _replaced(d_out, row.is_bad_out, 0.0, xp=xp)

    scaled = _replaced(d_out, row.is_empty, 0.0, xp=xp) * row.factor / problem.keep_rate
    dropped, d_weights = row.exp, product(problem, scaled, transposed(problem.v, xp))
    if problem.dropout_mask is not None:
        keep = kept(problem)
        dropped, d_weights = (xp.where(keep, x, 0.0) for x in (dropped, d_weights))
    d_v = product_over_rows(problem, dropped, scaled)

    if saved is None:
        # Where a hidden value is huge, 0 * inf must not come into the sum.
        d_weights = _live_part(row.live, d_weights, xp=xp)
        delta = xp.sum(row.exp * d_weights, axis=-1, keepdims=True)
    else:
        out = _replaced(saved[0], row.is_bad_out, 0.0, xp=xp)
        # A row that is empty here may have keys in another part; one without any has out = 0.
        delta = xp.sum(xp.where(out == 0, 0.0, d_out) * out, axis=-1, keepdims=True)
    if d_lse is not None:
        delta = delta - _replaced(d_lse, row.is_bad_lse, 0.0, xp=xp)
    delta = delta * row.factor
    d_scores = row.exp * _live_part(row.live, d_weights - delta, xp=xp)

    d_bias = d_sinks = None
    if problem.bias is not None and not callable(problem.bias):
        d_bias = sum_to(d_scores, problem.bias.shape, xp=xp)
    if problem.sinks is not None:
        d_sinks = -xp.sum(row.sink_exp * delta, axis=-2, keepdims=True)
        d_sinks = sum_to(d_sinks, problem.sinks.shape, xp=xp)
    if row.slope is not None:
        d_scores = d_scores * row.slope
    d_q = product(problem, d_scores, problem.k) * problem.scale
    d_k = product_over_rows(problem, d_scores, problem.q)
    return Differentials(
        q=sum_to(d_q, problem.q.shape, xp=xp),
        k=sum_to(d_k, problem.k.shape, xp=xp),
        v=sum_to(d_v, problem.v.shape, xp=xp),
        bias=d_bias,
        sinks=d_sinks,
    )


def push_forward(
    problem: AttentionProblem, tangent: Differentials, /
) -> tuple[Array, Array, Array, Array]:
    """Return output, lse, and how they change along a clean tangent.

    An lse has an axis of 1 at the end, where an output has the values'.
    """
    xp = problem.xp
    row = _attended(problem)
    keep = None if problem.dropout_mask is None else kept(problem)

    def to_values(weights: Array, v: Array) -> Array:
        if keep is not None:
            weights = xp.where(keep, weights, 0.0) / problem.keep_rate
        return product(problem, weights, v)

    weights = row.exp * row.factor
    out = to_values(weights, problem.v)
    d_out, d_lse = xp.zeros_like(out), xp.zeros_like(row.lse)
    if tangent.v is not None:
        d_out = d_out + to_values(weights, tangent.v)
    d_scores = _d_scores(problem, row, tangent)
    if d_scores is not None:
        d_lse = d_lse + xp.sum(weights * d_scores, axis=-1, keepdims=True)
    if tangent.sinks is not None:
        d_lse = d_lse + row.sink_exp * row.factor * tangent.sinks
    if d_scores is not None or tangent.sinks is not None:
        d_shifted = -d_lse if d_scores is None else d_scores - d_lse
        d_out = d_out + to_values(weights * d_shifted, problem.v)

    return (
        _replaced(out, row.is_bad_out, math.nan, xp=xp),
        _replaced(row.lse, row.is_bad_lse, math.nan, xp=xp),
        _replaced(d_out, row.is_bad_out, 0.0, xp=xp),
        _replaced(d_lse, row.is_bad_lse, 0.0, xp=xp),
    )


def _d_scores(
    problem: AttentionProblem, row: "_Attended", tangent: Differentials
) -> Array | None:
    """Return how the scores change, None if they do not."""
    xp = problem.xp
    d_scores = None
    if tangent.q is not None:
        d_scores = product(problem, tangent.q, transposed(problem.k, xp))
    if tangent.k is not None:
        by_keys = product(problem, problem.q, transposed(tangent.k, xp))
        d_scores = by_keys if d_scores is None else d_scores + by_keys
    if d_scores is not None:
        d_scores = d_scores if row.slope is None else d_scores * row.slope
    if tangent.bias is not None:
        d_scores = tangent.bias if d_scores is None else d_scores + tangent.bias
    return None if d_scores is None else _live_part(row.live, d_scores, xp=xp)


class _Attended(NamedTuple):
    """What the forward pass of some rows finds, as far as a derivative needs it."""

    exp: Array  # with `factor`, the weights before dropout
    sink_exp: Array | None  # (..., q_len, 1), as whatever is one to a row
    factor: Array
    lse: Array
    slope: Array | None  # of the softcap, None: 1
    live: Array | None  # which scores can change a weight, None: all
    is_empty: Array | bool
    is_bad_lse: Array | bool  # rows whose lse and output are to become NaN
    is_bad_out: Array | bool  # and those whose output is, at least


def _attended(
    problem: AttentionProblem, saved: tuple[Array, Array] | None = None, /
) -> _Attended:
    xp = problem.xp
    scores, before_bias = score_before_bias(problem)
    row = exponentials(scores.values, problem.sinks, xp=xp)
    lse = row.lse(xp=xp)
    if saved is None:
        factor = 1.0 / row.total
        is_bad_lse, is_bad_out = _bad_rows(problem, scores, row.empty)
    else:
        factor, is_bad_lse, is_bad_out = _from_saved(row.total, lse, *saved, xp=xp)
    # Only a bias can hide what is allowed.
    live = scores.allowed if problem.bias is None else scores.values != -math.inf
    slope = None
    if problem.softcap is not None:
        bent = before_bias / problem.softcap
        slope = _live_part(live, 1.0 - bent * bent, xp=xp)
    return _Attended(
        row.exp, row.sink_exp, factor, lse, slope, live, row.empty, is_bad_lse, is_bad_out
    )


def _bad_rows(
    problem: AttentionProblem, scores: Scores, is_empty: Array | bool, /
) -> tuple[Array | bool, Array | bool]:
    """Return which rows see something that makes their lse, or their output at least, NaN."""
    of_lse = bad_rows(problem, scores, is_empty)
    if problem.bad_values is None:
        return of_lse, of_lse
    return of_lse, sees(scores, problem.bad_values, xp=problem.xp) | of_lse


def _from_saved(
    total: Array, own_lse: Array, out: Array, lse: Array, /, *, xp: Any
) -> tuple[Array, Array, Array]:
    """Return the factor of the weights that a saved lse means, and which rows are bad.

    Maybe it is that of more keys than are at hand. The factor is found from the row's own lse,
    so that nothing is lost where the two are the same: exp(score - lse) has fewer digits.
    """
    has_weight = xp.isfinite(lse)
    share = xp.exp(own_lse - xp.where(has_weight, lse, 0.0))
    is_bad_lse = xp.isnan(lse)
    is_bad_out = xp.any(~xp.isfinite(out), axis=-1, keepdims=True) | is_bad_lse
    return xp.where(has_weight, share / total, 0.0), is_bad_lse, is_bad_out


def _live_part(live: Array | None, x: Array, /, *, xp: Any) -> Array:
    """Zero what a weight of 0 does not: NaN and inf."""
    return x if live is None or known_finite(x) else xp.where(live, x, 0.0)


def _replaced(x: Array, rows: Array | bool, value: float, /, *, xp: Any) -> Array:
    return x if rows is False else xp.where(rows, value, x)
