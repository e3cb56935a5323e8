"""What `python -m attnfn` shows: attention on a real sentence, and a check of every library."""

from ._calls import make_calls
from ._check import check_libraries
from ._grid import shades_for
from ._picture import save_picture
from ._report import describe_check, describe_outcome, describe_sentence, verdict
from ._sentence import Sentence, load_sentence

__all__ = [
    "Sentence",
    "check_libraries",
    "describe_check",
    "describe_outcome",
    "describe_sentence",
    "load_sentence",
    "make_calls",
    "save_picture",
    "shades_for",
    "verdict",
]
