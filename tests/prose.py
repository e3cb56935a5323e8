"""Pages whose Python blocks run, and print what the page says they print."""

import doctest
import re

__all__ = ["OF_OTHER_LIBRARIES", "blocks", "run"]

#: Pages that need other libraries: they run in tests/convert, not in tests/docs.
OF_OTHER_LIBRARIES = ("functions_and_classes.md", "weights.md")

BLOCK = re.compile(r"^```(?:python|pycon)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def blocks(page):
    """Return the page's Python blocks, each with the number of the line it starts on."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, m.start(1)), m[1]) for m in BLOCK.finditer(text)]


def run(page):
    """Run the blocks of a page one after another, and assert that they print what is shown."""
    told, names = [], {"__name__": page.stem}
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)

    for line, block in blocks(page):
        if ">>>" in block:
            example = doctest.DocTestParser().get_doctest(
                block, names, page.name, str(page), line
            )
            runner.run(example, out=told.append, clear_globs=False)
            names = example.globs
        else:
            exec(compile("\n" * line + block, str(page), "exec"), names)

    assert runner.failures == 0, "".join(told)
