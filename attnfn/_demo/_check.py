"""What each array library makes of the calls, beside what plain loops make of them."""

import math
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from .._attention import attention, select_engine
from .._typing import Array
from ._calls import Call
from ._libraries import LIBRARIES, Library, Place, places

__all__ = ["ROUNDING", "Outcome", "check_libraries"]

#: float32 rounds at 6e-8, and a score here is a sum of 32 products: its error, which becomes
#: the relative error of a weight, stays below some 1e-6. Ten times that is still far less than
#: what a wrong mask, a wrong scale or a wrong order of operations does.
ROUNDING = 1e-5

#: Where a device multiplies more roughly than float32 promises, as a GPU does in TF32, the
#: plain formula has a greater error too. Four times that, because other calls average over
#: fewer values; but never more than this, which is less than any option makes of a difference.
ROUGH_ROUNDING = 2e-2

#: Seconds in which to find the best of the times.
TIMING = 0.2


class Outcome(NamedTuple):
    """What became of one library on one device."""

    library: str
    version: str = ""
    device: str = ""
    engine: str = ""
    error: float = math.nan  # the greatest, as a part of the greatest value
    allowed: float = math.nan
    seconds: float = math.nan
    broken: str = ""  # what the library raised, without us
    failed: str = ""  # which of our calls raised, and what

    @property
    def disagrees(self) -> bool:
        """Whether a call raised or returned something wrong. A NaN is wrong."""
        return not self.broken and not self.error <= self.allowed


def check_libraries(
    calls: list[Call], libraries: Iterable[Library] = LIBRARIES
) -> Iterator[Outcome]:
    """Make every call on every device of every library that is installed."""
    for library in libraries:
        try:
            for place in places(library):
                yield _check(place, calls)
        # An installation can be broken in any way, and a device be missing.
        except Exception as error:
            yield Outcome(library.name, broken=_describe(error))


def _check(place: Place, calls: list[Call]) -> Outcome:
    outcome = Outcome(
        place.library.name,
        place.version(),
        place.device_name(),
        allowed=_allowed_error(place, calls[0]),
    )
    engines, errors = [], []
    for call in calls:
        arrays, options = _taken_to(place, call)
        try:
            engines.append(select_engine(*arrays, **options))
            out = place.library.to_numpy(attention(*arrays, **options))
        # Whatever it is, the report has a place for it.
        except Exception as error:
            return outcome._replace(failed=f"{call.name}: {_describe(error)}")
        errors.append(_error(out, call.answer))
    return outcome._replace(
        engine="/".join(dict.fromkeys(engines)),
        error=float(np.max(errors)),  # Python's max passes over a NaN
        seconds=_seconds(place, calls[0]),
    )


def _taken_to(place: Place, call: Call) -> tuple[list[Array], dict[str, Any]]:
    arrays = [place.asarray(x) for x in call.arrays]
    return arrays, {name: place.asarray(x) for name, x in call.options.items()}


def _error(out: Array, answer: Array) -> float:
    """Return the greatest difference as a part of the greatest value."""
    if out.shape != answer.shape:
        return math.inf
    return float(np.max(abs(out - answer)) / np.max(abs(answer)))


def _allowed_error(place: Place, plain: Call) -> float:
    """Return how far from the answer rounding alone may lead in this place."""
    query, key, value = plain.arrays
    scaled = query / np.float32(math.sqrt(query.shape[-1]))
    q, k_transposed, v = map(place.asarray, (scaled, np.swapaxes(key, -1, -2), value))
    weights = place.xp.exp(q @ k_transposed)
    out = (weights / place.xp.sum(weights, axis=-1, keepdims=True)) @ v
    plain_error = _error(place.library.to_numpy(out), plain.answer)
    return max(ROUNDING, min(4 * plain_error, ROUGH_ROUNDING))


def _seconds(place: Place, call: Call) -> float:
    """Return how long a call takes at best, the way back to NumPy included."""
    arrays, options = _taken_to(place, call)
    best, stop = math.inf, time.perf_counter() + TIMING
    while (start := time.perf_counter()) < stop:
        place.library.to_numpy(attention(*arrays, **options))
        best = min(best, time.perf_counter() - start)
    return best


def _describe(error: Exception) -> str:
    """Return the kind of an error and the first line that it has to say."""
    first_line = str(error).strip().partition("\n")[0]
    text = f"{type(error).__name__}: {first_line}".removesuffix(": ")
    # A terminal may have no more letters than that.
    return text.encode("ascii", "backslashreplace").decode()
