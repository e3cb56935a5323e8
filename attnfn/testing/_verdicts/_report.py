"""What a check found, as a table to read and as data to keep."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import wrap
from typing import Any, Literal, NamedTuple

__all__ = ["ConformanceReport", "Diagnosis", "Row", "Verdict", "table"]

Verdict = Literal["right", "wrong", "refused", "absent"]

WIDTH = 100


class Row(NamedTuple):
    """What was found of one feature in one dtype."""

    feature: str
    dtype: str
    verdict: Verdict
    #: Why it is wrong or refused, or what it does on purpose.
    why: str = ""
    #: How many cases were asked.
    cases: int = 0
    #: The smallest input that is answered wrongly, as code to paste, and what came of it.
    example: str = ""


class Diagnosis(NamedTuple):
    """A mistake, or another convention, that accounts for wrong answers."""

    #: Of FAULTS, or "question: answer" of CHOICES; "unexplained" where nothing accounts for it.
    name: str
    #: What is wrong, in words.
    sentence: str
    #: The features whose wrong answers it accounts for.
    features: tuple[str, ...] = ()
    #: The dialects that do so on purpose.
    dialects: tuple[str, ...] = ()
    #: Other names under which every answer would be the same.
    alternatives: tuple[str, ...] = ()
    #: Which of its kind: the size of a tile, a constant.
    which: Any = None


@dataclass(frozen=True, kw_only=True)
class ConformanceReport:
    """
    What `check_attention` found, feature by feature.

    ``str(report)`` is a table for a terminal, ``report.to_markdown()`` one for a page,
    ``report.to_json()`` everything to keep, and `from_json` the way back.

    Parameters
    ----------
    name : str
        What the function is called.
    dialect : str
        The dialect that it was held to.
    versions : dict of str to str
        The array library and its version, and attnfn's.
    rows : tuple of rows
        Each has ``(feature, dtype, verdict, why, cases, example)``; a verdict is "right",
        "wrong", "refused" or "absent".
    diagnoses : tuple of diagnoses
        What accounts for the wrong answers: each has ``(name, sentence, features, dialects,
        alternatives, which)``.
    notes : tuple of str
        What else was found out.

    See Also
    --------
    check_attention : Makes one.

    Examples
    --------
    >>> import attnfn as af
    >>> from attnfn.testing import check_attention
    >>> report = check_attention(af.attention, features=("plain", "causal"))
    >>> report.is_right
    True
    >>> report.counts
    {'right': 2, 'wrong': 0, 'refused': 0, 'absent': 0}
    """

    name: str
    dialect: str
    versions: Mapping[str, str]
    rows: tuple[Row, ...]
    diagnoses: tuple[Diagnosis, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_right(self) -> bool:
        """Whether no answer was wrong."""
        return all(row.verdict != "wrong" for row in self.rows)

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many rows have which verdict."""
        found = Counter(row.verdict for row in self.rows)
        verdicts: tuple[Verdict, ...] = ("right", "wrong", "refused", "absent")
        return {verdict: found[verdict] for verdict in verdicts}

    def __str__(self) -> str:
        lines = [*wrap(self._title(), WIDTH), "", *table(*self._table())]
        lines += ["", self._sum(), *self.notes]
        for diagnosis in self.diagnoses:
            lines += ["", *_lines_of(diagnosis), *self._examples(diagnosis)]
        return "\n".join(lines)

    def _title(self) -> str:
        versions = ", ".join(
            f"{name} {version}".strip() for name, version in self.versions.items()
        )
        dtypes = ", ".join(dict.fromkeys(row.dtype for row in self.rows))
        return f"{self.name}, held to {self.dialect}, in {dtypes} ({versions})"

    def _table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Return heads and cells; dtypes of which the same is to be said share a row."""
        dtypes: dict[tuple[str, ...], list[str]] = {}
        for row in self.rows:
            dtypes.setdefault((row.feature, row.verdict, row.why), []).append(row.dtype)
        asked = Counter(row.feature for row in self.rows)
        if all(len(those) == asked[feature] for (feature, *_), those in dtypes.items()):
            return ("feature", "verdict", "why"), list(dtypes)
        rows: list[tuple[str, ...]] = []
        for (feature, verdict, why), those in dtypes.items():
            named = "" if len(those) == asked[feature] else ", ".join(those)
            rows.append((feature, named, verdict, why))
        return ("feature", "dtype", "verdict", "why"), rows

    def _sum(self) -> str:
        return ", ".join(
            f"{count} {verdict}" for verdict, count in self.counts.items() if count
        )

    def _examples(self, diagnosis: Diagnosis) -> list[str]:
        """Return the smallest input in which a diagnosis shows, as lines."""
        shown = next(
            (r for r in self.rows if r.example and r.feature in diagnosis.features), None
        )
        return [] if shown is None else [f"    {x}" for x in shown.example.splitlines()]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as dicts, lists, numbers and text."""
        return {
            "name": self.name,
            "dialect": self.dialect,
            "versions": dict(self.versions),
            "is_right": self.is_right,
            "rows": [row._asdict() for row in self.rows],
            "diagnoses": [_plain(diagnosis._asdict()) for diagnosis in self.diagnoses],
            "notes": list(self.notes),
        }

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return everything as JSON."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any], /) -> "ConformanceReport":
        """Return the report that `to_dict` was called on."""
        return cls(
            name=found["name"],
            dialect=found["dialect"],
            versions=dict(found["versions"]),
            rows=tuple(Row(**row) for row in found["rows"]),
            diagnoses=tuple(_diagnosis(kept) for kept in found["diagnoses"]),
            notes=tuple(found["notes"]),
        )

    @classmethod
    def from_json(cls, text: str, /) -> "ConformanceReport":
        """Return the report that `to_json` was called on."""
        return cls.from_dict(json.loads(text))

    def to_markdown(self) -> str:
        """Return the table for a page."""
        heads, rows = self._table()
        lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
        for cells in rows:
            escaped = [cell.replace("|", "\\|") for cell in cells]
            lines.append(f"| {' | '.join(escaped)} |")
        lines += ["", f"{self._title()}: {self._sum()}."]
        for diagnosis in self.diagnoses:
            lines += ["", f"- `{diagnosis.name}`: {_said(diagnosis)}"]
        return "\n".join(lines)


