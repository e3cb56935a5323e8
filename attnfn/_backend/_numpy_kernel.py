"""Attention on NumPy arrays, in tiles that stay in the cache, on several threads.

Everything happens in place, in buffers that each thread keeps. A tile is some query rows of
the heads that share a key/value head, against a few hundred keys. What it does is what the
definition does to all scores, with these shortcuts:

- Where the norms of queries and keys bound the scores, no maximum is subtracted. Elsewhere
  that of the first keys is, within the product, and only sums that are too large show that a
  later key has a much greater score.
- Weights of less than about exp(-80) of the row's greatest count as that, since products with
  denormal numbers crawl. What is hidden has the weight 0 nevertheless.
- Keys and values are taken to be finite. A NaN or an inf shows in the result or in a norm,
  and then all is computed again, with care.
"""

import math
import threading
from functools import partial
from typing import Any

import numpy as np

from .._typing import Array
from ._numpy_plan import LIMITS, Evaluate, Piece, Plan
from ._numpy_rows import Buffers, RunningRows, UnusualError
from ._numpy_threads import for_each, num_workers

__all__ = ["attention", "is_worth_it", "supports"]

#: Below so many scores the definition is faster.
MANY_SCORES = 2**17

#: So few rows of a key/value head take little time beside the reading of its keys.
FEW_ROWS = 8

#: Seconds of work that are worth a second thread.
WORTH_A_THREAD = 1e-3


def supports(problem: Any, /) -> str | None:
    """Return what this kernel cannot do of a problem, None if it can do all of it."""
    if np.dtype(problem.dtype) not in LIMITS:
        return f"the compute dtype {np.dtype(problem.dtype)}"
    return None


def is_worth_it(problem: Any, /) -> bool:
    """Return whether the kernel is faster than the definition, which has less to prepare."""
    return math.prod(problem.shape) >= MANY_SCORES and not _is_step(problem)


def _is_step(problem: Any, /) -> bool:
    """Return whether it is a step of decoding, of which all keys are read by BLAS twice."""
    return (
        problem.group * problem.shape[-2] <= FEW_ROWS
        and problem.is_of_arrays
        and problem.window == (None, None)
        and problem.segments is None
        and problem.softcap is None
    )


def attention(problem: Any, definition: Any, /) -> tuple[Array, Array]:
    """Return the output and the lse of a problem, both in the compute dtype."""
    ask = partial(definition.evaluate, problem)
    try:
        return _attend(problem, ask, is_clean=False)
    except UnusualError:
        # A NaN, an inf, or a score beyond what the dtype can hold.
        return _attend(definition.clean(problem)._replace(scale=1.0), ask, is_clean=True)


def _attend(problem: Any, evaluate: Evaluate, /, *, is_clean: bool) -> tuple[Array, Array]:
    workers = num_workers()
    plan = Plan(problem, evaluate, is_clean=is_clean)
    workers = workers if plan.seconds > WORTH_A_THREAD else 1
    for_each(lambda unit: _compute(plan, unit), plan.units, workers=workers)
    # Where no array has heads, the results have none either.
    rows = problem.shape[:-1]
    return plan.out.reshape(*rows, plan.out.shape[-1]), plan.lse.reshape(rows)


class _Kept(threading.local):
    """The buffers of a thread, absent while it is at work: a given function may come back."""

    buffers: Buffers | None = None


_kept = _Kept()


def _compute(plan: Plan, unit: list[Piece], /) -> None:
    """Compute one unit of the work, and write the results to where they belong."""
    scratch, _kept.buffers = _kept.buffers or Buffers(), None
    try:
        with np.errstate(all="ignore"):
            parts = [
                RunningRows(plan, piece, scratch, Buffers() if len(unit) > 1 else scratch)
                for piece in unit
            ]
            for keys in plan.tiles(unit):
                asked = plan.ask(unit[0].rows, keys)
                for part in parts:
                    part.add(keys, asked)
            for part in parts:
                part.finish()
    finally:
        _kept.buffers = scratch
