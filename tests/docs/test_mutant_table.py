"""The page of mutants speaks of those that there are."""

import re
from pathlib import Path

from testing.gallery import GALLERY

PAGE = Path(__file__).parents[2] / "docs" / "mutants.md"


def test_page_has_a_row_for_every_mutant():
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)

    assert rows == list(GALLERY), "python docs/make_mutant_table.py gallery writes them"
