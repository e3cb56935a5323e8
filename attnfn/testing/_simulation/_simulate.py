"""What an attention that follows a model answers: in float64, each step with its switches."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .._questions._case import Case, Options
from ._model import Fault, Model
from ._simulated_inputs import (
    as_read,
    head_of_each,
    per_head,
    places,
    scale_of,
    sinks_of,
    source_of_each,
    with_padding,
)
from ._simulated_scores import (
    allowed_of,
    bias_of,
    capped,
    dropped_scores,
    filled,
    whole_tiles,
    with_hidden,
)
from ._simulated_softmax import VERY_LOW, Softmax, dropout_factor, lse_of, softmax_of

__all__ = ["VERY_LOW", "Trace", "simulate"]


class Trace(NamedTuple):
    """The answer, and what its gradients are made of."""

    out: np.ndarray
    lse: np.ndarray
    q: np.ndarray  # (*batch, num_heads, q_len, head_dim)
    k: np.ndarray  # of as many heads as it came with
    v: np.ndarray
    heads: np.ndarray  # which of them each query head uses
    sources: np.ndarray | None  # and of which (batch, head), where they are confused
    scale: float
    slope: np.ndarray  # change of the scores with the product of query and key
    slope_uncapped: np.ndarray
    bias_slope: np.ndarray
    scores: np.ndarray  # before any is hidden
    allowed: np.ndarray
    allowed_backward: np.ndarray  # what the backward pass takes for it
    softmax: Softmax
    factor: np.ndarray  # on the weights: dropout


#: What a backward pass may forget to hide, as if the forward pass ignored it.
_FORGOTTEN = {
    "gradient_through_mask": ("mask_ignored", "lengths_ignored", "segments_ignored"),
    "gradient_without_causal": ("causal_ignored",),
}


def simulate(case: Case, model: Model, /, *, dtype: str = "float64") -> Trace:
    """Answer a case as a function does that follows the model."""
    with np.errstate(all="ignore"):
        return _simulate(case, model, dtype)


def _simulate(case: Case, model: Model, dtype: str) -> Trace:
    options = case.options
    q, k, v = (as_read(case, name, model) for name in ("query", "key", "value"))
    q, k, v = (x if x.ndim > 2 else x[None] for x in (q, k, v))
    padding = model.which("tile_padding_counted")
    if padding is not None:
        k, v = (with_padding(x, padding[0]) for x in (k, v))
    heads = head_of_each(q.shape[-3], k.shape[-3], model)
    sources = source_of_each(q, model)
    kh, vh = per_head(k, heads, sources), per_head(v, heads, sources)
    shape = (*q.shape[:-1], k.shape[-2])

    scale = scale_of(q, v, options, model)
    p, j = places(case, shape[-1], model)
    allowed, backward, by_others = (
        allowed_of(case, shape, p, j, forgetful) for forgetful in _forgetful(model)
    )
    products = q @ np.swapaxes(kh, -1, -2) * scale
    scores, bend, bias_bend = _scores(products, scale, p, j, allowed, options, model)
    is_hidden = ~allowed.any(-1)
    if model.conventions.softcap == "after_mask" and options.get("softcap") is not None:
        allowed = backward = by_others = np.ones_like(allowed)

    keep, s = options.get("dropout_mask"), scores
    if keep is not None:
        keep = np.broadcast_to(filled(keep, shape[-1], True), shape)
        if model.has("dropout_before_softmax"):
            s = dropped_scores(s, keep, options, model)
    sinks = sinks_of(options, shape, model)
    hidden = with_hidden(s, allowed, by_others, dtype, model)
    softmax = softmax_of(hidden, sinks, dtype, model)
    if model.conventions.empty_row == "uniform":
        even = 1 / max(shape[-1], 1)
        weights = np.where(softmax.is_empty[..., None], even, softmax.weights)
        softmax = softmax._replace(weights=weights)
    factor = np.broadcast_to(dropout_factor(keep, softmax.weights, options, model), shape)
    factor = np.where(softmax.is_empty[..., None], 1.0, factor)
    if model.has("mask_after_softmax"):
        factor = factor * allowed

    out = _weighed(softmax.weights * factor, vh, allowed, model)
    if model.conventions.empty_row == "nan":
        out = np.where(softmax.is_empty[..., None], math.nan, out)
    lse = lse_of(softmax, sinks, model)
    if model.conventions.biased_row == "nan" and options.get("bias") is not None:
        is_biased = softmax.is_empty & ~is_hidden
        out = np.where(is_biased[..., None], math.nan, out)
        lse = np.where(is_biased, -math.inf, lse)
    out, lse = _put_together(out, lse, model)
    is_flat = case.query.ndim == 2
    return Trace(
        out=out[0] if is_flat else out,
        lse=lse[0] if is_flat else lse,
        q=q,
        k=k,
        v=v,
        heads=heads,
        sources=sources,
        scale=scale,
        slope=np.broadcast_to(scale * bend, shape),
        slope_uncapped=np.full(shape, scale),
        bias_slope=np.broadcast_to(bias_bend, shape),
        scores=scores,
        allowed=allowed,
        allowed_backward=backward,
        softmax=softmax,
        factor=factor,
    )


def _scores(
    s: np.ndarray,
    scale: float,
    p: np.ndarray,
    j: np.ndarray,
    allowed: np.ndarray,
    options: Options,
    model: Model,
) -> tuple[np.ndarray, Any, Any]:
    """Return the scores, and how much they change with the product and with the bias."""
    if options.get("score_mod") is not None and not model.has("score_mod_ignored"):
        s = np.asarray(options["score_mod"](s, p, j))
    bias = filled(bias_of(options, scale, model), s.shape[-1], 0.0)
    if model.conventions.softcap == "after_mask" and options.get("softcap") is not None:
        bias = np.where(allowed, bias, bias - 1e30)
    if model.conventions.softcap != "before_bias":
        s, bend = capped(s + bias, options, model)
        return s, bend, bend
    s, bend = capped(s, options, model)
    return s + bias, bend, 1.0


def _forgetful(model: Model) -> Iterator[Model]:
    """Yield what decides what may be attended to: forward, backward, and all but the mask."""
    yield model
    forgotten = [fault for name in _FORGOTTEN if model.has(name) for fault in _FORGOTTEN[name]]
    yield model._replace(faults=(*model.faults, *map(Fault, forgotten)))
    yield model._replace(faults=(*model.faults, Fault("mask_ignored")))


def _weighed(w: np.ndarray, v: np.ndarray, allowed: np.ndarray, model: Model) -> np.ndarray:
    is_bad = ~np.isfinite(v).all(-1)
    if model.conventions.hidden_value == "leaks" or not is_bad.any():
        return w @ v  # 0 * nan is nan
    out = w @ np.where(is_bad[..., None], 0.0, v)
    sees_bad = (allowed & is_bad[..., None, :]).any(-1)
    return np.where(sees_bad[..., None], math.nan, out)


def _put_together(
    out: np.ndarray, lse: np.ndarray, model: Model
) -> tuple[np.ndarray, np.ndarray]:
    if model.has("tile_queries_dropped"):
        rows = np.arange(out.shape[-2]) < whole_tiles(
            out.shape[-2], model.which("tile_queries_dropped")
        )
        out, lse = np.where(rows[:, None], out, 0.0), np.where(rows, lse, 0.0)
    if model.has("heads_transposed"):
        out = np.swapaxes(out, -2, -3).reshape(out.shape)
    return (np.zeros_like(out) if model.has("output_zero") else out), lse
