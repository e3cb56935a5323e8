"""Make the tables and notes of dialects.md from the data in `attnfn.testing.DIALECTS`."""

import re
from pathlib import Path

from attnfn.testing import DIALECTS, Conventions
from attnfn.testing._dialects._conventions import CHOICES

PAGE = Path(__file__).with_name("dialects.md")

#: The tables, each with its questions as they head the columns.
TABLES = {
    "who may attend": {
        "mask": "True in a mask",
        "mask_value": "a hidden key has",
        "alignment": "queries stand",
        "window": "a window is",
        "lengths": "a length is",
    },
    "scores": {
        "groups": "grouped heads",
        "default_scale": "default scale",
        "bias": "the bias is added",
        "softcap": "the cap bends",
    },
    "nothing": {
        "empty_row": "row with nothing to attend to",
        "biased_row": "row whose bias is -inf",
        "empty_lse": "its log-sum-exp",
    },
    "lse": {
        "lse_base": "base",
        "lse_dtype": "dtype",
        "lse_sinks": "sinks",
    },
    "precision": {
        "softmax_dtype": "softmax of float64",
        "hidden_key": "NaN in a hidden key",
        "hidden_value": "NaN in a hidden value",
    },
}
#: What the answers are called there, where not by their own names.
WORDS = {
    ("alignment", "explicit"): "as told",
    ("alignment", "top_left"): "first",
    ("alignment", "bottom_right"): "last",
    ("alignment", "by_lengths"): "first; last with lengths",
    ("lengths", "last_index"): "the last index",
    ("lengths", "count"): "a count",
    ("mask_value", "-inf"): "no weight",
    ("mask_value", "lowest"): "the lowest number added",
    ("default_scale", "root"): "1 / √head_dim",
    ("default_scale", "one"): "1",
    ("softcap", "before_bias"): "scores",
    ("softcap", "after_bias"): "scores and bias",
    ("softcap", "after_mask"): "scores, bias, mask",
    ("bias", "after_scale"): "after scaling",
    ("empty_row", "zero"): "0",
    ("empty_row", "uniform"): "mean of values",
    ("empty_row", "nan"): "NaN",
    ("biased_row", "empty"): "the same",
    ("biased_row", "nan"): "NaN",
    ("empty_lse", "finite"): "very low",
    ("lse_dtype", "compute"): "computed in",
    ("lse_dtype", "query"): "the query's",
    ("softmax_dtype", "own"): "float64",
}
#: What a dialect must have for a question to be one: any of the first, all of the second.
HIDING = ("mask", "is_causal", "window_size", "lengths", "segment_ids")
APPLIES = {
    "mask": (("mask",), ()),
    "mask_value": (HIDING, ()),
    "alignment": (("is_causal", "window_size", "score_mod"), ()),
    "window": (("window_size",), ()),
    "lengths": (("lengths",), ()),
    "groups": (("groups",), ()),
    "bias": (("bias",), ()),
    "softcap": (("softcap",), ()),
    "empty_row": (HIDING, ()),
    "biased_row": (("bias",), ()),
    "empty_lse": (HIDING, ("lse",)),
    "lse_base": (("lse",), ()),
    "lse_dtype": (("lse",), ()),
    "lse_sinks": (("sinks",), ("lse",)),
    "hidden_key": (HIDING, ()),
    "hidden_value": (HIDING, ()),
}


def applies(question, features):
    """Return whether an implementation with these features can be asked."""
    some, every = APPLIES.get(question, ((), ()))
    return (not some or bool(features & {*some})) and features >= {*every}


def cell(question, dialect):
    """Return an answer, in bold where it is not attnfn's, or a dash."""
    if not applies(question, dialect.features):
        return "-"
    answer = getattr(dialect.conventions, question)
    word = WORDS.get((question, answer), answer.replace("_", " "))
    is_ours = answer == getattr(Conventions(), question) or answer == "explicit"
    return word if is_ours else f"**{word}**"


def convention_table(name):
    """Return a table of dialects and questions; who has nothing to say is left out."""
    questions = TABLES[name]
    rows = [
        [f"`{name}`", *(cell(question, dialect) for question in questions)]
        for name, dialect in DIALECTS.items()
    ]
    rows = [row for row in rows if {*row[1:]} != {"-"}]
    return table(["dialect", *questions.values()], rows)


def source_table():
    """Return the table of names, titles and evidence."""
    rows = [
        [f"`{name}`", dialect.title, evidence(dialect)] for name, dialect in DIALECTS.items()
    ]
    return table(["dialect", "what it is", "seen in"], rows)


def evidence(dialect):
    if dialect.evidence == "verified":
        return f"{dialect.source}, run"
    repository, path, _, commit = dialect.source.split()
    return f"source of {repository}, `{path}` at {commit}"


def notes(name):
    """Return what no convention says of a dialect."""
    return "\n".join(f"- {note}" for note in DIALECTS[name].notes)


def table(heads, rows):
    """Return a table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def pieces():
    """Return what goes between the page's markers, by their names."""
    made = {name: convention_table(name) for name in TABLES}
    made["sources"] = source_table()
    for name, dialect in DIALECTS.items():
        if dialect.notes and notes(name) not in made.values():
            made[f"notes {name}"] = notes(name)
    return made


def between(name, text):
    """Return what the page has under a name."""
    return re.search(rf"<!-- {re.escape(name)} -->\n\n(.*?)\n\n<!-- end -->", text, re.DOTALL)[
        1
    ]


def main():
    """Write every piece into the page, between its markers."""
    text = PAGE.read_text(encoding="utf-8")
    for name, made in pieces().items():
        start, end = f"<!-- {name} -->\n\n", "\n\n<!-- end -->"
        text = text.replace(start + between(name, text) + end, start + made + end)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    assert {question for of in TABLES.values() for question in of} == CHOICES.keys()
    main()
