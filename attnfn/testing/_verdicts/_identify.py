"""Which conventions a function follows, and which known implementations follow them as well."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..._typing import Namespace
from .._adapters import attnfn_like
from .._checks import check_dialect, check_subject
from .._dialects import DIALECTS
from .._dialects._conventions import CHOICES, Conventions
from .._questions._case import Case, posed
from .._questions._cases import cases_of
from .._simulation._model import Model
from .._simulation._simulate import simulate
from .._subject import Subject
from ._answers import Answer, absent_from, answer
from ._judgement import is_near, part_of, question_of, wanted_parts
from ._libraries import Library, library_of
from ._report import table

__all__ = ["DialectReport", "identify_dialect"]

#: Each question, and the cases that tell its answers apart, in an order in which each needs
#: only what those before it have found out.
_ASKED_BY = (
    ("default_scale", ("plain",)),
    ("mask", ("mask", "mask_per_sequence")),
    ("groups", ("grouped_heads",)),
    ("bias", ("bias",)),
    ("softcap", ("softcap_and_bias", "softcap")),
    ("lengths", ("lengths",)),
    ("empty_row", ("empty_rows",)),
    ("alignment", ("causal_unequal", "window_unequal", "lengths")),
    ("window", ("window",)),
    ("empty_row", ("causal_unequal",)),  # where there is no mask
    ("biased_row", ("bias_minus_inf",)),
    ("mask_value", ("low_scores", "empty_rows")),
    ("lse_base", ("lse",)),
    ("lse_sinks", ("lse_with_sinks",)),
    ("empty_lse", ("lse_of_empty_rows", "lse_causal_unequal")),
    ("hidden_key", ("hidden_key",)),
    ("hidden_value", ("hidden_value",)),
)


@dataclass(frozen=True, kw_only=True)
class DialectReport:
    """
    What `identify_dialect` found, question by question.

    ``str(report)`` is a table.

    Parameters
    ----------
    name : str
        What the function is called.
    answers : dict of str to tuple of str
        For each question of `Conventions` the answers under which the function gives what it
        gave: one where it could be told, more where nothing that was asked tells them apart,
        none where none does.
    not_asked : dict of str to str
        The questions that could not be asked, and why.
    dialects : tuple of str
        The names of `DIALECTS` that agree in every answer.
    nearest : dict of str to tuple of str
        All names of `DIALECTS`, nearest first, and the questions on which each differs.

    See Also
    --------
    identify_dialect : Makes one.

    Examples
    --------
    >>> import attnfn as af
    >>> from attnfn.testing import identify_dialect
    >>> report = identify_dialect(af.attention)
    >>> report.answers["window"], report.nearest["attnfn"]
    (('inclusive',), ())
    """

    name: str
    answers: Mapping[str, tuple[str, ...]]
    not_asked: Mapping[str, str]
    dialects: tuple[str, ...]
    nearest: Mapping[str, tuple[str, ...]]

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = []
        for question in Conventions._fields:
            found = self.answers.get(question)
            if found is None:
                rows.append((question, "", f"not asked: {self.not_asked.get(question, '')}"))
            else:
                said = " | ".join(CHOICES[question][chosen] for chosen in found)
                rows.append((question, " | ".join(found) or "none", said or "no known answer"))
        lines = [f"What {self.name} does", "", *table(("question", "answer", ""), rows), ""]
        if self.dialects:
            return "\n".join([*lines, f"Agrees with {', '.join(self.dialects)}."])
        first = list(self.nearest.items())[:3]
        near = [f"{name} (but for {', '.join(differ)})" for name, differ in first]
        return "\n".join([*lines, f"No known dialect. Nearest: {'; '.join(near)}."])


def identify_dialect(
    function: Callable[..., Any] | Subject,
    /,
    *,
    signature: Callable[..., Subject] | str | None = None,
    library: str | Namespace = "numpy",
    dtype: str = "float32",
    device: Any = None,
    seed: int = 0,
) -> DialectReport:
    """
    Find out which conventions a function follows, and which implementations do as well.

    Parameters
    ----------
    function : function, or Subject
        The attention to ask.
    signature : adapter or str, optional
        What makes a `Subject` of it: an adapter such as `torch_like`, or the name of the
        dialect whose signature it has. Default: `attnfn_like`.
    library : str or array namespace, optional
        The library of its arrays. Default: "numpy".
    dtype : str, optional
        The dtype to ask in. Default: "float32".
    device : optional
        Where to make arrays. Default: the library's own default.
    seed : int, optional
        Of the numbers that are drawn. Default: 0.

    Returns
    -------
    DialectReport
        An answer to each question that could be asked, and the dialects that agree.

    Raises
    ------
    ValueError
        If there is no such dialect, library or dtype.
    TypeError
        If `function` cannot be called.

    See Also
    --------
    check_attention : Whether it is right in one of them.

    Examples
    --------
    >>> import attnfn as af
    >>> from attnfn.testing import identify_dialect
    >>> identify_dialect(af.attention).dialects
    ('attnfn',)
    """
    asking = _Asking(
        _subject(function, signature), library_of(library, (dtype,), device), dtype, seed
    )
    conventions = Conventions()
    answers: dict[str, tuple[str, ...]] = {}
    not_asked: dict[str, str] = {}
    for question, features in _ASKED_BY:
        if question in answers:
            continue
        found, why = asking.answers_to(question, features, conventions)
        if found is None:
            not_asked.setdefault(question, why)
            continue
        answers[question] = found
        not_asked.pop(question, None)
        if found and getattr(conventions, question) not in found:
            changed: dict[str, Any] = {question: found[0]}
            conventions = conventions._replace(**changed)
    for question, found, why in asking.about_dtypes():
        if found is None:
            not_asked[question] = why
        else:
            answers[question] = found

    differences = {
        name: tuple(
            question
            for question, found in answers.items()
            if getattr(dialect.conventions, question) not in found
        )
        for name, dialect in DIALECTS.items()
    }
    nearest = dict(sorted(differences.items(), key=lambda item: len(item[1])))
    return DialectReport(
        name=asking.subject.name,
        answers=answers,
        not_asked=not_asked,
        dialects=tuple(name for name, differ in nearest.items() if not differ),
        nearest=nearest,
    )


def _subject(function: Any, signature: Callable[..., Subject] | str | None) -> Subject:
    if isinstance(function, Subject):
        return function
    check_subject(function)
    if isinstance(signature, str):
        check_dialect(signature, DIALECTS)
        signature = DIALECTS[signature].signature
    return attnfn_like(function) if signature is None else signature(function)


@dataclass(frozen=True)
class _Asking:
    subject: Subject
    library: Library
    dtype: str
    seed: int

    def answers_to(
        self, question: str, features: tuple[str, ...], conventions: Conventions
    ) -> tuple[tuple[str, ...] | None, str]:
        """Return the answers that agree with what is given, or None and why it is not known."""
        cases = [case for name in features for case in cases_of(name, self.seed)]
        cases = [case for case in cases if not case.dtypes or self.dtype in case.dtypes]
        if question == "alignment":  # no row is to be empty
            cases = [c for c in cases if c.query.shape[-2] <= c.key.shape[-2]]
        possible = [c for c in CHOICES[question] if (question, c) not in _NOT_POSED]
        fitting, why, is_asked = set(possible), "", False
        for case in cases:
            case = _without_place(case) if question == "alignment" else posed(case, conventions)
            why = absent_from(self.subject, self.library, case) or why
            if absent_from(self.subject, self.library, case):
                continue
            found = answer(self.subject, self.library, case, self.dtype)
            if found.refusal:
                why = f"refused: {found.refusal}"
                continue
            here = {c for c in possible if self._agrees(case, found, question, c, conventions)}
            is_telling = len(here) < len(possible)
            if not here and not is_asked:
                fitting = here
            is_asked = is_asked or is_telling
            fitting &= here
        if question == "alignment" and not is_asked and "q_offset" in self.subject.options:
            return ("explicit",), ""
        if not is_asked:
            return None, why or "nothing that it has a place for shows it"
        return tuple(c for c in possible if c in fitting), ""

    def _agrees(
        self, case: Case, found: Answer, question: str, chosen: str, conventions: Conventions
    ) -> bool:
        changed: dict[str, Any] = {question: chosen}
        supposed = conventions._replace(**changed)
        if case.is_poisoned:
            clean = question_of(case, conventions, self.dtype)
            parts = [part_of(found, name) for name, *_ in wanted_parts(clean)]
            leaks = any(x is not None and np.isnan(x).any() for x in parts)
            return leaks == (chosen == "leaks")
        asked = question_of(case, supposed, self.dtype)
        trace = simulate(case, Model(supposed), dtype=self.dtype)
        predicted = {"out": trace.out, "lse": trace.lse}
        for name, _, tolerance in wanted_parts(asked):
            got = part_of(found, name)
            if got is None or got.shape != predicted[name].shape:
                return False
            if question.startswith(("lse", "empty_lse")) and name == "out":
                continue
            if not is_near(got, predicted[name], 4 * tolerance).all():
                return False
        return True

    def about_dtypes(self) -> list[tuple[str, tuple[str, ...] | None, str]]:
        """Return what is found in another dtype than that of the rest."""
        case = cases_of("plain", self.seed)[0]
        return [self._softmax_dtype(case), self._lse_dtype(case)]

    def _softmax_dtype(self, case: Case) -> tuple[str, tuple[str, ...] | None, str]:
        question = "softmax_dtype"
        if not hasattr(self.library.xp, "float64") or self.library.name == "mlx":
            return question, None, f"{self.library.name} has no float64"
        found = answer(self.subject, self.library, case, "float64")
        if found.refusal or found.out is None:
            return question, None, f"refused: {found.refusal}"
        exact = question_of(case, Conventions(), "float64")
        if found.out.shape != exact.trace.out.shape:
            return question, (), ""
        if is_near(found.out, exact.trace.out, 4 * exact.tolerance.out).all():
            return question, ("own",), ""
        rough = question_of(case, Conventions(), "float32").tolerance.out
        is_float32 = is_near(found.out, exact.trace.out, 4 * rough).all()
        return question, (("float32",) if is_float32 else ()), ""

    def _lse_dtype(self, case: Case) -> tuple[str, tuple[str, ...] | None, str]:
        question, case = "lse_dtype", case._replace(asks=("out", "lse"))
        why = absent_from(self.subject, self.library, case)
        if why or not hasattr(self.library.xp, "float16"):
            return question, None, why or f"{self.library.name} has no halves"
        found = answer(self.subject, self.library, case, "float16")
        if found.refusal:
            return question, None, f"refused: {found.refusal}"
        return question, ("query" if found.lse_dtype == "float16" else "compute",), ""


#: What no case is posed in, or only where nothing else is accepted.
_NOT_POSED = (("alignment", "explicit"), ("lengths", "cumulative"))


def _without_place(case: Case) -> Case:
    """Return a case that does not say where queries stand."""
    options = {name: x for name, x in case.options.items() if name != "q_offset"}
    return case._replace(options=options)
