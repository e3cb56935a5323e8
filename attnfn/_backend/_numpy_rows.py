"""Rows of queries in the kernel for NumPy arrays: tile after tile, in place."""

import math
from functools import lru_cache, partial
from typing import Any

import numpy as np

from .._typing import Array
from ._numpy_masks import Form, Term, Tile, cut, mask_term
from ._numpy_plan import MANY_ROWS, Piece, Plan, greatest_norm

__all__ = ["Buffers", "RunningRows", "UnusualError"]

#: How far a row's maximum may rise before its sums are scaled down.
SLACK = 10.0
#: Sums of weights that are allowed to exceed those at the peak.
LARGE = 1e10


class UnusualError(Exception):
    """A number turned up with which the shortcuts do not work."""


class Buffers:
    """Memory that is used again, by name."""

    def __init__(self) -> None:
        self._bytes: dict[str, Array] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return an array with anything in it, until the name is taken again."""
        size = math.prod(shape) * dtype.itemsize
        x = self._bytes.get(name)
        if x is None or x.size < size:
            x = np.empty(size + 64, np.uint8)
            x = self._bytes[name] = x[-x.ctypes.data % 64 :]
        return x[:size].view(dtype).reshape(shape)


class RunningRows:
    """What is known so far of some rows: the running maximum, sum, and sum of values.

    With `peak` the greatest score so far, or a little less, `total` is the sum of
    exp(score - peak), and `acc` that of exp(score - peak) * value.
    """

    def __init__(self, plan: Plan, piece: Piece, scratch: Buffers, own: Buffers) -> None:
        self.plan, self.piece, self.scratch = plan, piece, scratch
        self.first, self.end = self._range()
        self.heads = piece.heads.stop - piece.heads.start
        self.rows = piece.rows.stop - piece.rows.start
        self.num_rows = self.heads * self.rows
        head_dim, value_dim = plan.q.shape[-1], plan.v.shape[-1]

        q = own.take("q", (self.heads, self.rows, head_dim), plan.dtype)
        x = plan.q[piece.batch][piece.heads, piece.rows]
        np.multiply(
            x, plan.dtype.type(plan.scale), out=q, dtype=plan.dtype, casting="same_kind"
        )
        self.q = q.reshape(self.num_rows, head_dim)
        self.acc = own.take("acc", (self.num_rows, value_dim), plan.dtype)
        self.total = own.take("total", (self.num_rows,), plan.dtype)
        self.peak = own.take("peak", (self.num_rows,), plan.dtype)
        self.acc.fill(0.0)
        self.total.fill(0.0)
        self.peak.fill(-math.inf)
        self.shift = 0.0  # the peak, 0 where that is -inf
        self.is_settled = False  # whether every row has a peak
        self.is_bounded, self.is_clamped = self._shortcuts()
        self.sees_bad = {
            name: np.zeros((self.heads, self.rows, 1), bool)
            for name in ("keys", "values")
            if plan.bad[name] is not None
        }

    def _range(self) -> tuple[int, int]:
        piece = self.piece
        first, end = piece.first, piece.end
        segments = self.plan.segments.get(piece.batch)
        if segments is not None:
            least, most = segments.range(piece.rows)
            first, end = max(first, least), min(end, most)
        return first, end

    def _shortcuts(self) -> tuple[bool, bool]:
        """Return whether no maximum is needed, and whether denormal weights are possible."""
        plan, limits = self.plan, self.plan.limits
        if plan.is_clean:
            return False, False
        if self.num_rows < MANY_ROWS:
            return False, not plan.has_bias
        bound = greatest_norm(self.q) * plan.greatest_norm(self.piece)
        if not math.isfinite(bound):
            raise UnusualError
        if plan.softcap is not None:
            bound = min(bound, 1.0) * plan.softcap
        bound += plan.bias_bound
        if bound <= limits.no_maximum:
            return True, False
        # A -inf in the bias hides a key, but after clamping it is like any other number.
        is_exact = not plan.has_bias or plan.greatest_value(self.piece) <= limits.most_value
        return False, 2 * bound > -limits.least and is_exact

    def add(self, keys: slice, asked: dict[str, tuple[int, Array]]) -> None:
        """Take more keys into account."""
        keys = slice(max(keys.start, self.first), min(keys.stop, self.end))
        if keys.start >= keys.stop:
            return
        terms = self._terms(keys, asked)
        if terms is None:
            return
        dtype, shape = self.plan.dtype, (self.num_rows, keys.stop - keys.start)
        s = self.scratch.take("scores", shape, dtype)
        s3 = s.reshape(self.heads, self.rows, shape[1])
        self._score(s, s3, keys, asked)
        if self.is_bounded:
            np.exp(s, out=s)
            for columns, factor in terms:
                s3[..., columns] *= factor
            sums = np.matmul(s, _ones(shape[1], dtype))
        else:
            sums = self._weigh_if_low(s, s3, terms)
            if sums is None:
                self._score(s, s3, keys, asked)
                sums = self._weigh(s, s3, terms)
        self.total += sums

        keep = self._cut("dropout_mask", keys, asked)
        if keep is not None:
            s3 *= keep
        part = self.scratch.take("part", self.acc.shape, dtype)
        values = self.plan.v[(*self.piece.batch, self.piece.kv_head, keys)]
        self.acc += np.matmul(s, values, out=part)

    def _score(
        self, s: Array, s3: Array, keys: slice, asked: dict[str, tuple[int, Array]]
    ) -> None:
        """Compute the scores, with nothing hidden yet."""
        plan = self.plan
        np.matmul(self.q, plan.k[(*self.piece.batch, self.piece.kv_head, keys)].T, out=s)
        if not plan.is_clean and self.num_rows < MANY_ROWS and not math.isfinite(s.sum()):
            raise UnusualError
        if plan.softcap is not None:
            np.tanh(s, out=s)
            s *= plan.dtype.type(plan.softcap)
        bias = self._cut("bias", keys, asked)
        if bias is not None:
            s3 += bias

    def _weigh_if_low(self, s: Array, s3: Array, terms: list[Term]) -> Array | None:
        """Turn scores into weights and return their sums; None if the peak has to be raised.

        The maximum of a tile takes as long as half of its exponentials, and mostly what was
        seen before is as high. If not, the sums say so.
        """
        if not self.is_settled:
            # Nothing was done to the scores yet: there is no need to compute them again.
            return self._weigh(s, s3, terms)
        sums = self._exponentials(s, s3, terms)
        return sums if sums.max() <= LARGE else None

    def _weigh(self, s: Array, s3: Array, terms: list[Term]) -> Array:
        """Turn scores into weights relative to a peak that they do not exceed by much."""
        self._hide(s3, terms)
        self._raise_peak(s)
        return self._exponentials(s, s3, terms)

    def _exponentials(self, s: Array, s3: Array, terms: list[Term]) -> Array:
        s -= self.shift
        if self.is_clamped:
            np.maximum(s, self.plan.dtype.type(self.plan.limits.least), out=s)
        self._hide(s3, terms)
        np.exp(s, out=s)
        return np.matmul(s, _ones(s.shape[1], s.dtype))

    def _hide(self, s3: Array, terms: list[Term]) -> None:
        for columns, term in terms:
            part = s3[..., columns]
            if self.plan.is_clean:
                np.copyto(part, -math.inf, where=~term)
            else:
                part += term

    def _raise_peak(self, s: Array) -> None:
        """Raise the peak to the row's maximum, if that is far above, and scale the sums."""
        is_clean = self.plan.is_clean
        top = s.max(axis=1)
        if not is_clean and not top.max() < math.inf:
            raise UnusualError
        if not (top > (self.peak if is_clean else self.peak + SLACK)).any():
            return
        np.maximum(self.peak, top, out=top)
        shift = np.where(top == -math.inf, self.plan.dtype.type(0.0), top)
        fade = np.exp(self.peak - shift)
        self.total *= fade
        self.acc *= fade[:, None]
        self.peak[...] = top
        self.shift = shift[:, None]
        self.is_settled = not is_clean and bool((top > -math.inf).all())

    def _terms(self, keys: slice, asked: dict[str, tuple[int, Array]]) -> list[Term] | None:
        """Return what hides keys of a tile, None if it hides all of them."""
        plan, piece = self.plan, self.piece
        form: Form = "bool" if plan.is_clean else "factor" if self.is_bounded else "term"
        terms: list[Term] = []
        if plan.windows is not None:
            terms += plan.windows[form].terms(piece.rows, keys, piece.offset)
        masks = {"mask": self._cut("mask", keys, asked)}
        if plan.segments:
            masks["segments"] = plan.segments[piece.batch].allowed(piece.rows, keys)
        for name, mask in masks.items():
            if mask is None:
                continue
            term = mask_term(mask, form, partial(self.scratch.take, name, dtype=plan.dtype))
            if term is False:
                return None
            if term is not True:
                terms.append(term)
        self._look_for_bad(keys, terms)
        return terms

    def _look_for_bad(self, keys: slice, terms: list[Term]) -> None:
        """Remember which rows may see a key or a value that is not finite."""
        for name, seen in self.sees_bad.items():
            bad = cut(
                self.plan.bad[name], Tile(self.piece.batch, self.piece.heads, slice(None), keys)
            )
            if not bad.any():
                continue
            allowed = np.broadcast_to(
                bad, (self.heads, self.rows, keys.stop - keys.start)
            ).copy()
            for columns, term in terms:
                allowed[..., columns] &= term
            seen |= allowed.any(axis=-1, keepdims=True)

    def _cut(self, name: str, keys: slice, asked: dict[str, tuple[int, Array]]) -> Array | None:
        """Return what a mask or a bias says of a tile: (heads or 1, rows or 1, keys or 1)."""
        piece, plan = self.piece, self.plan
        if name in plan.arrays:
            return cut(plan.arrays[name], Tile(piece.batch, piece.heads, piece.rows, keys))
        if name not in asked:
            return None
        start, x = asked[name]
        return cut(
            x,
            Tile(
                piece.batch,
                piece.heads,
                slice(0, self.rows),
                slice(keys.start - start, keys.stop - start),
            ),
        )

    def finish(self) -> None:
        """Divide by the sums, and write the results to where they belong."""
        plan, piece = self.plan, self.piece
        if not plan.is_clean and not np.isfinite(self.acc).all():
            raise UnusualError
        if self.is_bounded:
            np.copyto(self.peak, np.where(self.total == 0, -math.inf, 0.0))
        is_empty = self.peak == -math.inf
        top, sinks = self.peak, None
        if plan.sinks is not None:
            sinks = np.repeat(plan.sinks[piece.batch][piece.heads, 0], self.rows)
            top = np.maximum(top, sinks)
        top = np.where(top == -math.inf, plan.dtype.type(0.0), top)
        fade = np.exp(self.peak - top)
        total = self.total * fade
        if sinks is not None:
            total += np.exp(sinks - top)
        nothing = total == 0
        total[nothing] = 1.0
        lse = np.log(total) + top
        lse[nothing] = -math.inf
        fade /= total * plan.keep_rate
        fade[is_empty] = 0.0
        self._write(fade, lse, is_empty)

    def _write(self, share: Array, lse: Array, is_empty: Array) -> None:
        plan, piece = self.plan, self.piece
        shape = (self.heads, self.rows, 1)
        out = plan.out[piece.batch][piece.heads, piece.rows]
        lse3 = lse.reshape(shape)
        np.multiply(self.acc.reshape(*shape[:2], -1), share.reshape(shape), out=out)
        is_bad = self.sees_bad.get("keys", np.False_)
        if plan.bad["queries"] is not None:
            bad = plan.bad["queries"][piece.batch][piece.heads, piece.rows]
            is_bad = is_bad | (bad & ~is_empty.reshape(shape))
        if plan.is_clean:
            np.copyto(lse3, math.nan, where=is_bad)
            np.copyto(out, math.nan, where=is_bad | self.sees_bad.get("values", np.False_))
        plan.lse[piece.batch][piece.heads, piece.rows] = lse3[..., 0]


@lru_cache(maxsize=64)
def _ones(size: int, dtype: Any, /) -> Array:
    return np.ones(size, dtype)
