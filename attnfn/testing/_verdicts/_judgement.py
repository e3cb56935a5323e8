"""Whether an answer is right: what was wanted, and where it is missed."""

import math
from typing import NamedTuple

import numpy as np

from .._dialects._conventions import Conventions
from .._dialects._translate import translated
from .._questions._case import Case
from .._reference._oracle import oracle_with_lse
from .._simulation._model import Model
from .._simulation._simulate import VERY_LOW, Trace, simulate
from .._simulation._simulated_gradients import simulate_gradients
from ._answers import Answer
from ._tolerance import UNITS, Tolerance, tolerance_of

__all__ = [
    "Miss",
    "Question",
    "is_near",
    "lost_in_dtype",
    "misses",
    "part_of",
    "question_of",
    "wanted_parts",
]


class Question(NamedTuple):
    """A case in some conventions, and the right answer to it."""

    case: Case
    model: Model
    wanted: Answer
    tolerance: Tolerance
    trace: Trace
    dtype: str


class Miss(NamedTuple):
    """The place where an answer is furthest from what was wanted."""

    part: str  # "out", "lse", "gradient of query", ...
    at: tuple[int, ...]
    got: np.ndarray
    wanted: np.ndarray
    error: float


def question_of(case: Case, conventions: Conventions, dtype: str) -> Question:
    """Return what is right for a case that is posed in some conventions."""
    model = Model(conventions)
    clean = Model(_without_leaks(case, conventions))
    trace = simulate(case, clean)
    # In float64, and the precision that a convention may fix is the tolerance's to know.
    core = translated(
        oracle_with_lse, clean.conventions._replace(softmax_dtype="own", lse_dtype="compute")
    )
    gradients = {}
    if "gradients" in case.asks:
        gradients = simulate_gradients(case, clean, trace) or {}
    with np.errstate(all="ignore"):
        out, lse = core(case.query, case.key, case.value, **case.options)
    is_narrowed = conventions.softmax_dtype == "float32" and dtype == "float64"
    tolerance = tolerance_of(case, clean, trace, "float32" if is_narrowed else dtype)
    return Question(case, model, Answer(out, lse, gradients), tolerance, trace, dtype)


def _without_leaks(case: Case, conventions: Conventions) -> Conventions:
    if not case.is_poisoned:
        return conventions
    clean = conventions._replace(hidden_key="kept_out", hidden_value="kept_out")
    return clean._replace(mask_value="-inf")


def wanted_parts(question: Question) -> list[tuple[str, np.ndarray, float]]:
    """Return the arrays that are asked for, each with its name and tolerance."""
    asks, wanted, tolerance = question.case.asks, question.wanted, question.tolerance
    parts = []
    if "out" in asks and wanted.out is not None:
        parts.append(("out", wanted.out, tolerance.out))
    if "lse" in asks and wanted.lse is not None:
        parts.append(("lse", wanted.lse, tolerance.lse))
    if "gradients" in asks:
        greatest = max(
            (
                float(np.abs(g).max(initial=0.0))
                for g in wanted.gradients.values()
                if g is not None
            ),
            default=0.0,
        )
        parts += [
            (f"gradient of {name}", g, tolerance.gradients * max(greatest, 1.0))
            for name, g in wanted.gradients.items()
            if g is not None
        ]
    return parts


def part_of(answer: Answer, name: str) -> np.ndarray | None:
    """Return the array that an answer has under a name."""
    if name in ("out", "lse"):
        return getattr(answer, name)
    return answer.gradients.get(name.removeprefix("gradient of "))


def is_near(
    found: np.ndarray, wanted: np.ndarray, tolerance: float, *, may_leak: bool = False
) -> np.ndarray:
    """Return where an array is what was wanted; NaN and infinities have to be the same."""
    with np.errstate(all="ignore"):
        near = np.abs(found - wanted) <= tolerance
        near |= found == wanted
        near |= np.isnan(found) & (np.isnan(wanted) | may_leak)
        is_low = np.isfinite(wanted) & (wanted <= VERY_LOW)
        return np.where(is_low, np.isfinite(found) & (found < -1000), near)


def misses(question: Question, answer: Answer) -> list[Miss]:
    """Return where an answer is wrong: one place for each array that is asked for."""
    conventions = question.model.conventions
    may_leak = question.case.is_poisoned and "leaks" in (
        conventions.hidden_key,
        conventions.hidden_value,
    )
    found = []
    for name, wanted, tolerance in wanted_parts(question):
        got = part_of(answer, name)
        tolerance += lost_in_dtype(name, wanted, answer)
        if got is None:
            zeros = np.zeros_like(wanted)
            found += _miss(name, zeros, wanted, tolerance, may_leak=False)
        elif got.shape != wanted.shape:
            found.append(Miss(name, (), np.asarray(got), wanted, math.inf))
        else:
            found += _miss(name, got, wanted, tolerance, may_leak=may_leak)
    return found


def lost_in_dtype(name: str, wanted: np.ndarray, answer: Answer) -> float:
    """Return what is lost in the dtype that an answer has, right or wrong."""
    dtype = answer.lse_dtype if name == "lse" else answer.out_dtype
    greatest = np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0)
    return 2 * UNITS.get(dtype, 0.0) * float(greatest)


def _miss(
    name: str, got: np.ndarray, wanted: np.ndarray, tolerance: float, *, may_leak: bool
) -> list[Miss]:
    far = ~is_near(got, wanted, tolerance, may_leak=may_leak)
    if not far.any():
        return []
    with np.errstate(all="ignore"):
        error = np.where(far, np.abs(got - wanted), 0.0)
    error = np.where(far & ~np.isfinite(error), math.inf, error)
    at = tuple(int(i) for i in np.unravel_index(int(np.argmax(error)), error.shape))
    row = at if name == "lse" else at[:-1]
    return [Miss(name, row, got[row], wanted[row], float(error[at]))]
