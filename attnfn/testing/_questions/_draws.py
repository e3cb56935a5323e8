"""Numbers for cases: drawn so that every dtype holds them, and answers are far apart."""

from typing import Any

import numpy as np

__all__ = ["HEAD_DIM", "Draws"]

# No two sizes are equal, except where a square is needed.
HEAD_DIM = 8
NUM_HEADS = 3
BATCH = 2


class Draws:
    """Draws arrays for cases: the same for one seed."""

    def __init__(self, seed: int | list[int]) -> None:
        self.rng = np.random.default_rng(seed)

    def numbers(self, *shape: int, spread: float = 1.0) -> np.ndarray:
        """Return multiples of 1/8 between -3 and 3, which every dtype holds exactly."""
        drawn = np.clip(np.round(self.rng.normal(size=shape) * 8 * spread), -24, 24)
        return np.where(drawn == 0, 1.0, drawn) / 8

    def arrays(
        self,
        q_len: int = 5,
        kv_len: int = 7,
        *,
        batch: tuple[int, ...] = (BATCH,),
        num_heads: int = NUM_HEADS,
        num_kv_heads: int | None = None,
        value_dim: int = HEAD_DIM,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return query, key and value."""
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        query = self.numbers(*batch, num_heads, q_len, HEAD_DIM)
        key = self.numbers(*batch, num_kv_heads, kv_len, HEAD_DIM, spread=1.5)
        value = self.numbers(*batch, num_kv_heads, kv_len, value_dim, spread=1.5)
        return query, key, value

    def long_arrays(
        self, q_len: int = 33, kv_len: int = 130, **sizes: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return query, key and value of many keys, of which the last counts most."""
        query, key, value = self.arrays(q_len, kv_len, **sizes)
        query[..., :2] = 3.0
        key[..., :2] = -0.5
        key[..., -1, :2] = 3.0
        return query, key, value

    def mask(self, *shape: int) -> np.ndarray:
        """Return a mask in which each row and column has both, and neighbours differ."""
        while True:
            mask = self.rng.random(shape) < 0.55
            counts = [mask.sum(axis) for axis in ((-1, -2) if shape[-2] > 1 else (-1,))]
            sizes = [shape[-1], shape[-2]]
            if all(((c > 0) & (c < n)).all() for c, n in zip(counts, sizes, strict=False)):
                return mask
