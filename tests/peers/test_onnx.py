"""`attention` agrees with the reference evaluator of ONNX's `Attention` operator."""

import functools
import math

import numpy as np
import pytest

import attnfn as af

onnx = pytest.importorskip("onnx", reason="the peer is the onnx package")
reference = pytest.importorskip("onnx.reference", reason="the peer is the onnx package")

NEWEST = max(
    (
        s.since_version
        for s in onnx.defs.get_all_schemas_with_history()
        if s.name == "Attention"
    ),
    default=0,
)
if NEWEST < 23:
    pytest.skip("this onnx has no Attention operator", allow_module_level=True)

OPSETS = range(23, NEWEST + 1)
INPUTS = ("Q", "K", "V", "attn_mask", "past_key", "past_value", "nonpad_kv_seqlen")
OUTPUTS = ("Y", "present_key", "present_value", "qk_matmul_output")

BATCH, HEADS, Q_LEN, KV_LEN, HEAD_DIM, VALUE_DIM = 2, 4, 5, 7, 8, 6


@functools.cache
def evaluator(opset, names, attributes):
    """Return a session of one node, `Attention` with the named inputs alone."""
    last = max(i for i, name in enumerate(INPUTS) if name in names)
    inputs = [name if name in names else "" for name in INPUTS[: last + 1]]
    node = onnx.helper.make_node("Attention", inputs, OUTPUTS, **dict(attributes))
    values = [
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.DOUBLE, None) for n in names
    ]
    results = [
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.DOUBLE, None) for n in OUTPUTS
    ]
    graph = onnx.helper.make_graph([node], "attention", values, results)
    opsets = [onnx.helper.make_opsetid("", opset)]
    return reference.ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=opsets))


def peer(opset, query, key, value, *, inputs=None, **attributes):
    """Return the operator's outputs by name."""
    feeds = {"Q": query, "K": key, "V": value, **(inputs or {})}
    session = evaluator(opset, tuple(feeds), tuple(attributes.items()))
    return dict(zip(OUTPUTS, session.run(None, feeds), strict=True))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def arrays(*, num_kv_heads=HEADS, kv_len=KV_LEN):
    return (
        normal(BATCH, HEADS, Q_LEN, HEAD_DIM),
        normal(BATCH, num_kv_heads, kv_len, HEAD_DIM, seed=1),
        normal(BATCH, num_kv_heads, kv_len, VALUE_DIM, seed=2),
    )


def agree(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-12)


MASK = normal(Q_LEN, KV_LEN, seed=3) > 0
MASK[2] = False
BIAS = normal(BATCH, HEADS, Q_LEN, KV_LEN, seed=4)
LENGTHS = np.asarray([3, 7])
KV_POS = np.arange(KV_LEN)

#: name: (first opset, inputs, attributes, our options)
CASES = {
    "plain": (23, {}, {}, {}),
    # Attributes are float32, and so is the root that is taken of this one.
    "scale": (23, {}, {"scale": 0.25}, {"scale": 0.25}),
    "bool mask": (23, {"attn_mask": MASK}, {}, {"mask": MASK}),
    "bool mask per head": (
        23,
        {"attn_mask": BIAS[0] > 0},
        {},
        {"mask": (BIAS[0] > 0)[None]},
    ),
    "float mask": (23, {"attn_mask": BIAS}, {}, {"bias": BIAS}),
    "float mask of three axes is per head": (
        23,
        {"attn_mask": BIAS[0]},
        {},
        {"bias": BIAS[0]},
    ),
    "float mask with -inf": (
        23,
        {"attn_mask": np.where(MASK, BIAS, -math.inf)},
        {},
        {"mask": MASK, "bias": BIAS},
    ),
    "a mask shorter than the keys hides the rest": (
        23,
        {"attn_mask": MASK[:, :4]},
        {},
        {"mask": MASK & (KV_POS < 4)},
    ),
    "causal from the first key": (
        23,
        {},
        {"is_causal": 1},
        {"is_causal": True, "q_offset": 0},
    ),
    "bool mask and causal": (
        23,
        {"attn_mask": MASK},
        {"is_causal": 1},
        {"mask": MASK, "is_causal": True, "q_offset": 0},
    ),
    "float mask and causal": (
        23,
        {"attn_mask": BIAS},
        {"is_causal": 1},
        {"bias": BIAS, "is_causal": True, "q_offset": 0},
    ),
    "softcap": (23, {}, {"softcap": 1.5}, {"softcap": 1.5}),
    "softcap, then float mask": (
        23,
        {"attn_mask": BIAS},
        {"softcap": 1.5, "scale": 2.25},
        {"softcap": 1.5, "bias": BIAS, "scale": 2.25},
    ),
    "lengths": (
        24,
        {"nonpad_kv_seqlen": LENGTHS},
        {},
        {"mask": LENGTHS[:, None, None, None] > KV_POS},
    ),
    # The last query is the last of its sequence; with 3 keys for 5 queries the first two see none.
    "lengths and causal": (
        24,
        {"nonpad_kv_seqlen": LENGTHS},
        {"is_causal": 1},
        {"is_causal": True, "q_offset": LENGTHS - Q_LEN},
    ),
    "window": (
        25,
        {},
        {"left_window_size": 2, "right_window_size": 1},
        {"window_size": (2, 1), "q_offset": 0},
    ),
    "window to the left, causal": (
        25,
        {},
        {"left_window_size": 2, "is_causal": 1},
        {"window_size": (2, None), "is_causal": True, "q_offset": 0},
    ),
    "window and lengths": (
        25,
        {"nonpad_kv_seqlen": LENGTHS},
        {"left_window_size": 1, "right_window_size": 0},
        {
            "window_size": (1, 0),
            "q_offset": LENGTHS - Q_LEN,
            "mask": LENGTHS[:, None, None, None] > KV_POS,
        },
    ),
}

