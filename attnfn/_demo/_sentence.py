"""The real input: what one layer of a sentence encoder computes on its way."""

from importlib import resources
from typing import NamedTuple

import numpy as np

from .._typing import Array

__all__ = ["MODEL", "Sentence", "load_sentence"]

MODEL = "all-MiniLM-L6-v2"


class Sentence(NamedTuple):
    """A sentence as one layer sees it; `minilm-SOURCE.txt` says where it comes from."""

    text: str
    tokens: list[str]
    query: Array  # (num_heads, length, head_dim), float32, as are the other two
    key: Array
    value: Array
    layer: int
    num_layers: int

    @property
    def num_heads(self) -> int:
        return self.query.shape[0]


def load_sentence() -> Sentence:
    """Read the sentence that comes with the package."""
    source = resources.files(__package__) / "minilm.npz"
    with source.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        return Sentence(
            text=str(stored["sentence"]),
            tokens=stored["tokens"].tolist(),
            query=stored["query"],
            key=stored["key"],
            value=stored["value"],
            layer=int(stored["layer"]),
            num_layers=int(stored["num_layers"]),
        )
