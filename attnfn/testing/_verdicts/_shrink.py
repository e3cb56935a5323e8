"""From a case that is answered wrongly to a smaller one that is, too."""

from collections.abc import Callable, Iterator

import numpy as np

from .._questions._case import Case, taken
from ._asked import Asked

__all__ = ["shrunk"]

#: The axis of the query or the value that says how much there is to take from.
_SIZES = {"batch": -4, "head": -3, "row": -2, "kv": -2, "head_dim": -1, "value_dim": -1}


def shrunk(asked: Asked, ask: Callable[[Case], Asked], attempts: int) -> Asked:
    """Return the smallest question found that is answered wrongly, in so many attempts."""
    for axis in _SIZES:
        for indices in _smaller(asked, axis):
            if attempts == 0:
                return asked
            attempts -= 1
            found = _asked_again(asked.case, axis, indices, ask)
            if found is not None and found.misses and found.misses[0].at:
                asked = found
                break
    return asked


def _asked_again(
    case: Case, axis: str, indices: np.ndarray, ask: Callable[[Case], Asked]
) -> Asked | None:
    smaller = taken(case, axis, indices)
    if axis == "head":
        smaller = taken(smaller, "kv_head", indices)
    try:
        return ask(smaller)
    except (ValueError, TypeError, IndexError):  # there is no such problem
        return None


def _smaller(asked: Asked, axis: str) -> Iterator[np.ndarray]:
    """Yield what to take of an axis: the place that is wrong, either half, all but one."""
    case = asked.case
    array = case.value if axis in ("value_dim", "kv") else case.query
    if array.ndim < -_SIZES[axis]:
        return
    size = array.shape[_SIZES[axis]]
    is_grouped = axis == "head" and size != case.key.shape[-3]
    if size < 2 or is_grouped or (axis == "batch" and _is_cumulative(case)):
        return
    place = _place(asked, axis)
    if place is not None:
        yield np.asarray([place])
    else:
        yield np.arange(1)
    yield np.arange(min(2, size - 1))
    yield np.arange(size // 2)
    yield np.arange(size // 2, size)


def _is_cumulative(case: Case) -> bool:
    lengths = case.options.get("lengths")
    return lengths is not None and len(lengths) != len(case.query)


def _place(asked: Asked, axis: str) -> int | None:
    """Return where along an axis the worst answer is."""
    miss = asked.misses[0]
    position = {"batch": -3, "head": -2, "row": -1}.get(axis)
    if position is None or miss.part not in ("out", "lse") or len(miss.at) < -position:
        return None
    return miss.at[position]
