"""Whether a report calls a mistake by its name, and calls nothing else."""

from dataclasses import replace
from typing import NamedTuple

from attnfn.testing import DIALECTS, Conventions, check_attention

__all__ = ["Naming", "check", "dialect_of", "naming_of"]


class Naming(NamedTuple):
    """What came of checking something that is known to be wrong."""

    is_found: bool
    #: The mistakes that were made and not named.
    missing: frozenset[str]
    #: The names given to what is no mistake of the function's.
    wrong: frozenset[str]

    @property
    def is_right(self):
        return self.is_found and not self.missing and not self.wrong


def naming_of(report, expected, also=()):
    """Hold a report's diagnoses against the mistakes made, "a|b" being two names for one.

    A diagnosis with alternatives, under each of which every answer would be the same, is right if
    one of them is.
    """
    given = [{d.name, *d.alternatives} for d in report.diagnoses]
    wanted = {name: set(name.split("|")) for name in expected}
    true = set(also).union(*wanted.values())
    missing = {name for name, names in wanted.items() if not any(names & g for g in given)}
    wrong = {
        d.name for d, names in zip(report.diagnoses, given, strict=True) if not names & true
    }
    return Naming(not report.is_right, frozenset(missing), frozenset(wrong))


def dialect_of(conventions):
    """Return attnfn's dialect with other conventions; None for its own."""
    if conventions == Conventions():
        return None
    meant = {
        f"{field}: {answer}"
        for field, answer, own in zip(
            conventions._fields, conventions, Conventions(), strict=True
        )
        if answer != own
    }
    title = f"attnfn with {', '.join(sorted(meant))}"
    return replace(DIALECTS["attnfn"], name="other", title=title, conventions=conventions)


def check(mutant, *, bug=True):
    """Return the report on a mutant of the gallery, held to what it means to do."""
    return check_attention(
        mutant.subject(bug=bug),
        dialect=dialect_of(mutant.conventions),
        library=mutant.library,
        dtypes=mutant.dtypes,
    )
