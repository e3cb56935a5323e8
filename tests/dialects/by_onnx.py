"""The reference of ONNX, and the operator of onnxruntime."""

from functools import partial

import numpy as np
import onnxruntime
from dialects.by_torch import one_slot
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

FLOAT = TensorProto.FLOAT


def model_of(node, inputs, outputs, opsets):
    """A model of one node; arrays of any shape go in and out."""

    def declared(name, x):
        return helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(x.dtype), None
        )

    made = [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()]
    graph = helper.make_graph([node], "attention", [declared(*x) for x in inputs.items()], made)
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def reference(
    version,
    query,
    key,
    value,
    *,
    mask=None,
    bias=None,
    is_causal=False,
    window_size=None,
    lengths=None,
    scale=None,
    softcap=None,
):
    inputs = {"Q": query, "K": key, "V": value}
    given = one_slot(mask, bias)
    if given is not None:
        inputs["attn_mask"] = given
    if lengths is not None:
        inputs["nonpad_kv_seqlen"] = np.asarray(lengths, dtype=np.int64)
    names = ("Q", "K", "V", "attn_mask", "past_key", "past_value", "nonpad_kv_seqlen")
    slots = [name if name in inputs else "" for name in names]
    while not slots[-1]:
        slots.pop()
    attributes = {"is_causal": int(is_causal), "scale": scale, "softcap": softcap}
    if window_size is not None:
        sides = [-1 if side is None else side for side in window_size]
        attributes |= {"left_window_size": sides[0], "right_window_size": sides[1]}
    chosen = {name: x for name, x in attributes.items() if x is not None}
    node = helper.make_node("Attention", slots, ["Y"], **chosen)
    kind = helper.np_dtype_to_tensor_dtype(query.dtype)
    model = model_of(node, inputs, {"Y": kind}, [helper.make_opsetid("", version)])
    (out,) = ReferenceEvaluator(model).run(None, inputs)
    return out, None


def group_query_attention(
    query,
    key,
    value,
    *,
    bias=None,
    is_causal=False,
    window_size=None,
    lengths=None,
    scale=None,
    softcap=None,
    sinks=None,
):
    """
    The operator, one sequence at a time: the keys before the last q_len are the past.

    The past is a buffer of the length of all keys, at whose places after the past there is
    what must not be read.
    """
    last = np.full((len(query),), key.shape[2] - 1) if lengths is None else lengths
    rows = []
    for b, end in enumerate(last):
        total = end + 1
        row = slice(b, b + 1)
        q, k, v = query[row], key[row, :, :total], value[row, :, :total]
        given = None if bias is None else bias[row]
        rows.append(
            _one_sequence(q, k, v, given, is_causal, window_size, scale, softcap, sinks)
        )
    return np.concatenate(rows), None


def _one_sequence(query, key, value, bias, is_causal, window_size, scale, softcap, sinks):
    _, heads, q_len, dim = query.shape
    kv_heads, kv_len = key.shape[1], key.shape[2]
    flat = lambda x: np.swapaxes(x, 1, 2).reshape(1, x.shape[2], -1)  # noqa: E731
    past = kv_len - q_len
    inputs = {
        "query": flat(query),
        "key": flat(key[:, :, past:]),
        "value": flat(value[:, :, past:]),
        "past_key": key[:, :, :past],
        "past_value": value[:, :, :past],
        "seqlens_k": np.asarray([kv_len - 1], dtype=np.int32),
        "total_sequence_length": np.asarray(kv_len, dtype=np.int32),
    }
    slots = [*inputs, "", "", ""]
    for name, x in (("attention_bias", bias), ("head_sink", sinks)):
        slots.append(name if x is not None else "")
        inputs |= {} if x is None else {name: x}
    while not slots[-1]:
        slots.pop()
    attributes = {
        "num_heads": heads,
        "kv_num_heads": kv_heads,
        "causal": int(is_causal),
        "scale": scale,
        "softcap": softcap,
        "local_window_size": None if window_size is None else window_size[0],
    }
    chosen = {name: x for name, x in attributes.items() if x is not None}
    outputs = ["output", "present_key", "present_value"]
    node = helper.make_node(
        "GroupQueryAttention", slots, outputs, domain="com.microsoft", **chosen
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = model_of(node, inputs, dict.fromkeys(outputs, FLOAT), opsets)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    out = session.run(["output"], inputs)[0]
    return np.swapaxes(out.reshape(1, q_len, heads, dim), 1, 2)


CALLS = {
    "onnx_23": partial(reference, 23),
    "onnx_24": partial(reference, 24),
    "onnx_25": partial(reference, 25),
    "ort_group_query_attention": group_query_attention,
}