def table(heads: tuple[str, ...], rows: list[tuple[str, ...]], width: int = WIDTH) -> list[str]:
    """Return the lines of a table whose last column is wrapped."""
    columns = list(zip(heads, *rows, strict=True))
    sizes = [max(map(len, column)) + 2 for column in columns[:-1]]
    room = max(width - sum(sizes), 30)
    lines = []
    lines_below = (*("-" * (size - 2) for size in sizes), "-" * len(heads[-1]))
    for cells in (heads, lines_below, *rows):
        start = "".join(cell.ljust(size) for cell, size in zip(cells, sizes, strict=False))
        first, *more = wrap(cells[-1], room) or [""]
        lines.append((start + first).rstrip())
        lines += [" " * sum(sizes) + line for line in more]
    return lines


def _lines_of(diagnosis: Diagnosis) -> list[str]:
    return wrap(f"{diagnosis.name}: {_said(diagnosis)}", WIDTH, subsequent_indent="  ")


def _said(diagnosis: Diagnosis) -> str:
    said = f"{diagnosis.sentence}."
    if diagnosis.which is not None:
        said += f" Of its kind: {diagnosis.which}."
    if diagnosis.alternatives:
        said += f" Or else: {', '.join(diagnosis.alternatives)}."
    if diagnosis.dialects:
        said += f" On purpose: {', '.join(diagnosis.dialects)}."
    if diagnosis.features:
        said += f" Seen in {', '.join(diagnosis.features)}."
    return said


def _plain(kept: dict[str, Any]) -> dict[str, Any]:
    return {name: list(x) if isinstance(x, tuple) else x for name, x in kept.items()}


def _diagnosis(kept: Mapping[str, Any]) -> Diagnosis:
    fields: dict[str, Any] = {
        name: tuple(x) if isinstance(x, list) else x for name, x in kept.items()
    }
    return Diagnosis(**fields)
