"""Every Python block of the README and of the docs runs, and prints what the page says it prints."""

from pathlib import Path

import prose
import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
#: Pages of recipes: each section runs by itself, after what stands before the first of them.
RECIPES = [*sorted((DOCS / "recipes").glob("*.md")), DOCS / "common_mistakes.md"]
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("[!_]*/**/*.md"))]
PAGES = [
    page
    for page in PAGES
    if page not in RECIPES and page.name not in prose.OF_OTHER_LIBRARIES and prose.blocks(page)
]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_page_runs_and_prints_what_it_shows(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # a page may write files

    prose.run(page)


@pytest.mark.parametrize(
    "page, recipe",
    [
        pytest.param(page, own, id=f"{page.stem}: {heading}")
        for page in RECIPES
        for heading, own in prose.sections(page)
    ],
)
def test_recipe_gives_what_it_says(page, recipe):
    assert recipe

    prose.run(page, recipe)


def test_readme_opens_with_an_example():
    assert prose.blocks(ROOT / "README.md") != []
