"""Faulty attention in any number: one implementation with a place for each mistake, drawn from a seed.

`draw` chooses one to three mistakes, their parameters and the way to compute. `expected` says which
of them show at all: one may hide another, which is found out by computing with and without it.
"""

import functools
import math
from dataclasses import dataclass, replace

import numpy as np

from attnfn.testing._subject import OPTIONS, Subject

__all__ = ["SLOTS", "SYNONYMS", "TRUE_BESIDE", "Recipe", "draw", "expected", "subject"]

#: Mistakes by the place where they are made: there can be one in each.
SLOTS = {
    "scale": (
        "scale_ignored",
        "scale_twice",
        "scale_of_model_dim",
        "scale_of_value_dim",
        "default_scale: one",
    ),
    "bias": ("bias_ignored", "bias_twice", "bias_first_head", "bias_first_batch"),
    "order of bias": ("bias: before_scale",),
    "softcap": ("softcap_ignored", "softcap_clips", "softcap_not_multiplied"),
    "order of softcap": ("softcap: after_bias",),
    "mask": (
        "mask: hidden",
        "mask_ignored",
        "mask_first_batch",
        "mask_first_head",
        "mask_transposed",
    ),
    "hiding": ("mask_finite", "mask_after_softmax", "hidden_key: leaks"),
    "causal": (
        "causal_ignored",
        "causal_strict",
        "causal_one_more",
        "causal_reversed",
        "q_offset_ignored",
    ),
    "window": (
        "window_ignored",
        "window_one_more",
        "window_swapped",
        "window_right_ignored",
        "window: exclusive",
    ),
    "lengths": ("lengths_ignored", "lengths_one_more", "lengths_one_less"),
    "segments": ("segments_ignored",),
    "softmax": (
        "softmax_without_maximum",
        "softmax_over_queries",
        "softmax_over_heads",
        "softmax_base_2",
        "softmax_eps",
        "softmax_missing",
    ),
    "sinks": ("sinks_ignored", "sinks_first_head"),
    "values": ("hidden_value: leaks",),
    "lse": ("lse_of_maximum", "lse_without_maximum", "lse_not_logarithm", "lse_base: 2"),
    "sinks in the lse": ("lse_sinks: excluded",),
    "empty rows": ("empty_row: uniform", "empty_row: nan"),
    "lse of empty rows": ("empty_lse: +inf", "empty_lse: zero", "empty_lse: finite"),
    "tiles": (
        "tile_dropped",
        "tile_queries_dropped",
        "tile_not_rescaled",
        "tile_padding_counted",
    ),
    "groups": ("groups: tiled", "groups_first_head"),
    "heads": ("heads_transposed", "heads_over_batch"),
    "dropout": (
        "dropout_ignored",
        "dropout_inverted",
        "dropout_not_rescaled",
        "dropout_rescaled_by_rate",
        "dropout_renormalised",
        "dropout_before_softmax",
    ),
    "precision": ("low_precision", "softmax_dtype: float32"),
    "inputs": ("inputs_overwritten", "strides_ignored"),
    "result": ("output_zero", "output_dtype", "output_shape"),
}

#: Two names for one thing.
SYNONYMS = {
    "lengths_one_more": ("lengths: last_index",),
    "mask_finite": ("mask_value: -10000",),
    "softmax_dtype: float32": ("low_precision",),
    "low_precision": ("softmax_dtype: float32",),
}

#: What is true as well where a mistake is made.
TRUE_BESIDE = {
    "mask_finite": (
        "empty_row: uniform",
        "empty_lse: finite",
        "hidden_key: leaks",
        "hidden_value: leaks",
    ),
    "softmax_base_2": ("lse_base: 2",),
    "output_dtype": ("low_precision",),  # of float64
}

#: What shows in the log-sum-exp or in the arguments, though the output is 0.
SHOWS_BESIDE_ZEROS = {
    *("sinks", "lse", "sinks in the lse", "lse of empty rows"),
    *("inputs", "result"),
}

