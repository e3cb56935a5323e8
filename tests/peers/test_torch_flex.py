"""`attention` agrees with PyTorch's `flex_attention`, run eagerly."""

from typing import Any, NamedTuple

import pytest
from support import normal

import attnfn as af

torch = pytest.importorskip("torch", reason="the peer is PyTorch")
xp = pytest.importorskip("array_api_compat.torch", reason="the peer is PyTorch")
flex = pytest.importorskip(
    "torch.nn.attention.flex_attention", reason="this PyTorch has no flex_attention"
)

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")

BATCH, HEADS, KV_HEADS, Q_LEN, KV_LEN, HEAD_DIM, VALUE_DIM = 2, 4, 2, 5, 7, 8, 6

QUERY = normal(xp, BATCH, HEADS, Q_LEN, HEAD_DIM, seed=0)
KEY = normal(xp, BATCH, KV_HEADS, KV_LEN, HEAD_DIM, seed=1)
VALUE = normal(xp, BATCH, KV_HEADS, KV_LEN, VALUE_DIM, seed=2)

BIAS = normal(xp, BATCH, HEADS, Q_LEN, KV_LEN, seed=3)
SLOPES = torch.asarray([0.5, 0.25, 0.125, 0.0625], dtype=torch.float64)
LENGTHS = torch.asarray([3, 7])
OFFSETS = torch.asarray([-1, 4])
Q_DOCUMENTS = torch.asarray([[0, 0, 1, 1, 2], [0, 1, 1, 1, 1]])
KV_DOCUMENTS = torch.asarray([[0, 0, 0, 1, 1, 1, 3], [1, 1, 1, 0, 2, 2, 0]])


class Case(NamedTuple):
    """The same variant in PyTorch's words, a scalar function of indices, and in ours."""

    ours: dict[str, Any]
    score_mod: Any = None
    mask_mod: Any = None
    scale: float | None = None


CASES = {
    "plain": Case({}),
    "scale": Case({"scale": 0.3}, scale=0.3),
    "causal from the first key": Case(
        {"is_causal": True, "q_offset": 0}, mask_mod=lambda b, h, i, j: j <= i
    ),
    "causal up to the last key": Case(
        {"is_causal": True, "q_offset": KV_LEN - Q_LEN},
        mask_mod=lambda b, h, i, j: j <= i + KV_LEN - Q_LEN,
    ),
    "causal, an offset per batch": Case(
        {"is_causal": True, "q_offset": OFFSETS},
        mask_mod=lambda b, h, i, j: j <= i + OFFSETS[b],
    ),
    "window": Case(
        {"window_size": (2, 1), "q_offset": 0},
        mask_mod=lambda b, h, i, j: (i - 2 <= j) & (j <= i + 1),
    ),
    "window to the left alone": Case(
        {"window_size": (1, None), "is_causal": True, "q_offset": 2},
        mask_mod=lambda b, h, i, j: (i + 2 - j <= 1) & (j <= i + 2),
    ),
    "documents": Case(
        {"segment_ids": (Q_DOCUMENTS, KV_DOCUMENTS)},
        mask_mod=lambda b, h, i, j: Q_DOCUMENTS[b, i] == KV_DOCUMENTS[b, j],
    ),
    "documents, causal": Case(
        {"segment_ids": (Q_DOCUMENTS, KV_DOCUMENTS), "is_causal": True, "q_offset": 1},
        mask_mod=lambda b, h, i, j: (Q_DOCUMENTS[b, i] == KV_DOCUMENTS[b, j]) & (j <= i + 1),
    ),
    "lengths": Case(
        {"mask": lambda q_pos, kv_pos: kv_pos < LENGTHS[:, None, None, None], "q_offset": 0},
        mask_mod=lambda b, h, i, j: j < LENGTHS[b],
    ),
    "softcap": Case(
        {"softcap": 1.5}, score_mod=lambda s, b, h, i, j: 1.5 * torch.tanh(s / 1.5)
    ),
    "bias": Case({"bias": BIAS}, score_mod=lambda s, b, h, i, j: s + BIAS[b, h, i, j]),
    "softcap, then bias": Case(
        {"softcap": 1.5, "bias": BIAS},
        score_mod=lambda s, b, h, i, j: 1.5 * torch.tanh(s / 1.5) + BIAS[b, h, i, j],
    ),
    "bias, then softcap": Case(
        {"softcap": 1.5, "score_mod": lambda s, q_pos, kv_pos: s + BIAS, "q_offset": 0},
        score_mod=lambda s, b, h, i, j: 1.5 * torch.tanh((s + BIAS[b, h, i, j]) / 1.5),
    ),
    "alibi": Case(
        {
            "bias": lambda q_pos, kv_pos: SLOPES[:, None, None] * (kv_pos - q_pos),
            "is_causal": True,
            "q_offset": 2,
        },
        score_mod=lambda s, b, h, i, j: s + SLOPES[h] * (j - i - 2),
        mask_mod=lambda b, h, i, j: j <= i + 2,
    ),
    "masked in score_mod": Case(
        {
            "score_mod": lambda s, q_pos, kv_pos: torch.where(
                kv_pos % 3 == q_pos % 2, s, -torch.inf
            ),
            "q_offset": 0,
        },
        score_mod=lambda s, b, h, i, j: torch.where(j % 3 == i % 2, s, -torch.inf),
    ),
    "empty rows": Case(
        {"mask": lambda q_pos, kv_pos: (kv_pos < q_pos) & (q_pos != 3), "q_offset": 0},
        mask_mod=lambda b, h, i, j: (j < i) & (i != 3),
    ),
}


@pytest.fixture(autouse=True)
def _forget_compiled_variants():
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("case", CASES)
class TestFlexAttention:
    def test_output_and_lse_agree(self, case):
        ours, score_mod, mask_mod, scale = CASES[case]
        sizes = (BATCH, HEADS, Q_LEN, KV_LEN)

        out, lse = af.attention_with_lse(QUERY, KEY, VALUE, **ours)

        expected, aux = flex.flex_attention(
            QUERY,
            KEY,
            VALUE,
            score_mod=score_mod,
            block_mask=mask_mod and flex.create_block_mask(mask_mod, *sizes, device="cpu"),
            scale=scale,
            enable_gqa=True,
            return_aux=flex.AuxRequest(lse=True),
        )
        torch.testing.assert_close(out, expected, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(lse, aux.lse, rtol=1e-11, atol=1e-12)
