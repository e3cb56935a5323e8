"""The first release of ONNX with attention, which cannot be installed beside today's."""

from functools import partial

import numpy as np
import onnx
import pytest
from dialects import by_onnx
from dialects.cases import asked, assert_same, cases

from attnfn.testing import DIALECTS

pytestmark = pytest.mark.dialects

DIALECT = DIALECTS["onnx_before_corrections"]
#: Its reference computes halves in float64.
CASES = {
    title: case
    for title, case in cases().items()
    if case.needs <= DIALECT.features and not title.startswith("float16")
}
#: Its reference takes a mask of (q_len, kv_len) alone, and none beside causal order.
REFUSED = {
    title
    for title, case in CASES.items()
    for x in (case.options.get("mask"), case.options.get("bias"))
    if x is not None and (x.ndim > 2 or "is_causal" in case.options)
}

call = partial(by_onnx.reference, 23)


def answers(title):
    case = CASES[title]
    options = asked(case, DIALECT.conventions)
    out, _ = call(case.query, case.key, case.value, **options)
    return out, DIALECT.attention(case.query, case.key, case.value, **options)


class TestFirstOnnx:
    def test_it_is_the_version_that_the_dialect_names(self):
        assert f"onnx {onnx.__version__}" == DIALECT.source

    @pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
    @pytest.mark.parametrize("title", [title for title in CASES if title not in REFUSED])
    def test_it_answers_what_its_dialect_says(self, title):
        out, expected = answers(title)

        assert_same(out, expected, 3e-5)

    @pytest.mark.parametrize("title", sorted(REFUSED))
    def test_it_refuses_other_masks(self, title):
        with pytest.raises((AssertionError, ValueError, np.ma.MaskError)):
            answers(title)
