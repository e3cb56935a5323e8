"""The ways to compute one attention problem, and the choice between them."""

from collections.abc import Callable
from typing import TypeAlias

from .._checks import check_choice, check_engine_exists
from .._problem import AttentionProblem
from .._typing import Array, EngineName
from . import blockwise, dense

__all__ = ["choose_engine", "engine_name"]

Engine: TypeAlias = Callable[[AttentionProblem], tuple[Array, Array]]

#: None: named already, so that callers can be written for it, but not there yet.
ENGINES: dict[EngineName, Engine | None] = {
    "dense": dense.compute,
    "blockwise": blockwise.compute,
    "native": None,
}


def engine_name(problem: AttentionProblem, engine: EngineName, /) -> EngineName:  # noqa: ARG001
    """Return the engine asked for, or for "auto" the one that fits the problem."""
    check_choice("engine", engine, ("auto", *ENGINES))
    if engine == "auto":
        return "dense"
    check_engine_exists(engine, [name for name, compute in ENGINES.items() if compute])
    return engine


def choose_engine(problem: AttentionProblem, engine: EngineName, /) -> Engine:
    """Return the function that computes the problem."""
    compute = ENGINES[engine_name(problem, engine)]
    assert compute is not None, "engine_name() has refused those that do not exist"
    return compute
