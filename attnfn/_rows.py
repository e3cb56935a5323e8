"""Attention over whole rows: every engine of ours ends here."""

import math

from ._backend import divided, may_have_gradient, transposed
from ._checks import agree, shape_of
from ._numerics import Exponentials, exponentials
from ._problem import AttentionProblem
from ._scores import Scores, bad_rows, check_trust, kept, product, score, sees
from ._typing import Array, Namespace

__all__ = ["attend", "weigh", "whole"]


def attend(problem: AttentionProblem) -> tuple[Array, Array]:
    """Return the output and the lse of a clean problem, both in the compute dtype.

    The lse is None where it is not wanted.
    """
    xp = problem.xp
    scores = score(problem)
    weights, row, is_bad = _weights(problem, scores)
    if problem.dropout_mask is not None:
        weights = xp.where(kept(problem), weights, 0.0) / problem.keep_rate
    v = transposed(problem.v, xp) if problem.is_turned else problem.v
    out = product(problem, weights, v)
    check_trust(problem, out)

    lse = _replaced(row.lse(xp=xp), is_bad, xp=xp)[..., 0] if problem.wants_lse else None
    if problem.bad_values is not None:
        is_bad = sees(scores, problem.bad_values, xp=xp) | is_bad
    return _replaced(out, is_bad, xp=xp), lse


def weigh(problem: AttentionProblem) -> Array:
    """Return the weights alone, before dropout."""
    scores = score(problem)
    weights, _, is_bad = _weights(problem, scores)
    if is_bad is False:
        return weights
    if scores.allowed is not None:
        is_bad = is_bad & scores.allowed
    return problem.xp.where(is_bad, math.nan, weights)


def _weights(
    problem: AttentionProblem, scores: Scores
) -> tuple[Array, Exponentials, Array | bool]:
    """Return the weights, what they were made of, and which rows are to become NaN."""
    xp = problem.xp
    bound = scores.bound if problem.sinks is None else math.inf
    # What a function returned may be an array of its own.
    row = exponentials(
        scores.values,
        problem.sinks,
        xp=xp,
        bound=bound,
        may_overwrite=problem.score_mod is None,
    )
    weights = divided(row.exp, row.total)
    is_bad = bad_rows(problem, scores, row.empty)
    if scores.allowed is not None and may_have_gradient(weights):
        # They are 0 already. But where a hidden value is so large that its product with the
        # gradient of the output is inf, the gradient of a weight must not be 0 * inf.
        weights = xp.where(scores.allowed, weights, 0.0)
    return weights, row, is_bad


def _replaced(x: Array, rows: Array | bool, /, *, xp: Namespace) -> Array:
    return x if rows is False else xp.where(rows, math.nan, x)


def whole(problem: AttentionProblem, x: Array, shape: tuple[int, ...], /) -> Array:
    """Write out the axes of a result along which nothing has varied so far."""
    own = shape_of(x)
    is_whole = own == shape or (len(own) == len(shape) and all(map(agree, own, shape)))
    return x if is_whole else problem.xp.broadcast_to(x, shape)
