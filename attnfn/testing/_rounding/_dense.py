"""A call with every score at once: what the plain formula and its rounding errors are of."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .._reference._call import Call, sum_to

__all__ = [
    "GRADIENTS",
    "Dense",
    "Results",
    "Upstream",
    "blocks",
    "collected",
    "dense",
    "gathered",
    "score_bound",
]

#: What attention gives, and its gradients, by name: "out", "lse", "query", "key", ...
Results = dict[str, np.ndarray]
GRADIENTS = ("query", "key", "value", "bias", "sinks")

#: Scores that are held at once.
MOST_SCORES = 2**21


class Upstream(NamedTuple):
    """The gradients of a loss with respect to the results, and what to differentiate by."""

    d_out: np.ndarray  # (*batch, num_heads, q_len, value_dim), 0 where a row is NaN
    d_lse: np.ndarray  # (*batch, num_heads, q_len)
    shapes: dict[str, tuple[int, ...]]  # of arguments


class Dense(NamedTuple):
    """Some rows of a call. What is not finite is 0; what a row may not attend to is hidden."""

    rows: slice
    q: np.ndarray  # (*batch, num_heads, rows, head_dim)
    k: np.ndarray  # (*batch, num_heads, kv_len, head_dim)
    v: np.ndarray  # (*batch, num_heads, kv_len, value_dim)
    allowed: np.ndarray  # (*batch, num_heads, rows, kv_len), as what follows
    bias: np.ndarray | None
    share: np.ndarray | None  # what dropout multiplies a weight by
    sinks: np.ndarray | None  # (*batch, num_heads, 1, 1)
    scale: float
    softcap: float | None
    score_mod: Any


def dense(call: Call, /) -> Dense:
    """Return all rows of a call."""
    heads = range(call.shape[-3])
    k, v = (
        np.take(_finite(x), [call.head_of(x, head) for head in heads], axis=-3)
        for x in (call.k, call.v)
    )
    allowed, bias = call.allowed, call.bias
    if bias is not None:
        allowed = allowed & (bias != -math.inf)
        bias = np.where(np.isfinite(bias), bias, 0.0)
    share = None if call.keep is None else call.keep / (1 - call.dropout_rate)
    scale, sinks = call.scale, call.sinks
    return Dense(
        rows=slice(0, call.shape[-2]),
        q=_finite(call.q),
        k=k,
        v=v,
        allowed=allowed,
        bias=bias,
        share=share,
        sinks=None
        if sinks is None
        else np.where(sinks < math.inf, sinks, 0.0)[..., None, None],
        scale=1 / math.sqrt(call.q.shape[-1]) if scale is None else scale,
        softcap=call.softcap,
        score_mod=call.score_mod,
    )


def blocks(whole: Dense, /) -> Iterator[Dense]:
    """Cut a call into so few rows at a time that their scores can be held at once."""
    *many, q_len, kv_len = whole.allowed.shape
    size = max(1, MOST_SCORES // max(1, math.prod(many) * kv_len))
    if whole.score_mod is not None:  # which sees all of them
        size = max(1, q_len)
    for start in range(0, max(1, q_len), size):
        rows = slice(start, min(start + size, q_len))

        def cut(x: Any, rows: slice = rows) -> Any:
            return None if x is None else x[..., rows, :]

        yield whole._replace(
            rows=rows,
            q=cut(whole.q),
            allowed=cut(whole.allowed),
            bias=cut(whole.bias),
            share=cut(whole.share),
        )


def score_bound(block: Dense, s: np.ndarray, /) -> np.ndarray:
    """Return how far from 0 that may be which is subtracted of every score of a head.

    It need not be the greatest score: some kernels take what the norms of the vectors allow.
    """
    if block.score_mod is not None:
        return abs(s).max(axis=(-2, -1), keepdims=True, initial=0.0)
    norms = (np.sqrt((x**2).sum(axis=-1)).max(axis=-1, initial=0.0) for x in (block.q, block.k))
    bound = np.asarray(next(norms) * next(norms) * abs(block.scale))[..., None, None]
    if block.softcap is not None:
        bound = np.minimum(bound, block.softcap)
    if block.bias is not None:
        bound = bound + abs(block.bias).max(axis=(-2, -1), keepdims=True, initial=0.0)
    return bound


def gathered(rows: list[Results], call: Call, upstream: Upstream | None, /) -> Results:
    """Put together what blocks gave, in the shapes of results and arguments."""
    shape = call.public_shape[:-1]

    def joined(name: str) -> np.ndarray:
        return np.concatenate([row[name] for row in rows], axis=-2)

    found = {
        "out": joined("out").reshape((*shape, call.v.shape[-1])),
        "lse": joined("lse").reshape(shape),
    }
    for name in () if upstream is None else upstream.shapes:
        if name in ("query", "bias"):
            every = joined(name)
        else:
            every = np.sum([row[name] for row in rows], axis=0)
        assert upstream is not None
        found[name] = collected(name, every, call, upstream.shapes[name])
    return found


def collected(name: str, x: np.ndarray, call: Call, shape: tuple[int, ...], /) -> np.ndarray:
    """Sum what belongs to every query head, and to every row, to the shape of an argument."""
    if name == "sinks":
        return sum_to(x[..., 0, 0], shape)
    if name in ("key", "value"):
        own = call.k if name == "key" else call.v
        *batch, num_heads, length, dim = x.shape
        few = own.shape[-3]
        x = x.reshape((*batch, few, num_heads // max(1, few), length, dim)).sum(axis=-3)
    return sum_to(x, shape)


def _finite(x: np.ndarray, /) -> np.ndarray:
    """Put zeros for vectors with a NaN or an inf: rows that may see them are not compared."""
    return np.where(np.isfinite(x).all(axis=-1, keepdims=True), x, 0.0)
