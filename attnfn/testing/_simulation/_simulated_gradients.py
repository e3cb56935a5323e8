"""What gradients an attention that follows a model has: the closed form, with its switches."""

import math
from typing import Any

import numpy as np

from .._questions._case import Case
from ._model import Model
from ._simulate import Trace
from ._simulated_inputs import per_head
from ._simulated_scores import bias_factor, filled, whole_tiles

__all__ = ["simulate_gradients"]

#: Those of which nothing is said about gradients.
_SILENT = (
    "tile_not_rescaled",
    "lse_of_maximum",
    "lse_without_maximum",
    "lse_not_logarithm",
    "softmax_without_maximum",
    "strides_ignored",
    "softmax_over_queries",
    "softmax_over_heads",
    "dropout_renormalised",
)

_LOG_2 = math.log(2)


def simulate_gradients(case: Case, model: Model, trace: Trace, /) -> dict[str, Any] | None:
    """Return the gradients that a function has which follows the model; None is not known."""
    if any(model.has(name) for name in _SILENT):
        return None
    with np.errstate(all="ignore"):
        found = _gradients(case, model, trace)
    missing = model.which("gradient_missing")
    for name in found:
        if missing in (name, "all"):
            found[name] = np.zeros_like(found[name])
    return found


def _gradients(case: Case, model: Model, trace: Trace) -> dict[str, Any]:
    kh, vh = (per_head(x, trace.heads, trace.sources) for x in (trace.k, trace.v))
    shape = trace.scores.shape
    d_out = _d_out(case, model, shape)
    d_lse = np.zeros(shape[:-1]) if case.d_lse is None else case.d_lse.reshape(shape[:-1])
    if model.has("gradient_without_lse"):
        d_lse = 0 * d_lse
    if model.conventions.lse_base == "2":
        d_lse = d_lse / _LOG_2

    w, factor, sink_weight = trace.softmax.weights, trace.factor, trace.softmax.sink_weight
    w_values, w_scores = _recomputed(w, trace, model)
    value_factor, score_factor = _dropout_factors(trace, model)

    d_v = np.swapaxes(w_values * value_factor, -1, -2) @ d_out
    d_w = (d_out @ np.swapaxes(vh, -1, -2)) * score_factor
    # Kernels take it from the output, which is that of the forward pass.
    d_weights = d_out @ np.swapaxes(vh, -1, -2)
    _, is_own = model.which("gradient_without_dropout") or (None, False)
    delta = (w * (d_w if is_own else d_weights * factor)).sum(-1)
    if model.has("softmax_missing") or model.has("gradient_without_delta"):
        delta = 0 * delta
    w_of_lse = w_scores
    if model.conventions.lse_sinks == "excluded" and "sinks" in case.options:
        total = w_scores.sum(-1, keepdims=True)
        w_of_lse = w_scores / np.where(total == 0, 1.0, total)
    d_s = w_scores * (d_w - delta[..., None]) + w_of_lse * d_lse[..., None]
    d_s = _before_softmax(d_s, case, trace, model)
    slope = trace.slope_uncapped if model.has("gradient_without_softcap") else trace.slope
    d_raw = d_s * slope
    d_q, d_k = d_raw @ kh, np.swapaxes(d_raw, -1, -2) @ trace.q
    without_scale = model.which("gradient_without_scale")
    if without_scale in ("query", "both"):
        d_q = d_q / trace.scale
    if without_scale in ("key", "both"):
        d_k = d_k / trace.scale
    is_flat, kv_len = case.query.ndim == 2, case.key.shape[-2]
    found: dict[str, Any] = {
        "query": d_q,
        "key": _over_group(d_k, trace, model)[..., :kv_len, :],
        "value": _over_group(d_v, trace, model)[..., :kv_len, :],
    }
    if is_flat:
        found = {name: x[0] for name, x in found.items()}
    if "bias" in case.options:
        found["bias"] = _of_bias(d_s * trace.bias_slope, case, trace, model)
    if "sinks" in case.options:
        found["sinks"] = _of_sinks(case, model, sink_weight, delta, d_lse)
    return found


def _d_out(case: Case, model: Model, shape: tuple[int, ...]) -> np.ndarray:
    """Return the gradient of what was computed, before it was put together."""
    assert case.d_out is not None
    d_out = case.d_out.reshape((*shape[:-1], case.d_out.shape[-1]))
    if model.has("output_zero"):
        return 0 * d_out
    if model.has("heads_transposed"):
        *batch, num_heads, q_len, width = d_out.shape
        d_out = np.swapaxes(d_out.reshape(*batch, q_len, num_heads, width), -2, -3)
    if model.has("tile_queries_dropped"):
        whole = whole_tiles(d_out.shape[-2], model.which("tile_queries_dropped"))
        d_out = np.where(np.arange(d_out.shape[-2])[:, None] < whole, d_out, 0.0)
    return d_out