#: Only where all scores of a row are there at once.
AT_ONCE = {"softmax_over_queries", "softmax_over_heads"}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is wrong, and how it is computed."""

    faults: frozenset[str]
    engine: str = "plain"  # or "online", over tiles of keys
    tile: int = 16
    q_tile: int = 8
    eps: float = 1e-4
    constant: float = -1e4
    is_added: bool = True
    side: str = "both"  # of the window
    bits: int = 10

    def __str__(self):
        return f"{', '.join(sorted(self.faults))} ({self.engine}, tile {self.tile})"


def draw(seed, count=None):
    """Draw a recipe; `count` is how many mistakes it has, 1 to 3 unless said."""
    rng = np.random.default_rng([20261126, seed])
    if count is None:
        count = int(rng.choice([1, 2, 3], p=[0.4, 0.45, 0.15]))
    slots = rng.choice(list(SLOTS), size=count, replace=False)
    # Within its place each mistake is as likely as the others.
    faults = frozenset(str(rng.choice(SLOTS[slot])) for slot in slots)
    online = {"tile_dropped", "tile_not_rescaled", "tile_padding_counted"} & faults
    engine = "online" if online or rng.random() < 0.5 else "plain"
    return Recipe(
        faults=faults - AT_ONCE if online else faults,
        engine="plain" if AT_ONCE & faults and not online else engine,
        tile=int(rng.integers(8, 65)),
        q_tile=int(rng.choice([2, 4, 8])),
        eps=float(10 ** rng.uniform(-6, -2)),
        constant=float(rng.choice([-50.0, -1e3, -1e4, -3e4, -1e6, -1e9])),
        is_added=bool(rng.random() < 0.5),
        side=str(rng.choice(["left", "both"])),
        bits=int(rng.integers(6, 15)),
    )


# The implementation: every step of attention, with what may be wrong in it


def attention_with_lse(recipe, query, key, value, /, **options):
    """Compute attention with the faults of a recipe."""
    if query.ndim != 4 or any(map(callable, options.values())):
        raise NotImplementedError("(batch, heads, length, dim) and arrays alone")  # noqa: EM101
    has = recipe.faults.__contains__
    dtype = np.float32 if query.dtype.itemsize == 2 else query.dtype
    if has("strides_ignored"):
        key = key if key.flags.c_contiguous else np.ravel(key, order="K").reshape(key.shape)
    if has("inputs_overwritten"):
        query *= np.asarray(1.0009765625, query.dtype)
        q = query.astype(dtype) / np.asarray(1.0009765625, dtype)
    else:
        q = query.astype(dtype)
    k, v = _heads(has, query.shape[1], key.astype(dtype), value.astype(dtype))

    scores = _scores(recipe, q, k, v, options)
    allowed = _allowed(recipe, scores.shape, options) & (scores != -np.inf)
    if not has("hidden_value: leaks") and not has("mask_finite"):
        v = np.where(allowed.any(axis=-2)[..., None], v, 0)
    if has("mask_after_softmax"):
        v = np.where(np.isfinite(v), v, 0)
    out, lse = _weighed(recipe, *_hidden(recipe, scores, allowed), v, options)
    out, lse = _empty_rows(recipe, out, lse, allowed, v, options)
    return _result(recipe, out, query.dtype), lse.astype(dtype)


def _heads(has, num_heads, key, value):
    num_kv_heads = key.shape[1]
    group = num_heads // num_kv_heads
    if has("groups_first_head") and group > 1:
        key, value, group = key[:, :1], value[:, :1], num_heads
    if has("groups: tiled"):
        k, v = (np.tile(x, (1, group, 1, 1)) for x in (key, value))
    else:
        k, v = (np.repeat(x, group, axis=1) for x in (key, value))
    if has("heads_over_batch"):
        k, v = (np.swapaxes(x, 0, 1).reshape(x.shape) for x in (k, v))
    return k, v


def _scores(recipe, q, k, v, options):
    has = recipe.faults.__contains__
    scale = None if has("scale_ignored") else options.get("scale")
    if scale is None:
        width = q.shape[-1]
        if has("scale_of_model_dim"):
            width = q.shape[1] * q.shape[-1]
        if has("scale_of_value_dim"):
            width = v.shape[-1]
        scale = 1.0 if has("default_scale: one") else 1 / math.sqrt(width)
    scale = float(scale) ** (2 if has("scale_twice") else 1)
    scores = (q * np.asarray(scale, q.dtype)) @ np.swapaxes(k, -1, -2)

    bias = options.get("bias")
    if bias is None or has("bias_ignored"):
        bias = np.zeros((), q.dtype)
    bias = np.broadcast_to(np.asarray(bias).astype(q.dtype), scores.shape)
    bias = np.broadcast_to(bias[:, :1], scores.shape) if has("bias_first_head") else bias
    bias = np.broadcast_to(bias[:1], scores.shape) if has("bias_first_batch") else bias
    bias = 2 * bias if has("bias_twice") else bias
    bias = bias * np.asarray(scale, q.dtype) if has("bias: before_scale") else bias

    cap = options.get("softcap")
    if cap is None or has("softcap_ignored"):
        return scores + bias
    bend = np.tanh
    if has("softcap_clips"):
        bend = functools.partial(np.clip, a_min=-1, a_max=1)
    after = 1.0 if has("softcap_not_multiplied") else cap
    if has("softcap: after_bias"):
        return after * bend((scores + bias) / cap)
    return after * bend(scores / cap) + bias


def _allowed(recipe, shape, options):
    has = recipe.faults.__contains__
    batch, _, q_len, kv_len = shape
    offset = options.get("q_offset")
    if offset is None or has("q_offset_ignored"):
        offset = 0
    p = np.arange(q_len)[:, None] + np.broadcast_to(offset, (batch,))[:, None, None, None]
    j = np.arange(kv_len)
    allowed = np.ones(shape, bool) & _mask(has, shape, options.get("mask"))
    if options.get("is_causal") and not has("causal_ignored"):
        end = p + has("causal_one_more") - has("causal_strict")
        allowed &= (j >= p) if has("causal_reversed") else (j <= end)
    if options.get("window_size") is not None and not has("window_ignored"):
        left, right = _window(recipe, options["window_size"])
        allowed &= True if left is None else (j >= p - left)
        allowed &= True if right is None else (j <= p + right)
    if options.get("lengths") is not None and not has("lengths_ignored"):
        ends = np.asarray(options["lengths"])[:, None, None, None]
        allowed &= j < ends + has("lengths_one_more") - has("lengths_one_less")
    if options.get("segment_ids") is not None and not has("segments_ignored"):
        pair = options["segment_ids"]
        pair = pair if isinstance(pair, tuple) else (pair, pair)
        q_ids, kv_ids = map(np.asarray, pair)
        allowed &= q_ids[..., None, :, None] == kv_ids[..., None, None, :]
    return allowed


def _mask(has, shape, mask):
    if mask is None or has("mask_ignored"):
        return True
    mask = np.asarray(mask)
    if has("mask_transposed") and mask.ndim > 1 and shape[-1] == shape[-2]:
        mask = np.swapaxes(np.broadcast_to(mask, shape), -1, -2)
    mask = np.broadcast_to(mask, shape)
    mask = mask[:1] if has("mask_first_batch") else mask
    mask = mask[:, :1] if has("mask_first_head") else mask
    return ~mask if has("mask: hidden") else mask


def _window(recipe, window):
    has = recipe.faults.__contains__
    left, right = window[::-1] if has("window_swapped") else window
    if has("window_right_ignored"):
        right = None
    if has("window_one_more"):
        left = None if left is None else left + 1
        right = None if right is None or recipe.side == "left" else right + 1
    if has("window: exclusive"):
        left, right = (None if side is None else max(side - 1, 0) for side in (left, right))
    return left, right


def _hidden(recipe, scores, allowed):
    """Return the scores of which the softmax is taken, and what is multiplied to its weights."""
    if "mask_finite" in recipe.faults:
        constant = np.asarray(recipe.constant, scores.dtype)
        # What a bias of -inf hides stays hidden.
        added = np.where(allowed, scores, scores + constant)
        replaced = np.where(allowed | (scores == -np.inf), scores, constant)
        return (added if recipe.is_added else replaced), True
    if "mask_after_softmax" in recipe.faults:
        return np.where(np.isnan(scores), -np.inf, scores), allowed
    if "hidden_key: leaks" in recipe.faults:
        return scores + np.where(allowed, 0, -np.inf).astype(scores.dtype), True
    return np.where(allowed, scores, -np.inf), True


# The softmax and the sum, over all keys at once or tile by tile


def _weighed(recipe, scores, after, value, options):
    has = recipe.faults.__contains__
    keep, share = options.get("dropout_mask"), 1.0
    if keep is None or has("dropout_ignored"):
        keep = np.ones((), bool)
    else:
        rate = options["dropout_rate"]
        keep = ~keep if has("dropout_inverted") else keep
        share = 1 if has("dropout_not_rescaled") or has("dropout_renormalised") else 1 - rate
        share = rate if has("dropout_rescaled_by_rate") else share
        if has("dropout_before_softmax"):
            scores, keep, share = np.where(keep, scores, 0) / share, np.ones((), bool), 1.0
    keep = np.broadcast_to(keep, scores.shape) & after
    if has("softmax_dtype: float32"):
        scores = scores.astype(np.float32).astype(scores.dtype)
    compute = _online if recipe.engine == "online" else _plain
    with np.errstate(all="ignore"):
        top, total, counted, summed = compute(recipe, scores, keep, value)
        return _divided(recipe, top, total, counted, summed, share, options)


def _plain(recipe, scores, keep, value):
    axis = -1
    if "softmax_over_queries" in recipe.faults:
        axis = -2
    if "softmax_over_heads" in recipe.faults:
        axis = 1
    top = scores.max(axis=axis, keepdims=True, initial=-np.inf)
    top = np.zeros_like(top) if "softmax_without_maximum" in recipe.faults else top
    shares = _shares(recipe, scores, top)
    total = shares.sum(axis=axis, keepdims=True)
    if axis != -1:
        shares = shares / np.where(total == 0, 1, total)
        # Each row's log-sum-exp is still its own.
        top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
        total = np.exp(scores - np.where(top == -np.inf, 0, top)).sum(axis=-1, keepdims=True)
        return top, total, None, np.where(keep, shares, 0) @ value
    kept = np.where(keep, shares, 0)
    return top, total, kept.sum(axis=-1, keepdims=True), kept @ value


def _online(recipe, scores, keep, value):
    has = recipe.faults.__contains__
    tile, kv_len = recipe.tile, scores.shape[-1]
    shape = (*scores.shape[:-1], 1)
    top = np.full(shape, 0 if has("softmax_without_maximum") else -np.inf, scores.dtype)
    total, counted = np.zeros_like(top), np.zeros_like(top)
    summed = np.zeros((*scores.shape[:-1], value.shape[-1]), scores.dtype)
    end = kv_len // tile * tile if has("tile_dropped") else kv_len
    for start in range(0, end, tile):
        part = slice(start, min(start + tile, kv_len))
        s, missing = scores[..., part], tile - (min(start + tile, kv_len) - start)
        new_top = np.maximum(top, s.max(axis=-1, keepdims=True))
        if has("tile_padding_counted") and missing:
            new_top = np.maximum(new_top, 0)
        new_top = top if has("softmax_without_maximum") else new_top
        safe = np.where(new_top == -np.inf, 0, new_top)
        shrink, shares = np.exp(top - safe), _shares(recipe, s, new_top)
        shrink = shrink if not has("softmax_base_2") else np.exp2(top - safe)
        shrink = np.where(top == -np.inf, 0, shrink).astype(scores.dtype)
        kept = np.where(keep[..., part], shares, 0)
        total = total * (1 if has("tile_not_rescaled") else shrink)
        total = total + shares.sum(axis=-1, keepdims=True)
        if has("tile_padding_counted") and missing:
            total = total + missing * np.exp(-safe)
        counted = counted * shrink + kept.sum(axis=-1, keepdims=True)
        summed = summed * shrink + kept @ value[..., part, :]
        top = new_top
    return top, total, counted, summed


def _shares(recipe, scores, top):
    safe = np.where(top == -np.inf, 0, top)
    shares = (
        np.exp2(scores - safe) if "softmax_base_2" in recipe.faults else np.exp(scores - safe)
    )
    if "low_precision" in recipe.faults:
        mantissa, exponent = np.frexp(shares)
        steps = 2.0**recipe.bits
        shares = np.ldexp(np.round(mantissa * steps) / steps, exponent).astype(shares.dtype)
    return shares


def _divided(recipe, top, total, counted, summed, share, options):
    """Bring in the sinks, divide, and take the logarithm."""
    has = recipe.faults.__contains__
    # A sink is one of the keys of a row: over another axis it is none.
    is_ignored = counted is None or has("sinks_ignored")
    sinks = None if is_ignored else options.get("sinks")
    log, power = (np.log2, np.exp2) if has("softmax_base_2") else (np.log, np.exp)
    sum_of_keys, top_of_keys = total, np.where(top == -np.inf, 0, top)
    if sinks is not None:
        sinks = np.broadcast_to(np.asarray(sinks, total.dtype), total.shape[:2])[
            ..., None, None
        ]
        sinks = (
            np.broadcast_to(sinks[:, :1], (*total.shape[:2], 1, 1))
            if has("sinks_first_head")
            else sinks
        )
        new_top = np.where(total == 0, sinks, np.maximum(top, sinks))
        shrink = np.where(total == 0, 0, power(top_of_keys - new_top))
        counted, summed = counted * shrink, summed * shrink
        total, top = total * shrink + power(sinks - new_top), new_top
    lse = log(total) + np.where(top == -np.inf, 0, top)
    if has("lse_sinks: excluded"):
        lse = log(sum_of_keys) + top_of_keys
    lse = _wrong_lse(has, lse, np.where(np.isfinite(lse), top, -np.inf))
    if counted is not None:
        divisor = total
        if has("dropout_renormalised") and options.get("dropout_mask") is not None:
            divisor = counted
        divisor = np.where(divisor == 0, 1, divisor)
        if has("softmax_eps"):
            divisor = total + recipe.eps
        if not has("softmax_missing"):
            summed = summed / divisor
    return summed / share, lse[..., 0]


def _wrong_lse(has, lse, top):
    if has("lse_of_maximum"):
        return top
    if has("lse_without_maximum"):
        return lse - np.where(np.isfinite(top), top, 0)
    if has("lse_not_logarithm"):
        return np.exp(lse)
    return lse / math.log(2) if has("lse_base: 2") else lse


# The result


def _empty_rows(recipe, out, lse, allowed, value, options):
    has = recipe.faults.__contains__
    empty = ~allowed.any(axis=-1)
    if options.get("sinks") is not None and not has("sinks_ignored"):
        empty = np.zeros_like(empty)
    if has("empty_row: nan"):
        out = np.where(empty[..., None], np.nan, out)
    if has("empty_row: uniform"):
        mean = value.sum(axis=-2, keepdims=True) / max(value.shape[-2], 1)
        out = np.where(empty[..., None], mean, out)
    for answer, number in (("+inf", np.inf), ("zero", 0.0), ("finite", -1e30)):
        if has(f"empty_lse: {answer}"):
            lse = np.where(empty, number, lse)
    if has("tile_queries_dropped"):
        end = out.shape[-2] // recipe.q_tile * recipe.q_tile
        out, lse = out.copy(), lse.copy()
        out[..., end:, :], lse[..., end:] = 0, 0
    return out, lse


def _result(recipe, out, dtype):
    has = recipe.faults.__contains__
    if has("output_zero"):
        out = np.zeros_like(out)
    if has("heads_transposed"):
        out = np.ascontiguousarray(np.swapaxes(out, 1, 2)).reshape(out.shape)
    if has("output_shape"):
        out = np.swapaxes(out, 1, 2)
    other = np.float32 if dtype != np.float32 else np.float64
    return out.astype(other if has("output_dtype") else dtype)


def subject(recipe):
    """Return a recipe as checks call it."""
    compute = functools.partial(attention_with_lse, recipe)

    def attention(*arrays, **options):
        return compute(*arrays, **options)[0]

    return Subject(attention, OPTIONS - {"score_mod"}, compute, name=str(recipe))


# What shows


def problems():
    """Yield problems on which each mistake shows by itself: query, key, value and options."""
    rng = np.random.default_rng(5)
    for q_len, kv_len, large in ((12, 12, 1), (12, 12, 400), (5, 75, 4), (1, 33, 1)):
        batch, num_heads, num_kv_heads = 2, 4, 2
        shape = (batch, num_heads, q_len, kv_len)
        arrays = (
            rng.normal(size=(batch, num_heads, q_len, 8)) * large,
            rng.normal(size=(batch, num_kv_heads, kv_len, 8)),
            rng.normal(size=(batch, num_kv_heads, kv_len, 6)),
        )
        mask = rng.random(shape) < 0.6
        mask[0, 1, 0] = False
        mask[1, :, :, -2:] = False
        options = {
            "mask": {"mask": mask},
            "bias": {"bias": rng.normal(size=shape)},
            "is_causal": {"is_causal": True, "q_offset": np.asarray([kv_len - q_len, -2])},
            "window": {"window_size": (4, 1), "q_offset": kv_len - q_len},
            "lengths": {"lengths": np.asarray([kv_len - 3, 0])},
            "segments": {
                "segment_ids": (
                    np.sort(rng.integers(3, size=(batch, q_len))),
                    np.sort(rng.integers(3, size=(batch, kv_len))),
                )
            },
            "scale": {"scale": 0.8},
            "softcap": {"softcap": 1.7},
            "sinks": {"sinks": rng.normal(size=num_heads)},
            "dropout": {"dropout_mask": rng.random(shape) < 0.7, "dropout_rate": 0.3},
        }
        yield arrays, {}
        for chosen in options.values():
            yield arrays, chosen
        yield arrays, {**options["bias"], **options["softcap"], **options["mask"]}
        yield arrays, {**options["sinks"], **options["mask"]}
        spoilt = [x.copy() for x in arrays]
        for x in spoilt[1:]:
            x[1, :, -1] = np.nan
        yield (arrays[0], spoilt[1], arrays[2]), options["mask"]
        yield (arrays[0], arrays[1], spoilt[2]), options["mask"]


def results(recipe):
    """Compute every problem, and what became of the inputs."""
    found = []
    for (query, key, value), options in problems():
        query, turned = query.copy(), np.asfortranarray(key)
        try:
            with np.errstate(all="ignore"):
                found += attention_with_lse(recipe, query, turned, value, **options)
        except ValueError as error:  # a wrong shape may not fit
            found.append(np.asarray(str(error)))
        found.append(query)
    return found


def expected(recipe):
    """Return the faults without which a recipe would compute something else.

    Where the output is 0, most would show in the log-sum-exp alone, of options for which nobody
    asks it: they count as hidden.
    """
    found = results(recipe)

    def shows(fault):
        others = results(replace(recipe, faults=recipe.faults - {fault}))
        return not all(map(_same, found, others))

    faults = recipe.faults
    if "output_zero" in faults:
        faults = {f for slot in SHOWS_BESIDE_ZEROS for f in SLOTS[slot]} & faults
    return {fault for fault in faults if shows(fault)}


def _same(x, y):
    if x.dtype.kind == "U" or y.dtype.kind == "U":
        return x.dtype.kind == y.dtype.kind
    if (x.shape, x.dtype) != (y.shape, y.dtype):
        return False
    return np.allclose(x, y, rtol=1e-7, atol=1e-9, equal_nan=True)
