"""The fewest hypotheses under which every answer is the predicted one."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from time import monotonic

from .._verdicts._asked import Asked
from ._hypotheses import Hypothesis
from ._prediction import Predictions, Supposed

__all__ = ["Search"]

#: How many hypotheses at once are looked for, and how long, in seconds.
MOST, LONGEST = 4, 10.0
#: How many sets of as many hypotheses are kept, to be told apart.
ENOUGH = 80


def _cost(supposed: Supposed) -> int:
    """Return how much is supposed: what says only roughly what answers are is dearer."""
    return sum(2 if h.is_rough else 1 for h in supposed)


@dataclass
class Search:
    """A search through sets of hypotheses, case by case, the plainest first."""

    predictions: Predictions
    all: list[Hypothesis]
    #: The questions that are left out: nothing predicts their answers.
    left_out: set[int] = field(default_factory=set)
    until: float = 0.0
    furthest: int = 0

    @property
    def asked(self) -> list[Asked]:
        """What was asked, in the order in which it is explained."""
        return self.predictions.asked

    def smallest(self) -> tuple[list[Supposed], list[int]]:
        """Return the smallest sets that predict everything, and what no set predicts."""
        unexplained: list[int] = []
        while True:
            self.furthest, self.until = 0, monotonic() + LONGEST / (1 + len(unexplained))
            sets = self._of_one_size()
            if sets or len(self.left_out) == len(self.asked):
                return sets, unexplained
            # What stands in the way is left out, with its like.
            unexplained.append(self.furthest)
            feature = self.asked[self.furthest].case.feature
            self.left_out |= {i for i, x in enumerate(self.asked) if x.case.feature == feature}

    def _of_one_size(self) -> list[Supposed]:
        for size in range(MOST + 1):
            sets: dict[frozenset[Hypothesis], Supposed] = {}
            for supposed in self._sets((), size):
                sets.setdefault(frozenset(supposed), supposed)
                if len(sets) >= ENOUGH:
                    break
            if sets:
                return sorted(sets.values(), key=self._rank)
            if monotonic() > self.until:
                break
        return []

    def _rank(self, supposed: Supposed) -> tuple[int, int, list[int]]:
        """Prefer what predicts exactly, then fewer kinds, then the order of the list."""
        rough = sum(h.is_rough for h in supposed)
        kinds = sum(h.which is not None for h in supposed)
        known = {h: i for i, h in enumerate(self.all)}
        return rough, kinds, [known.get(h, len(known)) for h in supposed]

    def _sets(self, supposed: Supposed, size: int) -> Iterator[Supposed]:
        """Yield sets that predict everything, made of `supposed` and `size` more."""
        number = self._first_unfit(supposed)
        if number is None:
            yield supposed
            return
        self.furthest = max(self.furthest, number)
        if size == 0 or monotonic() > self.until:
            return
        for more in list(self._more(number, supposed, size)):
            yield from self._sets(more, size + _cost(supposed) - _cost(more))

    def _more(self, number: int, supposed: Supposed, size: int) -> Iterator[Supposed]:
        """Yield `supposed` and one more, or where no one will do two, that predict a case."""
        taken = {h.question for h in supposed}
        case = self.asked[number].case
        options = [h for h in self.all if h.concerns(case) and h.question not in taken]
        options += self.predictions.estimated(number, supposed)
        options = [h for h in options if _cost((h,)) <= size]
        found = [more for h in options if self._fits_up_to(number, more := (*supposed, h))]
        yield from found
        if found or size < 2:
            return
        # Two mistakes do not undo one another where neither has shown so far.
        options = [h for h in options if self._fits_before(number, (*supposed, h))]
        alike = self._alike(number, supposed, options)
        for i, some in enumerate(alike):
            for others in alike[i:]:
                if monotonic() > self.until:
                    return
                yield from self._pairs(number, supposed, size, some, others)

    def _pairs(
        self,
        number: int,
        supposed: Supposed,
        size: int,
        some: list[Hypothesis],
        others: list[Hypothesis],
    ) -> Iterator[Supposed]:
        """Yield pairs of two groups whose members predict the same of a case."""
        if not self._is_met(number, supposed, some[0], others[-1]):
            return
        for one in some:
            for other in others:
                more = (*supposed, one, other)
                is_cheap = _cost((one, other)) <= size
                if is_cheap and one.question != other.question:
                    yield from [more] if self._fits_up_to(number, more) else []

    def _is_met(
        self, number: int, supposed: Supposed, one: Hypothesis, other: Hypothesis
    ) -> bool:
        if one.question == other.question:
            return False
        return self.predictions.fit(number, (*supposed, one, other))

    def _alike(
        self, number: int, supposed: Supposed, options: list[Hypothesis]
    ) -> list[list[Hypothesis]]:
        """Return hypotheses that change a prediction, those that predict the same together."""
        before = self.predictions.summary(number, supposed)
        groups: dict[bytes, list[Hypothesis]] = {}
        for h in options:
            key = self.predictions.summary(number, (*supposed, h))
            if key != before or h.is_rough:
                groups.setdefault(key + bytes(h.is_rough), []).append(h)
        return list(groups.values())

    def _first_unfit(self, supposed: Supposed) -> int | None:
        for number in range(len(self.asked)):
            if number not in self.left_out and not self.predictions.fit(number, supposed):
                return number
        return None

    def _fits_up_to(self, number: int, supposed: Supposed) -> bool:
        return self.predictions.fit(number, supposed) and self._fits_before(number, supposed)

    def _fits_before(self, number: int, supposed: Supposed) -> bool:
        return all(
            self.predictions.fit(i, supposed) for i in range(number) if i not in self.left_out
        )
