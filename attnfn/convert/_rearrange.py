"""What carries out a `Layout`: the same steps for every library, there and back."""

import itertools
import math
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, TypeAlias

from .._checks import (
    check_axes,
    check_choice,
    check_flat,
    check_heads_known,
    check_integer,
    check_not_nested,
    check_one_library,
    check_same_names,
    check_text,
    shape_of,
)
from .._typing import Array, Namespace
from ._layouts import AXES, Form, Layout, Layouts

__all__ = ["read", "write"]

Names: TypeAlias = Callable[[Layout, Collection[str]], list[str]]

#: What is known of sizes before any array is seen: a number among AXES is its own.
SIZES = {"2": 2, "3": 3}


class Sides(NamedTuple):
    """The axes of a linear map: those that are summed over, and those that come out."""

    inner: list[str]
    outer: list[str]

    def stored(self, form: Form, /) -> list[list[str]]:
        """Return the axes as they lie in an array; those in one list share an axis of it."""
        if form == "heads":
            return [[axis] for axis in self.inner + self.outer]
        sides = [self.outer, self.inner] if form == "rows" else [self.inner, self.outer]
        return [side for side in sides if side]


def read(
    weights: Mapping[str, Array],
    layouts: Layouts,
    layout_name: str,
    /,
    *,
    num_heads: int | None,
    prefix: str,
) -> dict[str, Array]:
    """Return parameters by our names, from weights of another library by its names."""
    check_choice("layout", layout_name, tuple(layouts))
    check_text("prefix", prefix)
    check_flat("weights", weights)
    given = [name.removeprefix(prefix) for name in weights if name.startswith(prefix)]
    for name in given:
        check_not_nested(f"weights[{prefix + name!r}]", weights[prefix + name])
    layout = min(layouts[layout_name], key=lambda layout: _misfits(_their_names, layout, given))
    check_same_names(
        [prefix + name for name in _their_names(layout, given)],
        [prefix + name for name in given],
        rule=f"`weights` must hold what the layout {layout_name!r} has names for",
    )
    sizes = dict(SIZES)
    if num_heads is not None:
        check_integer("num_heads", num_heads, least=1)
        sizes["num_heads"] = num_heads
    elif layout.form != "heads":
        check_heads_known(layout_name)

    stored = {path: prefix + name for path, name in layout.names.items() if name in given}
    arrays = {path: weights[name] for path, name in stored.items()}
    xp = check_one_library(**{f"weights[{stored[path]!r}]": x for path, x in arrays.items()})
    params: dict[str, Array] = {}
    for path, x in arrays.items():
        sides = _sides(path, layout)
        axes = sides.stored(layout.form)
        sizes |= check_axes(f"weights[{stored[path]!r}]", x, axes, sizes)
        x = _unpacked(x, sides, layout.form, sizes, xp=xp)
        params |= _apart(path, x, arrays, xp=xp)
    return params


def write(
    params: Mapping[str, Array],
    layouts: Layouts,
    layout_name: str,
    /,
    *,
    prefix: str,
) -> dict[str, Array]:
    """Return weights by the names of another library, from parameters by ours, not joined."""
    check_choice("layout", layout_name, tuple(layouts))
    check_text("prefix", prefix)
    layout = min(
        layouts[layout_name],
        key=lambda layout: (
            _misfits(_our_names, layout, params),
            _unlike(layout, params),
        ),
    )
    check_same_names(
        _our_names(layout, params),
        params,
        rule=f"`params` must hold what the layout {layout_name!r} has names for",
    )
    xp = check_one_library(**{f"params.{path}": x for path, x in params.items()})
    sizes = dict(SIZES)
    for path, x in params.items():
        axes = _sides(path, layout).stored("heads")
        sizes |= check_axes(f"params.{path}", x, axes, sizes)

    weights = {}
    for path, name in layout.names.items():
        parts = [params[part] for part in _parts(path) if part in params]
        if parts:
            x = xp.stack(parts, axis=-3) if len(parts) > 1 else parts[0]
            weights[prefix + name] = _packed(x, _sides(path, layout), layout.form, sizes, xp=xp)
    return weights


def _misfits(names: Names, layout: Layout, given: Collection[str], /) -> int:
    """Count the names that are missing or left over."""
    return len(set(names(layout, given)) ^ set(given))


def _their_names(layout: Layout, given: Collection[str], /) -> list[str]:
    """Return the names that weights must have, with those of `given` that they may have."""
    names = [
        name
        for path, name in layout.names.items()
        if path not in layout.optional or name in given
    ]
    return names + [name for name in given if name in layout.beside]


def _our_names(layout: Layout, given: Collection[str], /) -> list[str]:
    """Return the names that parameters must have, with those of `given` that they may have."""
    return [
        part
        for path in layout.names
        for part in _parts(path)
        if path not in layout.optional or part in given
    ]


def _parts(path: str, /) -> list[str]:
    """Return what is joined in one array: "b_kv" is "b_k" and "b_v"."""
    stem, _, letters = path.rpartition("_")
    return [f"{stem}_{letter}" for letter in letters] if letters in ("qkv", "kv") else [path]


def _unlike(layout: Layout, params: Mapping[str, Array], /) -> int:
    """Count the arrays that cannot be joined, since their parts differ in shape."""
    shapes = (
        {shape_of(params[part]) for part in _parts(path) if part in params}
        for path in layout.names
    )
    return sum(len(found) > 1 for found in shapes)


def _sides(path: str, layout: Layout, /) -> Sides:
    inner, outer = (side.split() for side in AXES[path.rpartition(".")[2]].split("->"))
    return Sides(*([layout.same.get(axis, axis) for axis in side] for side in (inner, outer)))


def _unpacked(
    x: Array, sides: Sides, form: Form, sizes: Mapping[str, int], /, *, xp: Namespace
) -> Array:
    """Give each axis of what another library stores one of its own, in our order."""
    axes = itertools.chain(*sides.stored(form))
    x = xp.reshape(x, tuple(sizes[axis] for axis in axes))
    return _rotated(x, len(sides.outer), xp=xp) if form == "rows" else x


def _packed(
    x: Array, sides: Sides, form: Form, sizes: Mapping[str, int], /, *, xp: Namespace
) -> Array:
    """Do the inverse of `_unpacked`."""
    x = _rotated(x, len(sides.inner), xp=xp) if form == "rows" else x
    groups = sides.stored(form)
    return xp.reshape(x, tuple(math.prod(sizes[axis] for axis in group) for group in groups))


def _rotated(x: Array, n: int, /, *, xp: Namespace) -> Array:
    """Move the first `n` axes behind the others."""
    return xp.permute_dims(x, (*range(n, x.ndim), *range(n)))


def _apart(
    path: str, x: Array, paths: Collection[str], /, *, xp: Namespace
) -> dict[str, Array]:
    """Part what is joined along axis -3, unless the parameters may be joined too."""
    parts = _parts(path)
    if len(parts) == 1:
        return {path: x}
    module = path[: path.rindex("_") - 1]
    if f"{module}w_qkv" in paths:
        *before, n, num_heads, dim = x.shape
        return {path: xp.reshape(x, (*before, n * num_heads, dim))}
    return {part: x[..., i, :, :] for i, part in enumerate(parts)}
