"""Make the tables of mutants.md: the gallery from its data, the figures by running."""

import re
import sys
from pathlib import Path

PAGE = Path(__file__).with_name("mutants.md")
TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "mutants")]


def gallery():
    """Return the table of the gallery; tests/mutants asserts what it says."""
    from testing.gallery import GALLERY

    rows = [
        [f"`{m.name}`", m.library, m.why + seen(m.seen_in), names(m.expected)]
        for m in GALLERY.values()
    ]
    return table(["mutant", "library", "what people do", "named"], rows)


def names(expected):
    """Return what a report has to call it; of two names for one thing, either will do."""
    return ", ".join(" or ".join(f"`{x}`" for x in name.split("|")) for name in expected)


def seen(issue):
    """Return a link to where somebody did it."""
    if issue is None:
        return ""
    repository, number = issue.split("#")
    return f" ([{issue}](https://github.com/{repository}/issues/{number}))"


def drawn():
    """Return the figures of the mutants that are drawn."""
    from trials import figures_of, trials

    figures = figures_of(trials(range(5000, 5200)))
    rows = [
        ["mutants drawn", figures.mutants],
        ["mistakes in them that show", figures.mistakes],
        ["mistakes that another one hides", figures.hidden],
        ["mutants found", figures.found],
        ["mutants all of whose mistakes are named, and nothing else", figures.named],
        ["mistakes not named", figures.missing],
        ["names given", figures.names],
        ["of them wrong", figures.wrong],
    ]
    return table(["figure", "number"], rows)


def right():
    """Return how often attention that is right is called wrong."""
    from trials import alarms

    found = alarms(range(1, 6))
    rows = []
    for kind in dict.fromkeys(alarm.what for alarm in found):
        of_kind = [alarm for alarm in found if alarm.what == kind]
        dtypes = ", ".join(dict.fromkeys(alarm.dtype for alarm in of_kind))
        false = sum(bool(alarm.wrong) for alarm in of_kind)
        rows.append([kind, dtypes, len({a.seed for a in of_kind}), len(of_kind), false])
    return table(["attention", "dtypes", "seeds", "checks", "false alarms"], rows)


def table(heads, rows):
    """Return a table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    cells = [[str(x).replace("|", "\\|") for x in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def between(name, text):
    """Return the table of a name in the page."""
    return re.search(rf"<!-- {name} -->\n\n(.*?)\n\n<!-- end -->", text, re.DOTALL)[1]


def replaced(name, text, made):
    start, end = f"<!-- {name} -->\n\n", "\n\n<!-- end -->"
    return text.replace(start + between(name, text) + end, start + made + end)


TABLES = {"gallery": gallery, "drawn": drawn, "right": right}


def main(*names):
    """Write some tables, or all, into the page, between their markers."""
    for name in names or TABLES:
        made = TABLES[name]()
        text = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(replaced(name, text, made), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
