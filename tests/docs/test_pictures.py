"""The pictures of the docs are those that the script makes."""

import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def test_the_script_makes_every_picture_that_the_page_shows(tmp_path):
    pytest.importorskip("matplotlib", reason="it draws")
    spec = importlib.util.spec_from_file_location("pictures", DOCS / "make_pictures.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    made = script.make(tmp_path)

    shown = re.findall(r"\(pictures/(.+?)\)", (DOCS / "pictures.md").read_text("utf-8"))
    kept = [path.name for path in sorted((DOCS / "pictures").iterdir())]
    assert sorted(shown) == sorted(made) == kept
    assert all((tmp_path / name).stat().st_size > 5000 for name in made)
    assert sum((DOCS / "pictures" / name).stat().st_size for name in kept) < 250_000
