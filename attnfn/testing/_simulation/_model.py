"""What a function is supposed to do: conventions, and mistakes."""

from typing import Any, NamedTuple

from .._dialects._conventions import Conventions

__all__ = ["Fault", "Model"]


class Fault(NamedTuple):
    """A mistake by its name among FAULTS, and which of its kind."""

    name: str
    which: Any = None


class Model(NamedTuple):
    """Conventions, and mistakes on top of them."""

    conventions: Conventions = Conventions()
    faults: tuple[Fault, ...] = ()

    def has(self, name: str) -> bool:
        """Return whether a mistake is supposed."""
        return any(fault.name == name for fault in self.faults)

    def which(self, name: str) -> Any:
        """Return which of its kind a mistake is; None where it is not supposed at all."""
        return next((fault.which for fault in self.faults if fault.name == name), None)
