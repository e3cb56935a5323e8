"""Why answers are wrong: the fewest hypotheses that predict every one, right ones too."""

from collections.abc import Iterator

from .._dialects import DIALECTS
from .._dialects._conventions import Conventions
from .._verdicts._asked import Asked
from .._verdicts._report import Diagnosis
from .._verdicts._tolerance import UNITS
from ._faults import FAULTS
from ._hypotheses import Hypothesis, hypotheses
from ._prediction import Predictions, Supposed
from ._search import Search

__all__ = ["diagnose"]

#: What shows a lower precision, which is not a matter of one option.
_SHOW_PRECISION = ("plain", "many_keys", "large_logits", "long_sums", "half_overflow")


def diagnose(asked: list[Asked], conventions: Conventions) -> tuple[Diagnosis, ...]:
    """Return what accounts for the wrong answers."""
    found = list(_of_form(asked))
    judged = [x for x in asked if x.verdict in ("right", "wrong") and not _is_of_form(x)]
    judged.sort(key=lambda x: UNITS[x.question.dtype])  # stable: then as they were asked
    if not any(x.misses for x in judged):
        return tuple(found)
    predictions = Predictions(judged)
    possible = [h for h in hypotheses(conventions) if _is_possible(h, judged)]
    sets, unexplained = Search(predictions, possible).smallest()
    features = _features([judged[i] for i in unexplained])
    if sets:
        wrong = _features([x for x in judged if x.misses])
        is_minor = 2 * len(features) <= len(wrong)
        # What says only roughly what answers are accounts for few of them by chance.
        first = [h for h in sets[0] if is_minor or not h.is_rough]
        found += [_diagnosis(h, sets, predictions) for h in first]
    if unexplained:
        text = "no mistake that is known, nor a few of them, gives these answers"
        found.append(Diagnosis("unexplained", text, features))
    return tuple(found)


def _of_form(asked: list[Asked]) -> Iterator[Diagnosis]:
    """Yield what is wrong whatever the numbers are."""
    names = dict.fromkeys(name for x in asked for name in x.answer.faults)
    for name in names:
        features = _features([x for x in asked if name in x.answer.faults])
        yield Diagnosis(name, FAULTS[name], features)


def _is_of_form(asked: Asked) -> bool:
    """Return whether the form of an answer alone is wrong, or so wrong that nothing is said."""
    is_comparable = all(miss.got.shape == miss.wanted.shape for miss in asked.misses)
    return not is_comparable or (bool(asked.answer.faults) and not asked.misses)


def _is_possible(hypothesis: Hypothesis, asked: list[Asked]) -> bool:
    if hypothesis.name != "low_precision":
        return True
    return any(x.misses and x.case.feature in _SHOW_PRECISION for x in asked)


def _features(asked: list[Asked]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(x.case.feature for x in asked))


def _diagnosis(one: Hypothesis, sets: list[Supposed], predictions: Predictions) -> Diagnosis:
    """Say what one hypothesis of the first set is, and what may be said instead."""
    rest = tuple(h for h in sets[0] if h is not one)
    shown = [
        x
        for i, x in enumerate(predictions.asked)
        if x.verdict == "wrong" and one.concerns(x.case) and not predictions.fit(i, rest)
    ]
    others = [set(s) - set(rest) for s in sets[1:] if set(rest) <= set(s)]
    instead = [h.name for other in others for h in other if one.is_rough or not h.is_rough]
    return Diagnosis(
        one.name,
        one.sentence,
        _features(shown),
        _dialects_that(one),
        tuple(dict.fromkeys(name for name in instead if name != one.name)),
        one.which,
    )


def _dialects_that(one: Hypothesis) -> tuple[str, ...]:
    """Return the dialects that do on purpose what is a mistake here."""
    question, colon, chosen = one.name.partition(": ")
    if not colon:
        return ()
    return tuple(
        name
        for name, dialect in DIALECTS.items()
        if getattr(dialect.conventions, question) == chosen
    )
