"""One call of attention, its arguments in NumPy and with every axis written out."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, TypedDict

import numpy as np

from ..._backend import library_name, namespace
from ..._checks import check_modified_scores
from ..._problem import describe, fit_term
from ..._typing import Array, PositionFunction, ScoreFunction
from .._arrays import is_array, put_beside, to_numpy

__all__ = ["Call", "Options", "WeightOptions", "read", "sum_to"]


class ScoreOptions(TypedDict, total=False):
    """Options of `attention` that say what a score is."""

    mask: Array | PositionFunction | None
    bias: Array | PositionFunction | None
    is_causal: bool
    window_size: tuple[int | None, int | None] | None
    q_offset: int | Array | None
    segment_ids: Array | tuple[Array, Array] | None
    scale: float | Array | None
    softcap: float | None
    score_mod: ScoreFunction | None


class WeightOptions(ScoreOptions, total=False):
    """And those that say what a row of scores becomes."""

    sinks: float | Array | None


class Options(WeightOptions, total=False):
    """And those that need the values: every option of `attention` but how to compute."""

    dropout_mask: Array | PositionFunction | None
    dropout_rate: float | None


class Call(NamedTuple):
    """The arguments of one call as float64 and bool arrays of (*batch, num_heads, ...)."""

    q: np.ndarray  # (*batch, num_heads, q_len, head_dim)
    k: np.ndarray  # (*batch, num_heads, kv_len, head_dim), of as many heads as it came with
    v: np.ndarray  # (*batch, num_heads, kv_len, value_dim), the same
    shape: tuple[int, ...]  # of the scores, with an axis of heads
    public_shape: tuple[int, ...]  # without one if no argument has it
    terms: dict[str, np.ndarray]  # what each option lets a query attend to
    allowed: np.ndarray  # all of them
    bias: np.ndarray | None
    sinks: np.ndarray | None  # (*batch, num_heads)
    keep: np.ndarray | None  # of dropout
    dropout_rate: float
    scale: float | None
    softcap: float | None
    q_pos: np.ndarray  # (*batch, num_heads, q_len): where each query stands among the keys
    score_mod: Any  # of the raw scores of every row, in `shape`, to the same
    bad_q: np.ndarray  # where a vector is not finite
    bad_k: np.ndarray
    bad_v: np.ndarray

    def head_of(self, x: np.ndarray, head: int, /) -> int:
        """Return which of the heads of a key or value a query head uses."""
        return head // (self.shape[-3] // x.shape[-3])


def read(
    query: Any,
    key: Any,
    value: Any,  # () where only weights are asked for
    /,
    *,
    mask: Any = None,
    bias: Any = None,
    is_causal: bool = False,
    window_size: tuple[int | None, int | None] | None = None,
    q_offset: Any = None,
    segment_ids: Any = None,
    scale: Any = None,
    softcap: float | None = None,
    score_mod: ScoreFunction | None = None,
    sinks: Any = None,
    dropout_mask: Any = None,
    dropout_rate: float | None = None,
) -> Call:
    """Convert the arguments of a call, and refuse those that `attention` would refuse."""
    q, k = _floats(query), _floats(key)
    v = value if isinstance(value, tuple) and not value else _floats(value)
    given = {
        "mask": _option(mask),
        "bias": _option(bias),
        "is_causal": is_causal,
        "window_size": window_size,
        "q_offset": _option(q_offset),
        "segment_ids": _pair(segment_ids),
        "scale": _option(scale),
        "softcap": softcap,
        "score_mod": score_mod,
        "sinks": _option(sinks),
        "dropout_mask": _option(dropout_mask),
        "dropout_rate": dropout_rate,
    }
    describe(q, k, v, **given)  # which raises where something is wrong
    v = np.zeros((k.shape[-2], 0)) if isinstance(v, tuple) else v

    batch = np.broadcast_shapes(*(x.shape[:-3] for x in (q, k, v)))
    counts = [x.shape[-3] for x in (q, k, v) if x.ndim > 2]
    # A query with one head meets as many as there are in keys and values.
    num_heads = next((count for count in counts if count != 1), 1)
    lengths = (q.shape[-2], k.shape[-2])
    shape = (*batch, num_heads, *lengths)
    public_shape = shape if counts else lengths
    q_pos, kv_pos = _positions(given["q_offset"], batch, *lengths)

    def over_scores(name: str) -> np.ndarray | None:
        """Return what is given as a mask or a bias for every score, functions evaluated."""
        term: Any = given[name]
        if term is None:
            return None
        called = name
        if callable(term):
            called = f"{name}(q_pos, kv_pos)"
            term = to_numpy(term(put_beside(q_pos, query), put_beside(kv_pos, query)))
        kind = "bias" if name == "bias" else "mask"
        term = fit_term(kind, term, public_shape, np.dtype("float64"), xp=np, called=called)
        return np.broadcast_to(term, shape)

    segments = _segments(given["segment_ids"], len(batch) + 1)
    terms = _terms(over_scores("mask"), is_causal, window_size, segments, q_pos, kv_pos)
    allowed = np.asarray(True)
    for term in terms.values():
        allowed = allowed & term

    def modified(scores: np.ndarray) -> np.ndarray:
        """Return what `score_mod` makes of every score, called with the query's library."""
        assert score_mod is not None
        return _modified(score_mod, scores.reshape(public_shape), q_pos, kv_pos, query)

    return Call(
        q=np.broadcast_to(q, (*batch, num_heads, *q.shape[-2:])),
        k=_with_heads(k, batch),
        v=_with_heads(v, batch),
        shape=shape,
        public_shape=public_shape,
        terms=terms,
        allowed=np.broadcast_to(allowed, shape),
        bias=over_scores("bias"),
        sinks=None
        if sinks is None
        else np.broadcast_to(_fitted(_floats(sinks), len(batch) + 1), shape[:-2]),
        keep=over_scores("dropout_mask"),
        dropout_rate=0.0 if dropout_rate is None else float(dropout_rate),
        scale=None if scale is None else float(scale),
        softcap=None if softcap is None else float(softcap),
        q_pos=np.broadcast_to(q_pos[..., 0], shape[:-1]),
        score_mod=None if score_mod is None else modified,
        bad_q=np.broadcast_to(_is_bad(q)[..., 0], shape[:-1]),
        bad_k=_with_heads(_is_bad(k), batch)[..., 0],
        bad_v=_with_heads(_is_bad(v), batch)[..., 0],
    )


