"""The array library's own kernel, where there is one that keeps to these semantics."""

from typing import Any, NamedTuple

from .._backend import full_precision, library_name, native_kernel
from .._problem import AttentionProblem, Span, narrow
from .._scores import allowed_of, clean, evaluate
from .._tiles import compute_by_rows, compute_vjp, visible
from .._typing import Array

__all__ = ["compute", "obstacle"]


def obstacle(problem: AttentionProblem) -> str | None:
    """Return what of the problem no kernel can do here, None if one can do all of it."""
    if problem.score_mod is not None:
        return "`score_mod`"
    kernel = native_kernel(problem.q)
    if kernel is None:
        return f"{library_name(problem.xp)} arrays"
    return kernel.supports(problem)


def is_best(problem: AttentionProblem) -> bool:
    """Return whether there is a kernel that can do it, and is faster than the definition."""
    if problem.score_mod is not None:
        return False
    kernel = native_kernel(problem.q)
    return (
        kernel is not None and kernel.is_worth_it(problem) and kernel.supports(problem) is None
    )


def compute(problem: AttentionProblem) -> tuple[Array, Array]:
    """Return the output and the lse, both in the compute dtype."""
    kernel = native_kernel(problem.q)
    assert kernel is not None, "obstacle() has named the library"
    with full_precision(problem.q):
        return kernel.attention(problem, DEFINITION)


class Definition(NamedTuple):
    """What a kernel may ask about a problem, so that it has no opinion of its own."""

    clean: Any = clean
    evaluate: Any = evaluate
    allowed: Any = allowed_of
    attend: Any = compute_by_rows

    def narrow(self, problem: Any, rows: tuple[Any, int], keys: tuple[Any, int], /) -> Any:
        """Return the problem of some rows and keys, each given by the first and the number."""
        return narrow(problem, Span(*rows), Span(*keys))

    def visible(self, problem: Any, start: int, size: int, /) -> Span:
        """Return the keys that some rows may see."""
        return visible(problem, Span(start, size))

    def pull_back(self, problem: Any, d_out: Any, d_lse: Any, saved: Any, /) -> dict[str, Any]:
        """Return the gradients by name."""
        return compute_vjp(problem, d_out, d_lse, saved)._asdict()


DEFINITION = Definition()
