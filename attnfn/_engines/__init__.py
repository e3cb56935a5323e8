"""The ways to compute one attention problem, and the choice between them."""

from collections.abc import Callable
from typing import TypeAlias

from .._checks import check_choice, check_native
from .._problem import AttentionProblem
from .._typing import Array, EngineName
from . import blockwise, dense, native

__all__ = ["choose_engine", "engine_name"]

Engine: TypeAlias = Callable[[AttentionProblem], tuple[Array, Array]]

ENGINES: dict[EngineName, Engine] = {
    "dense": dense.compute,
    "blockwise": blockwise.compute,
    "native": native.compute,
}


def engine_name(problem: AttentionProblem, engine: EngineName, /) -> EngineName:
    """Return the engine asked for, or for "auto" the one that fits the problem."""
    check_choice("engine", engine, ("auto", *ENGINES))
    if engine == "auto":
        return "dense"
    if engine == "native":
        check_native(native.obstacle(problem))
    return engine


def choose_engine(problem: AttentionProblem, engine: EngineName, /) -> Engine:
    """Return the function that computes the problem."""
    return ENGINES[engine_name(problem, engine)]
