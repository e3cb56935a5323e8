"""The ways to compute one attention problem, and the choice between them."""

from collections.abc import Callable
from typing import TypeAlias

from .._backend import can_be_cut
from .._checks import check_able, check_choice
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
#: What keeps an engine from computing a problem, in words; "dense" can do everything.
OBSTACLES: dict[str, Callable[[AttentionProblem], str | None]] = {
    "blockwise": blockwise.obstacle,
    "native": native.obstacle,
}

#: Scores of a head from which on it is worth while to have only some of them at a time.
MANY_SCORES = 2**16
#: Queries of a key/value head of which the scores are fewer than the numbers in its keys.
FEW_ROWS = 16


def engine_name(problem: AttentionProblem, engine: EngineName, /) -> EngineName:
    """Return the engine asked for, or for "auto" the one that fits the problem."""
    if isinstance(engine, str) and engine == "auto":
        return _fitting(problem)
    check_choice("engine", engine, ("auto", *ENGINES))
    obstacle = OBSTACLES.get(engine)
    if obstacle is not None:
        check_able(engine, obstacle(problem))
    return engine


def _fitting(problem: AttentionProblem, /) -> EngineName:
    """Choose an engine: what the docstring of `select_engine` says, in its order."""
    if native.is_best(problem):
        return "native"
    if not can_be_cut(problem):
        return "dense"
    *_, q_len, kv_len = problem.shape
    if problem.group * q_len <= FEW_ROWS or q_len * kv_len < MANY_SCORES:
        return "dense"
    return "blockwise"


def choose_engine(problem: AttentionProblem, engine: EngineName, /) -> Engine:
    """Return the function that computes the problem."""
    return ENGINES[engine_name(problem, engine)]
