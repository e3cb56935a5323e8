"""What `python -m attnfn` says: first the sentence, then the libraries."""

import textwrap
from collections.abc import Sequence

from .._typing import Array
from ._calls import Call
from ._check import ROUNDING, Outcome
from ._grid import draw_grid, strongest_pair
from ._libraries import LIBRARIES
from ._sentence import MODEL, Sentence

__all__ = ["describe_check", "describe_outcome", "describe_sentence", "verdict"]

#: A terminal.
WIDTH = 80

#: library, version, device, engine, error, time
ROW = "{:16}  {:12}  {:10}  {:9}  {:>8}  {:>9}"


def describe_sentence(sentence: Sentence, head: int, weights: Array, shades: str) -> str:
    """Return the sentence, how to read the grid of one head, and the grid."""
    row, column, weight = strongest_pair(weights, sentence.tokens)
    introduction = (
        f"{MODEL}, layer {sentence.layer} (of 0 to {sentence.num_layers - 1}), "
        f"head {head} (of 0 to {sentence.num_heads - 1}, see --head). "
        "A row shows how a token divides its attention, in percent. "
        f'Among the words, "{row}" attends most to "{column}": {weight:.0%}.'
    )
    grid = draw_grid(weights, sentence.tokens, shades)
    return f'"{sentence.text}"\n\n{_wrap(introduction)}\n\n{grid}'


def describe_check(calls: Sequence[Call]) -> str:
    """Return what is about to be checked, and the head of the table."""
    introduction = (
        "The same sentence in every array library installed here, beside plain loops in "
        f"float64; looked for {', '.join(library.name for library in LIBRARIES)}. "
        f"{len(calls)} calls: {', '.join(call.name for call in calls)}. "
        "The error is the greatest of all, as a part of the greatest value: float32, so "
        f"{ROUNDING:.0e} is rounding. The time is that of the plain call."
    )
    head = ROW.format("library", "version", "device", "engine", "error", "time")
    return f"{_wrap(introduction)}\n\n{head}"


def describe_outcome(outcome: Outcome) -> str:
    """Return a row of the table."""
    if outcome.broken:
        return _row(outcome.library, f"cannot be used: {outcome.broken}")
    if outcome.failed:
        start = f"{outcome.library:16}  {outcome.version:12}"
        return _row(start, f"{outcome.device:10}  FAILED at {outcome.failed}")
    row = ROW.format(
        outcome.library,
        outcome.version,
        outcome.device,
        outcome.engine,
        f"{outcome.error:.1e}",
        f"{1000 * outcome.seconds:.2f} ms",
    )
    if outcome.disagrees:
        return f"{row}  WRONG"
    if outcome.allowed > ROUNDING:
        note = f"float32 products are rough there: {outcome.allowed:.0e} is rounding"
        return f"{row}\n{'':16}  ({note})"
    return row


def verdict(outcomes: Sequence[Outcome]) -> str:
    """Return who agrees with the loops, who does not, and who could not be asked."""
    wrong = [outcome.library for outcome in outcomes if outcome.disagrees]
    broken = [outcome.library for outcome in outcomes if outcome.broken]
    right = [x.library for x in outcomes if not x.disagrees and not x.broken]
    sentences = (
        (right, "{} agrees with the loops.", "{} agree with the loops."),
        (wrong, "{} DOES NOT AGREE with the loops.", "{} DO NOT AGREE with the loops."),
        (broken, "{} cannot be used.", "{} cannot be used."),
    )
    return " ".join(
        (several if len(set(names)) > 1 else one).format(_listed(names))
        for names, one, several in sentences
        if names
    )


def _listed(names: Sequence[str]) -> str:
    *others, last = dict.fromkeys(names)
    return f"{', '.join(others)} and {last}" if others else last


def _row(start: str, text: str) -> str:
    return textwrap.fill(f"{start:16}  {text}", WIDTH, subsequent_indent=" " * 18)


def _wrap(text: str) -> str:
    return textwrap.fill(text, WIDTH)
