"""Weights as a picture made of letters."""

from .._typing import Array

__all__ = ["SHADES", "draw_grid", "shades_for", "strongest_pair"]

#: Fillings of a cell, from the palest: what a terminal can print decides.
SHADES = {"unicode": " ░▒▓█", "ascii": " :=*#"}

#: The least weight of each filling but the first.
STEPS = (0.15, 0.30, 0.50, 0.75)

#: A filling of 6, in which two digits stand in the middle, and a gap.
CELL = 7


def shades_for(encoding: str | None) -> str:
    """Return the fillings that a stream of this encoding can print."""
    try:
        SHADES["unicode"].encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return SHADES["ascii"]
    return SHADES["unicode"]


def draw_grid(weights: Array, tokens: list[str], shades: str) -> str:
    """Return weights (length, length) in percent, a row per query and a column per key."""
    label = max(len(token) for token in tokens)
    header = f"{'':{label}} " + "".join(f"{token:^{CELL}}" for token in tokens)
    rows = [
        f"{token:>{label}} " + "".join(_cell(float(weight), shades) for weight in row)
        for token, row in zip(tokens, weights, strict=True)
    ]
    return "\n".join(line.rstrip() for line in [header, *rows])


def _cell(weight: float, shades: str) -> str:
    # What rounds to zero stays blank, and leaves the eye to the rest.
    number = f"{weight:.0%}".rstrip("%") if weight >= 0.005 else ""
    return number.center(CELL - 1, shades[sum(weight >= step for step in STEPS)]) + " "


def strongest_pair(weights: Array, tokens: list[str]) -> tuple[str, str, float]:
    """Return the word that attends most to another word, that other word, and how much."""
    words = [i for i, token in enumerate(tokens) if token.isalpha()]
    pairs = [(float(weights[i, j]), i, j) for i in words for j in words if i != j]
    weight, i, j = max(pairs)
    return tokens[i], tokens[j], weight
