"""Faulty backward passes in any number, tile by tile, beside a forward pass that is right."""

import functools
import math
from dataclasses import dataclass, replace

import numpy as np

from attnfn.testing._subject import Subject

__all__ = ["OPTIONS", "SLOTS", "TRUE_BESIDE", "GradientRecipe", "draw", "expected", "subject"]

#: Mistakes by the place where they are made: there can be one in each.
SLOTS = {
    "scale": ("gradient_without_scale",),
    "softmax": ("gradient_without_delta",),
    "hidden keys": ("gradient_through_mask", "gradient_without_causal"),
    "groups": ("gradient_without_groups",),
    "softcap": ("gradient_without_softcap",),
    "sinks": ("gradient_without_sinks", "gradient_of_sinks_sign"),
    "dropout": ("gradient_without_dropout",),
    "empty rows": ("gradient_nan",),
    "nothing": ("gradient_missing",),
}

#: What is true as well where a mistake is made.
TRUE_BESIDE = {"gradient_without_causal": ("gradient_through_mask",)}

OPTIONS = frozenset(
    {
        "mask",
        "bias",
        "is_causal",
        "q_offset",
        "scale",
        "softcap",
        "sinks",
        "dropout_mask",
        "dropout_rate",
    }
)


@dataclass(frozen=True, kw_only=True)
class GradientRecipe:
    """What is wrong, and how it is computed."""

    faults: frozenset[str]
    tile: int = 8
    #: For which of a group's heads gradients of key and value are kept.
    head: int = 0
    #: Which gradient is 0.
    missing: str = "bias"

    def __str__(self):
        return f"{', '.join(sorted(self.faults))} (backward, tile {self.tile})"


def draw(seed, count=None):
    """Draw a recipe; `count` is how many mistakes it has, 1 to 3 unless said."""
    rng = np.random.default_rng([2026, 11, 26, seed])
    if count is None:
        count = int(rng.choice([1, 2, 3], p=[0.4, 0.45, 0.15]))
    slots = rng.choice(list(SLOTS), size=count, replace=False)
    return GradientRecipe(
        faults=frozenset(str(rng.choice(SLOTS[slot])) for slot in slots),
        tile=int(rng.integers(2, 33)),
        head=int(rng.choice([0, -1])),
        missing=str(rng.choice(["bias", "sinks", "value"])),
    )


