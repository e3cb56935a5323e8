"""`attention` agrees with `torch.nn.functional.scaled_dot_product_attention`."""

import importlib
import math

import pytest
from support import normal

import attnfn as af

torch = pytest.importorskip("torch", reason="the peer is PyTorch")
xp = pytest.importorskip("array_api_compat.torch", reason="the peer is PyTorch")
F = torch.nn.functional

BATCH, HEADS, Q_LEN, KV_LEN, HEAD_DIM, VALUE_DIM = 2, 4, 5, 7, 8, 6


def arrays(*, num_kv_heads=HEADS, q_len=Q_LEN, kv_len=KV_LEN, dtype="float64"):
    """Query, key and value with no two sizes equal, each a leaf that wants its gradient."""
    shapes = (
        (BATCH, HEADS, q_len, HEAD_DIM),
        (BATCH, num_kv_heads, kv_len, HEAD_DIM),
        (BATCH, num_kv_heads, kv_len, VALUE_DIM),
    )
    drawn = [normal(xp, *shape, seed=i, dtype=dtype) for i, shape in enumerate(shapes)]
    return [x.requires_grad_() for x in drawn]


def random_mask(*shape):
    """About half True, the first key always: no empty row."""
    mask = normal(xp, *shape, seed=7) > 0
    mask[..., 0] = True
    return mask


MASK = random_mask(Q_LEN, KV_LEN)
EMPTY_ROWS = MASK & (torch.arange(Q_LEN) % 2 == 0)[:, None]
BIAS = normal(xp, BATCH, HEADS, Q_LEN, KV_LEN, seed=8)
PADDING = torch.arange(KV_LEN) < torch.asarray([[[[3]]], [[[7]]]])

#: name: (torch's keywords, ours)
CASES = {
    "plain": ({}, {}),
    "scale": ({"scale": 0.7}, {"scale": 0.7}),
    "mask of query and key": ({"attn_mask": MASK}, {"mask": MASK}),
    "mask of key alone": ({"attn_mask": MASK[1:2]}, {"mask": MASK[1]}),
    "mask of lengths": ({"attn_mask": PADDING}, {"mask": PADDING}),
    "mask per batch": (
        {"attn_mask": random_mask(BATCH, 1, Q_LEN, KV_LEN)},
        {"mask": random_mask(BATCH, 1, Q_LEN, KV_LEN)},
    ),
    "mask per head": (
        {"attn_mask": random_mask(1, HEADS, Q_LEN, KV_LEN)},
        {"mask": random_mask(1, HEADS, Q_LEN, KV_LEN)},
    ),
    "empty rows": ({"attn_mask": EMPTY_ROWS}, {"mask": EMPTY_ROWS}),
    "float mask": ({"attn_mask": BIAS}, {"bias": BIAS}),
    "float mask per head": ({"attn_mask": BIAS[0]}, {"bias": BIAS[0]}),
    "float mask of one query axis": ({"attn_mask": BIAS[0, 0]}, {"bias": BIAS[0, 0]}),
    "float mask with -inf": (
        {"attn_mask": torch.where(MASK, BIAS, -math.inf)},
        {"bias": BIAS, "mask": MASK},
    ),
    "float mask with rows of -inf": (
        {"attn_mask": torch.where(EMPTY_ROWS, BIAS, -math.inf)},
        {"bias": torch.where(EMPTY_ROWS, BIAS, -math.inf)},
    ),
    "causal from the first key": ({"is_causal": True}, {"is_causal": True, "q_offset": 0}),
}


