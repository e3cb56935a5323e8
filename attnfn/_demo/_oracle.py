"""Attention in plain loops, the measure of every library. It shares nothing with the rest."""

import math
from collections.abc import Callable

__all__ = ["oracle"]

Vectors = list[list[float]]


def oracle(
    query: list[Vectors],
    key: list[Vectors],
    value: list[Vectors],
    *,
    may_attend: Callable[[int, int], bool] = lambda _i, _j: True,
    bias: Callable[[int, int], float] = lambda _i, _j: 0.0,
    softcap: float | None = None,
) -> list[Vectors]:
    """Return what each query of each head gets: one at a time, in Python's float64."""

    def attend(i: int, q: list[float], keys: Vectors, values: Vectors) -> list[float]:
        seen = [j for j in range(len(keys)) if may_attend(i, j)]
        scores = [_dot(q, keys[j]) / math.sqrt(len(q)) for j in seen]
        if softcap is not None:
            scores = [softcap * math.tanh(s / softcap) for s in scores]
        scores = [s + bias(i, j) for s, j in zip(scores, seen, strict=True)]
        peak = max(scores, default=0.0)
        weights = [math.exp(s - peak) for s in scores]
        columns = ([values[j][c] for j in seen] for c in range(len(values[0])))
        return [_dot(weights, column) / (math.fsum(weights) or 1.0) for column in columns]

    group = len(query) // len(key)
    return [
        [attend(i, q, key[head // group], value[head // group]) for i, q in enumerate(queries)]
        for head, queries in enumerate(query)
    ]


def _dot(a: list[float], b: list[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))
