"""Every Python block of the README and of the docs runs, and prints what the page says it prints."""

import doctest
import math
import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
#: Pages of recipes: each section runs by itself, after what stands before the first of them.
RECIPES = [*sorted((DOCS / "recipes").glob("*.md")), DOCS / "common_mistakes.md"]
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("[!_]*/**/*.md"))]
PAGES = [page for page in PAGES if page not in RECIPES]
BLOCK = re.compile(r"^```(?:python|pycon)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def blocks(page):
    """Return the page's Python blocks, each with the number of the line it starts on."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, m.start(1)), m[1]) for m in BLOCK.finditer(text)]


def recipes(page):
    """Return the page's sections: the heading, and the blocks before the first one and its own."""
    text = page.read_text(encoding="utf-8")
    starts = [(text.count("\n", 0, m.start()), m[1]) for m in HEADING.finditer(text)]
    ends = [line for line, _ in starts[1:]] + [math.inf]
    first = [block for block in blocks(page) if block[0] < starts[0][0]]
    return [
        (heading, first + [block for block in blocks(page) if start < block[0] < end])
        for (start, heading), end in zip(starts, ends, strict=True)
    ]


def run(page, page_blocks):
    """Run some blocks of a page, one after the other; fail where they print something else."""
    told, names = [], {"__name__": page.stem}
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)

    with np.errstate():  # a page may change what NumPy warns of
        for line, block in page_blocks:
            if ">>>" in block:
                example = doctest.DocTestParser().get_doctest(
                    block, names, page.name, str(page), line
                )
                runner.run(example, out=told.append, clear_globs=False)
                names = example.globs
            else:
                exec(compile("\n" * line + block, str(page), "exec"), names)

    assert runner.failures == 0, "".join(told)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: p.name)
def test_page_runs_and_prints_what_it_shows(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # a page may write files

    run(page, blocks(page))


@pytest.mark.parametrize(
    "page, recipe",
    [
        pytest.param(page, own, id=f"{page.stem}: {heading}")
        for page in RECIPES
        for heading, own in recipes(page)
    ],
)
def test_recipe_gives_what_it_says(page, recipe):
    assert recipe

    run(page, recipe)


def test_readme_opens_with_an_example():
    assert blocks(ROOT / "README.md") != []