def _repeated(x, num_heads):
    return np.repeat(x, num_heads // x.shape[1], axis=1)


def _scores(query, k, part, options, scale):
    """Return a tile of capped scores with its bias, and the cap's slope."""
    s = scale * np.einsum("bhqd,bhkd->bhqk", query, k[..., part, :])
    slope = np.ones_like(s)
    if options.get("softcap") is not None:
        bent = np.tanh(s / options["softcap"])
        s, slope = options["softcap"] * bent, 1 - bent * bent
    bias = options.get("bias")
    if bias is not None:
        s = s + np.broadcast_to(bias, (*s.shape[:-1], k.shape[-2]))[..., part]
    return s, slope


def _allowed(shape, part, options, left_out=None):
    allowed = np.ones(shape, bool)
    if options.get("mask") is not None and left_out != "gradient_through_mask":
        allowed &= np.broadcast_to(options["mask"], shape)
    if options.get("is_causal") and left_out != "gradient_without_causal":
        given = options.get("q_offset")
        offset = np.broadcast_to(0 if given is None else given, (shape[0],))
        p = np.arange(shape[-2])[:, None] + offset[:, None, None, None]
        allowed &= np.arange(shape[-1]) <= p
    return allowed[..., part]


def _kept(shape, part, options):
    if options.get("dropout_mask") is None:
        return 1.0
    mask = np.broadcast_to(options["dropout_mask"], shape)[..., part]
    return mask / (1 - options["dropout_rate"])


def _scale(query, options):
    given = options.get("scale")
    return 1 / math.sqrt(query.shape[-1]) if given is None else float(given)


def forward(query, key, value, /, **options):
    """Return the output and the log-sum-exp, both right."""
    k, v = (_repeated(x, query.shape[1]) for x in (key, value))
    every, scale = slice(None), _scale(query, options)
    shape = (*query.shape[:-1], k.shape[-2])
    s, _ = _scores(query, k, every, options, scale)
    s = np.where(_allowed(shape, every, options), s, -np.inf)
    top = s.max(axis=-1, keepdims=True, initial=-np.inf)
    if options.get("sinks") is not None:
        sinks = np.broadcast_to(options["sinks"], shape[:2])[..., None, None]
        top = np.maximum(top, sinks)
    top = np.where(top == -np.inf, 0, top)
    e = np.exp(s - top)
    total = e.sum(axis=-1, keepdims=True)
    if options.get("sinks") is not None:
        total = total + np.exp(sinks - top)
    with np.errstate(divide="ignore"):
        lse = (top + np.log(total))[..., 0]
    v = np.where((s != -np.inf).any(axis=-2)[..., None], v, 0)
    weights = e / np.where(total == 0, 1, total) * _kept(shape, every, options)
    return weights @ v, lse


@np.errstate(invalid="ignore")
def backward(recipe, query, key, value, d_out, /, **options):
    """Return the gradients, a tile of keys at a time, with the faults of a recipe."""
    has = recipe.faults.__contains__
    out, lse = forward(query, key, value, **options)
    if has("gradient_without_sinks") and options.get("sinks") is not None:
        _, lse = forward(query, key, value, **{**options, "sinks": None})
    num_heads, num_kv_heads = query.shape[1], key.shape[1]
    k, v = (_repeated(x, num_heads) for x in (key, value))
    shape, scale = (*query.shape[:-1], k.shape[-2]), _scale(query, options)
    delta = (d_out * out).sum(axis=-1, keepdims=True)
    least = lse if has("gradient_nan") else np.where(lse == -np.inf, np.inf, lse)
    left_out = next(iter(recipe.faults & set(SLOTS["hidden keys"])), None)

    d_query, d_bias = np.zeros_like(query), np.zeros(shape)
    d_k, d_v = np.zeros_like(k), np.zeros_like(v)
    for start in range(0, k.shape[-2], recipe.tile):
        part = slice(start, start + recipe.tile)
        s, slope = _scores(query, k, part, options, scale)
        s = np.where(_allowed(shape, part, options, left_out), s, -np.inf)
        p = np.exp(s - least[..., None])
        seen = (s != -np.inf).any(axis=-2)[..., None]
        k_tile, v_tile = (np.where(seen, x[..., part, :], 0) for x in (k, v))
        kept = 1.0 if has("gradient_without_dropout") else _kept(shape, part, options)
        d_v[..., part, :] = np.swapaxes(p * kept, -1, -2) @ d_out
        d_p = d_out @ np.swapaxes(v_tile, -1, -2) * kept
        d_s = p * (d_p if has("gradient_without_delta") else d_p - delta)
        d_bias[..., part] = d_s
        slope = np.where(s == -np.inf, 0, slope)
        d_s = d_s * (1 if has("gradient_without_softcap") else slope)
        d_s = d_s * (1 if has("gradient_without_scale") else scale)
        d_query += d_s @ k_tile
        d_k[..., part, :] = np.swapaxes(d_s, -1, -2) @ query

    def of_group(x):
        x = x.reshape(x.shape[0], num_kv_heads, num_heads // num_kv_heads, *x.shape[2:])
        return x[:, :, recipe.head] if has("gradient_without_groups") else x.sum(axis=2)

    gradients = {"query": d_query, "key": of_group(d_k), "value": of_group(d_v)}
    if options.get("bias") is not None:
        gradients["bias"] = _sum_to(d_bias, np.shape(options["bias"]))
    if options.get("sinks") is not None:
        sinks = np.broadcast_to(options["sinks"], shape[:2])[..., None]
        weight = np.exp(sinks - np.where(lse == -np.inf, np.inf, lse))
        d_sinks = -(weight * (0 if has("gradient_without_delta") else delta[..., 0])).sum(
            axis=-1
        )
        if has("gradient_without_sinks"):
            d_sinks = np.zeros_like(d_sinks)
        d_sinks = -d_sinks if has("gradient_of_sinks_sign") else d_sinks
        gradients["sinks"] = _sum_to(d_sinks, np.shape(options["sinks"]))
    if has("gradient_missing") and recipe.missing in gradients:
        gradients[recipe.missing] = np.zeros_like(gradients[recipe.missing])
    return tuple(gradients.values())


def _sum_to(x, shape):
    x = x.sum(axis=tuple(range(x.ndim - len(shape))))
    axes = tuple(i for i, n in enumerate(shape) if n == 1 and x.shape[i] != 1)
    return x.sum(axis=axes, keepdims=True)


def subject(recipe):
    """Return a recipe as checks call it."""

    def attention(*arrays, **options):
        return forward(*arrays, **options)[0]

    vjp = functools.partial(backward, recipe)
    return Subject(attention, OPTIONS, forward, vjp, str(recipe))


# What shows


def problems():
    """Yield problems on which each mistake shows by itself: arrays, d_out, options."""
    rng = np.random.default_rng(6)
    shape = (2, 4, 9, 13)
    arrays = (
        rng.normal(size=(2, 4, 9, 5)),
        rng.normal(size=(2, 2, 13, 5)),
        rng.normal(size=(2, 2, 13, 6)),
        rng.normal(size=(2, 4, 9, 6)),
    )
    mask = rng.random(shape) < 0.7
    mask[0, 0, 0] = False
    sinks, bias = {"sinks": rng.normal(size=4)}, {"bias": rng.normal(size=shape)}
    dropout = {"dropout_mask": rng.random(shape) < 0.7, "dropout_rate": 0.3}
    causal = {"is_causal": True, "q_offset": 4}
    each = ({}, sinks, bias, dropout, causal, {"mask": mask}, {"softcap": 1.5}, {"scale": 0.8})
    for options in (*each, {**sinks, "mask": mask}, {**bias, "softcap": 1.5}):
        yield arrays, options


def expected(recipe):
    """Return the faults without which a recipe would compute something else."""

    def results(faults):
        other = replace(recipe, faults=frozenset(faults))
        return [x for a, o in problems() for x in backward(other, *a, **o)]

    found = results(recipe.faults)

    def shows(fault):
        pairs = zip(found, results(recipe.faults - {fault}), strict=True)
        return not all(np.allclose(x, y, rtol=1e-9, equal_nan=True) for x, y in pairs)

    return {fault for fault in recipe.faults if shows(fault)}
