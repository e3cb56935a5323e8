"""The options of a problem that is drawn, each in one of the forms that it may have."""

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from ._drawn_arrays import Draw
from ._rules import Distance, Remainder, Shifted

__all__ = ["BOOLS", "drawn_bools", "drawn_options"]

#: How a mask may be filled. Each says something of another row or key.
BOOLS = ("full", "most", "half", "few", "empty_rows", "empty")

#: The batch, the heads, the lengths: what options have the axes of.
Scores = tuple[int, ...]


def drawn_options(
    draw: Draw, chosen: set[str], scores: Scores, batch: tuple[int, ...], dtype: Any
) -> dict[str, Any]:
    """Draw those options that were chosen; arrays in NumPy, functions for a library's dtype."""
    given = _of_sight(draw, chosen, scores, batch) | _of_scores(draw, chosen, scores)
    if "functions" in chosen:
        given |= _functions(draw, given, dtype)
    return given | _place(draw, given, *scores[-2:])


def _of_sight(
    draw: Draw, chosen: set[str], scores: Scores, batch: tuple[int, ...]
) -> dict[str, Any]:
    """Draw what says which query may attend to which key."""
    given: dict[str, Any] = {}
    q_len, kv_len = scores[-2:]
    if "mask" in chosen:
        given["mask"] = drawn_bools(draw, scores)
    if "lengths" in chosen:
        lengths = _integers(draw, batch, 0, kv_len)
        real = np.arange(kv_len) < lengths[(..., *[None] * (len(scores) - len(batch)))]
        given["mask"] = real & given.get("mask", np.asarray(True))
    if "causal" in chosen:
        given["is_causal"] = True
    if "window" in chosen:
        bound = st.none() | st.integers(0, max(q_len, kv_len))
        given["window_size"] = (draw(bound), draw(bound))
    if "q_offset" in chosen:
        given["q_offset"] = _q_offset(draw, batch, q_len, kv_len)
    if "segments" in chosen:
        given["segment_ids"] = _segments(draw, batch, q_len, kv_len)
    return given


def _of_scores(draw: Draw, chosen: set[str], scores: Scores) -> dict[str, Any]:
    """Draw what says how much it attends to them."""
    given: dict[str, Any] = {}
    if "scale" in chosen:
        scale = draw(st.sampled_from([1.0, 0.5, 0.0, -0.25, 2.0]))
        given["scale"] = np.asarray(scale) if draw(st.booleans()) else scale
    if "bias" in chosen:
        given["bias"] = _bias(draw, scores)
    if "softcap" in chosen:
        given["softcap"] = draw(st.sampled_from([1.0, 5.0, 30.0, 50.0]))
    if "sinks" in chosen:
        shape = draw(st.sampled_from([(), scores[:-2][-1:], scores[:-2]]))
        sinks = _numbers(draw, shape)
        given["sinks"] = sinks if shape or draw(st.booleans()) else float(sinks)
    if "dropout" in chosen:
        given["dropout_mask"] = drawn_bools(draw, scores)
        given["dropout_rate"] = draw(st.sampled_from([0.5, 0.0, 0.1, 0.9]))
    if "score_mod" in chosen:
        hidden = draw(st.none() | st.integers(1, 3))
        given["score_mod"] = Shifted(draw(st.sampled_from([1.0, 0.5, -2.0])), 0.25, hidden)
    return given


def drawn_bools(draw: Draw, scores: Scores, filled: tuple[str, ...] = BOOLS) -> np.ndarray:
    """Draw a mask that broadcasts to scores."""
    shape = _shape(draw, scores)
    kind = draw(st.sampled_from(filled))
    if kind in ("full", "empty"):
        return np.full(shape, kind == "full")
    rng = _rng(draw)
    share = {"most": 0.9, "few": 0.1}.get(kind, 0.5)
    mask = rng.random(shape) < share
    if kind == "empty_rows" and mask.ndim > 1:
        mask &= rng.random((*shape[:-1], 1)) < 0.5
    return mask


def _functions(draw: Draw, given: dict[str, Any], dtype: Any) -> dict[str, Any]:
    """Put functions for masks and biases that are given; for a mask if none is."""
    names = [name for name in ("mask", "bias", "dropout_mask") if name in given] or ["mask"]
    functions: dict[str, Any] = {}
    for name in names:
        if name == "bias":
            reach = draw(st.none() | st.integers(0, 4))
            functions[name] = Distance(draw(st.sampled_from([-1.0, 0.5, -3.0])), reach, dtype)
        else:
            by_q, by_kv = draw(st.integers(0, 2)), draw(st.integers(0, 2))
            functions[name] = Remainder(by_q, by_kv, draw(st.integers(2, 4)))
    return functions


def _place(draw: Draw, given: dict[str, Any], q_len: int, kv_len: int) -> dict[str, Any]:
    """Say where the queries stand, where that makes a difference and is not said yet."""
    by_position = given.keys() & {"is_causal", "window_size", "score_mod"}
    by_position |= {name for name, x in given.items() if isinstance(x, Distance | Remainder)}
    if not by_position or q_len == kv_len or "q_offset" in given:
        return {}
    return {"q_offset": draw(st.sampled_from([0, kv_len - q_len]))}


def _q_offset(draw: Draw, batch: tuple[int, ...], q_len: int, kv_len: int) -> Any:
    shape = draw(st.sampled_from([None, (), batch]))
    if shape is None:
        return draw(st.sampled_from([0, 1, kv_len - q_len, -2, 2 * kv_len, 10**6, -(10**6)]))
    return _integers(draw, shape, -2, kv_len + 2)


def _segments(draw: Draw, batch: tuple[int, ...], q_len: int, kv_len: int) -> Any:
    axes = draw(st.sampled_from([(), batch]))
    is_packed = draw(st.booleans())

    def ids(length: int) -> np.ndarray:
        found = _integers(draw, (*axes, length), 0, 2)
        return np.sort(found, axis=-1) if is_packed else found

    if q_len == kv_len and draw(st.booleans()):
        return ids(kv_len)
    return ids(q_len), ids(kv_len)


def _bias(draw: Draw, scores: Scores) -> np.ndarray:
    per_head = [scores[-3:]] if len(scores) > 2 else []
    shape = draw(st.sampled_from([None, *per_head]))
    bias = _numbers(draw, _shape(draw, scores) if shape is None else shape)
    if draw(st.booleans()):
        bias = np.where(_rng(draw).random(bias.shape) < 0.3, -math.inf, bias)
    return bias


def _shape(draw: Draw, scores: Scores) -> tuple[int, ...]:
    """Draw a shape of a mask: of keys, of a matrix, or of all axes, some of them 1."""
    form = draw(st.sampled_from(["keys", "matrix", "all", "ones"]))
    if form == "keys":
        return scores[-1:]
    if form == "matrix":
        return scores[-2:]
    if form == "all":
        return scores
    return tuple(draw(st.sampled_from([1, n])) for n in scores)


def _numbers(draw: Draw, shape: tuple[int, ...]) -> np.ndarray:
    size = draw(st.sampled_from([0.0, 1.0, 8.0]))
    return np.asarray(_rng(draw).integers(-64, 65, size=shape) / 32 * size)


def _integers(draw: Draw, shape: tuple[int, ...], least: int, most: int) -> np.ndarray:
    return np.asarray(_rng(draw).integers(least, most + 1, size=shape))


def _rng(draw: Draw) -> np.random.Generator:
    return np.random.default_rng(draw(st.integers(0, 2**16 - 1)))
