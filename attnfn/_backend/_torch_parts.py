"""A problem on PyTorch cut into calls of ``scaled_dot_product_attention``, in its layout."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.nn.functional import pad

from .._typing import Array
from . import _torch_tiles as tiles
from ._torch import may_look

__all__ = ["Part", "laid_out", "parts_of", "with_heads", "without_hidden"]

#: How many numbers of a mask there are at once.
MASK_SIZE = 2**24


class Part(NamedTuple):
    """Some consecutive rows and the keys that they may see, as the kernel is to be told."""

    problem: Any
    rows: slice
    keys: slice
    mask: Array | None  # to be added
    is_causal: bool


def parts_of(definition: Any, problem: Any, size: int | None, /) -> Iterator[Part]:
    """Cut a problem into calls of the kernel, in the order of the rows."""
    q_len, kv_len = problem.shape[-2:]
    runs = _runs(problem)
    if runs is not None:
        for start, end, keys in runs:
            run = definition.narrow(problem._replace(segments=None), (start, end - start), keys)
            for part in parts_of(definition, run, size):
                yield part._replace(
                    rows=slice(start + part.rows.start, start + part.rows.stop),
                    keys=slice(keys[0] + part.keys.start, keys[0] + part.keys.stop),
                )
        return
    is_masked = not (problem.mask is None and problem.bias is None and problem.segments is None)
    shift = problem.q_offset - problem.kv_start
    if problem.window == (None, None) and not is_masked:
        yield Part(problem, slice(0, q_len), slice(0, kv_len), None, is_causal=False)
        return
    if problem.window == (None, 0) and type(shift) is int and shift == 0 and not is_masked:
        if q_len < kv_len:
            # The kernel would look at keys that no query sees, and hide them.
            problem = definition.narrow(problem, (0, q_len), (0, q_len))
        yield Part(problem, slice(0, q_len), slice(0, min(q_len, kv_len)), None, is_causal=True)
        return
    if size is None or size >= q_len:
        size = q_len
    elif problem.window == (None, None):
        terms = [x for x in (problem.mask, problem.bias) if x is not None]
        heads = math.prod(n for x in terms for n in x.shape[:-2])
        size = max(size, MASK_SIZE // max(1, kv_len * heads))
    # In the middle of a window one slice is masked as the other.
    masks: dict[Any, Array | None] = {}
    for start in range(0, q_len, size) if size is not q_len else (0,):
        count = q_len if size is q_len else min(size, q_len - start)
        keys = definition.visible(problem, start, count)
        part = definition.narrow(problem, (start, count), keys)
        at = (count, keys[1], keys[0] - start)
        if is_masked or at not in masks:
            mask = None if 0 in part.shape else _mask(definition, part)
            if not is_masked:
                masks[at] = mask
        else:
            mask = masks[at]
        yield Part(
            part,
            slice(start, start + count),
            slice(keys[0], keys[0] + keys[1]),
            mask,
            is_causal=False,
        )


def _runs(problem: Any, /) -> list[tuple[int, int, tuple[int, int]]] | None:
    """Return (first row, end, (first key, count)) of each packed segment.

    None if there are no segments, they differ over the batch, or one is in several places.
    """
    if problem.segments is None or not may_look(problem.q):
        return None
    ids = [x.reshape(-1) for x in problem.segments]
    if [x.shape[0] for x in ids] != list(problem.shape[-2:]):
        return None
    (q_ids, q_counts), (kv_ids, kv_counts) = (
        (values.tolist(), counts.tolist())
        for values, counts in (torch.unique_consecutive(x, return_counts=True) for x in ids)
    )
    if len(set(kv_ids)) < len(kv_ids):
        return None
    starts = [0]
    for count in kv_counts:
        starts.append(starts[-1] + count)
    keys = {
        i: (start, count) for i, start, count in zip(kv_ids, starts, kv_counts, strict=False)
    }
    runs, first = [], 0
    for i, count in zip(q_ids, q_counts, strict=True):
        runs.append((first, first + count, keys.get(i, (0, 0))))
        first += count
    return runs


def _mask(definition: Any, problem: Any, /) -> Array | None:
    """Return what is to be added to the scores of a part, in the kernel's layout."""
    allowed, bias = definition.allowed(problem), problem.bias
    if allowed is None and bias is None:
        return None
    if bias is None:
        mask = tiles.as_term(allowed, problem.dtype)
    else:
        mask = bias if allowed is None else torch.where(allowed, bias, -math.inf)
    return _for_scores(problem, mask)


def without_hidden(problem: Any, allowed: Array, x: Array, /) -> Array:
    """Zero the keys, or the values, that no query of any head in the group may attend to."""
    seen = _for_scores(problem, allowed).any(-2)
    if problem.group > 1 and seen.ndim > 1:
        seen = seen.any(-2, keepdim=True)
    return torch.where(seen[..., None], x, 0.0)


def _for_scores(problem: Any, x: Array, /) -> Array:
    """Return what belongs to the scores in the kernel's layout: with two axes, or with four."""
    *batch, _, q_len, kv_len = with_heads(problem.shape)
    if x.ndim < 3 or all(n == 1 for n in x.shape[:-2]):
        return x.reshape(x.shape[-2:] if x.ndim > 1 else (1, -1)).expand(q_len, kv_len)
    shape = (*[1] * (len(batch) + 3 - x.ndim), *x.shape)
    heads, group = shape[-3], problem.group
    x = x.reshape(shape).expand(*batch, heads, q_len, kv_len)
    if group == 1:
        return x.reshape(-1, heads, q_len, kv_len)
    few = problem.num_kv_heads
    by_group = (few, group) if heads > 1 else (1, 1)
    x = x.reshape(*batch, *by_group, q_len, kv_len)
    x = x.expand(*batch, few, by_group[1], q_len, kv_len)
    return x.reshape(-1, by_group[1], q_len, kv_len)


def laid_out(
    problem: Any, /, *, extra: bool = False, pads: bool = True
) -> tuple[Array, Array, Array]:
    """Return queries, keys, values with four axes and equally many heads, nothing copied.

    Query heads that share keys become the heads of a batch entry of their own, all with the
    same key. Query and key get as many columns as the values, or the other way round.
    """
    given = problem.q, problem.k, problem.v
    is_laid_out = problem.q.shape == problem.k.shape == problem.v.shape and problem.q.ndim == 4
    if is_laid_out and not extra and all(x.stride(-1) == 1 for x in given):
        return given
    *batch, num_heads, q_len, kv_len = with_heads(problem.shape)
    few, group = problem.num_kv_heads, problem.group

    def whole(x: Array, heads: int, length: int) -> Array:
        x = x.expand(*batch, heads, length, x.shape[-1])
        if group == 1:
            return x.reshape(-1, heads, length, x.shape[-1])
        return x.reshape(-1, heads // few, length, x.shape[-1])

    q = whole(problem.q, num_heads, q_len)
    k, v = whole(problem.k, few, kv_len), whole(problem.v, few, kv_len)
    if group > 1:
        k, v = (x.expand(-1, group, -1, -1) for x in (k, v))
    if not pads:
        return q, k, v
    dim, value_dim = q.shape[-1], v.shape[-1] + extra
    width = max(dim, value_dim)
    if dim < width:
        q, k = (pad(x, (0, width - dim)) for x in (q, k))
    if v.shape[-1] < width:
        v = pad(v, (0, width - v.shape[-1]))
    return tuple(x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))


def with_heads(shape: tuple[int, ...], /) -> tuple[int, ...]:
    return shape if len(shape) > 2 else (1, *shape)