def sum_to(x: np.ndarray, shape: tuple[int, ...], /) -> np.ndarray:
    """Sum over the axes along which an array of `shape` was broadcast to that of `x`."""
    x = np.asarray(x.sum(axis=tuple(range(x.ndim - len(shape)))))
    broadcast = tuple(axis for axis, size in enumerate(shape) if size == 1)
    return np.asarray(x.sum(axis=broadcast, keepdims=True)).reshape(shape)


def _floats(x: Any, /) -> np.ndarray:
    """Return a floating array as float64, and any other as it is: it is to be refused."""
    array = to_numpy(x)
    return array.astype(np.float64) if array.dtype.kind == "f" or not is_array(x) else array


def _option(x: Any, /) -> Any:
    """Return an array in NumPy; functions, numbers and None as they are."""
    return to_numpy(x) if is_array(x) or isinstance(x, list) else x


def _pair(segment_ids: Any, /) -> Any:
    if isinstance(segment_ids, tuple | list):
        return tuple(_option(ids) for ids in segment_ids)
    return _option(segment_ids)


def _with_heads(x: np.ndarray, batch: tuple[int, ...], /) -> np.ndarray:
    x = x if x.ndim > 2 else x[None]
    return np.broadcast_to(x, (*batch, *x.shape[-3:]))


def _is_bad(x: np.ndarray, /) -> np.ndarray:
    """Return which vectors hold a NaN or an inf: (..., length, 1)."""
    return np.asarray(~np.isfinite(x).all(axis=-1, keepdims=True))


def _positions(
    q_offset: Any, batch: tuple[int, ...], q_len: int, kv_len: int, /
) -> tuple[np.ndarray, np.ndarray]:
    """Return where queries and keys stand: (q_len, 1), or with batch, and (1, kv_len)."""
    offset = np.asarray(0 if q_offset is None else q_offset).astype(np.int64)
    if offset.ndim:
        offset = offset.reshape((*batch, 1, 1, 1) if batch else ())
    return np.arange(q_len)[:, None] + offset, np.arange(kv_len)[None, :]


def _terms(
    mask: np.ndarray | None,
    is_causal: bool,
    window_size: tuple[int | None, int | None] | None,
    segments: tuple[np.ndarray, np.ndarray] | None,
    p: np.ndarray,
    j: np.ndarray,
    /,
) -> dict[str, np.ndarray]:
    """Return what each option lets the query at `p` attend to."""
    left, right = window_size or (None, None)
    terms = {}
    if mask is not None:
        terms["mask"] = mask
    if is_causal:
        terms["is_causal"] = j <= p
    if left is not None or right is not None:
        after_start = True if left is None else p - left <= j
        before_end = True if right is None else j <= p + right
        terms["window_size"] = np.asarray(after_start & before_end)
    if segments is not None:
        q_ids, kv_ids = segments
        terms["segment_ids"] = q_ids[..., None, :, None] == kv_ids[..., None, None, :]
    return terms


def _segments(segment_ids: Any, ndim: int, /) -> tuple[np.ndarray, np.ndarray] | None:
    if segment_ids is None:
        return None
    pair = segment_ids if isinstance(segment_ids, tuple) else (segment_ids, segment_ids)
    return _fitted(pair[0], ndim), _fitted(pair[1], ndim)


def _fitted(x: np.ndarray, ndim: int, /) -> np.ndarray:
    """Drop surplus leading axes, which are of size 1."""
    return x.reshape(x.shape[max(x.ndim - ndim, 0) :])


def _modified(
    score_mod: ScoreFunction,
    scores: np.ndarray,
    q_pos: np.ndarray,
    kv_pos: np.ndarray,
    like: Any,
) -> np.ndarray:
    """Call `score_mod` with float64 in the library of `like`, or with numbers of mpmath."""
    if scores.dtype == object:
        return np.broadcast_to(score_mod(scores, q_pos, kv_pos), scores.shape)
    with _with_float64(like):
        given, *at = (put_beside(x, like) for x in (scores, q_pos, kv_pos))
        found = score_mod(given, *at)
        xp = namespace(given)
        assert xp is not None
        check_modified_scores(found, given, xp=xp)
        return to_numpy(found).astype(np.float64)


def _with_float64(like: Any, /) -> AbstractContextManager[Any]:
    """Return a context in which the library of an array has 64 bits."""
    xp = namespace(like)
    if xp is None or library_name(xp) != "jax":
        return nullcontext()
    import jax

    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64  # JAX before 0.8

    return enable_x64(True)
