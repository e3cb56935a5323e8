"""What the oracle computes in: float64, or as many digits as are asked for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from ..._checks import check_integer

__all__ = ["Numbers", "numbers"]


class Numbers(NamedTuple):
    """The functions of one kind of number, each over arrays of them."""

    of: Callable[[Any], Any]  # float64, which is exact
    exp: Callable[[Any], Any]
    log: Callable[[Any], Any]
    tanh: Callable[[Any], Any]
    sqrt: Callable[[Any], Any]


@contextmanager
def numbers(digits: int | None, /) -> Iterator[Numbers]:
    """Compute in float64, or for the time of a block in numbers of mpmath with `digits`."""
    # What is not finite is part of the answer.
    with np.errstate(all="ignore"):
        if digits is None:
            yield Numbers(np.asarray, np.exp, np.log, np.tanh, np.sqrt)
            return
        check_integer("digits", digits, least=1)
        try:
            import mpmath
        except ImportError as error:
            message = f'`digits` needs mpmath: pip install "attnfn[testing]" ({error}).'
            raise ImportError(message, name=error.name) from error
        functions = (mpmath.mpf, mpmath.exp, mpmath.log, mpmath.tanh, mpmath.sqrt)
        with mpmath.workdps(int(digits)):
            yield Numbers(*(np.frompyfunc(function, 1, 1) for function in functions))
