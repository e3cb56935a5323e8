"""Functions of positions that say in words what they are, for problems that are drawn."""

import math
from dataclasses import dataclass
from typing import Any

from ..._backend import namespace
from ..._typing import Array

__all__ = ["Distance", "Remainder", "Shifted"]


@dataclass(frozen=True)
class Remainder:
    """True where ``(by_q * q_pos + by_kv * kv_pos) % modulus`` is not `hidden`."""

    by_q: int
    by_kv: int
    modulus: int
    hidden: int = 0

    def __call__(self, q_pos: Array, kv_pos: Array) -> Array:
        return (self.by_q * q_pos + self.by_kv * kv_pos) % self.modulus != self.hidden


@dataclass(frozen=True)
class Distance:
    """``slope * |q_pos - kv_pos|`` in a dtype, and -inf farther away than `reach`."""

    slope: float
    reach: int | None
    dtype: Any

    def __call__(self, q_pos: Array, kv_pos: Array) -> Array:
        xp = namespace(q_pos)
        assert xp is not None
        far = xp.abs(q_pos - kv_pos)
        bias = self.slope * xp.astype(far, self.dtype)
        return bias if self.reach is None else xp.where(far > self.reach, -math.inf, bias)


@dataclass(frozen=True)
class Shifted:
    """``scores * factor + (kv_pos - q_pos) * slope``, and -inf on every `hidden`-th key."""

    factor: float
    slope: float
    hidden: int | None

    def __call__(self, scores: Array, q_pos: Array, kv_pos: Array) -> Array:
        xp = namespace(scores)
        assert xp is not None
        moved = scores * self.factor + xp.astype(kv_pos - q_pos, scores.dtype) * self.slope
        if self.hidden is None:
            return moved
        return xp.where(kv_pos % self.hidden == 0, -math.inf, moved)
