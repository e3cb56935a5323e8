"""The tables and notes of the page on dialects are made of the data."""

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
SPEC = importlib.util.spec_from_file_location("dialect_tables", DOCS / "make_dialect_tables.py")
TABLES = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(TABLES)


@pytest.mark.parametrize("name", TABLES.pieces())
def test_page_shows_the_data(name):
    made = TABLES.pieces()[name]

    shown = TABLES.between(name, (DOCS / "dialects.md").read_text(encoding="utf-8"))
    assert made == shown, "python docs/make_dialect_tables.py writes it"


def test_every_convention_is_in_a_table():
    shown = [question for questions in TABLES.TABLES.values() for question in questions]

    assert sorted(shown) == sorted(TABLES.CHOICES)
