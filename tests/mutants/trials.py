"""How well `check_attention` does: on mutants drawn from seeds, and on attention that is right."""

from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

from testing import composed, composed_gradients
from testing.composed import Recipe
from testing.naming import naming_of

import attnfn as af
from attnfn.testing import check_attention

__all__ = ["Alarm", "Figures", "Trial", "alarms", "figures_of", "trials"]

#: Of 200 mutants, how many have their mistakes in the backward pass.
GRADIENT_SHARE = 5

#: Beside what `composed` has: names that say the same of one mistake.
_MODULES = {False: composed, True: composed_gradients}


class Trial(NamedTuple):
    """One mutant that was checked."""

    recipe: str
    #: The mistakes that show.
    expected: frozenset[str]
    #: Those that another one hides.
    hidden: frozenset[str]
    is_found: bool
    missing: frozenset[str]
    wrong: frozenset[str]
    #: How many names were given.
    names: int

    @property
    def is_named(self):
        return not self.missing and not self.wrong


class Figures(NamedTuple):
    """What many trials add up to."""

    mutants: int
    #: Mistakes made that show, and those that others hide.
    mistakes: int
    hidden: int
    #: Mutants that are not called right.
    found: int
    #: Mutants all of whose mistakes are named, and nothing else is.
    named: int
    #: Mistakes that are not named.
    missing: int
    #: Names given, and those of them that are wrong.
    names: int
    wrong: int


def trial(seed):
    """Draw the mutant of a seed, and check it."""
    is_backward = seed % GRADIENT_SHARE == GRADIENT_SHARE - 1
    module = _MODULES[is_backward]
    recipe = module.draw(seed)
    shown = module.expected(recipe)
    report = check_attention(module.subject(recipe), dtypes=("float64",))
    synonyms = getattr(module, "SYNONYMS", {})
    wanted = ["|".join((name, *synonyms.get(name, ()))) for name in shown]
    also = [x for name in recipe.faults for x in module.TRUE_BESIDE.get(name, ())]
    naming = naming_of(report, wanted, also=[*also, *recipe.faults])
    return Trial(
        recipe=str(recipe),
        expected=frozenset(shown),
        hidden=recipe.faults - shown,
        is_found=naming.is_found,
        missing=naming.missing,
        wrong=naming.wrong,
        names=len(report.diagnoses),
    )


def trials(seeds, workers=2):
    """Check the mutants of many seeds."""
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(trial, seeds, chunksize=5))


def figures_of(checked):
    """Add up what trials came to."""
    return Figures(
        mutants=len(checked),
        mistakes=sum(len(t.expected) for t in checked),
        hidden=sum(len(t.hidden) for t in checked),
        found=sum(t.is_found for t in checked),
        named=sum(t.is_named for t in checked),
        missing=sum(len(t.missing) for t in checked),
        names=sum(t.names for t in checked),
        wrong=sum(len(t.wrong) for t in checked),
    )


def confusions(checked):
    """Count which mistakes were not named, and which names were wrong."""
    missing = Counter(name for t in checked for name in t.missing)
    wrong = Counter(name for t in checked for name in t.wrong)
    return missing, wrong


# Attention that is right


class Alarm(NamedTuple):
    """A check of attention that is right, and what it says against it."""

    what: str
    seed: int
    dtype: str
    wrong: tuple[str, ...]


def _engine_on(library, engine):
    if library == "composed":
        name, _, tile = engine.partition(" ")
        recipe = Recipe(faults=frozenset(), engine=name, tile=int(tile or 16))
        return composed.subject(recipe)

    def attention(*arrays, **options):
        return af.attention(*arrays, engine=engine, **options)

    return attention


def alarm(what):
    """Check one engine that is right on one library, with one seed, in one dtype."""
    library, engine, seed, dtype = what
    subject = _engine_on(library, engine)
    on = "numpy" if library == "composed" else library
    report = check_attention(subject, library=on, dtypes=(dtype,), seed=seed)
    wrong = tuple(row.feature for row in report.rows if row.verdict == "wrong")
    return Alarm(f"{library} {engine}", seed, dtype, wrong)


def alarms(seeds, *, workers=2):
    """Check every engine on every library with every seed and dtype."""
    chosen = [
        *(("numpy", engine) for engine in ("dense", "blockwise", "native")),
        *(("composed", engine) for engine in ("plain", "online 8", "online 24")),
        *(("torch", engine) for engine in ("dense", "blockwise", "native")),
        ("array_api_strict", "dense"),
    ]
    halves = {"torch": ("float16", "bfloat16"), "numpy": ("float16",), "composed": ("float16",)}
    asked = [
        (library, engine, seed, dtype)
        for library, engine in chosen
        for seed in seeds
        for dtype in ("float64", "float32", *halves.get(library, ()))
    ]
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(alarm, asked, chunksize=1))
