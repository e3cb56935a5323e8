"""How a supposed attention reads its arrays: which numbers, which heads, which positions."""

import math
from typing import Any

import numpy as np

from .._questions._case import Case, Options
from ._model import Model

__all__ = [
    "as_read",
    "counts_of",
    "head_of_each",
    "per_head",
    "places",
    "scale_of",
    "sinks_of",
    "source_of_each",
    "with_padding",
]


def as_read(case: Case, name: str, model: Model) -> np.ndarray:
    """Return the numbers of an array, read in the order of memory where strides are ignored."""
    x = getattr(case, name)
    if case.memory and model.which("strides_ignored") in (name, "all"):
        return np.transpose(x, case.memory).reshape(x.shape)
    return x


def with_padding(x: np.ndarray, tile: int) -> np.ndarray:
    """Append zeros along the length, to a multiple of a tile."""
    more = -x.shape[-2] % tile
    return np.concatenate([x, np.zeros((*x.shape[:-2], more, x.shape[-1]))], axis=-2)


def head_of_each(num_heads: int, num_kv_heads: int, model: Model) -> np.ndarray:
    """Return which key head each query head uses."""
    heads = np.arange(num_heads)
    is_grouped = num_heads != num_kv_heads
    if model.has("groups_first_head") and (
        is_grouped or model.which("groups_first_head") == "always"
    ):
        return 0 * heads
    if model.conventions.groups == "tiled":
        return heads % num_kv_heads
    return heads // max(num_heads // max(num_kv_heads, 1), 1)


def source_of_each(q: np.ndarray, model: Model) -> np.ndarray | None:
    """Return from which (batch, head), flat, each query head has its keys, if confused."""
    if model.which("heads_over_batch") != "keys" or q.ndim != 4 or not q.size:
        return None
    batch, num_heads = q.shape[:2]
    return np.arange(batch * num_heads).reshape(batch, num_heads).T.reshape(batch, num_heads)


def per_head(x: np.ndarray, heads: np.ndarray, sources: np.ndarray | None) -> np.ndarray:
    """Give each query head its keys or values."""
    x = x[..., heads, :, :]
    if sources is None:
        return x
    return x.reshape(-1, *x.shape[-2:])[sources] if x.size else x


def scale_of(q: np.ndarray, v: np.ndarray, options: Options, model: Model) -> float:
    given = options.get("scale")
    if given is not None and not model.has("scale_ignored"):
        scale = float(given)
    elif model.conventions.default_scale == "one":
        scale = 1.0
    elif model.has("scale_of_model_dim"):
        scale = 1 / math.sqrt(q.shape[-3] * q.shape[-1])
    elif model.has("scale_of_value_dim"):
        scale = 1 / math.sqrt(v.shape[-1])
    else:
        scale = 1 / math.sqrt(q.shape[-1])
    return scale * scale if model.has("scale_twice") else scale


def places(case: Case, kv_len: int, model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Return where queries stand, (..., q_len, 1), and keys, (1, kv_len)."""
    q_len, own_kv_len = case.query.shape[-2], case.key.shape[-2]
    offset: Any = case.options.get("q_offset")
    if offset is None or model.has("q_offset_ignored"):
        offset = 0
        lengths = case.options.get("lengths")
        alignment = model.conventions.alignment
        if alignment == "by_lengths":
            alignment = "top_left" if lengths is None else "bottom_right"
        if alignment == "bottom_right":
            count = own_kv_len if lengths is None else counts_of(lengths, model)
            offset = count - q_len
    offset = np.asarray(offset)
    if offset.ndim:
        offset = offset[..., None, None, None]
    return np.arange(q_len)[:, None] + offset, np.arange(kv_len)[None, :]


def counts_of(lengths: np.ndarray, model: Model) -> np.ndarray:
    """Return how many keys each sequence has."""
    if model.conventions.lengths == "cumulative":
        return np.diff(lengths)
    return lengths + 1 if model.conventions.lengths == "last_index" else lengths


def sinks_of(options: Options, shape: tuple[int, ...], model: Model) -> np.ndarray | None:
    """Return the sink of each row, (*batch, num_heads, q_len)."""
    sinks = options.get("sinks")
    if sinks is None or model.has("sinks_ignored"):
        return None
    sinks = np.asarray(sinks, dtype=np.float64)
    if model.has("sinks_first_head") and sinks.ndim:
        sinks = sinks[..., :1]
    return np.broadcast_to(sinks[..., None], shape[:-1])
