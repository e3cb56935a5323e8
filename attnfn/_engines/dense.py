"""The definition: every score in memory at once.

The other engines are right exactly when they agree with this one.
"""

import math

from .._numerics import cast, nonfinite_vectors, softmax, without
from .._problem import AttentionProblem
from .._scores import Scores, by_query_head, kept, product, score, sees
from .._typing import Array

__all__ = ["compute", "weigh"]


def compute(problem: AttentionProblem) -> tuple[Array, Array]:
    """Return the output and the lse, both in the compute dtype."""
    xp = problem.xp
    scores = score(problem)
    weights, lse, is_bad = _weights(problem, scores)
    if problem.dropout_mask is not None:
        weights = xp.where(kept(problem), weights, 0.0) / problem.keep_rate

    v = cast(problem.v, problem.dtype, xp=xp)
    bad_v = nonfinite_vectors(v, xp=xp)
    out = product(problem, weights, without(v, bad_v, xp=xp))
    lse = lse if is_bad is False else xp.where(is_bad, math.nan, lse)
    if bad_v is not None:
        is_bad = sees(scores, by_query_head(problem, bad_v), xp=xp) | is_bad
    return out if is_bad is False else xp.where(is_bad, math.nan, out), lse[..., 0]


def weigh(problem: AttentionProblem) -> Array:
    """Return the weights alone, before dropout."""
    scores = score(problem)
    weights, _, is_bad = _weights(problem, scores)
    if is_bad is False:
        return weights
    if scores.allowed is not None:
        is_bad = is_bad & scores.allowed
    return problem.xp.where(is_bad, math.nan, weights)


def _weights(problem: AttentionProblem, scores: Scores) -> tuple[Array, Array, Array | bool]:
    """Return the weights, the lse, and which rows are to become NaN."""
    xp = problem.xp
    weights, lse, empty = softmax(scores.values, problem.sinks, xp=xp)
    is_bad = sees(scores, scores.bad_keys, xp=xp)
    if scores.bad_queries is not None:
        is_bad = (scores.bad_queries & ~empty) | is_bad
    if scores.allowed is not None and is_bad is not False:
        # They are 0 already. But where a hidden value is so large that its product with the
        # gradient of the output is inf, the gradient of a weight must not be 0 * inf.
        weights = xp.where(scores.allowed, weights, 0.0)
    return weights, lse, is_bad