def _recomputed(w: np.ndarray, trace: Trace, model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights as the backward pass finds them: for values and for scores."""
    again = w
    if model.has("gradient_without_sinks"):
        total = w.sum(-1, keepdims=True)
        again = w / np.where(total == 0, 1.0, total)
    which = model.which("gradient_through_mask") or model.which("gradient_without_causal")
    if which is None:
        return again, again
    lse = np.log(trace.softmax.total) + trace.softmax.maximum
    leaking = np.where(trace.allowed_backward, np.exp(trace.scores - lse[..., None]), 0.0)
    leaking = np.where(trace.softmax.is_empty[..., None], w, leaking)
    return (leaking if which == "both" else again), leaking


def _dropout_factors(trace: Trace, model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Return the factors on weights as the backward pass has them: for values and scores."""
    if (trace.allowed_backward != trace.allowed).any():
        leaking = np.where(trace.allowed, trace.factor, 1.0)
        return leaking, leaking
    without, _ = model.which("gradient_without_dropout") or (None, False)
    none = np.where(trace.allowed, 1.0, 0.0)
    return (
        none if without in ("value", "both") else trace.factor,
        none if without in ("scores", "both") else trace.factor,
    )


def _before_softmax(d_s: np.ndarray, case: Case, trace: Trace, model: Model) -> np.ndarray:
    """Return the gradient of scores, of that of what went into the softmax."""
    d_s = np.where(trace.softmax.is_empty[..., None], 0.0, d_s)
    finite = model.which("mask_finite")
    if finite is not None and finite[1] == "replaced":
        d_s = np.where(trace.allowed, d_s, 0.0)
    if model.has("softmax_base_2"):
        d_s = d_s * _LOG_2
    keep = case.options.get("dropout_mask")
    if keep is not None and model.has("dropout_before_softmax"):
        keep = np.broadcast_to(filled(keep, d_s.shape[-1], True), d_s.shape)
        is_rescaled = model.which("dropout_before_softmax") == "rescaled"
        rate = case.options["dropout_rate"] * is_rescaled
        d_s = np.where(keep, d_s / (1 - rate), 0.0)
    return d_s


def _over_group(x: np.ndarray, trace: Trace, model: Model) -> np.ndarray:
    """Sum over the query heads that share a key head."""
    if trace.sources is not None:
        scattered = np.zeros((x.shape[0] * x.shape[1], *x.shape[2:]))
        np.add.at(scattered, trace.sources.ravel(), x.reshape(-1, *x.shape[2:]))
        x = scattered.reshape(x.shape)
    which = model.which("gradient_without_groups")
    parts = []
    for head in range(trace.k.shape[-3]):
        members = np.flatnonzero(trace.heads == head)
        if which == "first":
            members = members[:1]
        elif which == "last":
            members = members[-1:]
        part = x[..., members, :, :].sum(-3)
        parts.append(part / max(len(members), 1) if which == "mean" else part)
    return np.stack(parts, axis=-3)


def _of_bias(d: np.ndarray, case: Case, trace: Trace, model: Model) -> np.ndarray:
    bias = case.options["bias"]
    d = d[..., : case.key.shape[-2]]
    if model.has("bias_ignored"):
        return np.zeros_like(bias)
    found = np.zeros(np.broadcast_shapes(bias.shape, d.shape))
    found += d
    if model.has("bias_first_head") and bias.ndim > 2:
        found[..., :1, :, :] = found.sum(-3, keepdims=True)
        found[..., 1:, :, :] = 0
    if model.has("bias_first_batch") and bias.ndim > 3:
        found[:1] = found.sum(0, keepdims=True)
        found[1:] = 0
    return _summed_to(found, bias.shape) * bias_factor(trace.scale, model)


def _of_sinks(
    case: Case, model: Model, sink_weight: np.ndarray, delta: np.ndarray, d_lse: np.ndarray
) -> np.ndarray:
    sinks = np.asarray(case.options["sinks"])
    if model.has("sinks_ignored") or model.which("gradient_without_sinks") == "all":
        return np.zeros_like(sinks)
    of_lse = 0.0 if model.conventions.lse_sinks == "excluded" else d_lse
    found = (sink_weight * (of_lse - delta)).sum(-1)
    if model.has("softmax_base_2"):
        found = found * _LOG_2
    if model.has("gradient_of_sinks_sign"):
        found = -found
    if model.has("sinks_first_head") and sinks.ndim:
        found[..., :1] = found.sum(-1, keepdims=True)
        found[..., 1:] = 0
    return _summed_to(found, sinks.shape)


def _summed_to(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    x = x.sum(axis=tuple(range(x.ndim - len(shape))))
    axes = tuple(axis for axis, size in enumerate(shape) if size == 1)
    return np.asarray(x.sum(axis=axes, keepdims=True)).reshape(shape)