def agree(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("num_kv_heads", [1, 2, HEADS])
@pytest.mark.parametrize("case", CASES)
class TestScaledDotProductAttention:
    def test_outputs_agree(self, case, num_kv_heads):
        theirs, ours = CASES[case]
        q, k, v = arrays(num_kv_heads=num_kv_heads)

        actual = af.attention(q, k, v, **ours)

        expected = F.scaled_dot_product_attention(q, k, v, enable_gqa=True, **theirs)
        agree(actual, expected)

    def test_gradients_agree(self, case, num_kv_heads):
        theirs, ours = CASES[case]
        inputs = arrays(num_kv_heads=num_kv_heads)
        d_out = normal(xp, BATCH, HEADS, Q_LEN, VALUE_DIM, seed=9)

        actual = torch.autograd.grad(af.attention(*inputs, **ours), inputs, d_out)

        out = F.scaled_dot_product_attention(*inputs, enable_gqa=True, **theirs)
        expected = torch.autograd.grad(out, inputs, d_out)
        for ours_d, theirs_d in zip(actual, expected, strict=True):
            agree(ours_d, theirs_d)


class TestScaledDotProductAttentionElsewhere:
    def test_gradient_of_a_float_mask_agrees(self):
        inputs = [*arrays(), BIAS[0].clone().requires_grad_()]
        d_out = normal(xp, BATCH, HEADS, Q_LEN, VALUE_DIM, seed=9)

        actual = torch.autograd.grad(af.attention(*inputs[:3], bias=inputs[3]), inputs, d_out)

        out = F.scaled_dot_product_attention(*inputs[:3], attn_mask=inputs[3])
        for ours_d, theirs_d in zip(
            actual, torch.autograd.grad(out, inputs, d_out), strict=True
        ):
            agree(ours_d, theirs_d)

    def test_second_derivatives_agree(self):
        inputs = arrays(num_kv_heads=2)

        def curvature(out):
            first = torch.autograd.grad((out**3).sum(), inputs, create_graph=True)
            return torch.autograd.grad(sum((d**2).sum() for d in first), inputs)

        actual = curvature(af.attention(*inputs, mask=EMPTY_ROWS))

        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            out = F.scaled_dot_product_attention(*inputs, attn_mask=EMPTY_ROWS, enable_gqa=True)
        for ours_dd, theirs_dd in zip(actual, curvature(out), strict=True):
            torch.testing.assert_close(ours_dd, theirs_dd, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize(("q_len", "kv_len"), [(5, 7), (1, 7), (4, 4)])
    def test_lower_right_causal_is_an_offset(self, q_len, kv_len):
        q, k, v = arrays(q_len=q_len, kv_len=kv_len)

        actual = af.attention(q, k, v, is_causal=True, q_offset=kv_len - q_len)

        lower_right = importlib.import_module("torch.nn.attention.bias").causal_lower_right(
            q_len, kv_len
        )
        agree(actual, F.scaled_dot_product_attention(q, k, v, attn_mask=lower_right))

    @pytest.mark.parametrize(("q_len", "kv_len"), [(5, 0), (0, 7), (0, 0)])
    def test_lengths_of_zero_agree(self, q_len, kv_len):
        q, k, v = arrays(q_len=q_len, kv_len=kv_len)

        actual = af.attention(q, k, v)

        agree(actual, F.scaled_dot_product_attention(q, k, v))

    @pytest.mark.parametrize("leading", [(), (3,), (3, 1, 2)])
    def test_any_number_of_batch_axes_agrees(self, leading):
        q = normal(xp, *leading, HEADS, Q_LEN, HEAD_DIM)
        k = normal(xp, *leading, HEADS, KV_LEN, HEAD_DIM, seed=1)
        v = normal(xp, *leading, HEADS, KV_LEN, VALUE_DIM, seed=2)

        actual = af.attention(q, k, v, mask=MASK)

        agree(actual, F.scaled_dot_product_attention(q, k, v, attn_mask=MASK))

    def test_float32_agrees_to_its_rounding(self):
        q, k, v = arrays(dtype="float32")

        actual = af.attention(q, k, v, is_causal=True, q_offset=0)

        expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_halves_are_at_most_twice_as_far_from_float64(self, dtype):
        halves = [x.detach() for x in arrays(dtype=dtype)]
        exact = F.scaled_dot_product_attention(*(x.double() for x in halves), attn_mask=MASK)

        actual = af.attention(*halves, mask=MASK)

        expected = F.scaled_dot_product_attention(*halves, attn_mask=MASK)
        assert actual.dtype == expected.dtype
        ours, theirs = ((x.double() - exact).abs().max() for x in (actual, expected))
        assert 0 < ours <= 2 * theirs


class TestTheMathematicalDefinition:
    """PyTorch's decomposition shows two things that the public function does not."""

    def test_weights_agree(self):
        q, k, v = arrays(num_kv_heads=2)

        actual = af.attention_weights(q, k, mask=EMPTY_ROWS)

        _, expected = torch.ops.aten._scaled_dot_product_attention_math(
            q, k, v, torch.where(EMPTY_ROWS, 0.0, -math.inf).double(), enable_gqa=True
        )
        agree(actual, expected)

    def test_a_given_dropout_mask_agrees(self):
        q, k, v = arrays()
        keep = normal(xp, BATCH, HEADS, Q_LEN, KV_LEN, seed=5) > -0.5

        actual = af.attention(q, k, v, dropout_mask=keep, dropout_rate=0.3)

        expected, _ = torch.ops.aten._scaled_dot_product_attention_math(
            q, k, v, dropout_p=0.3, dropout_mask=keep
        )
        agree(actual, expected)

    def test_lse_agrees(self):
        q, k, v = arrays(kv_len=Q_LEN, dtype="float64")
        v = normal(xp, BATCH, HEADS, Q_LEN, HEAD_DIM, seed=2)

        _, actual = af.attention_with_lse(q, k, v, is_causal=True)

        _, expected = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, is_causal=True
        )
        agree(actual, expected)
