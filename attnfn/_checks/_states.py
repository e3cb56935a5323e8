"""What a call is given of earlier ones, or of other parts of the same."""

from typing import Any

from .._backend import describe_kind
from .._typing import Array
from ._arrays import check_mask_dtype, check_one_device, check_one_dtype, check_one_library
from ._shapes import check_equal_sizes, check_exact_shape
from ._words import agree, shape_of

__all__ = [
    "check_cache",
    "check_causal_lengths",
    "check_features",
    "check_key_mask",
    "check_new_tokens",
    "check_parts",
    "check_some_position",
    "check_state_shape",
    "check_table_length",
]


def check_cache(cache: Any, /) -> None:
    fields = ("key", "value", "length", "positions")
    if not all(hasattr(cache, name) for name in fields):
        got = "None" if cache is None else describe_kind(cache)
        msg = f"`cache` must be a KVCache; got {got}. Make an empty one with init_kv_cache()."
        raise TypeError(msg)


def check_new_tokens(key: Array, value: Array, cache: Any, /) -> None:
    """Check that keys and values differ from those of a cache in their number alone."""
    for name, x, kept in (("key", key, cache.key), ("value", value, cache.value)):
        own, wanted = shape_of(x), shape_of(kept)
        if len(own) != len(wanted) or not all(
            agree(n, m)
            for n, m in zip(own[:-2] + own[-1:], wanted[:-2] + wanted[-1:], strict=True)
        ):
            msg = (
                f"`{name}` must have the shape of `cache.{name}` in every axis but the length "
                f"(axis -2); got shape {own} for {wanted}."
            )
            raise ValueError(msg)
    check_equal_sizes("length", -2, key=key, value=value)
    check_equal_sizes("capacity", -2, **{"cache.key": cache.key, "cache.value": cache.value})


def check_features(made: dict[str, Any], **given: Array) -> None:
    """Check what a feature map made of queries and of keys."""
    for (name, features), (argument, x) in zip(made.items(), given.items(), strict=True):
        check_one_library(**{argument: x, name: features})
        check_one_dtype(**{argument: x, name: features})
        own, wanted = shape_of(features), shape_of(x)
        if len(own) != len(wanted) or not all(map(agree, own[:-1], wanted[:-1])):
            msg = f"`{name}` must keep all axes but the last, {wanted}; got shape {own}."
            raise ValueError(msg)
    check_equal_sizes("feature_dim", -1, **made)


def check_causal_lengths(q_len: int, kv_len: int, /) -> None:
    if not agree(q_len, kv_len):
        msg = (
            f"`is_causal` needs as many queries as keys; got q_len={q_len}, kv_len={kv_len}. "
            f"Earlier keys come in by the state of linear_attention_with_state()."
        )
        raise ValueError(msg)


def check_key_mask(
    mask: Any, shape: tuple[int, ...], num_kv_heads: int, /, *, key: Array
) -> None:
    """Check a mask of keys alone: (kv_len,), or all axes with 1 in the place of queries."""
    if callable(mask):
        msg = (
            "`mask` must be an array that says of each key whether it may be attended to; got "
            "a function. Linear attention has no scores to be masked pair by pair."
        )
        raise TypeError(msg)
    xp = check_one_library(key=key, mask=mask)
    check_one_device(key=key, mask=mask)
    check_mask_dtype("mask", mask, xp=xp)
    own, kv_len = shape_of(mask), shape[-1]
    wanted = (*shape[:-3], num_kv_heads, 1, kv_len)[-len(shape) :]
    fits = len(own) == len(wanted) and all(
        n == 1 or agree(n, m) for n, m in zip(own, wanted, strict=True)
    )
    if not (fits or (len(own) == 1 and agree(own[0], kv_len))):
        msg = (
            f"`mask` must have shape (kv_len,) or (..., num_kv_heads, 1, kv_len), here "
            f"({kv_len},) or {wanted}, where an axis may be 1; got shape {own}. Linear "
            f"attention has no scores to be masked pair by pair."
        )
        raise ValueError(msg)


def check_state_shape(state: Any, shape: tuple[int, ...], /) -> None:
    check_exact_shape(
        "state.s", state.s, [shape], "(..., num_kv_heads, feature_dim, value_dim)"
    )
    check_exact_shape("state.z", state.z, [shape[:-1]], "(..., num_kv_heads, feature_dim)")


def check_table_length(name: str, table: Array, length: int, offset: int, /) -> None:
    if offset + length > table.shape[0]:
        where = f" from position {offset} on" if offset else ""
        msg = (
            f"`{name}` must have a row for each position; got {table.shape[0]} rows for "
            f"{length} positions{where}. Learned positions have an end: cut the sequence, or "
            f"use sinusoidal_positions or apply_rotary."
        )
        raise ValueError(msg)


def check_some_position(x: Array, /) -> None:
    if x.shape[-2] == 0:
        msg = f"`x` must have 1 position or more (axis -2); got shape {shape_of(x)}."
        raise ValueError(msg)


def check_parts(outs: Any, lses: Any, /) -> None:
    """Check that two lists of parts go together."""
    are_lists = [isinstance(x, list | tuple) for x in (outs, lses)]
    if not any(are_lists):
        return
    if not all(are_lists):
        msg = (
            f"`outs` and `lses` must both be lists of parts, or both arrays with the parts "
            f"along axis 0; got {describe_kind(outs)} and {describe_kind(lses)}."
        )
        raise TypeError(msg)
    if len(outs) != len(lses):
        msg = f"`outs` and `lses` must be equally many; got {len(outs)} and {len(lses)}."
        raise ValueError(msg)
    if len(outs) == 0:
        msg = (
            "`outs` must hold one part or more, since nothing else tells the shape; got none. "
            "Nothing at all is the part (0, -inf)."
        )
        raise ValueError(msg)
