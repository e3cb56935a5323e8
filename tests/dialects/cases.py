"""Inputs of which implementations with different conventions make something different."""

from typing import NamedTuple

import numpy as np


class Case(NamedTuple):
    """What attention is asked: lengths are counts, a mask says where to attend."""

    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    options: dict

    @property
    def needs(self):
        """The features that an implementation must have."""
        groups = {"groups"} if self.query.shape[1] != self.key.shape[1] else set()
        return frozenset(self.options) | groups


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def inputs(heads=2, kv_heads=None, *, q_len, kv_len):
    kv_heads = kv_heads or heads
    return (
        drawn(2, heads, q_len, 8, seed=1),
        drawn(2, kv_heads, kv_len, 8, seed=2),
        drawn(2, kv_heads, kv_len, 8, seed=3),
    )


def low_scores(query, key, value):
    """
    Scores of about -25 000: a hidden key with -10 000 added to what a plain one has wins.

    They are so far apart that each query has one key, whatever the rounding.
    """
    far = np.arange(key.shape[2], dtype=np.float32)[:, None] / 8
    scores = np.full_like(key, -88) + np.where(far < 16, far, 15 - far)
    return np.full_like(query, 100), scores, value


def with_nan(x, position):
    x = x.copy()
    x[..., position, :] = np.nan
    return x


def some_hidden(*shape):
    """A mask whose rows have both."""
    mask = np.random.default_rng(4).random(shape) < 0.5
    mask[..., 0], mask[..., 1] = True, False
    return mask


def cases(few=3, many=5):
    """Every case by its name, with these numbers of queries and keys."""
    square = q, k, v = inputs(q_len=many, kv_len=many)
    short, long = inputs(q_len=few, kv_len=many), inputs(q_len=many, kv_len=few)
    grouped = inputs(4, 2, q_len=many, kv_len=many)
    mask = some_hidden(many, many)
    bias = 2 * drawn(2, 2, many, many, seed=5)
    lengths = np.asarray([many - 1, many])
    sinks = drawn(2, seed=6)
    all_but_last = np.broadcast_to(np.arange(many) < many - 1, (many, many)).copy()
    empty_first_row = mask & (np.arange(many) > 0)[:, None]
    halves = np.arange(many) // (many // 2 + 1), (np.arange(many) + 1) // (many // 2 + 1)
    causal = {"is_causal": True}
    return {
        "plain": Case(*square, {}),
        "fewer queries": Case(*short, {}),
        "scale": Case(*square, {"scale": 0.9}),
        "groups": Case(*grouped, {}),
        "mask": Case(*square, {"mask": mask}),
        "mask of keys": Case(*square, {"mask": some_hidden(2, 1, 1, many)}),
        "mask of heads": Case(*square, {"mask": some_hidden(2, 2, many, many)}),
        "mask, groups": Case(*grouped, {"mask": mask}),
        "mask, low scores": Case(*low_scores(*square), {"mask": mask}),
        "bias": Case(*square, {"bias": bias}),
        "bias, scale": Case(*square, {"bias": bias, "scale": 0.9}),
        "bias, mask": Case(*square, {"bias": bias, "mask": mask}),
        "causal": Case(*square, causal),
        "causal, fewer queries": Case(*short, causal),
        "causal, fewer keys": Case(*long, causal),
        "causal, mask": Case(*square, {"mask": mask, **causal}),
        "causal, mask of keys": Case(*square, {"mask": some_hidden(2, 1, 1, many), **causal}),
        "causal, bias": Case(*square, {"bias": bias, **causal}),
        "causal, groups": Case(*grouped, causal),
        "causal, offset": Case(*short, {"q_offset": 1, **causal}),
        "window": Case(*square, {"window_size": (2, 2)}),
        "window of sides": Case(*square, {"window_size": (2, 1)}),
        "window, causal": Case(*square, {"window_size": (2, 0), **causal}),
        "window, causal, fewer queries": Case(*short, {"window_size": (2, 0), **causal}),
        "window, fewer queries": Case(*short, {"window_size": (2, 2)}),
        "softcap": Case(*square, {"softcap": 1.5}),
        "softcap, mask": Case(*square, {"softcap": 1.5, "mask": mask}),
        "softcap, bias": Case(*square, {"softcap": 1.5, "bias": bias}),
        "softcap, causal": Case(*square, {"softcap": 1.5, **causal}),
        "lengths": Case(*short, {"lengths": lengths}),
        "lengths, causal": Case(*short, {"lengths": lengths, **causal}),
        "lengths, causal, square": Case(*square, {"lengths": lengths, **causal}),
        "segments": Case(*square, {"segment_ids": halves}),
        "score_mod": Case(*square, {"score_mod": lambda s, i, j: s + 0.5 * (i - j)}),
        "score_mod, fewer queries": Case(*short, {"score_mod": lambda s, i, j: s + (j > i)}),
        "sinks": Case(*square, {"sinks": sinks}),
        "sinks, groups": Case(*grouped, {"sinks": drawn(4, seed=6)}),
        "sinks, empty row": Case(*square, {"sinks": sinks, "mask": empty_first_row}),
        "empty row": Case(*square, {"mask": empty_first_row}),
        "empty row of a bias": Case(
            *square, {"bias": np.where(empty_first_row, 0 * bias, -np.inf)}
        ),
        "NaN in a hidden key": Case(q, with_nan(k, many - 1), v, {"mask": all_but_last}),
        "NaN in a hidden value": Case(q, k, with_nan(v, many - 1), {"mask": all_but_last}),
        "float16": Case(*(x.astype(np.float16) for x in square), {}),
        "float16, mask": Case(*(x.astype(np.float16) for x in square), {"mask": mask}),
        "float16, empty row": Case(
            *(x.astype(np.float16) for x in square), {"mask": empty_first_row}
        ),
        # What it costs in precision is asked by itself.
        "float64": Case(*(x.astype(np.float64) for x in square), {}),
    }


def asked(case, conventions):
    """The options as an implementation of these conventions is asked for the same."""
    options = dict(case.options)
    if "mask" in options and conventions.mask == "hidden":
        options["mask"] = ~options["mask"]
    if "lengths" in options and conventions.lengths == "last_index":
        options["lengths"] = options["lengths"] - 1
    return options


def assert_same(actual, expected, tolerance):
    """Assert that two answers are the same; "very low" is one number here."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    low = -1e20 if actual.dtype != np.float16 else -1e5
    actual, expected = (
        np.where((x < low) & np.isfinite(x), low, x.astype(np.float64))
        for x in (actual, expected)
    )
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)
