"""ONNX's operators as functions, and functions called as the operators are."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ..._typing import Array
from .._subject import Subject
from ._call import Call, described, folded, unfolded
from ._checks import check_is_causal, check_options, check_past
from ._parameters import Parameters
from ._signature import Place, Signature, name_of, subject

__all__ = ["onnx_like", "onnx_operator", "ort_group_query_like"]

#: ``run(model, inputs by name) -> outputs``: what evaluates a model of one node.
Run = Callable[[Any, Mapping[str, Array]], list[Array]]


def _window(sides: tuple[int | None, int | None], _call: Call) -> dict[str, int]:
    named = zip(("left_window_size", "right_window_size"), sides, strict=True)
    return {name: side for name, side in named if side is not None}


def _past(q_offset: Any, call: Call) -> dict[str, Array]:
    check_past(q_offset, call.kv_len, "this operator")
    past = (..., slice(None, q_offset), slice(None))
    return {"past_key": call.key[past], "past_value": call.value[past]}


def onnx_like(function: Callable[..., Any], /) -> Subject:
    """
    Adapt a function with the signature of the operator `Attention` of ONNX.

    ``function(Q, K, V, attn_mask, past_key, past_value, nonpad_kv_seqlen, is_causal, scale,
    softcap, left_window_size, right_window_size)``, whichever of them it has, with axes
    ``(batch, num_heads, length, dim)``. ``attn_mask`` serves a mask (bool) and a bias
    (floating); both together are given as a bias that is -inf where the mask is not True. With
    ``q_offset=n`` the first n keys and values are given as the past; lengths are
    ``nonpad_kv_seqlen``. Attributes are float32, and integers for truth.

    Parameters
    ----------
    function : function of (Q, K, V)
        Returns Y, or the operator's outputs, of which Y is the first.

    Returns
    -------
    Subject
        What every check can ask.

    See Also
    --------
    onnx_operator : The operator itself as such a function, on any runtime.

    Examples
    --------
    >>> from attnfn.testing import onnx_like
    >>> def attention(Q, K, V, attn_mask=None, *, is_causal=0, softcap=0.0): ...
    >>> sorted(onnx_like(attention).options)
    ['bias', 'is_causal', 'mask', 'softcap']
    """
    made = subject(_after_past(function), _ONNX)
    return made._replace(name=name_of(function))


_ONNX = Signature(
    places={
        "mask": Place(("attn_mask",)),
        "bias": Place(("attn_mask",)),
        "is_causal": Place(("is_causal",), lambda _, __: 1),
        "scale": Place(("scale",)),
        "softcap": Place(("softcap",)),
        "lengths": Place(
            ("nonpad_kv_seqlen",),
            lambda x, call: call.xp.astype(call.xp.asarray(x), call.xp.int64),
        ),
        "window_size": Place(("left_window_size",), _window),
        "q_offset": Place(("past_key",), _past),
    },
)


def _after_past(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function whose keys are those after the past."""

    @functools.wraps(function)
    def called(q: Array, k: Array, v: Array, **keywords: Any) -> Any:
        if "past_key" in keywords:
            n = keywords["past_key"].shape[-2]
            k, v = k[..., n:, :], v[..., n:, :]
        found = function(q, k, v, **keywords)
        return found[0] if isinstance(found, tuple | list) else found

    return called


_INPUTS = ("Q", "K", "V", "attn_mask", "past_key", "past_value", "nonpad_kv_seqlen")
#: Attributes, each with the opset that brought it.
_ATTRIBUTES = {
    "is_causal": 23,
    "scale": 23,
    "softcap": 23,
    "left_window_size": 25,
    "right_window_size": 25,
}


def onnx_operator(*, opset: int = 24, run: Run | None = None) -> Callable[..., Array]:
    """
    Return the operator `Attention` of ONNX as a function of NumPy arrays.

    For each call a model of one node is made and evaluated, so that any runtime can be asked.

    Parameters
    ----------
    opset : int, optional
        23 or later: 24 has ``nonpad_kv_seqlen``, 25 windows. Default: 24.
    run : function of (model, inputs), optional
        Evaluates a model on a dict of arrays, and returns a list of outputs. Default: the
        reference evaluator of the onnx package.

    Returns
    -------
    function of (Q, K, V)
        For `onnx_like`; its signature has the inputs and attributes that the opset has.

    Examples
    --------
    On another runtime, ``run=lambda model, inputs:
    onnxruntime.InferenceSession(model.SerializeToString()).run(["Y"], inputs)``.

    >>> import numpy as np
    >>> from attnfn.testing import onnx_like, onnx_operator
    >>> subject = onnx_like(onnx_operator(opset=24))
    >>> sorted(subject.options)
    ['bias', 'is_causal', 'lengths', 'mask', 'q_offset', 'scale', 'softcap']
    >>> query, key, value = np.ones((3, 1, 1, 2, 4), dtype="float32")
    >>> subject.attention(query, key, value)
    array([[[[1., 1., 1., 1.],
             [1., 1., 1., 1.]]]], dtype=float32)
    """
    inputs = [name for name in _INPUTS if opset >= 24 or name != "nonpad_kv_seqlen"]
    attributes = [name for name, since in _ATTRIBUTES.items() if opset >= since]
    evaluate = _reference if run is None else run

    def attention(q: Array, k: Array, v: Array, /, **given: Any) -> Array:
        feeds = {"Q": q, "K": k, "V": v}
        feeds |= {name: given.pop(name) for name in inputs if name in given}
        return evaluate(_model(opset, inputs, feeds, given), feeds)[0]

    empty = inspect.Parameter.POSITIONAL_ONLY
    parameters = [inspect.Parameter(name, empty) for name in inputs[:3]]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
        for name in [*inputs[3:], *attributes]
    ]
    attention.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    attention.__name__ = f"Attention-{opset}"
    return attention


