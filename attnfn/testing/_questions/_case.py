"""One discriminating case: a problem, what is asked of it, and how it is put to a function."""

from typing import Any, NamedTuple

import numpy as np

from .._dialects._conventions import Conventions

__all__ = ["Case", "Options", "posed", "taken"]

Options = dict[str, Any]


class Case(NamedTuple):
    """
    A problem on which conventions or mistakes give visibly different answers.

    Its arrays are float64 whose numbers every dtype holds, its options mean what attnfn's do.
    """

    feature: str
    name: str
    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    options: Options = {}  # noqa: RUF012 - a NamedTuple's default is never written to
    #: Among "out", "lse", "gradients".
    asks: tuple[str, ...] = ("out",)
    d_out: np.ndarray | None = None
    d_lse: np.ndarray | None = None
    #: The only dtypes that it is for; none are all.
    dtypes: tuple[str, ...] = ()
    #: The axes in the order in which the arrays lie in memory; none is their own.
    memory: tuple[int, ...] = ()
    #: Whether its `q_offset` is there for those alone who have to be told where queries stand.
    is_aligned: bool = False
    #: Whether the arrays hold something that is not finite, which no query may attend to.
    is_poisoned: bool = False

    @property
    def size(self) -> int:
        """How much there is to compute."""
        return int(self.query[..., 0].size * self.key.shape[-2])

    def array_options(self) -> dict[str, np.ndarray]:
        """Return the options that have a gradient."""
        return {name: self.options[name] for name in ("bias", "sinks") if name in self.options}


def posed(case: Case, conventions: Conventions, /) -> Case:
    """Return a case in the words of some conventions, in which it means the same."""
    options = dict(case.options)
    mask = options.get("mask")
    if mask is not None and conventions.mask == "hidden":
        options["mask"] = ~mask
    if case.is_aligned and conventions.alignment != "explicit":
        del options["q_offset"]
    if "lengths" in options and conventions.lengths == "last_index":
        options["lengths"] = options["lengths"] - 1
    if "lengths" in options and conventions.lengths == "cumulative":
        options["lengths"] = np.concatenate([[0], np.cumsum(options["lengths"])])
    if "window_size" in options and conventions.window == "exclusive":
        left, right = (None if side is None else side + 1 for side in options["window_size"])
        options["window_size"] = (left, right)
    return case._replace(options=options)


#: The axis of each array that belongs to what a case can be cut along, from the right.
_AXES = {
    "batch": {"query": 4, "key": 4, "value": 4, "d_out": 4, "d_lse": 3, "mask": 4, "bias": 4}
    | {"dropout_mask": 4},
    "head": {"query": 3, "d_out": 3, "d_lse": 2, "mask": 3, "bias": 3, "sinks": 1}
    | {"dropout_mask": 3},
    "kv_head": {"key": 3, "value": 3},
    "row": {"query": 2, "d_out": 2, "d_lse": 1, "mask": 2, "bias": 2, "dropout_mask": 2},
    "kv": {"key": 2, "value": 2, "mask": 1, "bias": 1, "dropout_mask": 1},
    "head_dim": {"query": 1, "key": 1},
    "value_dim": {"value": 1, "d_out": 1},
}


def taken(case: Case, axis: str, indices: Any, /) -> Case:
    """Return the case at some indices of "batch", "head", "row", "kv", "head_dim", ..."""
    arrays = {
        name: _take(getattr(case, name), -_AXES[axis][name], indices)
        for name in ("query", "key", "value", "d_out", "d_lse")
        if name in _AXES[axis]
    }
    options = {}
    for name, x in case.options.items():
        if name == "segment_ids":
            options[name] = _segments_taken(x, axis, indices)
        elif axis == "batch" and name in ("lengths", "q_offset") and np.ndim(x):
            options[name] = x[indices]
        elif name == "sinks" and axis == "batch":
            options[name] = x[indices] if np.ndim(x) == 2 else x
        elif isinstance(x, np.ndarray) and name in _AXES[axis]:
            options[name] = _take(x, -_AXES[axis][name], indices)
        else:
            options[name] = x
    return case._replace(options=options, **arrays)


def _take(x: Any, axis: int, indices: Any) -> Any:
    # An axis of 1 broadcasts: it stays.
    if x is None or x.ndim < -axis or x.shape[axis] == 1:
        return x
    return np.take(x, indices, axis=axis)


def _segments_taken(pair: tuple[np.ndarray, np.ndarray], axis: str, indices: Any) -> Any:
    q_ids, kv_ids = pair
    if axis == "batch" and q_ids.ndim == 2:
        return q_ids[indices], kv_ids[indices]
    if axis == "row":
        return q_ids[..., indices], kv_ids
    if axis == "kv":
        return q_ids, kv_ids[..., indices]
    return pair
