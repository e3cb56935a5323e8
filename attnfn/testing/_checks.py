"""The questions asked of arguments of a check, and the words for a wrong answer."""

from collections.abc import Collection
from typing import Any

__all__ = [
    "check_dialect",
    "check_dtype_of_library",
    "check_features",
    "check_library",
    "check_subject",
]

_DTYPES = ("float16", "bfloat16", "float32", "float64")


def check_library(library: str, known: Collection[str]) -> None:
    """Raise unless an array library is known by this name."""
    if library in known:
        return
    names = ", ".join(f'"{name}"' for name in sorted(known))
    text = f"`library` must be {names} or an array namespace; got {library!r}."
    raise ValueError(text)


def check_dtype_of_library(dtype: str, library: str, xp: Any) -> None:
    """Raise unless a library has a floating dtype."""
    if dtype not in _DTYPES:
        names = ", ".join(f'"{name}"' for name in _DTYPES)
        text = f"`dtypes` must be among {names}; got {dtype!r}."
        raise ValueError(text)
    if not hasattr(xp, dtype):
        text = f"`dtypes` must be dtypes that {library} has; got {dtype!r}."
        raise ValueError(text)


def check_features(features: Collection[str], known: Collection[str]) -> None:
    """Raise unless every feature is one that there are cases of."""
    if isinstance(features, str):
        text = f"`features` must be a collection of names; got {features!r}. Put it in a tuple."
        raise TypeError(text)
    unknown = [name for name in features if name not in known]
    if not unknown:
        return
    text = f"`features` must be among {', '.join(known)}; got {unknown[0]!r}."
    raise ValueError(text)


def check_dialect(dialect: str, known: Collection[str]) -> None:
    """Raise unless there is a dialect of this name."""
    if dialect in known:
        return
    names = ", ".join(known)
    text = f"`dialect` must be a Dialect or among {names}; got {dialect!r}."
    raise ValueError(text)


def check_subject(function: Any) -> None:
    """Raise unless there is something to call."""
    if callable(function):
        return
    text = f"`function` must be a function or a Subject; got {type(function).__name__}."
    raise TypeError(text)
