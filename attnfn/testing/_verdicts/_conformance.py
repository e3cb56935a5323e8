"""Whether a function is right, feature by feature."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, Literal

from ..._typing import Namespace
from .._checks import check_dialect, check_features, check_subject
from .._diagnosis._diagnosis import diagnose
from .._dialects import DIALECTS
from .._dialects._conventions import CHOICES, Conventions
from .._dialects._dialect import Dialect
from .._questions._case import Case, posed
from .._questions._cases import FEATURES, cases_of
from .._subject import Subject
from ._answers import Answer, absent_from, answer
from ._asked import Asked
from ._example import example_of
from ._judgement import misses, question_of
from ._libraries import Library, library_of, version_of
from ._report import ConformanceReport, Diagnosis, Row
from ._shrink import shrunk

__all__ = ["ask", "check_attention", "settled", "subject_of"]


def check_attention(
    function: Callable[..., Any] | Subject,
    /,
    *,
    dialect: str | Dialect | None = None,
    library: str | Namespace = "numpy",
    dtypes: Sequence[str] = ("float32",),
    features: Collection[str] | None = None,
    vjp: Callable[..., Any] | None = None,
    device: Any = None,
    seed: int = 0,
) -> ConformanceReport:
    """
    Find out whether a function computes attention, feature by feature.

    It is asked cases on which conventions and mistakes give visibly different answers; what is
    right comes from the oracle, through the dialect that the function speaks. An answer is
    right if its error is no more than about twice that of the plain formula in its dtype.

    Parameters
    ----------
    function : function, or Subject
        The attention to check. A function is adapted by the signature of the dialect; one with
        another signature is made a `Subject` by an adapter first.
    dialect : str or Dialect, optional
        What it means to do, where implementations differ: a name among `DIALECTS`. Default:
        attnfn's own signature and conventions.
    library : str or array namespace, optional
        The library of its arrays: "numpy", "torch", "jax", "mlx", "cupy",
        "array_api_strict". Default: "numpy".
    dtypes : sequence of str, optional
        The dtypes to ask in. Default: "float32" alone.
    features : collection of str, optional
        What to ask, among `FEATURES`. Default: all of them. An option that the function has no
        place for is reported as absent.
    vjp : function of (query, key, value, d_out), optional
        Its gradients, where its library cannot differentiate it, in attnfn's axes and
        options: those of query, key, value, and of bias and sinks where they are given.
        Default: those that the library finds.
    device : optional
        Where to make arrays. Default: the library's own default.
    seed : int, optional
        Of the numbers that are drawn. Default: 0.

    Returns
    -------
    ConformanceReport
        What is right, wrong, refused and absent, with the smallest input that fails.

    Raises
    ------
    ValueError
        If there is no such dialect, library, dtype or feature.
    TypeError
        If `function` cannot be called.

    See Also
    --------
    oracle : What is right.

    Examples
    --------
    >>> import math
    >>> import numpy as np
    >>> from attnfn.testing import check_attention
    >>> def attention(query, key, value, /):
    ...     scores = query @ key.mT / math.sqrt(query.shape[-1])
    ...     weights = np.exp(scores)  # without its maximum
    ...     return weights / weights.sum(axis=-1, keepdims=True) @ value
    >>> report = check_attention(attention, features=("plain", "large_logits"))
    >>> [row.verdict for row in report.rows]
    ['right', 'wrong']
    """
    subject, held_to = subject_of(function, dialect, vjp)
    features = tuple(FEATURES) if features is None else features
    check_features(features, FEATURES)
    names = list(features)
    chosen = library_of(library, dtypes, device)
    conventions, notes = settled(subject, held_to.conventions, chosen, dtypes[0], seed)

    asked = [
        ask(subject, chosen, posed(case, conventions), conventions, dtype)
        for name in names
        for case in cases_of(name, seed)
        for dtype in dtypes
        if not case.dtypes or dtype in case.dtypes
    ]
    diagnoses = diagnose(asked, conventions)
    rows = [
        _row(name, dtype, [x for x in asked if _is_of(x, name, dtype)], conventions, diagnoses)
        for name in names
        for dtype in dtypes
        if any(_is_of(x, name, dtype) for x in asked)
    ]

    def example(row: Row) -> str:
        """Return the smallest input of a row that is answered wrongly."""
        wrong = next(
            x for x in asked if _is_of(x, row.feature, row.dtype) and x.verdict == "wrong"
        )
        attempts = _ATTEMPTS.get(chosen.name, 30)
        again = partial(ask, subject, chosen, conventions=conventions, dtype=row.dtype)
        if wrong.misses:
            wrong = shrunk(wrong, again, attempts)
        return example_of(wrong, _called(function, held_to), chosen.name)

    shown = _to_be_shown(rows, diagnoses)
    return ConformanceReport(
        name=subject.name,
        dialect=held_to.title,
        versions={chosen.name: chosen.version, "attnfn": version_of("attnfn")},
        rows=tuple(row._replace(example=example(row)) if row in shown else row for row in rows),
        diagnoses=diagnoses,
        notes=notes,
    )


def _called(function: Any, dialect: Dialect) -> str:
    """Return the code that asks a function in attnfn's axes and option names."""
    if isinstance(function, Subject):
        return "subject.attention"
    name = getattr(function, "__name__", "function")
    signature = getattr(dialect.signature, "__name__", "adapter")
    return name if signature == "attnfn_like" else f"{signature}({name}).attention"


