"""The discriminating cases of gradients."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ._draws import Draws

__all__ = ["GRADIENT_FEATURES"]

Made = Iterator[dict[str, Any]]


def _case(
    draws: Draws,
    arrays: tuple[np.ndarray, ...],
    /,
    *,
    with_lse: bool = False,
    q_offset: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    query, _, value = arrays
    placed = {} if q_offset is None else {"q_offset": q_offset}
    return dict(
        zip(("query", "key", "value"), arrays, strict=True),
        options={**options, **placed},
        is_aligned=q_offset is not None,
        asks=("gradients",),
        d_out=draws.numbers(*query.shape[:-1], value.shape[-1]),
        d_lse=draws.numbers(*query.shape[:-1]) if with_lse else None,
    )


def _plain(draws: Draws) -> Made:
    yield _case(draws, draws.arrays())


def _scale(draws: Draws) -> Made:
    yield _case(draws, draws.arrays(), scale=0.75)


def _large_logits(draws: Draws) -> Made:
    arrays = draws.arrays()
    arrays[0][..., 0], arrays[1][..., 0] = 16.0, 20.0
    yield _case(draws, arrays)


def _causal(draws: Draws) -> Made:
    yield _case(draws, draws.arrays(6, 6), is_causal=True)
    yield _case(draws, draws.arrays(5, 7), is_causal=True, q_offset=2)


def _mask(draws: Draws) -> Made:
    yield _case(draws, draws.arrays(), mask=draws.mask(5, 7))


def _empty_rows(draws: Draws) -> Made:
    mask = draws.mask(2, 1, 5, 7)
    mask[0, ..., 1, :] = False
    mask[-1, ..., 3, :] = False
    yield _case(draws, draws.arrays(), mask=mask)


def _window(draws: Draws) -> Made:
    yield _case(draws, draws.arrays(6, 6), window_size=(2, None), is_causal=True)


def _lengths(draws: Draws) -> Made:
    yield _case(draws, draws.arrays(), lengths=np.asarray([3, 5]))


def _bias(draws: Draws) -> Made:
    yield _case(draws, draws.arrays(), bias=draws.numbers(5, 7, spread=1.5))
    yield _case(draws, draws.arrays(), bias=draws.numbers(1, 3, 5, 7, spread=1.5))


def _softcap(draws: Draws) -> Made:
    yield _case(draws, draws.arrays(), softcap=1.25)


def _grouped_heads(draws: Draws) -> Made:
    yield _case(draws, draws.arrays(num_heads=6, num_kv_heads=3))


def _sinks(draws: Draws) -> Made:
    yield _case(draws, draws.arrays(), sinks=np.asarray([1.5, -0.5, 3.0]))


def _dropout(draws: Draws) -> Made:
    keep = draws.mask(2, 3, 5, 7)
    yield _case(draws, draws.arrays(), dropout_mask=keep, dropout_rate=0.25)


def _lse(draws: Draws) -> Made:
    yield _case(draws, draws.arrays(), with_lse=True)


#: What is asked of gradients, by feature.
GRADIENT_FEATURES: dict[str, Callable[[Draws], Made]] = {
    "gradients": _plain,
    "gradients_scale": _scale,
    "gradients_large_logits": _large_logits,
    "gradients_causal": _causal,
    "gradients_mask": _mask,
    "gradients_empty_rows": _empty_rows,
    "gradients_window": _window,
    "gradients_lengths": _lengths,
    "gradients_bias": _bias,
    "gradients_softcap": _softcap,
    "gradients_grouped_heads": _grouped_heads,
    "gradients_sinks": _sinks,
    "gradients_dropout": _dropout,
    "gradients_lse": _lse,
}
