"""Every Python block of the README and of the docs runs, and prints what the page says it prints."""

from pathlib import Path

import prose
import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "docs").glob("[!_]*/**/*.md"))
PAGES = [p for p in PAGES if p.name not in prose.OF_OTHER_LIBRARIES and prose.blocks(p)]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_page_runs_and_prints_what_it_shows(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # a page may write files

    prose.run(page)


def test_readme_opens_with_an_example():
    assert prose.blocks(ROOT / "README.md") != []