def _model(
    opset: int, names: list[str], feeds: Mapping[str, Array], attributes: dict[str, Any]
) -> Any:
    from onnx import helper

    last = max(i for i, name in enumerate(names) if name in feeds)
    inputs = [name if name in feeds else "" for name in names[: last + 1]]
    present = ["present_key", "present_value"] if "past_key" in feeds else []
    node = helper.make_node("Attention", inputs, ["Y", *present], **attributes)
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for name, x in feeds.items()
    ]
    kind = values[0].type.tensor_type.elem_type
    results = [helper.make_tensor_value_info(name, kind, None) for name in ("Y", *present)]
    graph = helper.make_graph([node], "attention", values, results)
    # The package's own version of the form is newer than what runtimes read.
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _reference(model: Any, inputs: Mapping[str, Array]) -> list[Array]:
    from onnx.reference import ReferenceEvaluator

    outputs: list[Array] = list(ReferenceEvaluator(model).run(None, dict(inputs)))
    return outputs


_GROUP_QUERY = {
    "bias": "attention_bias",
    "scale": "scale",
    "sinks": "head_sink",
    "softcap": "softcap",
    "window_size": "local_window_size",
}


def ort_group_query_like(function: Callable[..., Any], /) -> Subject:
    """
    Adapt a function with the signature of onnxruntime's operator `GroupQueryAttention`.

    ``function(query, key, value, past_key, past_value, seqlens_k, total_sequence_length,
    attention_bias, head_sink, num_heads, kv_num_heads, scale, softcap, local_window_size)``,
    where query, key and value have axes ``(batch, length, num_heads * dim)``, as does the
    output. It is always causal, the last query at the last key: the keys before the first
    query are given as the past, and a call that is not causal is refused. Lengths are
    ``seqlens_k``, as they come.

    Parameters
    ----------
    function : function of (query, key, value, past_key, past_value, seqlens_k, \
total_sequence_length)
        Returns the output, or the operator's outputs.

    Returns
    -------
    Subject
        What every check can ask.

    Examples
    --------
    >>> from attnfn.testing import ort_group_query_like
    >>> def attention(q, k, v, past_k, past_v, seqlens_k, total, *, num_heads, kv_num_heads):
    ...     ...
    >>> sorted(ort_group_query_like(attention).options)
    ['is_causal', 'lengths']
    """
    parameters = Parameters(function)
    own = {option: name for option, name in _GROUP_QUERY.items() if name in parameters}
    options = frozenset({"is_causal", "lengths", *own})
    name = name_of(function)

    def attention(query: Array, key: Array, value: Array, /, **given: Any) -> Array:
        check_options(given, options, name)
        call = folded(described(query, key, value, given))
        check_is_causal(call.options, name)
        keywords = {own[option]: x for option, x in call.options.items() if option in own}
        if "window_size" in call.options:
            keywords["local_window_size"] = call.options["window_size"][0]
        found = function(
            *_with_past(call),
            **keywords,
            num_heads=call.query.shape[1],
            kv_num_heads=call.key.shape[1],
        )
        out = found[0] if isinstance(found, tuple | list) else found
        sizes = (*out.shape[:2], call.query.shape[1], call.value.shape[-1])
        return unfolded(call, call.xp.moveaxis(call.xp.reshape(out, sizes), -2, -3))

    return Subject(attention, options, name=name)


def _with_past(call: Call) -> list[Array]:
    """Return query, key, value, the past, and how long all are, as the operator takes them."""
    xp, size, q_len, kv_len = call.xp, call.query.shape[0], call.q_len, call.kv_len
    lengths = call.options.get("lengths", xp.full((size,), kv_len - 1))
    # Queries stand at the last positions of each sequence, and so do the keys beside them.
    new = xp.arange(q_len) + xp.reshape(lengths, (-1, 1)) + 1 - q_len
    new = xp.clip(new, 0, kv_len - 1)[:, None, :, None]

    def aside(x: Array) -> Array:
        x = xp.moveaxis(x, -3, -2)
        return xp.reshape(x, (*x.shape[:2], x.shape[2] * x.shape[3]))

    key, value = (xp.take_along_axis(x, new, axis=-2) for x in call[1:3])
    past = max(kv_len - q_len, 0)
    return [
        *(aside(x) for x in (call.query, key, value)),
        call.key[..., :past, :],
        call.value[..., :past, :],
        xp.astype(lengths, xp.int32),
        xp.asarray(kv_len, dtype=xp.int32),
    ]
