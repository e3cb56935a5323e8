"""Rows of queries in the kernel for NumPy arrays: tile after tile, in place."""

import math
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from .._typing import Array
from ._numpy_masks import EVERYWHERE, Term, Tile, cut, mask_term, minus_inf_where_not
from ._numpy_plan import LINE, MANY_ROWS, Piece, Plan, norms

__all__ = ["Buffers", "RunningRows", "UnusualError"]

#: From so many keys a first estimate of each row's maximum is made.
SAMPLE = 64

#: What functions said of a tile: by name, the first row and key, and the answer.
Asked = dict[str, tuple[int, int, Array]]


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
    """What is known so far of some rows: what is subtracted, the sum, and that of the values.

    `total` is the sum of exp(score - shift), and `acc` that of exp(score - shift) * value. The
    shift is some way below the greatest score, so that a few that are greater do no harm and
    those that are much smaller are no denormal numbers, with which products crawl.

    The axes are (heads of keys, rows and query heads for each, dim).
    """

    def __init__(self, plan: Plan, piece: Piece, scratch: Buffers, own: Buffers) -> None:
        self.plan, self.piece, self.scratch = plan, piece, scratch
        self.group, self.num_rows = piece.group, piece.rows.stop - piece.rows.start
        lines = (piece.num_kv_heads, self.num_rows * self.group)
        dim, dtype = plan.head_dim, plan.dtype

        # One more number in each query, and a 1 in each key, subtract the shift.
        self.q_and_shift = own.take("q", (*lines, _whole_lines(dim + 1)), dtype)
        self.q = self.q_and_shift[..., :dim]
        x = plan.q[piece.batch][piece.heads, piece.rows]
        x = x.reshape(lines[0], self.group, self.num_rows, dim).swapaxes(1, 2)
        np.multiply(
            x,
            dtype.type(plan.scale),
            out=self.q.reshape(x.shape),
            dtype=dtype,
            casting="same_kind",
        )
        self.acc = own.take("acc", (*lines, plan.value_dim), dtype)
        self.total = own.take("total", lines, dtype)
        self.shift = own.take("shift", (*lines, 1), dtype)
        self.acc.fill(0.0)
        self.total.fill(0.0)
        self.shift.fill(-math.inf)  # nothing seen yet
        self.is_clamped = False  # whether some weight may be a denormal number
        # Of few rows a maximum costs less than a look at all the keys beforehand.
        self.is_careful = plan.is_clean or lines[1] < MANY_ROWS
        self.is_bounded = not self.is_careful and self._is_bounded()
        self.sees_bad = {
            name: np.zeros((lines[0], self.num_rows, self.group, 1), bool)
            for name in ("keys", "values")
            if plan.bad[name] is not None
        }

    def _is_bounded(self) -> bool:
        """Return whether no maximum is needed: |q . k| is at most |q| |k|."""
        plan, piece = self.plan, self.piece
        kv_heads = range(piece.kv_heads.start, piece.kv_heads.stop)
        keys = np.asarray([plan.greatest_norm(piece.batch, h) for h in kv_heads])
        bounds = norms(self.q)[..., None] * keys[:, None, None]
        if not math.isfinite(bounds.max()):
            raise UnusualError
        if plan.softcap is not None:
            bounds = np.minimum(bounds, 1.0) * plan.softcap
        self.bounds = bounds + plan.bias_bound
        if self.bounds.max() <= plan.limits.no_maximum:
            self.shift.fill(0.0)
            return True
        return False

    def add(self, keys: slice, asked: Asked) -> None:
        """Take more keys into account."""
        piece, plan = self.piece, self.plan
        keys = slice(max(keys.start, piece.keys[0]), min(keys.stop, piece.keys[3]))
        rows = piece.rows
        if plan.window is not None:
            rows = plan.window.rows(rows, keys, piece.offset)
        if keys.start >= keys.stop or rows.start >= rows.stop:
            return
        tile = Tile(piece.batch, piece.heads, self.group, rows, keys)
        terms = self._terms(tile, asked)
        if terms is None:
            return
        s = self._weights(tile, terms, asked)
        keep = self._cut("dropout_mask", tile, asked)
        if keep is not None:
            s4 = self._by_head(s)
            np.multiply(s4, keep, out=s4)
        lines = self._lines(tile)
        acc = self.acc[:, lines]
        part = self.scratch.take("part", acc.shape, plan.dtype)
        acc += np.matmul(s, plan.v[piece.batch][piece.kv_heads, keys], out=part)

    def _weights(self, tile: Tile, terms: list[Term], asked: Asked) -> Array:
        """Return the weights of a tile, having added them to the total."""
        lines = self._lines(tile)
        is_careful = self.is_careful
        if not is_careful and not self._is_settled(lines):
            few = slice(tile.keys.start, min(tile.keys.start + SAMPLE, tile.keys.stop))
            sample = tile._replace(keys=few)
            self._raise_shift(sample, self._hidden(sample, self._first(terms, few), asked))
            is_careful = not self._is_settled(lines)
        if not is_careful:
            s = self._in_passing(tile, terms, asked)
            sums = _sums(s)
            is_careful = not (self.is_bounded or sums.max() <= self.plan.limits.most_total)
        if is_careful:
            s = self._with_care(tile, terms, asked)
            sums = _sums(s)
        self.total[:, lines] += sums
        return s

    def _in_passing(self, tile: Tile, terms: list[Term], asked: Asked) -> Array:
        """Return weights where every row has a shift, which its scores may exceed.

        The maximum of a tile takes as long as half of its exponentials, and mostly what was
        seen before is nearly as high. If not, the sums say so.
        """
        s = self._scores(tile, asked, with_shift=not self.is_bounded)
        self._clamp(s)
        np.exp(s, out=s)
        s4 = self._by_head(s)
        for rows, columns, allowed in terms:
            part = s4[:, rows, :, columns]
            np.multiply(part, allowed, out=part)
        return s

    def _with_care(self, tile: Tile, terms: list[Term], asked: Asked) -> Array:
        """Return weights relative to the greatest score."""
        s = self._hidden(tile, terms, asked)
        self._raise_shift(tile, s)
        s -= _finite(self.shift[:, self._lines(tile)])
        if self._clamp(s):
            self._hide(s, terms)
        np.exp(s, out=s)
        return s

    def _scores(self, tile: Tile, asked: Asked, *, with_shift: bool = False) -> Array:
        """Return the scores, with nothing hidden yet."""
        plan, piece, lines = self.plan, self.piece, self._lines(tile)
        q, k = self.q[:, lines], plan.k[piece.batch][piece.kv_heads, tile.keys]
        is_folded = with_shift and plan.softcap is None
        if is_folded:
            dim = plan.head_dim
            q = self.q_and_shift[:, lines, : dim + 1]
            and_one = self.scratch.take("k", (*k.shape[:2], _whole_lines(dim + 1)), plan.dtype)
            and_one[..., :dim] = k
            and_one[..., dim] = 1.0
            k = and_one[..., : dim + 1]
        shape = (*q.shape[:2], k.shape[1])
        s = self.scratch.take("scores", shape, plan.dtype)
        if 1 < shape[1] < MANY_ROWS:
            # The other way around BLAS takes half the time.
            turned = self.scratch.take("turned", (shape[0], *shape[:0:-1]), plan.dtype)
            s[...] = np.matmul(k, q.mT, out=turned).mT
        else:
            np.matmul(q, k.mT, out=s)
        if self.is_careful and not plan.is_clean and not math.isfinite(s.sum()):
            raise UnusualError
        if plan.softcap is not None:
            np.tanh(s, out=s)
            s *= plan.dtype.type(plan.softcap)
        bias = self._cut("bias", tile, asked)
        if bias is not None:
            s4 = self._by_head(s)
            s4 += bias
        if with_shift and not is_folded:
            s -= self.shift[:, lines]
        return s

    def _hidden(self, tile: Tile, terms: list[Term], asked: Asked) -> Array:
        """Return the scores, -inf where they are hidden."""
        s = self._scores(tile, asked)
        self._hide(s, terms)
        return s

    def _hide(self, s: Array, terms: list[Term]) -> None:
        s4 = self._by_head(s)
        for rows, columns, allowed in terms:
            part = s4[:, rows, :, columns]
            if self.plan.is_clean:
                np.copyto(part, -math.inf, where=~allowed)
            else:
                term = self.scratch.take("term", allowed.shape, s.dtype)
                part += minus_inf_where_not(allowed, term)

    def _clamp(self, s: Array) -> bool:
        """Raise scores whose exponential would be a denormal number, where there may be any."""
        if self.is_clamped:
            np.maximum(s, s.dtype.type(self.plan.limits.least), out=s)
        return self.is_clamped

    def _raise_shift(self, tile: Tile, s: Array) -> None:
        """Raise the shift towards the greatest scores of the tile, and scale the sums."""
        plan, lines = self.plan, self._lines(tile)
        shift = self.shift[:, lines]
        top = s.max(axis=-1, keepdims=True)
        if not plan.is_clean and not top.max() < math.inf:
            raise UnusualError
        if not (self.is_careful or self._has_denormals(lines, top - plan.limits.headroom)):
            top -= plan.limits.headroom
        if (top <= shift).all():
            return
        np.maximum(shift, top, out=top)
        fade = np.exp(shift - _finite(top))
        self.total[:, lines] *= fade[..., 0]
        self.acc[:, lines] *= fade
        shift[...] = top
        self.q_and_shift[:, lines, plan.head_dim] = -top[..., 0]
        self.is_clamped = self._may_clamp and (
            self.is_careful or self._has_denormals(EVERYWHERE, self.shift)
        )

    def _has_denormals(self, lines: slice, shift: Array) -> bool:
        """Return whether the exponential of some score less the shift may be denormal."""
        # NaN, where nothing is known of a row that saw nothing, is not within the limit.
        return not (self.bounds[:, lines] + shift).max() <= -self.plan.limits.least

    @cached_property
    def _may_clamp(self) -> bool:
        """Return whether it makes no difference if a score is raised to the least."""
        plan, piece = self.plan, self.piece
        if not plan.has_bias or plan.is_clean:
            return not plan.is_clean
        # A -inf in the bias hides a key, but after clamping it is like any other number.
        kv_heads = range(piece.kv_heads.start, piece.kv_heads.stop)
        return not self.is_careful and all(
            plan.greatest_value(piece.batch, h) <= plan.limits.most_value for h in kv_heads
        )

    def _is_settled(self, lines: slice) -> bool:
        """Return whether each of these rows has seen something."""
        return self.is_bounded or bool((self.shift[:, lines] > -math.inf).all())

    def _lines(self, tile: Tile) -> slice:
        """Return where the rows of a tile are among ours."""
        start = self.piece.rows.start
        return slice(
            (tile.rows.start - start) * self.group, (tile.rows.stop - start) * self.group
        )

    def _by_head(self, s: Array) -> Array:
        """Return a view of scores as (heads of keys, rows, query heads for each, keys)."""
        return s.reshape(s.shape[0], -1, self.group, s.shape[-1])

    def _terms(self, tile: Tile, asked: Asked) -> list[Term] | None:
        """Return what hides keys of a tile, None if it hides all of them."""
        plan = self.plan
        terms: list[Term] = []
        if plan.window is not None:
            terms += plan.window.terms(tile.rows, tile.keys, self.piece.offset)
        masks = [self._cut("mask", tile, asked)]
        if plan.segments:
            masks.append(plan.segments[tile.batch].allowed(tile.rows, tile.keys))
        for mask in masks:
            term = True if mask is None else mask_term(mask)
            if term is False:
                return None
            if term is not True:
                terms.append(term)
        self._look_for_bad(tile, terms)
        return terms

    def _first(self, terms: list[Term], keys: slice) -> list[Term]:
        """Return what the terms say of the first keys of their tile."""
        size, found = keys.stop - keys.start, []
        for rows, columns, allowed in terms:
            start = columns.start or 0
            if start < size:
                stop = size if columns.stop is None else min(size, columns.stop)
                part = allowed if allowed.shape[-1] == 1 else allowed[..., : stop - start]
                found.append((rows, slice(start, stop), part))
        return found

    def _look_for_bad(self, tile: Tile, terms: list[Term]) -> None:
        """Remember which rows may see a key or a value that is not finite."""
        for name, seen in self.sees_bad.items():
            bad = cut(self.plan.bad[name], tile._replace(rows=slice(None)))
            if not bad.any():
                continue
            at = slice(
                tile.rows.start - self.piece.rows.start, tile.rows.stop - self.piece.rows.start
            )
            seen = seen[:, at]
            allowed = np.empty((*seen.shape[:3], tile.keys.stop - tile.keys.start), bool)
            allowed[...] = bad
            for rows, columns, term in terms:
                allowed[:, rows, :, columns] &= term
            seen |= allowed.any(axis=-1, keepdims=True)

    def _cut(self, name: str, tile: Tile, asked: Asked) -> Array | None:
        """Return what a mask or a bias says of a tile, with 1 where an axis is all the same."""
        if name in self.plan.arrays:
            return cut(self.plan.arrays[name], tile)
        if name not in asked:
            return None
        row, key, x = asked[name]
        rows, keys = tile.rows, tile.keys
        return cut(
            x,
            tile._replace(
                rows=slice(rows.start - row, rows.stop - row),
                keys=slice(keys.start - key, keys.stop - key),
            ),
        )

    def finish(self) -> None:
        """Divide by the sums, and write the results to where they belong."""
        plan = self.plan
        if not plan.is_clean and not math.isfinite(self.acc.sum()):
            raise UnusualError
        # Few numbers, and of all sizes: the sink may be far from the scores.
        total, shift = (x.astype(np.float64) for x in (self.total[..., None], self.shift))
        if self.is_bounded:
            shift[total == 0] = -math.inf
        is_empty = shift == -math.inf
        top = shift
        if plan.sinks is not None:
            sinks = self._own(np.broadcast_to(plan.sinks, (*plan.lse.shape, 1)))
            top = np.maximum(shift, sinks.reshape(shift.shape))
        top = np.where(top == -math.inf, 0.0, top)
        fade = np.exp(shift - top)
        total *= fade
        if plan.sinks is not None:
            total += np.exp(sinks.reshape(shift.shape) - top)
        nothing = total == 0
        total[nothing] = 1.0
        lse = np.log(total) + top
        lse[nothing] = -math.inf
        fade /= total * plan.keep_rate
        fade[is_empty] = 0.0
        self._write(fade.astype(plan.dtype), lse, is_empty)

    def _own(self, x: Array) -> Array:
        """Return a view of our rows, as (heads of keys, rows, query heads for each, dim)."""
        x = x[self.piece.batch][self.piece.heads, self.piece.rows]
        split = (self.piece.num_kv_heads, self.group, *x.shape[1:])
        return x.reshape(split).swapaxes(1, 2)

    def _write(self, fade: Array, lse: Array, is_empty: Array) -> None:
        plan = self.plan
        out, lses = self._own(plan.out), self._own(plan.lse[..., None])
        np.multiply(self.acc.reshape(out.shape), fade.reshape(lses.shape), out=out)
        lses[...] = lse.reshape(lses.shape)
        if plan.is_clean:
            is_bad = self.sees_bad.get("keys", np.False_)
            if plan.bad["queries"] is not None:
                bad = self._own(plan.bad["queries"])
                is_bad = is_bad | (bad & ~is_empty.reshape(lses.shape))
            np.copyto(lses, math.nan, where=is_bad)
            np.copyto(out, math.nan, where=is_bad | self.sees_bad.get("values", np.False_))


def _sums(s: Array, /) -> Array:
    """Return the sums along the last axis; a product with ones is the fastest way to them."""
    return np.matmul(s, _ones(s.shape[-1], s.dtype))


def _finite(shift: Array, /) -> Array:
    """Return the shift, 0 where it is -inf: -inf - -inf is NaN."""
    return np.where(shift == -math.inf, shift.dtype.type(0.0), shift)


def _whole_lines(size: int, /) -> int:
    return -(-size // LINE) * LINE


@lru_cache(maxsize=64)
def _ones(size: int, dtype: Any, /) -> Array:
    return np.ones(size, dtype)
