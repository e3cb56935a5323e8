"""Pages whose Python blocks run, and print what the page says they print."""

import contextlib
import doctest
import io
import math
import re

import numpy as np

__all__ = ["OF_LAYERS", "OF_OTHER_LIBRARIES", "OF_PACKAGES", "blocks", "run", "sections"]

#: Pages that need other libraries: they run in tests/convert and tests/dialects.
OF_LAYERS = ("functions_and_classes.md", "weights.md")
OF_PACKAGES = ("dialects.md",)
OF_OTHER_LIBRARIES = OF_LAYERS + OF_PACKAGES

#: A block of code, and the text right behind it, which is what it prints.
BLOCK = re.compile(
    r"^```(?:python|pycon)\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL
)
HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def blocks(page):
    """Return the page's Python blocks: the line each starts on, the code, what it is to print."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, m.start(1)), *m.groups()) for m in BLOCK.finditer(text)]


def sections(page):
    """Return the page's sections: the heading, and the blocks before the first one and its own."""
    text = page.read_text(encoding="utf-8")
    starts = [(text.count("\n", 0, m.start()), m[1]) for m in HEADING.finditer(text)]
    ends = [line for line, _ in starts[1:]] + [math.inf]
    first = [block for block in blocks(page) if block[0] < starts[0][0]]
    return [
        (heading, first + [block for block in blocks(page) if start < block[0] < end])
        for (start, heading), end in zip(starts, ends, strict=True)
    ]


def run(page, chosen=None):
    """Run the chosen blocks of a page, or all, one after another; they print what is shown."""
    told, names = [], {"__name__": page.stem}
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)

    with np.errstate():  # a page may change what NumPy warns of
        for line, block, shown in blocks(page) if chosen is None else chosen:
            if ">>>" in block:
                example = doctest.DocTestParser().get_doctest(
                    block, names, page.name, str(page), line
                )
                runner.run(example, out=told.append, clear_globs=False)
                names = example.globs
            else:
                with contextlib.redirect_stdout(io.StringIO()) as printed:
                    exec(compile("\n" * line + block, str(page), "exec"), names)
                if shown is not None:
                    assert printed.getvalue().split("\n") == shown.split("\n")

    assert runner.failures == 0, "".join(told)
