"""Parameters as trees of arrays: drawing them, and giving every leaf a name."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from ._backend import chosen_namespace, from_numpy, numpy_generator, numpy_namespace
from ._checks import (
    check_choice,
    check_distinct,
    check_flat,
    check_floating_dtype,
    check_leaf,
    check_namespace,
    check_path,
    check_rng,
    check_same_names,
    check_same_shape,
    is_absent,
)
from ._typing import Array, Namespace

__all__ = ["Initialiser", "Maker", "flatten_params", "unflatten_params"]

Params = TypeVar("Params")

INITS = ("xavier", "orthogonal", "normal")

#: The standard deviation of "normal": that of BERT and GPT-2.
NORMAL_STD = 0.02


def flatten_params(params: Any, /) -> dict[str, Array]:
    """
    Give every array in a tree of parameters a name.

    The names are paths, such as ``layers.0.attention.w_q``. A flat dict of arrays is what
    safetensors, ``numpy.savez`` and ``torch.save`` take. ``torch.nn.ParameterDict`` does too,
    where no name has a dot: replace it, ``name.replace(".", "/")``, and back.

    Parameters
    ----------
    params : tree
        NamedTuples, tuples, lists and dicts of arrays, nested as you like. ``()`` stands
        for an absent parameter, and gets no name.

    Returns
    -------
    dict of str to array
        The arrays, in the order of the tree; none is copied.

    Raises
    ------
    ValueError
        If a name in the tree holds a dot, so that paths would not be unique.
    TypeError
        If a leaf is not an array; an absent parameter is ``()``, not None.

    See Also
    --------
    unflatten_params : The way back.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> params = {"layers": [{"w": np.ones(2), "b": ()}, {"w": np.zeros(2), "b": ()}]}
    >>> flat = af.flatten_params(params)
    >>> list(flat)
    ['layers.0.w', 'layers.1.w']
    >>> af.unflatten_params(params, flat)["layers"][1]
    {'w': array([0., 0.]), 'b': ()}
    """
    return dict(_leaves(params, ""))


def unflatten_params(like: Params, flat: Mapping[str, Array], /) -> Params:
    """
    Put named arrays back into a tree of parameters.

    Parameters
    ----------
    like : tree
        A tree of the same form, as it was given to `flatten_params`. Its arrays say what
        shapes are expected, and are not used otherwise; an absent ``()`` stays absent.
    flat : dict of str to array
        The arrays by name, of any library.

    Returns
    -------
    tree
        Like `like`, with the arrays of `flat`; none is copied.

    Raises
    ------
    ValueError
        If names are missing or left over (all of them are told), or a shape differs.
    TypeError
        If a leaf of `like` is not an array.

    See Also
    --------
    flatten_params : The way there.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> af.unflatten_params((np.zeros(1), [np.zeros(1), ()]), {"0": [1.0], "1.0": [2.0]})
    Traceback (most recent call last):
        ...
    TypeError: `0` must be an array; got list. Make one with `asarray` of NumPy, JAX or PyTorch.
    >>> af.unflatten_params({"w": np.zeros(1)}, {"v": np.ones(1)})
    Traceback (most recent call last):
        ...
    ValueError: `flat` must hold the names of `like`; 'w' is missing and 'v' is left over.
    """
    check_flat("flat", flat)
    check_same_names(dict(_leaves(like, "")), flat)
    return _filled(like, flat, "")


def _leaves(node: Any, path: str, /) -> Iterator[tuple[str, Array]]:
    children = _children(node)
    if children is None:
        check_leaf(path or "params", node)
        yield path, node
        return
    for name, child in children.items():
        check_path(name)
        yield from _leaves(child, f"{path}.{name}" if path else name)


def _filled(node: Any, flat: Mapping[str, Array], path: str, /) -> Any:
    children = _children(node)
    if children is None:
        check_leaf(path, flat[path])
        check_same_shape(path, flat[path], node)
        return flat[path]
    new = [_filled(x, flat, f"{path}.{name}" if path else name) for name, x in children.items()]
    if hasattr(node, "_fields"):
        return type(node)(*new)
    return type(node)(zip(node, new, strict=True) if isinstance(node, Mapping) else new)


def _children(node: Any, /) -> dict[str, Any] | None:
    """Return the named children of a node, None for a leaf."""
    if hasattr(node, "_fields"):
        return dict(zip(node._fields, node, strict=True))
    if isinstance(node, Mapping):
        names = [str(name) for name in node]
        check_distinct(names)
        return dict(zip(names, node.values(), strict=True))
    if isinstance(node, tuple | list):
        return {str(i): x for i, x in enumerate(node)}
    return None


class Maker:
    """Makes parameters of a library, of arrays of NumPy's."""

    def __init__(self, *, xp: Namespace | None, dtype: Any, device: Any) -> None:
        if xp is not None:
            check_namespace(xp)
        self.device = device
        self.xp = chosen_namespace(xp)
        self.dtype = self.xp.float32 if dtype is None else dtype
        check_floating_dtype("dtype", self.dtype, xp=self.xp)

    def zeros(self, shape: tuple[int, ...], /) -> Any:
        """Return what a bias begins with."""
        return numpy_namespace.zeros(shape)

    def ones(self, shape: tuple[int, ...], /) -> Any:
        """Return what a factor begins with."""
        return numpy_namespace.ones(shape)

    def finished(self, x: Any, /) -> Array:
        """Turn NumPy's array into a parameter; what is absent stays so."""
        return x if is_absent(x) else from_numpy(x, self.xp, self.dtype, self.device)


class Initialiser(Maker):
    """Draws matrices, the same ones on every library: in float64 by NumPy, then rounded."""

    def __init__(
        self, init: str, rng: Any, *, xp: Namespace | None, dtype: Any, device: Any
    ) -> None:
        check_choice("init", init, INITS)
        check_rng(rng, numpy_generator)
        super().__init__(xp=xp, dtype=dtype, device=device)
        self.init, self.rng = init, rng

    def matrix(self, fan_in: int, fan_out: int, /) -> Any:
        """Draw a (fan_in, fan_out) matrix of NumPy's."""
        if self.init == "xavier":
            bound = math.sqrt(6 / max(1, fan_in + fan_out))
            return self.rng.uniform(-bound, bound, size=(fan_in, fan_out))
        if self.init == "normal":
            return self.rng.normal(0.0, NORMAL_STD, size=(fan_in, fan_out))
        tall = self.rng.normal(size=(max(fan_in, fan_out), min(fan_in, fan_out)))
        q, r = numpy_namespace.linalg.qr(tall)
        # QR leaves the signs open; with those of r's diagonal the draw is uniform.
        diagonal = numpy_namespace.linalg.diagonal(r)
        q = q * numpy_namespace.where(diagonal < 0, -1.0, numpy_namespace.ones_like(diagonal))
        return q if fan_in >= fan_out else q.T

    def joined(self, *xs: Any) -> Any:
        """Lay the heads of several weights side by side."""
        return numpy_namespace.concat(xs, axis=1)
