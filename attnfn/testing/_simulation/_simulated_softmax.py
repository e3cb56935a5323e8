"""What a supposed attention makes of a row of scores."""

import math
from typing import NamedTuple

import numpy as np

from .._questions._case import Options
from ._model import Model

__all__ = ["VERY_LOW", "Softmax", "dropout_factor", "lse_of", "softmax_axis", "softmax_of"]

#: Stands for an lse that is finite and very low, whatever it is.
VERY_LOW = -1e30

_LOG_2 = math.log(2)


class Softmax(NamedTuple):
    """Weights, and what they are made of."""

    weights: np.ndarray
    sink_weight: np.ndarray  # (*batch, num_heads, q_len), as what follows
    maximum: np.ndarray
    total: np.ndarray
    sink_part: np.ndarray  # of the total
    is_empty: np.ndarray


def softmax_axis(model: Model) -> int:
    if model.has("softmax_over_queries"):
        return -2
    return -3 if model.has("softmax_over_heads") else -1


def softmax_of(s: np.ndarray, sinks: np.ndarray | None, dtype: str, model: Model) -> Softmax:
    axis = softmax_axis(model)
    sink = np.full(s.shape[:-1], -math.inf) if sinks is None else sinks
    if axis != -1:
        return _over_another_axis(s, sink, axis, model)
    base = _LOG_2 if model.has("softmax_base_2") else 1.0
    s, sink = s * base, sink * base
    is_empty = np.all(s == -math.inf, axis=-1) & (sink == -math.inf)
    greatest = np.maximum(np.max(s, axis=-1, initial=-math.inf), sink)
    m = np.where(greatest == -math.inf, 0.0, greatest)
    is_plain = model.has("softmax_without_maximum") or model.which("softmax_missing") == "plain"
    if is_plain:
        m = np.zeros_like(m)
    e, sink_part = np.exp(s - m[..., None]), np.exp(sink - m)
    if model.has("softmax_without_maximum"):
        kept = _kept_dtype(dtype, model)
        e, sink_part = (np.asarray(x).astype(kept).astype(np.float64) for x in (e, sink_part))
        total = (e.sum(-1) + sink_part).astype(kept).astype(np.float64)
    else:
        total = e.sum(-1) + sink_part
    divisor = total
    if model.has("softmax_eps"):
        eps, is_unshifted = model.which("softmax_eps")
        divisor = total + (eps * np.exp(-m) if is_unshifted else eps)
    if model.has("softmax_missing"):
        divisor = np.ones_like(total)
    is_guarded = model.which("softmax_without_maximum") == "guarded"
    divisor = np.where(is_empty | (is_guarded & (divisor == 0)), 1.0, divisor)
    if model.has("tile_not_rescaled"):
        return _not_rescaled(s, sink, is_empty, *model.which("tile_not_rescaled"))
    weights = e / divisor[..., None]
    return Softmax(weights, sink_part / divisor, m, total, sink_part, is_empty)


def _over_another_axis(s: np.ndarray, sink: np.ndarray, axis: int, model: Model) -> Softmax:
    e = np.exp(s - np.max(s, axis=axis, keepdims=True, initial=-1e300))
    total = e.sum(axis, keepdims=True)
    weights = e / np.where(total == 0, 1.0, total)
    # Whoever returns an lse at all takes that of a row.
    axes = ("softmax_over_queries", "softmax_over_heads")
    right = model._replace(faults=tuple(f for f in model.faults if f.name not in axes))
    return softmax_of(s, sink, "float64", right)._replace(weights=weights)


def _kept_dtype(dtype: str, model: Model) -> type:
    if dtype == "float64":
        return np.float64
    is_half = model.which("softmax_without_maximum") == "half" and dtype == "float16"
    return np.float16 if is_half else np.float32


def _not_rescaled(
    s: np.ndarray, sink: np.ndarray, is_empty: np.ndarray, tile: int, what: str
) -> Softmax:
    """Go through the keys tile by tile, and forget to rescale the sum, the output or both."""
    m, total, weights = (
        np.full(s.shape[:-1], -math.inf),
        np.zeros(s.shape[:-1]),
        np.zeros(s.shape),
    )
    for start in range(0, s.shape[-1], tile):
        part = s[..., start : start + tile]
        new = np.maximum(m, part.max(-1))
        shift = np.where(new == -math.inf, 0.0, new)
        own = part.max(-1) if what == "apart" else new
        e = np.exp(part - np.where(own == -math.inf, 0.0, own)[..., None])
        factor = np.exp(np.where(m == -math.inf, -math.inf, m - shift))
        total = total * (1.0 if what != "out" else factor) + e.sum(-1)
        weights[..., :start] *= 1.0 if what != "sum" else factor[..., None]
        weights[..., start : start + tile] = e
        m = new
    m = np.where(m == -math.inf, 0.0, m)
    sink_part = np.exp(sink - m)
    total = total + sink_part
    divisor = np.where(total == 0, 1.0, total)
    weights = weights / divisor[..., None]
    return Softmax(weights, sink_part / divisor, m, total, sink_part, is_empty)


def dropout_factor(
    keep: np.ndarray | None, weights: np.ndarray, options: Options, model: Model
) -> np.ndarray | float:
    """Return the factor on each weight."""
    ignored = ("dropout_ignored", "dropout_before_softmax")
    if keep is None or any(model.has(name) for name in ignored):
        return 1.0
    rate = options["dropout_rate"]
    if model.has("dropout_inverted"):
        keep = ~keep
    if model.has("dropout_not_rescaled"):
        return keep.astype(float)
    if model.has("dropout_rescaled_by_rate"):
        return keep / rate
    if model.has("dropout_renormalised"):
        left = (weights * keep).sum(-1, keepdims=True)
        return keep / np.where(left == 0, 1.0, left)
    return keep / (1 - rate)


def lse_of(softmax: Softmax, sinks: np.ndarray | None, model: Model) -> np.ndarray:
    """Return the log-sum-exp of each row, empty ones included."""
    total = softmax.total
    if model.conventions.lse_sinks == "excluded" and sinks is not None:
        total = total - softmax.sink_part
    lse = np.log(total) + softmax.maximum
    if model.which("softmax_base_2") == "log2":
        lse = lse / _LOG_2
    if model.has("lse_of_maximum"):
        lse = softmax.maximum
    elif model.has("lse_without_maximum"):
        lse = np.log(total)
    elif model.has("lse_not_logarithm"):
        is_shifted = model.which("lse_not_logarithm") == "shifted"
        lse = total if is_shifted else total * np.exp(softmax.maximum)
    if model.conventions.lse_base == "2":
        lse = lse / _LOG_2
    if model.has("lse_not_logarithm"):
        return np.where(softmax.is_empty, 0.0, lse)
    low = {"-inf": -math.inf, "+inf": math.inf, "zero": 0.0, "finite": VERY_LOW}
    is_empty = softmax.is_empty | (lse == -math.inf)
    return np.where(is_empty, low[model.conventions.empty_lse], lse)
