"""What is computed: the same shapes, options and numbers for every side of a comparison."""

from typing import Any, NamedTuple

import numpy as np

__all__ = ["Arrays", "Work", "allowed", "draw", "options", "tiny"]


class Work(NamedTuple):
    """One call of attention, without its numbers."""

    q_len: int
    kv_len: int
    batch: int = 1
    num_heads: int = 8
    num_kv_heads: int = 8
    head_dim: int = 64
    dtype: str = "float32"
    is_causal: bool = False
    window: tuple[int, int] | None = None
    softcap: float | None = None
    mask: str | None = None  # "padding" or "unstructured"
    has_bias: bool = False
    greatest: float | None = (
        None  # the size of the greatest score; else what normal numbers give
    )
    gradient: bool = False  # of the output, for query, key and value, together with the output


class Arrays(NamedTuple):
    """The numbers, as NumPy has them."""

    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    d_out: np.ndarray | None
    mask: np.ndarray | None
    bias: np.ndarray | None


def draw(work: Work) -> Arrays:
    """Draw the numbers of some work: the same ones at every call."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    query = normal(work.batch, work.num_heads, work.q_len, work.head_dim)
    key = normal(work.batch, work.num_kv_heads, work.kv_len, work.head_dim)
    value = normal(work.batch, work.num_kv_heads, work.kv_len, work.head_dim)
    if work.greatest is not None:
        query *= work.greatest / greatest_score(query, key)
    d_out = normal(*query.shape) if work.gradient else None
    scores = (work.batch, work.num_heads, work.q_len, work.kv_len)
    bias = normal(1, *scores[1:]) if work.has_bias else None
    return Arrays(query, key, value, d_out, drawn_mask(work, rng), bias)


def greatest_score(query: np.ndarray, key: np.ndarray) -> float:
    """Return the size of the greatest score, head by head."""
    heads = range(query.shape[1])
    most = max(np.abs(query[:, h] @ key[:, h].swapaxes(-1, -2)).max() for h in heads)
    return float(most) / query.shape[-1] ** 0.5


def drawn_mask(work: Work, rng: np.random.Generator) -> np.ndarray | None:
    """Return the mask that is given as an array; every query has a key left."""
    if work.mask is None:
        return None
    if work.mask == "padding":
        # From a quarter of the keys to all of them, the same share more for each sequence.
        lengths = np.linspace(work.kv_len / 4, work.kv_len, work.batch).astype(int)
        return (np.arange(work.kv_len) < lengths[:, None])[:, None, None, :]
    mask = rng.random((work.q_len, work.kv_len)) < 0.5
    mask[:, 0] = True
    return mask


def allowed(work: Work, x: Arrays) -> np.ndarray | None:
    """Return everything that hides keys as one mask, for those who have no words for it."""
    mask = x.mask
    if work.is_causal or work.window is not None:
        left, right = work.window or (work.kv_len, work.kv_len)
        right = min(right, 0) if work.is_causal else right
        band = np.tri(work.q_len, work.kv_len, right, dtype=bool)
        band &= ~np.tri(work.q_len, work.kv_len, -left - 1, dtype=bool)
        mask = band if mask is None else band & mask
    return mask


def options(work: Work, asarray: Any, x: Arrays) -> dict[str, Any]:
    """Return the same in the words of `attnfn.attention`, without what is left out."""
    named = {
        "is_causal": work.is_causal or None,
        "window_size": work.window,
        "softcap": work.softcap,
        "mask": None if x.mask is None else asarray(x.mask),
        "bias": None if x.bias is None else asarray(x.bias),
    }
    return {name: option for name, option in named.items() if option is not None}


def tiny(work: Work) -> Work:
    """Return the same kind of work, of a size that takes no time."""
    return work._replace(
        q_len=min(work.q_len, 32),
        kv_len=min(work.kv_len, 32),
        batch=min(work.batch, 2),
        num_heads=max(1, work.num_heads // 4),
        num_kv_heads=max(1, work.num_kv_heads // 4),
        head_dim=min(work.head_dim, 8),
        window=work.window and (4, 0),
    )
