"""A few rows at a time: memory that grows with the length, not with its square."""

from .._backend import full_precision, with_gradient
from .._problem import AttentionProblem
from .._tiles import compute_by_rows, compute_vjp
from .._typing import Array

__all__ = ["compute", "obstacle"]


def obstacle(problem: AttentionProblem) -> str | None:
    """Return why no rows of the problem can be cut, None if they can."""
    is_known = all(type(n) is int for n in problem.shape)
    return None if is_known else "lengths that are not known"


def compute(problem: AttentionProblem) -> tuple[Array, Array]:
    """Return the output and the lse, both in the compute dtype."""
    with full_precision(problem.q):
        if not problem.is_of_arrays:
            # What a function captured may have to be differentiated: by ordinary operations.
            return compute_by_rows(problem)
        return with_gradient(compute_by_rows, _gradients, problem)


def _gradients(
    problem: AttentionProblem, d_out: Array, d_lse: Array | None, saved: tuple[Array, Array], /
) -> dict[str, Array | None]:
    return compute_vjp(problem, d_out, d_lse, saved)._asdict()
