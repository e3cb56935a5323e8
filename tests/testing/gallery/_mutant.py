"""What a mutant is: attention with one mistake that people make, and what it is to be called."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass

from attnfn.testing._dialects._conventions import Conventions
from attnfn.testing._subject import OPTIONS, Subject

__all__ = ["GALLERY", "Mutant", "mutant"]

#: What a mutant means to do unless it says otherwise.
ATTNFN = Conventions()

#: Every mutant by its name, in the order in which they are written down.
GALLERY = {}


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """An attention function whose keyword `bug` switches its mistake on and off."""

    name: str
    function: Callable
    #: What a report must call it. "a|b" are two names for one thing.
    expected: tuple[str, ...]
    #: Why people write it.
    why: str
    #: Where somebody did: ``owner/repository#number``.
    seen_in: str | None = None
    #: What is true of it as well, and may be said.
    also: tuple[str, ...] = ()
    library: str = "numpy"
    dtypes: tuple[str, ...] = ("float64",)
    #: What it means to do, where that is not what attnfn does.
    conventions: Conventions = ATTNFN
    returns_lse: bool = False
    vjp: Callable | None = None

    @property
    def options(self):
        return frozenset(inspect.signature(self.function).parameters) & OPTIONS

    def subject(self, *, bug=True):
        """Return it as checks call it; without its bug it is right."""
        function = functools.partial(self.function, bug=bug)
        vjp = None if self.vjp is None else functools.partial(self.vjp, bug=bug)
        if not self.returns_lse:
            return Subject(function, self.options, vjp=vjp, name=self.name)

        def attention(*arrays, **options):
            return function(*arrays, **options)[0]

        return Subject(attention, self.options, function, vjp, self.name)


def mutant(*expected, why, **about):
    """Put a function into the gallery under its own name."""

    def enter(function):
        name = function.__name__
        assert name not in GALLERY, name
        GALLERY[name] = Mutant(
            name=name, function=function, expected=expected, why=why, **about
        )
        return function

    return enter
