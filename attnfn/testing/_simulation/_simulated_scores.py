"""What a supposed attention makes of a product of query and key, and which of them it hides."""

from typing import Any

import numpy as np

from .._questions._case import Case, Options
from ._model import Model
from ._simulated_inputs import counts_of

__all__ = [
    "allowed_of",
    "bias_factor",
    "bias_of",
    "capped",
    "dropped_scores",
    "filled",
    "whole_tiles",
    "with_hidden",
]


def bias_of(options: Options, scale: float, model: Model) -> np.ndarray:
    """Return what is added to the scores."""
    bias = options.get("bias")
    if bias is None or model.has("bias_ignored"):
        return np.zeros(1)
    if model.has("bias_first_head") and bias.ndim > 2:
        bias = bias[..., :1, :, :]
    if model.has("bias_first_batch") and bias.ndim > 3:
        bias = bias[:1]
    if model.which("heads_over_batch") == "mask" and bias.ndim == 4:
        bias = _of_another_sequence(bias)
    return bias * bias_factor(scale, model)


def bias_factor(scale: float, model: Model) -> float:
    factor = scale if model.conventions.bias == "before_scale" else 1.0
    return 2 * factor if model.has("bias_twice") else factor


def capped(s: np.ndarray, options: Options, model: Model) -> tuple[np.ndarray, Any]:
    """Return the capped scores, and by how much they change with the scores."""
    cap = options.get("softcap")
    if cap is None or model.has("softcap_ignored"):
        return s, 1.0
    if model.has("softcap_clips"):
        return np.clip(s, -cap, cap), (np.abs(s) < cap).astype(float)
    bent = np.tanh(s / cap)
    slope = 1 - bent * bent
    is_multiplied = not model.has("softcap_not_multiplied")
    factor = cap if is_multiplied else 1.0
    return np.where(s == -np.inf, s, factor * bent), slope * factor / cap


def allowed_of(
    case: Case, shape: tuple[int, ...], p: np.ndarray, j: np.ndarray, model: Model
) -> np.ndarray:
    """Return which key each query may attend to."""
    allowed = np.ones(shape, dtype=bool)
    for term in _terms(case.options, shape, p, j, model):
        allowed &= term
    kv_len = case.key.shape[-2]
    padding = model.which("tile_padding_counted")
    if padding is not None and padding[1] == "always":
        allowed[..., kv_len:] = True
    return allowed & (j < whole_tiles(kv_len, model.which("tile_dropped")))


def whole_tiles(length: int, tile: tuple[int, bool] | None) -> int:
    """Return how many positions are left without a last tile that is not whole."""
    if tile is None:
        return length + 2**40  # padding included
    size, keeps_only = tile
    return length if keeps_only and length < size else length // size * size


def _terms(
    options: Options, shape: tuple[int, ...], p: np.ndarray, j: np.ndarray, model: Model
) -> list[np.ndarray]:
    terms = []
    if options.get("mask") is not None and not model.has("mask_ignored"):
        terms.append(_mask(options["mask"], shape, model))
    if options.get("is_causal") and not model.has("causal_ignored"):
        terms.append(_causal(p, j, model))
    if options.get("window_size") is not None and not model.has("window_ignored"):
        terms.append(_window(options["window_size"], p, j, model))
    if options.get("segment_ids") is not None and not model.has("segments_ignored"):
        q_ids, kv_ids = options["segment_ids"]
        kv_ids = filled(kv_ids, shape[-1], kv_ids[..., -1:])
        terms.append(q_ids[..., None, :, None] == kv_ids[..., None, None, :])
    if options.get("lengths") is not None and not model.has("lengths_ignored"):
        counts = counts_of(options["lengths"], model)
        counts = counts + model.has("lengths_one_more") - model.has("lengths_one_less")
        terms.append(j < counts[..., None, None, None])
    return terms


