"""What an attention that follows a model answers: in float64, each step with its switches."""

import math
from typing import NamedTuple

import numpy as np

from ._case import Case
from ._model import Model
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
    softmax: Softmax
    factor: np.ndarray  # on the weights: dropout


def simulate(case: Case, model: Model, /, *, dtype: str = "float64") -> Trace:
    """Answer a case as a function does that follows the model."""
    with np.errstate(all="ignore"):
        return _simulate(case, model, dtype)


def _simulate(case: Case, model: Model, dtype: str) -> Trace:
    options = case.options
    q, k, v = (as_read(case, name, model) for name in ("query", "key", "value"))
    q, k, v = (x if x.ndim > 2 else x[None] for x in (q, k, v))
    tile = model.which("tile_padding_counted")
    if tile is not None:
        k, v = with_padding(k, tile), with_padding(v, tile)
    heads = head_of_each(q.shape[-3], k.shape[-3], model)
    sources = source_of_each(q, k, model)
    kh, vh = per_head(k, heads, sources), per_head(v, heads, sources)
    shape = (*q.shape[:-1], k.shape[-2])

    scale = scale_of(q, v, options, model)
    s = q @ np.swapaxes(kh, -1, -2) * scale
    p, j = places(case, shape[-1], model)
    if options.get("score_mod") is not None and not model.has("score_mod_ignored"):
        s = np.asarray(options["score_mod"](s, p, j))
    bias = bias_of(options, scale, model)
    if isinstance(bias, np.ndarray) and tile is not None and bias.shape[-1] > 1:
        more = shape[-1] - bias.shape[-1]
        bias = np.concatenate([bias, np.zeros((*bias.shape[:-1], more))], axis=-1)
    if model.conventions.softcap == "after_bias":
        s, bend = capped(s + bias, options, model)
        bias_bend = bend
    else:
        s, bend = capped(s, options, model)
        s, bias_bend = s + bias, 1.0
    allowed = allowed_of(case, shape, p, j, model)
    scores = s

    keep = options.get("dropout_mask")
    keep = None if keep is None else np.broadcast_to(keep, shape)
    if keep is not None and model.has("dropout_before_softmax"):
        how = model.which("dropout_before_softmax")
        s, allowed = dropped_scores(s, allowed, keep, options, how)
    sinks = sinks_of(options, shape, model)
    softmax = softmax_of(with_hidden(s, allowed, dtype, model), sinks, vh, dtype, model)
    if model.conventions.empty_row == "uniform":
        even = 1 / max(shape[-1], 1)
        weights = np.where(softmax.is_empty[..., None], even, softmax.weights)
        softmax = softmax._replace(weights=weights)
    factor = np.broadcast_to(dropout_factor(keep, softmax.weights, options, model), shape)
    factor = np.where(softmax.is_empty[..., None], 1.0, factor)
    if model.has("mask_after_softmax"):
        factor = factor * allowed

    out = softmax.out
    if out is None:
        out = _weighed(softmax.weights * factor, vh, allowed, model)
    if model.conventions.empty_row == "nan":
        out = np.where(softmax.is_empty[..., None], math.nan, out)
    out, lse = _put_together(out, lse_of(softmax, sinks, model), model)
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
        softmax=softmax,
        factor=factor,
    )


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
