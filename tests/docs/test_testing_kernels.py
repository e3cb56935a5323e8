"""Who follows the page on kernels gets what it shows: the file, and what pytest prints."""

import re
import shlex
from pathlib import Path

import prose
import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "testing_kernels.md"
KERNEL = DOCS / "examples" / "pallas_kernel.py"

jax = pytest.importorskip("jax", reason="the kernel is in Pallas")


def test_the_kernel_mended_is_the_example():
    first, mended = (block for _, block, _ in prose.blocks(PAGE) if "def seen_by" in block)
    function = mended.partition("\n\n\n")[0]

    whole = re.sub(r"def seen_by.*?\n\n\n", function + "\n\n\n", first, flags=re.DOTALL)

    assert whole == KERNEL.read_text(encoding="utf-8")


def test_the_command_prints_what_the_page_shows(pytester):
    pytester.makepyfile(my_kernel=KERNEL.read_text(encoding="utf-8"))
    page = PAGE.read_text(encoding="utf-8")
    command, shown = re.search(
        r"```sh\n(pytest .*?)```\n\n```text\n(.*?)```", page, re.DOTALL
    ).groups()

    result = pytester.runpytest_subprocess("-p", "_attnfn_pytest", *shlex.split(command)[1:])

    result.stdout.fnmatch_lines(
        [line for line in shown.splitlines() if line], consecutive=False
    )
