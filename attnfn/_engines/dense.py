"""The definition: every score in memory at once.

The other engines are right exactly when they agree with this one.
"""

import math

from .._backend import (
    can_be_cut,
    compiled,
    differentiated_as,
    full_precision,
    may_look,
    transposed,
    unless_nonfinite,
    variable,
)
from .._problem import AttentionProblem
from .._rows import attend
from .._scores import NotFiniteError, clean, product, trust
from .._typing import Array

__all__ = ["compute"]

#: So few numbers in keys and values that to clean them takes less time than a condition.
FEW_NUMBERS = 2**12


def compute(problem: AttentionProblem) -> tuple[Array, Array]:
    """Return the output and the lse, if it is wanted, both in the compute dtype."""
    q, k, v = problem.q, problem.k, problem.v
    # Lengths may be symbols where no value may be looked at, and have no order.
    if may_look(q, k, v) and _has_few_rows(problem) and problem.is_of_arrays:
        try:
            with full_precision(q, is_trusted=True):
                return attend(trust(problem))
        except NotFiniteError:
            pass
    with full_precision(q):
        return _computed(problem)


def _computed(problem: AttentionProblem, /) -> tuple[Array, Array]:
    if not problem.is_of_arrays:
        # What a function captured may have changed by the next call.
        return _compute(problem)
    # Lengths may be symbols, which have no order, where rows cannot be cut.
    if can_be_cut(problem) and _has_few_rows(problem) and not _has_few_numbers(problem):
        return compiled(_few, _movable(problem))
    if _is_open(problem):
        return compiled(_open, problem)
    return compiled(_compute, _movable(problem))


def _movable(problem: AttentionProblem, /) -> AttentionProblem:
    if problem.uses_positions:
        # Decoding from a cache moves it at every step.
        return problem._replace(q_offset=variable(problem.q_offset, problem.q))
    return problem


def _compute(problem: AttentionProblem, /) -> tuple[Array, Array]:
    return attend(clean(problem))


def _open(problem: AttentionProblem, /) -> tuple[Array, Array]:
    """Compute what hides nothing, for which nothing has to be cleaned."""
    return differentiated_as(_compute, _poisoned, problem)


def _poisoned(problem: AttentionProblem, /) -> tuple[Array, Array]:
    """Return NaN in every row that has a bad query, or that sees a bad key or value: in all."""
    xp = problem.xp
    problem = trust(problem)._replace(is_trusted=False)
    # 0 * NaN is NaN, and so is 0 * inf.
    q, k, v = (0.0 * x for x in (problem.q, problem.k, problem.v))
    both = (k + v,) if k.shape == v.shape else (k, v)
    bad = sum(xp.sum(x, axis=(-2, -1), keepdims=True) for x in both)
    # A NaN in a query is in all its scores.
    return attend(problem._replace(q=problem.q + (q + bad)))


def _is_open(problem: AttentionProblem, /) -> bool:
    """Return whether each row sees all keys of its own head, and is asked for its output."""
    # A bias may hide all keys from a row, a dropout mask keep none: 0 even with a bad query.
    terms = (problem.mask, problem.segments, problem.bias, problem.dropout_mask)
    is_told = problem.wants_lse or problem.window != (None, None)
    return problem.group == 1 and not is_told and all(x is None for x in terms)


def _few(problem: AttentionProblem, /) -> tuple[Array, Array]:
    """Compute few rows, for which cleaning keys and values would take longest."""
    return unless_nonfinite(_trusting, _compute, problem)


def _trusting(problem: AttentionProblem, /) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Return the results of what is taken to be finite, and where it shows if it is not."""
    problem = trust(problem)._replace(is_trusted=False)
    out, lse = attend(problem)
    return (out, lse), (product(problem, problem.q, transposed(problem.k, problem.xp)), out)


def _has_few_rows(problem: AttentionProblem) -> bool:
    """Return whether a look at the products is cheaper than one at all keys and values."""
    rows = problem.group * problem.shape[-2]
    return rows < problem.k.shape[-1] + problem.v.shape[-1]


def _has_few_numbers(problem: AttentionProblem) -> bool:
    return math.prod(problem.k.shape) + math.prod(problem.v.shape) <= FEW_NUMBERS
