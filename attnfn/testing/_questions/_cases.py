"""The discriminating cases: on each, two conventions, or right and wrong, are far apart."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..._backend import namespace
from ..._typing import Array
from ._case import Case
from ._draws import HEAD_DIM, Draws
from ._gradient_cases import GRADIENT_FEATURES

__all__ = ["FEATURES", "cases_of"]

#: Everything that a case is made of: query, key, value and what more `Case` has.
Made = Iterator[dict[str, Any]]


def cases_of(feature: str, seed: int = 0) -> list[Case]:
    """Return the cases of a feature, the smallest first."""
    made = FEATURES[feature](Draws([seed, *feature.encode()]))
    return [
        Case(feature=feature, **{"name": f"{feature} {number}", **case})
        for number, case in enumerate(made, 1)
    ]


def _case(arrays: tuple[np.ndarray, ...], /, **more: Any) -> dict[str, Any]:
    """Return what a case is made of; what `Case` has no field for is an option."""
    fields = {name: more.pop(name) for name in list(more) if name in Case._fields}
    return dict(zip(("query", "key", "value"), arrays, strict=True), options=more, **fields)


def _plain(draws: Draws) -> Made:
    yield _case(draws.arrays())
    yield _case(draws.arrays(6, 6))


def _value_dim(draws: Draws) -> Made:
    yield _case(draws.arrays(value_dim=4))


def _batch_axes(draws: Draws) -> Made:
    yield _case(draws.arrays(batch=()))
    yield _case(draws.arrays(batch=(2, 4)))


def _many_keys(draws: Draws) -> Made:
    yield _case(draws.long_arrays(3, 67, batch=(1,), num_heads=2))
    yield _case(draws.long_arrays(33, 130, batch=(1,), num_heads=2))
    yield _case(draws.long_arrays(3, 257, batch=(1,), num_heads=2))


def _many_queries(draws: Draws) -> Made:
    yield _case(draws.arrays(37, 7))
    yield _case(draws.arrays(131, 7, batch=(1,), num_heads=2))


def _one_query(draws: Draws) -> Made:
    yield _case(draws.arrays(1, 7))
    yield _case(draws.arrays(1, 7), is_causal=True, q_offset=6, is_aligned=True)
    yield _case(draws.arrays(1, 1))


def _no_keys(draws: Draws) -> Made:
    yield _case(draws.arrays(5, 0))


def _scale(draws: Draws) -> Made:
    yield _case(draws.arrays(), scale=0.125)
    yield _case(draws.arrays(), scale=0.75)


def _pulled(draws: Draws, query: float, key: float, **sizes: Any) -> tuple[np.ndarray, ...]:
    """Return arrays whose scores are all near query * key / sqrt(HEAD_DIM)."""
    arrays = draws.arrays(**sizes)
    arrays[0][..., 0], arrays[1][..., 0] = query, key
    return arrays


def _large_logits(draws: Draws) -> Made:
    yield _case(_pulled(draws, 16.0, 20.0))
    yield _case(_pulled(draws, 16.0, -20.0))
    yield _case(_pulled(draws, 48.0, 48.0), dtypes=("float64",))
    yield _case(_pulled(draws, 48.0, -48.0), dtypes=("float64",))


def _mask(draws: Draws) -> Made:
    yield _case(draws.arrays(6, 6), mask=draws.mask(6, 6))
    yield _case(draws.arrays(), mask=draws.mask(5, 7))
    yield _case(draws.long_arrays(33, 130, batch=(1,), num_heads=2), mask=draws.mask(33, 130))


def _mask_per_sequence(draws: Draws) -> Made:
    padding = np.arange(7) < np.asarray([3, 5])[:, None, None, None]
    yield _case(draws.arrays(), mask=padding)
    yield _case(draws.arrays(), mask=draws.mask(2, 1, 5, 7))


def _mask_per_head(draws: Draws) -> Made:
    yield _case(draws.arrays(), mask=draws.mask(1, 3, 5, 7))
    yield _case(draws.arrays(), mask=draws.mask(2, 3, 5, 7))


def _with_empty_rows(draws: Draws, *shape: int) -> np.ndarray:
    """Draw a mask that hides every key from two queries, and no key from every query."""
    while True:
        mask = draws.mask(*shape)
        mask[0, ..., 1, :] = False
        mask[-1, ..., 3, :] = False
        if mask.any(-2).all():
            return mask


def _empty_rows(draws: Draws) -> Made:
    yield _case(draws.arrays(), mask=_with_empty_rows(draws, 2, 1, 5, 7))
    yield _case(draws.arrays(9, 11), mask=_with_empty_rows(draws, 2, 3, 9, 11))


def _low_scores(draws: Draws) -> Made:
    """Draw scores so low that a finite number in the place of a hidden one beats them."""
    of_row, of_key = np.arange(5) % 2, np.asarray([0, 1, 0, 0, 1, 0, 1])
    mask = of_row[:, None] == of_key
    for low in (-40.0, -2e4, -4e9):
        query, key, value = draws.arrays()
        size = float(2 ** round(np.log2(np.sqrt(-low * np.sqrt(HEAD_DIM)))))
        query[...], key[...] = 0.0, 0.0
        # What is hidden from a query has a score of 0.
        query[..., :2] = size * np.eye(2)[of_row]
        key[..., :2] = -size * np.eye(2)[of_key]
        dtypes = ("float32", "float64") if low < -1e5 else ()
        yield _case((query, key, value), mask=mask, dtypes=dtypes)


def _causal(draws: Draws) -> Made:
    yield _case(draws.arrays(6, 6), is_causal=True)
    arrays = draws.long_arrays(33, 33, batch=(1,), num_heads=2)
    yield _case(arrays, is_causal=True)


def _causal_unequal(draws: Draws) -> Made:
    yield _case(draws.arrays(5, 7), is_causal=True, q_offset=2, is_aligned=True)
    yield _case(draws.arrays(7, 5), is_causal=True, q_offset=-2, is_aligned=True)
    arrays = draws.long_arrays(33, 130, batch=(1,), num_heads=2)
    yield _case(arrays, is_causal=True, q_offset=97, is_aligned=True)


def _q_offset(draws: Draws) -> Made:
    yield _case(draws.arrays(), is_causal=True, q_offset=1)
    yield _case(draws.arrays(), is_causal=True, q_offset=np.asarray([0, 3]))
    yield _case(draws.arrays(7, 5), is_causal=True, q_offset=-2)


def _causal_and_mask(draws: Draws) -> Made:
    mask = draws.mask(6, 6)
    mask[:, 0] = True  # no row is empty
    yield _case(draws.arrays(6, 6), is_causal=True, mask=mask)


def _window(draws: Draws) -> Made:
    yield _case(draws.arrays(6, 6), window_size=(2, None), is_causal=True)
    yield _case(draws.arrays(6, 6), window_size=(1, None))
    yield _case(draws.arrays(6, 6), window_size=(None, 1))
    yield _case(draws.arrays(6, 6), window_size=(2, 1))
    yield _case(draws.arrays(6, 6), window_size=(2, 2))
    arrays = draws.long_arrays(33, 33, batch=(1,), num_heads=2)
    yield _case(arrays, window_size=(5, None), is_causal=True)


def _window_unequal(draws: Draws) -> Made:
    more = {"q_offset": 2, "is_aligned": True}
    yield _case(draws.arrays(), window_size=(2, None), is_causal=True, **more)
    yield _case(draws.arrays(), window_size=(2, 1), **more)


def _segments(draws: Draws) -> Made:
    ids = np.asarray([0, 0, 1, 1, 1, 2])
    yield _case(draws.arrays(6, 6), segment_ids=(ids, ids))
    per_batch = np.stack([ids, np.asarray([0, 1, 1, 1, 2, 2])])
    yield _case(draws.arrays(6, 6), segment_ids=(per_batch, per_batch))
    pair = (np.asarray([0, 0, 1, 1, 1]), np.asarray([0, 0, 0, 1, 1, 0, 1]))
    yield _case(draws.arrays(), segment_ids=pair)


def _lengths(draws: Draws) -> Made:
    yield _case(draws.arrays(), lengths=np.asarray([3, 5]))
    yield _case(draws.arrays(6, 6), lengths=np.asarray([4, 5]), is_causal=True)


def _bias(draws: Draws) -> Made:
    yield _case(draws.arrays(), bias=draws.numbers(5, 7, spread=1.5))
    arrays = draws.long_arrays(33, 130, batch=(1,), num_heads=2)
    yield _case(arrays, bias=draws.numbers(33, 130, spread=1.5))


def _bias_per_head(draws: Draws) -> Made:
    yield _case(draws.arrays(), bias=draws.numbers(1, 3, 5, 7, spread=1.5))
    yield _case(draws.arrays(), bias=draws.numbers(2, 1, 5, 7, spread=1.5))
    yield _case(draws.arrays(), bias=draws.numbers(2, 3, 5, 7, spread=1.5))


def _bias_minus_inf(draws: Draws) -> Made:
    bias = np.where(draws.mask(5, 7), draws.numbers(5, 7), -np.inf)
    yield _case(draws.arrays(), bias=bias)
    mask = _with_empty_rows(draws, 1, 5, 7)[0]
    yield _case(draws.arrays(), bias=np.where(mask, draws.numbers(5, 7), -np.inf))


def _mask_and_bias(draws: Draws) -> Made:
    bias = draws.numbers(5, 7, spread=1.5)
    yield _case(draws.arrays(), mask=draws.mask(5, 7), bias=bias)
    bias = draws.numbers(6, 6, spread=1.5)
    yield _case(draws.arrays(6, 6), is_causal=True, bias=bias)


def _softcap(draws: Draws) -> Made:
    yield _case(draws.arrays(), softcap=1.25)
    yield _case(draws.arrays(6, 6), softcap=1.25, is_causal=True)


def _softcap_and_bias(draws: Draws) -> Made:
    yield _case(draws.arrays(), softcap=1.25, bias=draws.numbers(5, 7, spread=1.5))


def _grouped_heads(draws: Draws) -> Made:
    sizes: dict[str, Any] = {"num_heads": 6, "num_kv_heads": 3}
    yield _case(draws.arrays(**sizes))
    yield _case(draws.arrays(**sizes), mask=draws.mask(1, 6, 5, 7))
    arrays = draws.arrays(1, 7, **sizes)
    yield _case(arrays, is_causal=True, q_offset=6, is_aligned=True)


def _one_kv_head(draws: Draws) -> Made:
    yield _case(draws.arrays(num_kv_heads=1))


def _sinks(draws: Draws) -> Made:
    yield _case(draws.arrays(), sinks=np.asarray([1.5, -0.5, 3.0]))
    yield _case(draws.arrays(6, 6), sinks=np.asarray([1.5, -0.5, 3.0]), is_causal=True)
    sizes: dict[str, Any] = {"num_heads": 6, "num_kv_heads": 3}
    sinks = np.asarray([1.5, -0.5, 3.0, 0.5, 2.0, -1.0])
    yield _case(draws.arrays(**sizes), sinks=sinks)


def _dropout(draws: Draws) -> Made:
    keep = draws.mask(2, 3, 5, 7)
    yield _case(draws.arrays(), dropout_mask=keep, dropout_rate=0.25)


def _every_other(scores: Array, q_pos: Array, kv_pos: Array) -> Array:
    xp = namespace(scores)
    assert xp is not None
    return xp.where((q_pos + kv_pos) % 2 == 0, scores, -0.5 * scores)


def _score_mod(draws: Draws) -> Made:
    yield _case(draws.arrays(6, 6), score_mod=_every_other)


_WITH_LSE = ("out", "lse")


def _lse(draws: Draws) -> Made:
    yield _case(draws.arrays(), asks=_WITH_LSE)
    yield _case(_pulled(draws, 16.0, 20.0), asks=_WITH_LSE)
    yield _case(draws.arrays(6, 6), is_causal=True, asks=_WITH_LSE)
    yield _case(draws.arrays(), mask=draws.mask(2, 3, 5, 7), asks=_WITH_LSE)
    yield _case(draws.arrays(), bias=draws.numbers(2, 3, 5, 7), asks=_WITH_LSE)


def _lse_of_empty_rows(draws: Draws) -> Made:
    mask = _with_empty_rows(draws, 2, 1, 5, 7)
    yield _case(draws.arrays(), mask=mask, asks=_WITH_LSE)


def _lse_of_no_row(draws: Draws) -> Made:
    more = {"q_offset": -2, "is_aligned": True}
    yield _case(draws.arrays(7, 5), is_causal=True, asks=_WITH_LSE, **more)


def _lse_with_sinks(draws: Draws) -> Made:
    yield _case(draws.arrays(), sinks=np.asarray([1.5, -0.5, 3.0]), asks=_WITH_LSE)


def _poisoned(draws: Draws, which: int) -> Made:
    for number in (np.nan, np.inf):
        arrays, mask = draws.arrays(), draws.mask(5, 7)
        mask[:, 2], mask[:, 3] = False, True
        arrays[which][..., 2, :] = number
        yield _case(arrays, mask=mask, is_poisoned=True)
    arrays = draws.arrays()
    arrays[which][..., 5:, :] = np.nan
    yield _case(arrays, lengths=np.asarray([3, 5]), is_poisoned=True)


def _hidden_key(draws: Draws) -> Made:
    yield from _poisoned(draws, 1)


def _hidden_value(draws: Draws) -> Made:
    yield from _poisoned(draws, 2)


def _memory_order(draws: Draws) -> Made:
    yield _case(draws.arrays(), memory=(0, 2, 1, 3))
    yield _case(draws.arrays(), memory=(0, 1, 3, 2))


def _repeatable(draws: Draws) -> Made:
    arrays = draws.arrays()
    yield _case(arrays)
    yield _case(arrays)


_HALVES = ("float16", "bfloat16")


def _long_sums(draws: Draws) -> Made:
    """Draw so many numbers that a sum kept in half precision cannot hold theirs."""
    query, key, value = draws.arrays(2, 4096, batch=(1,), num_heads=1)
    query[...], key[..., 0] = 0.125, 0.0
    value[..., :2048, :], value[..., 2048:, :] = 1.0, 2.0
    yield _case((query, key * 0.25, value), dtypes=_HALVES)


def _half_overflow(draws: Draws) -> Made:
    query, key, value = draws.arrays(batch=(1,))
    query, key = np.full_like(query, 96.0), np.full_like(key, 96.0)
    key[..., 0] += np.asarray([3, 0, 2, 1, 3, 2, 0]) / 16
    yield _case((query, key, value), dtypes=("float16",))


#: What is asked, by feature, in the order of a report.
FEATURES: dict[str, Callable[[Draws], Made]] = {
    "plain": _plain,
    "value_dim": _value_dim,
    "batch_axes": _batch_axes,
    "many_keys": _many_keys,
    "many_queries": _many_queries,
    "one_query": _one_query,
    "no_keys": _no_keys,
    "scale": _scale,
    "large_logits": _large_logits,
    "mask": _mask,
    "mask_per_sequence": _mask_per_sequence,
    "mask_per_head": _mask_per_head,
    "empty_rows": _empty_rows,
    "low_scores": _low_scores,
    "causal": _causal,
    "causal_unequal": _causal_unequal,
    "causal_and_mask": _causal_and_mask,
    "q_offset": _q_offset,
    "window": _window,
    "window_unequal": _window_unequal,
    "segments": _segments,
    "lengths": _lengths,
    "bias": _bias,
    "bias_per_head": _bias_per_head,
    "bias_minus_inf": _bias_minus_inf,
    "mask_and_bias": _mask_and_bias,
    "softcap": _softcap,
    "softcap_and_bias": _softcap_and_bias,
    "grouped_heads": _grouped_heads,
    "one_kv_head": _one_kv_head,
    "sinks": _sinks,
    "dropout": _dropout,
    "score_mod": _score_mod,
    "lse": _lse,
    "lse_of_empty_rows": _lse_of_empty_rows,
    "lse_causal_unequal": _lse_of_no_row,
    "lse_with_sinks": _lse_with_sinks,
    "hidden_key": _hidden_key,
    "hidden_value": _hidden_value,
    "memory_order": _memory_order,
    "repeatable": _repeatable,
    "long_sums": _long_sums,
    "half_overflow": _half_overflow,
    **GRADIENT_FEATURES,
}
