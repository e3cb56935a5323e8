"""The pages of the docs about other libraries' layers: every Python block of them runs."""

from pathlib import Path

import prose
import pytest
from support import x64

pytestmark = pytest.mark.convert

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", prose.OF_LAYERS)
def test_page_runs(page):
    assert prose.blocks(DOCS / page) != []

    with x64(False):  # as a reader has it
        prose.run(DOCS / page)
