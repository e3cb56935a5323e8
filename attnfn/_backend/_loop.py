"""A loop over rows, where it is Python that loops."""

from collections.abc import Callable
from typing import Any

from .._typing import Array

__all__ = ["Add", "Body", "Rows", "loop"]

#: From where rows start to the arrays that belong to them, and to parts of what is added up.
Body = Callable[[int | Array], tuple[tuple[Array, ...], Any]]
#: From the sums so far, such parts, and where the rows start, to the sums to go on with.
Add = Callable[[Any, Any, int | Array], Any]
#: The arrays of consecutive rows, in their order.
Rows = list[tuple[Array, ...]]


def loop(body: Body, add: Add, starts: range, sums: Any, /) -> tuple[Any, Rows]:
    """Call `body` at each start, add up its parts, and collect its rows."""
    collected = []
    for start in starts:
        rows, parts = body(start)
        sums = add(sums, parts, start)
        collected.append(rows)
    return sums, collected
