"""Sides that compute on NumPy arrays by other means: Keras, and ONNX Runtime."""

import math
import os

import numpy as np

from .work import allowed, draw

__all__ = ["keras_ops", "onnx_operator"]


def keras_ops(work):
    """`keras.ops` with NumPy behind it, on arrays that have its axes from the start."""
    os.environ["KERAS_BACKEND"] = "numpy"
    import keras

    if work.gradient or work.softcap is not None:
        reason = "has no gradient on NumPy, and a softcap on a TPU alone"
        raise NotImplementedError(reason)
    if work.num_heads != work.num_kv_heads:
        reason = "has no grouped heads on NumPy"
        raise NotImplementedError(reason)
    x = draw(work)
    mask = allowed(work._replace(is_causal=False), x)
    query, key, value = (np.ascontiguousarray(a.swapaxes(1, 2)) for a in x[:3])
    said = {
        "bias": x.bias,
        "mask": mask[None, None] if mask is not None and mask.ndim == 2 else mask,
        "is_causal": work.is_causal,
        "attn_logits_soft_cap": work.softcap,
    }
    return lambda: keras.ops.dot_product_attention(query, key, value, **said)


def onnx_operator(work):
    """The operator `Attention`, which ONNX Runtime runs from opset 23 on."""
    import onnx
    import onnxruntime

    if work.gradient:
        reason = "has no gradient"
        raise NotImplementedError(reason)
    x = draw(work)
    mask = allowed(work._replace(is_causal=False), x)
    if x.bias is not None:
        mask = x.bias if mask is None else np.where(mask, x.bias, np.float32(-math.inf))
    feeds = {"Q": x.query, "K": x.key, "V": x.value}
    if mask is not None:
        feeds["attn_mask"] = np.ascontiguousarray(
            np.broadcast_to(mask, (*mask.shape[:-2], work.q_len, work.kv_len))
        )
    kinds = {np.dtype(bool): onnx.TensorProto.BOOL, np.dtype("f4"): onnx.TensorProto.FLOAT}
    values = [
        onnx.helper.make_tensor_value_info(name, kinds[array.dtype], array.shape)
        for name, array in feeds.items()
    ]
    result = onnx.helper.make_tensor_value_info("Y", onnx.TensorProto.FLOAT, None)
    node = onnx.helper.make_node(
        "Attention",
        list(feeds),
        ["Y"],
        is_causal=int(work.is_causal),
        softcap=float(work.softcap or 0.0),
    )
    graph = onnx.helper.make_graph([node], "attention", values, [result])
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=11
    )
    how = onnxruntime.SessionOptions()
    how.intra_op_num_threads = os.cpu_count() or 1
    # Threads that spin while they wait would slow whoever comes next.
    how.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), how, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        reason = f"does not run it: {str(error).splitlines()[0][:80]}"
        raise NotImplementedError(reason) from error
    return lambda: session.run(None, feeds)
