"""The page on what others do names features that there are."""

import re
from pathlib import Path

from attnfn.testing import DIALECTS, FEATURES

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"


def test_rows_are_features_and_columns_are_dialects():
    text = PAGE.read_text(encoding="utf-8")

    rows = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    held_to = re.findall(r"held to `(\w+)`$", text, re.MULTILINE)

    assert set(rows) <= set(FEATURES)
    assert len(held_to) >= 18
    assert set(held_to) <= set(DIALECTS)
