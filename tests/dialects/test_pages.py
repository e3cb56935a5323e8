"""The page for those who come from another library, beside those libraries."""

from pathlib import Path

import prose
import pytest
from support import x64

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.dialects
@pytest.mark.filterwarnings("default")  # of other libraries
@pytest.mark.parametrize("page", prose.OF_PACKAGES)
def test_page_runs(page):
    assert prose.blocks(DOCS / page) != []

    with x64(False):  # as a reader has it
        prose.run(DOCS / page)