def _mask(mask: np.ndarray, shape: tuple[int, ...], model: Model) -> np.ndarray:
    if model.conventions.mask == "hidden":
        mask = ~mask
    if model.has("mask_transposed") and mask.ndim > 1 and mask.shape[-1] == mask.shape[-2]:
        mask = np.swapaxes(mask, -1, -2)
    if model.has("mask_first_batch") and mask.ndim > 3:
        mask = mask[:1]
    if model.has("mask_first_head") and mask.ndim > 2:
        mask = mask[..., :1, :, :]
    if model.which("heads_over_batch") == "mask" and mask.ndim == 4:
        mask = _of_another_sequence(np.broadcast_to(mask, (*shape[:2], *mask.shape[2:])))
    return filled(mask, shape[-1], True)


def _of_another_sequence(x: np.ndarray) -> np.ndarray:
    """Repeat what belongs to sequences for each head in the wrong order."""
    batch, num_heads = x.shape[:2]
    at = np.arange(batch * num_heads)
    return x[at % batch, at // batch].reshape(x.shape)


def filled(x: np.ndarray, length: int, with_what: Any) -> np.ndarray:
    """Go on with something for padding, where there is any."""
    more = length - x.shape[-1]
    if more <= 0 or x.shape[-1] == 1:
        return x
    tail = np.broadcast_to(with_what, (*x.shape[:-1], more))
    return np.concatenate([x, tail], axis=-1)


def _causal(p: np.ndarray, j: np.ndarray, model: Model) -> np.ndarray:
    if model.has("causal_reversed"):
        return j > p if model.which("causal_reversed") == "strict" else j >= p
    return j <= p + model.has("causal_one_more") - model.has("causal_strict")


def _window(
    window: tuple[int | None, int | None], p: np.ndarray, j: np.ndarray, model: Model
) -> np.ndarray:
    left, right = window
    if model.conventions.window == "exclusive":
        left, right = (side - 1 if side else side for side in (left, right))
    more = model.which("window_one_more")
    left = left + 1 if left is not None and more in ("left", "both") else left
    right = right + 1 if right is not None and more in ("right", "both") else right
    if model.has("window_swapped"):
        left, right = right, left
    if model.has("window_right_ignored"):
        right = None
    after = np.ones(1, dtype=bool) if left is None else p - left <= j
    before = np.ones(1, dtype=bool) if right is None else j <= p + right
    return after & before


def dropped_scores(
    s: np.ndarray, keep: np.ndarray, options: Options, model: Model
) -> np.ndarray:
    """Drop scores instead of weights."""
    is_rescaled = model.which("dropout_before_softmax") == "rescaled"
    return np.where(keep, s / (1 - options["dropout_rate"] * is_rescaled), 0.0)


def with_hidden(
    s: np.ndarray, allowed: np.ndarray, by_others: np.ndarray, dtype: str, model: Model
) -> np.ndarray:
    """Return what goes into the softmax; `by_others` is allowed by all but the mask."""
    if model.has("mask_after_softmax"):
        is_of_all = model.which("mask_after_softmax") == "all"
        return s if is_of_all else np.where(by_others, s, -np.inf)
    if model.conventions.mask_value != "-inf":
        is_lowest = model.conventions.mask_value == "lowest"
        lowest = np.finfo(np.float64).min
        number = lowest if is_lowest else float(model.conventions.mask_value)
        return np.where(allowed, s, s + number)
    if model.has("mask_finite"):
        number, how, where = model.which("mask_finite")
        if how == "logarithm":  # of the mask as numbers, and a little more
            s, number = np.where(allowed, s + np.log1p(number), s), np.log(number)
        # The sum of a score and a large number keeps few digits of the score, or none.
        kept = "float64" if dtype == "float64" else "float32"
        added = np.add(s.astype(kept), number, dtype=kept).astype(np.float64)
        s = np.where(allowed, s, number if how == "replaced" else added)
        return s if where == "all" else np.where(by_others, s, -np.inf)
    if model.conventions.hidden_key == "leaks":
        return s + np.where(allowed, 0.0, -np.inf)
    return np.where(allowed, s, -np.inf)
