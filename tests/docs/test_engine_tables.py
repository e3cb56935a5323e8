"""The table that says which engine "auto" takes is made again, and is what the page shows."""

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


# PyTorch itself scripts the forward derivatives of some operations when first asked for one.
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
def test_page_shows_what_auto_takes_now():
    pytest.importorskip("torch", reason="the table has columns for it")
    pytest.importorskip("jax", reason="the table has columns for it")
    spec = importlib.util.spec_from_file_location("tables", DOCS / "make_engine_tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)

    made = tables.option_table()

    shown = tables.between("options", (DOCS / "engines.md").read_text(encoding="utf-8"))
    assert made == shown, "python docs/make_engine_tables.py writes it"
