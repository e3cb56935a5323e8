"""What a row could attend to, and why not to the rest, in a few words."""

import math

import numpy as np

from .._reference._call import Call, sum_to
from ._dense import collected

__all__ = ["about_key", "about_row", "index_words", "runs"]

#: Runs of positions that are listed before a list is cut short.
MOST_RUNS = 8


def runs(positions: np.ndarray, /) -> str:
    """Return sorted positions as runs: "0-5, 7, 9-12"."""
    if not len(positions):
        return "none"
    parts = np.split(positions, np.flatnonzero(np.diff(positions) != 1) + 1)
    words = [str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts]
    more = len(words) - MOST_RUNS
    return ", ".join(words[:MOST_RUNS]) + (f" and {more} more runs" if more > 0 else "")


def about_row(call: Call, shape: tuple[int, ...], at: tuple[int, ...], /) -> list[str]:
    """Say what a query may attend to; `at` is an index into rows of a `shape`."""
    row, kv_len = f"row {index_words(at)}", call.shape[-1]
    if shape != call.public_shape[:-1]:  # a gradient, of what was broadcast
        seen = sum_to(call.allowed.astype(int), (*shape, kv_len))[at]
        return [
            f"    {row}, broadcast, may attend to {_keys(np.flatnonzero(seen))} of {kv_len}"
        ]
    full = (*(0 for _ in call.shape[: len(call.shape) - 1 - len(at)]), *at)
    seen = np.flatnonzero(call.allowed[full])
    lines = [
        f"    {row}, at position {call.q_pos[full]}, may attend to {_keys(seen)} of {kv_len}"
    ]
    for name, term in call.terms.items():
        hidden = np.flatnonzero(~np.broadcast_to(term, call.shape)[full])
        if len(hidden):
            lines.append(f"        {name} hides {runs(hidden)}")
    *batch, head, _ = full
    found = {
        "bias is -inf at": None if call.bias is None else call.bias[full] == -math.inf,
        "there is a NaN or an inf in key": call.bad_k[*batch, call.head_of(call.k, head)],
        "there is a NaN or an inf in value": call.bad_v[*batch, call.head_of(call.v, head)],
    }
    for words, where in found.items():
        if where is not None and where[seen].any():
            lines.append(f"        {words} {runs(seen[where[seen]])}")
    if call.bad_q[full]:
        lines.append("        there is a NaN or an inf in the query")
    return lines


def about_key(
    call: Call, name: str, shape: tuple[int, ...], at: tuple[int, ...], /
) -> list[str]:
    """Say which queries may attend to a key, or to its value: the row of a gradient."""
    q_len = call.shape[-2]
    by_key = np.swapaxes(call.allowed, -1, -2).astype(int)
    seen = np.flatnonzero(collected(name, by_key, call, (*shape[:-1], q_len))[at])
    words = f"queries {runs(seen)}" if len(seen) > 1 else f"query {runs(seen)}"
    words = words if len(seen) else "no query"
    return [
        f"    row {index_words(at)}, key {at[-1]}, may be attended to by {words} of {q_len}"
    ]


def _keys(seen: np.ndarray, /) -> str:
    if not len(seen):
        return "no key"
    return f"key{'s' if len(seen) > 1 else ''} {runs(seen)}"


def index_words(at: tuple[int, ...], /) -> str:
    """Return an index as one writes it: (2, 0)."""
    return str(at) if len(at) != 1 else f"({at[0]})"
