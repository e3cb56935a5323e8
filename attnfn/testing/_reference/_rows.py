"""Attention, one query at a time, over the keys that it may attend to alone."""

import math
from typing import Any, NamedTuple

import numpy as np

from ._call import Call
from ._digits import Numbers

__all__ = ["Row", "in_numbers", "modified_scores", "row_at", "scale_of"]


class Row(NamedTuple):
    """What one query of one head sees, and what it makes of it."""

    seen: slice | np.ndarray  # which keys it may attend to; what follows is of these alone
    keys: np.ndarray
    values: np.ndarray
    capped: np.ndarray  # scores before the bias
    weights: np.ndarray  # before dropout
    kept: np.ndarray  # after it
    sink_weight: Any
    lse: Any
    out: np.ndarray


def in_numbers(call: Call, numbers: Numbers, /) -> Call:
    """Return a call whose arrays are of the numbers that everything is to be computed in."""
    given = {name: getattr(call, name) for name in ("q", "k", "v", "bias", "sinks")}
    converted = {name: numbers.of(x) for name, x in given.items() if x is not None}
    return call._replace(**converted)


def row_at(call: Call, numbers: Numbers, scores: Any, at: tuple[int, ...], /) -> Row:
    """Compute the row of a query, `at` (*batch, head, i): the definition of attention.

    `scores` are those that a score_mod has made, None without one.
    """
    *batch, h, _ = at
    of_key, of_value = (*batch, call.head_of(call.k, h)), (*batch, call.head_of(call.v, h))
    seen = _seen(call, at)
    q, k, v = call.q[at], call.k[of_key][seen], call.v[of_value][seen]
    sink = numbers.of(-math.inf) if call.sinks is None else call.sinks[*batch, h]

    s = k @ (q * scale_of(call, numbers)) if scores is None else scores[at][seen]
    if call.softcap is not None:
        # A -inf hides the key, and goes on hiding it.
        s = np.where(s == -math.inf, s, call.softcap * numbers.tanh(s / call.softcap))
    capped = s
    if call.bias is not None:
        s = s + call.bias[at][seen]

    w, sink_weight, lse = _softmax(s, sink, numbers)
    if len(k) and (call.bad_q[at] or call.bad_k[of_key][seen].any()):
        w, sink_weight, lse = w * math.nan, sink_weight * math.nan, lse * math.nan

    kept = w if call.keep is None else w * share_kept(call, numbers, at)[seen]
    out = kept @ v
    if call.bad_v[of_value][seen].any():
        out = np.full_like(out, numbers.of(math.nan))
    return Row(seen, k, v, capped, w, kept, sink_weight, lse, out)


def modified_scores(call: Call, numbers: Numbers, /) -> np.ndarray | None:
    """Return what a score_mod, which sees every batch and head, makes of the scores."""
    if call.score_mod is None:
        return None
    raw = numbers.of(np.zeros(call.shape))
    for at in np.ndindex(call.shape[:-1]):
        seen, keys = _seen(call, at), (*at[:-2], call.head_of(call.k, at[-2]))
        # A row that sees a NaN is to be NaN, whatever the function does with it.
        if not (call.bad_q[at] or call.bad_k[keys][seen].any()):
            raw[at][seen] = call.k[keys][seen] @ (call.q[at] * scale_of(call, numbers))
    return np.asarray(call.score_mod(raw)).reshape(call.shape)


def scale_of(call: Call, numbers: Numbers, /) -> Any:
    if call.scale is not None:
        return numbers.of(call.scale)
    return 1 / numbers.sqrt(numbers.of(call.q.shape[-1]))


def share_kept(call: Call, numbers: Numbers, at: tuple[int, ...], /) -> np.ndarray:
    """Return what dropout multiplies the weights of a row by."""
    assert call.keep is not None
    share = 1 / (1 - numbers.of(call.dropout_rate))
    return np.where(call.keep[at], share, 0 * share)


def _softmax(s: np.ndarray, sink: Any, numbers: Numbers, /) -> tuple[np.ndarray, Any, Any]:
    """Return the weights of the keys, that of the sink, and the log of their sum."""
    if bool((s != s).any()) or bool(sink != sink):
        nan = numbers.of(math.nan)
        return s * math.nan, nan, nan
    top = s.max(initial=sink)
    if top == -math.inf:
        nothing = numbers.of(0.0)
        return np.full_like(s, nothing), nothing, numbers.of(-math.inf)
    e, e_sink = numbers.exp(s - top), numbers.exp(sink - top)
    total = e.sum() + e_sink
    return e / total, e_sink / total, top + numbers.log(total)


def _seen(call: Call, at: tuple[int, ...], /) -> slice | np.ndarray:
    """Return which keys a query may attend to; a run of them as a slice, which copies none."""
    seen = np.flatnonzero(call.allowed[at])
    is_run = len(seen) > 0 and seen[-1] - seen[0] == len(seen) - 1
    return slice(int(seen[0]), int(seen[-1]) + 1) if is_run else seen