CASES_BY_OPSET = [
    (name, opset) for name, case in CASES.items() for opset in OPSETS if opset >= case[0]
]


@pytest.mark.parametrize(("case", "opset"), CASES_BY_OPSET)
class TestAttention:
    @pytest.mark.parametrize("num_kv_heads", [1, 2, HEADS])
    def test_outputs_agree(self, case, opset, num_kv_heads):
        _, inputs, attributes, ours = CASES[case]
        q, k, v = arrays(num_kv_heads=num_kv_heads)

        actual = af.attention(q, k, v, **ours)

        agree(actual, peer(opset, q, k, v, inputs=inputs, **attributes)["Y"])

    @pytest.mark.parametrize(
        ("mode", "ours"),
        [(2, af.attention_scores), (3, af.attention_weights)],
        ids=["scores", "weights"],
    )
    def test_intermediates_agree(self, case, opset, mode, ours):
        _, inputs, attributes, options = CASES[case]
        q, k, v = arrays(num_kv_heads=2)

        actual = ours(q, k, **options)

        outputs = peer(opset, q, k, v, inputs=inputs, **attributes, qk_matmul_output_mode=mode)
        agree(actual, outputs["qk_matmul_output"])


@pytest.mark.parametrize("opset", OPSETS)
class TestElsewhere:
    @pytest.mark.parametrize("is_causal", [False, True])
    def test_a_past_is_keys_in_front(self, opset, is_causal):
        q, k, v = arrays(num_kv_heads=2, kv_len=Q_LEN)
        past = {
            "past_key": normal(BATCH, 2, 3, HEAD_DIM, seed=5),
            "past_value": normal(BATCH, 2, 3, VALUE_DIM, seed=6),
        }
        expected = peer(opset, q, k, v, inputs=past, is_causal=int(is_causal))

        keys = np.concat((past["past_key"], k), axis=-2)
        values = np.concat((past["past_value"], v), axis=-2)
        actual = af.attention(q, keys, values, is_causal=is_causal, q_offset=3)

        agree(actual, expected["Y"])
        agree(keys, expected["present_key"])

    def test_a_past_with_a_bool_mask_agrees(self, opset):
        q, k, v = arrays(kv_len=Q_LEN)
        past = {
            "past_key": normal(BATCH, HEADS, 2, HEAD_DIM, seed=5),
            "past_value": normal(BATCH, HEADS, 2, VALUE_DIM, seed=6),
        }
        expected = peer(opset, q, k, v, inputs={"attn_mask": MASK, **past}, is_causal=1)

        actual = af.attention(
            q,
            np.concat((past["past_key"], k), axis=-2),
            np.concat((past["past_value"], v), axis=-2),
            mask=MASK,
            is_causal=True,
            q_offset=2,
        )

        agree(actual, expected["Y"])

    def test_inputs_of_three_axes_are_heads_side_by_side(self, opset):
        x = normal(BATCH, Q_LEN, HEADS * HEAD_DIM)
        y = normal(BATCH, KV_LEN, 2 * HEAD_DIM, seed=1)
        z = normal(BATCH, KV_LEN, 2 * VALUE_DIM, seed=2)

        out = af.attention(
            af.split_heads(x, HEADS), af.split_heads(y, 2), af.split_heads(z, 2), mask=MASK
        )

        expected = peer(
            opset, x, y, z, inputs={"attn_mask": MASK}, q_num_heads=HEADS, kv_num_heads=2
        )
        agree(af.merge_heads(out), expected["Y"])

    def test_scores_before_mask_and_softcap_agree(self, opset):
        q, k, v = arrays()

        actual = af.attention_scores(q, k, scale=0.25)

        expected = peer(
            opset, q, k, v, inputs={"attn_mask": BIAS}, scale=0.25, qk_matmul_output_mode=0
        )
        agree(actual, expected["qk_matmul_output"])

    def test_scores_after_softcap_agree(self, opset):
        q, k, v = arrays()

        actual = af.attention_scores(q, k, softcap=1.5)

        expected = peer(
            opset, q, k, v, inputs={"attn_mask": BIAS}, softcap=1.5, qk_matmul_output_mode=1
        )
        agree(actual, expected["qk_matmul_output"])

    def test_float32_agrees_to_its_rounding(self, opset):
        q, k, v = (x.astype("float32") for x in arrays())

        actual = af.attention(q, k, v, mask=MASK)

        expected = peer(opset, q, k, v, inputs={"attn_mask": MASK})["Y"]
        assert actual.dtype == expected.dtype
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
