"""Every Python block of the README and of the docs runs, and prints what the page says it prints."""

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "docs").glob("[!_]*/**/*.md"))
BLOCK = re.compile(r"^```(?:python|pycon)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def blocks(page):
    """Return the page's Python blocks, each with the number of the line it starts on."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, m.start(1)), m[1]) for m in BLOCK.finditer(text)]


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: p.name)
def test_page_runs_and_prints_what_it_shows(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # a page may write files
    told, names = [], {"__name__": page.stem}
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)

    for line, block in blocks(page):
        if ">>>" in block:
            example = doctest.DocTestParser().get_doctest(
                block, names, page.name, str(page), line
            )
            runner.run(example, out=told.append, clear_globs=False)
            names = example.globs
        else:
            exec(compile("\n" * line + block, str(page), "exec"), names)

    assert runner.failures == 0, "".join(told)


def test_readme_opens_with_an_example():
    assert blocks(ROOT / "README.md") != []
