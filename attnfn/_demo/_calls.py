"""The calls that every library is asked to make, each with its answer from plain loops."""

from typing import Any, NamedTuple

import numpy as np

from .._typing import Array
from ._oracle import oracle
from ._sentence import Sentence

__all__ = ["Call", "make_calls"]


class Call(NamedTuple):
    """One call of `attention`: NumPy arrays in float32, and its right answer in float64."""

    name: str
    arrays: tuple[Array, Array, Array]
    options: dict[str, Any]
    answer: Array


def make_calls(sentence: Sentence) -> list[Call]:
    """Return the calls, one for each thing that a library could get wrong by itself."""
    query, key, value = sentence.query, sentence.key, sentence.value
    positions = np.arange(len(sentence.tokens))
    distance = abs(positions[:, None] - positions)

    def call(name: str, rules: dict[str, Any], *, every: int = 1, **options: Any) -> Call:
        # `rules` tell the loops what `options` tell attnfn.
        arrays = (query, key[::every], value[::every])
        answer = oracle(*(x.tolist() for x in arrays), **rules)
        return Call(name, arrays, options, np.asarray(answer))

    return [
        call("plain", {}),
        call("causal", {"may_attend": lambda i, j: j <= i}, is_causal=True),
        call("window", {"may_attend": lambda i, j: -2 <= j - i <= 1}, window_size=(2, 1)),
        call(
            "a mask that empties a row",
            {"may_attend": lambda i, j: i != 0 and abs(i - j) != 1},
            mask=(positions[:, None] != 0) & (distance != 1),
        ),
        call("grouped heads", {}, every=4),
        call(
            "softcap and bias",
            {"softcap": 3.0, "bias": lambda i, j: -0.25 * abs(i - j)},
            softcap=3.0,
            bias=np.float32(-0.25) * distance.astype("float32"),
        ),
    ]