#: How often a library is asked again to find a smaller input: each shape compiles on JAX.
_ATTEMPTS = {"jax": 4}


def _to_be_shown(rows: list[Row], diagnoses: tuple[Diagnosis, ...]) -> list[Row]:
    """Return the first row in which each diagnosis shows."""
    wrong = [row for row in rows if row.verdict == "wrong"]
    found = [
        next((row for row in wrong if row.feature in diagnosis.features), None)
        for diagnosis in diagnoses
    ]
    return [row for row in found if row is not None] or wrong[:1]


def subject_of(
    function: Any, dialect: str | Dialect | None, vjp: Callable[..., Any] | None = None
) -> tuple[Subject, Dialect]:
    """Return a function behind attnfn's axes, and the dialect that it is held to."""
    if not isinstance(dialect, Dialect):
        name = "attnfn" if dialect is None else dialect
        check_dialect(name, DIALECTS)
        dialect = DIALECTS[name]
    if isinstance(function, Subject):
        subject = function
    else:
        check_subject(function)
        subject = dialect.signature(function)
    return subject if vjp is None else subject._replace(vjp=vjp), dialect


def settled(
    subject: Subject, conventions: Conventions, library: Library, dtype: str, seed: int
) -> tuple[Conventions, tuple[str, ...]]:
    """Find out where queries stand in a function that cannot be told, and say so."""
    if conventions.alignment != "explicit" or "q_offset" in subject.options:
        return conventions, ()
    alignments: tuple[Literal["top_left", "bottom_right"], ...] = ("top_left", "bottom_right")
    for case in cases_of("causal_unequal", seed)[:1] + cases_of("window_unequal", seed)[:1]:
        for alignment in alignments:
            tried = conventions._replace(alignment=alignment)
            found = ask(subject, library, posed(case, tried), tried, dtype)
            if found.verdict == "right":
                text = f"Where lengths differ, {CHOICES['alignment'][alignment]}."
                return tried, (text,)
    return conventions._replace(alignment="top_left"), ()


def ask(
    subject: Subject, library: Library, case: Case, conventions: Conventions, dtype: str
) -> Asked:
    """Put a case to a function, which is posed in its own words."""
    question = question_of(case, conventions, dtype)
    absent = absent_from(subject, library, case)
    if absent:
        return Asked(question, Answer(), (), absent)
    found = answer(subject, library, case, dtype)
    wrong = () if found.refusal else tuple(misses(question, found))
    return Asked(question, found, wrong)


def _is_of(asked: Asked, feature: str, dtype: str) -> bool:
    return asked.case.feature == feature and asked.question.dtype == dtype


def _row(
    feature: str,
    dtype: str,
    asked: list[Asked],
    conventions: Conventions,
    diagnoses: tuple[Diagnosis, ...],
) -> Row:
    verdicts = [x.verdict for x in asked]
    counted = len(asked) - verdicts.count("absent")
    if "wrong" in verdicts:
        first = asked[verdicts.index("wrong")]
        named = [d.sentence for d in diagnoses if feature in d.features]
        return Row(feature, dtype, "wrong", "; ".join(named) or _what_is_wrong(first), counted)
    if counted == 0:
        return Row(feature, dtype, "absent", asked[0].absent)
    refused = [x for x in asked if x.verdict == "refused"]
    if len(refused) == counted:
        return Row(feature, dtype, "refused", refused[0].answer.refusal, counted)
    said = [_on_purpose(feature, conventions)]
    if refused:
        said.append(f"{len(refused)} of {counted} refused: {refused[0].answer.refusal}")
    return Row(feature, dtype, "right", "; ".join(filter(None, said)), counted)


def _what_is_wrong(asked: Asked) -> str:
    if asked.misses:
        worst = asked.misses[0]
        return f"{worst.part} at {worst.at} is off by {worst.error:.3g}"
    return ", ".join(asked.answer.faults)


#: Which convention shows in a feature.
_SHOWS = {
    "plain": "default_scale",
    "mask": "mask",
    "empty_rows": "empty_row",
    "low_scores": "mask_value",
    "causal_unequal": "alignment",
    "window": "window",
    "lengths": "lengths",
    "bias": "bias",
    "softcap_and_bias": "softcap",
    "grouped_heads": "groups",
    "lse": "lse_base",
    "lse_of_empty_rows": "empty_lse",
    "lse_with_sinks": "lse_sinks",
    "hidden_key": "hidden_key",
    "hidden_value": "hidden_value",
}


def _on_purpose(feature: str, conventions: Conventions) -> str:
    """Say what a dialect does in a feature that attnfn does not."""
    question = _SHOWS.get(feature)
    if question is None:
        return ""
    chosen = getattr(conventions, question)
    return "" if chosen == Conventions._field_defaults[question] else CHOICES[question][chosen]
