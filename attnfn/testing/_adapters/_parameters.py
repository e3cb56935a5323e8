"""What a function can be given, as far as it says so."""

import inspect
from collections.abc import Callable
from typing import Any

__all__ = ["Parameters"]


class Parameters:
    """The names that a function takes; all there are, where it does not say or takes any."""

    def __init__(self, function: Callable[..., Any], *, takes_any: bool = True) -> None:
        try:
            found = inspect.signature(function).parameters
        except (TypeError, ValueError):  # it is not written in Python, and does not say
            found = None
        self._required = {
            name
            for name, p in (found or {}).items()
            if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        }
        self._names = set(found or ())
        more = [p for p in (found or {}).values() if p.kind is p.VAR_KEYWORD]
        # PEP 692 names what is in ``**options: Unpack[Options]``.
        named = {name for p in more for name in _keys(p.annotation)}
        self._names |= named
        self._takes_any = found is None or (takes_any and bool(more) and not named)

    def __contains__(self, name: str) -> bool:
        return self._takes_any or name in self._names

    def says(self, name: str) -> bool:
        """Return whether the name stands in the signature itself."""
        return name in self._names

    def needs(self, name: str) -> bool:
        """Return whether a call without it is an error."""
        return name in self._required

    def first(self, *names: str) -> str | None:
        """Return the first of some names that it takes, those before others that it says."""
        said = [name for name in names if self.says(name)]
        return next(iter([*said, *(name for name in names if name in self)]), None)


def _keys(annotation: Any) -> tuple[str, ...]:
    """Return the keys of a TypedDict that is unpacked."""
    unpacked: list[Any] = list(getattr(annotation, "__args__", ()))
    return tuple(name for inner in unpacked for name in getattr(inner, "__annotations__", ()))
