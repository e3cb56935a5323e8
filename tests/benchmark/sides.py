"""From the name of a side to its call."""

import importlib

from .cases import SIDES

__all__ = ["engine_of", "side"]


def loaded(path):
    """Import a function by its path; only what a comparison needs is ever imported."""
    module, _, function = path.partition(":")
    try:
        return getattr(importlib.import_module(f".{module}", __package__), function)
    except ModuleNotFoundError as error:
        reason = f"{error.name} is not installed"
        raise NotImplementedError(reason) from error


def side(label, work, path=None):
    """Return a function without arguments that does the work and waits for its result."""
    label, _, engine = label.partition(", ")
    make = loaded(path or SIDES[label])
    try:
        return make(work, engine) if engine else make(work)
    except ModuleNotFoundError as error:  # some are imported where they are used
        reason = f"{error.name} is not installed"
        raise NotImplementedError(reason) from error


def engine_of(label, work):
    """Return what "auto" chooses for a side of ours, or None where it is no choice."""
    if not label.startswith("attnfn on ") or "," in label:
        return None
    return loaded(SIDES[label].partition(":")[0] + ":engine_of")(work)
