"""A question that was put to a function, and what came of it."""

from typing import NamedTuple

from .._questions._case import Case
from ._answers import Answer
from ._judgement import Miss, Question
from ._report import Verdict

__all__ = ["Asked"]


class Asked(NamedTuple):
    """A question that was asked, and what came of it."""

    question: Question
    answer: Answer
    misses: tuple[Miss, ...] = ()
    absent: str = ""

    @property
    def case(self) -> Case:
        """The case of the question."""
        return self.question.case

    @property
    def verdict(self) -> Verdict:
        """What is to be said of the answer."""
        if self.absent:
            return "absent"
        if self.answer.refusal:
            return "refused"
        return "wrong" if self.misses or self.answer.faults else "right"
