"""What a function of some signature cannot be asked, and the words to say so."""

from collections.abc import Collection, Mapping
from typing import Any

__all__ = [
    "check_function",
    "check_is_causal",
    "check_is_free",
    "check_no_groups",
    "check_no_right_side",
    "check_one_number",
    "check_one_width",
    "check_options",
    "check_past",
    "check_same_for_heads",
]


def check_function(function: Any) -> None:
    """Raise unless there is something to adapt."""
    if callable(function):
        return
    text = (
        f"`function` must be something to call; got {type(function).__name__}. "
        f"A Subject needs no adapter."
    )
    raise TypeError(text)


def check_options(options: Mapping[str, Any], places: Collection[str], name: str) -> None:
    """Raise if an option is given that the signature has no place for."""
    given = {option for option, x in options.items() if x is not None and x is not False}
    if given <= set(places):
        return
    missing = ", ".join(f"`{option}`" for option in sorted(given - set(places)))
    own = ", ".join(sorted(places)) or "none"
    text = f"Options must have a place in the signature of {name}: {own}; got {missing}."
    raise TypeError(text)


def check_is_free(option: str, parameter: str, taken: Mapping[str, str], name: str) -> None:
    """Raise if another option has the only place that this one could be given in."""
    if parameter not in taken:
        return
    text = (
        f"`{option}` must be given without `{taken[parameter]}`; got both, and {name} has one "
        f"place for them, `{parameter}`."
    )
    raise NotImplementedError(text)


def check_no_groups(query: Any, key: Any, name: str) -> None:
    """Raise if heads of queries are to share heads of keys."""
    if query.shape[-3] == key.shape[-3]:
        return
    text = (
        f"`key` must have as many heads as `query`; got {key.shape[-3]} and {query.shape[-3]}, "
        f"and {name} has no groups."
    )
    raise NotImplementedError(text)


def check_one_number(
    window: tuple[int | None, int | None], *, is_causal: bool, name: str
) -> None:
    """Raise unless both sides of a window are the same, or the right one is hidden anyway."""
    left, right = window
    if left is not None and (left == right or (is_causal and right in (0, None))):
        return
    text = f"`window_size` must have two sides alike; got {window}, and {name} has one number."
    raise NotImplementedError(text)


def check_one_width(query: Any, value: Any, name: str) -> None:
    """Raise if values have another width than queries."""
    if query.shape[-1] == value.shape[-1]:
        return
    text = (
        f"`value` must have the width of `query`; got {value.shape[-1]} and "
        f"{query.shape[-1]}, and {name} has one for both."
    )
    raise NotImplementedError(text)


def check_same_for_heads(option: str, x: Any, name: str) -> None:
    """Raise if something differs between heads."""
    if x.shape[-3] == 1:
        return
    text = (
        f"`{option}` must be the same for all heads; got shape {tuple(x.shape)}, and {name} "
        f"takes one of (q_len, kv_len)."
    )
    raise NotImplementedError(text)


def check_no_right_side(
    window: tuple[int | None, int | None], *, is_causal: bool, name: str
) -> None:
    """Raise if a window has a right side that causal order does not hide anyway."""
    if window[1] is None or (is_causal and window[1] == 0):
        return
    text = (
        f"`window_size` must have no right side; got {window}, and {name} has a left side "
        f"alone. (left, None) leaves the right one open."
    )
    raise NotImplementedError(text)


def check_past(q_offset: Any, kv_len: int, name: str) -> None:
    """Raise unless some keys before the queries' own can be given as the past."""
    if isinstance(q_offset, int) and 0 <= q_offset <= kv_len:
        return
    text = (
        f"`q_offset` must be an int from 0 to {kv_len}; got {q_offset!r}, and {name} takes the "
        f"keys before it as its past."
    )
    raise NotImplementedError(text)


def check_is_causal(options: Mapping[str, Any], name: str) -> None:
    """Raise unless causal order is asked for, with a window that has no right side."""
    if "is_causal" not in options:
        text = f"`is_causal` must be True; got False, and {name} is always causal."
        raise NotImplementedError(text)
    check_no_right_side(options.get("window_size", (0, None)), is_causal=True, name=name)
