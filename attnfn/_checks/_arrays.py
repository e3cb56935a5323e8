"""What kind of object an array is: its library, its device, its dtype."""

from typing import Any

from .._backend import (
    describe_kind,
    device,
    has_dtype,
    is_autocasting,
    is_real,
    library_name,
    namespace,
)
from .._typing import Array, Namespace
from ._words import agree, dtype_name, is_absent, listed, shape_of, shown, shown_dtype

__all__ = [
    "check_array",
    "check_bias_dtype",
    "check_dtype",
    "check_dtype_exists",
    "check_fits_positions",
    "check_floating",
    "check_floating_dtype",
    "check_has_dtype",
    "check_keep_mask",
    "check_mask_dtype",
    "check_namespace",
    "check_one_device",
    "check_one_dtype",
    "check_one_library",
    "check_weights",
]

#: What may be a function of positions instead of an array. `bias` is also a parameter's name.
FUNCTIONS = ("mask", "dropout_mask")


def check_array(name: str, x: Any, /) -> None:
    if namespace(x) is not None:
        return
    kind = "None" if x is None else describe_kind(x)
    if hasattr(x, "shape") and hasattr(x, "dtype") and not is_real(x):
        msg = (
            f"`{name}` is a {kind}, which has no Array API namespace. "
            f"Convert it to a NumPy, JAX or PyTorch array first."
        )
    else:
        also = " or a function of (q_pos, kv_pos)" if name in FUNCTIONS else ""
        msg = (
            f"`{name}` must be an array{also}; got {kind}. "
            f"Make one with `asarray` of NumPy, JAX or PyTorch."
        )
    raise TypeError(msg)


def check_one_library(**arrays: Array) -> Namespace:
    """Return the namespace that all the arrays share."""
    first, *others = arrays.values()
    xp = namespace(first)
    # Arrays of one class are of one library.
    if xp is None or any(type(x) is not type(first) and namespace(x) is not xp for x in others):
        for name, x in arrays.items():
            check_array(name, x)
        what = ", ".join(f"`{name}` is a {describe_kind(x)}" for name, x in arrays.items())
        msg = f"All arrays must come from one Array API library; {what}."
        raise TypeError(msg)
    return xp


def check_one_device(**arrays: Array) -> None:
    found = [device(x) for x in arrays.values()]
    known = [where for where in found if where is not None]
    if known and known.count(known[0]) != len(known):
        what = ", ".join(
            f"`{name}` is on {where}" for name, where in zip(arrays, found, strict=True)
        )
        msg = f"All arrays must be on one device; {what}. Move them to one first."
        raise ValueError(msg)


def check_namespace(xp: Any, /, **arrays: Array) -> None:
    """Check that a namespace asked for is one, and is that of the arrays given."""
    if not hasattr(xp, "asarray") or not hasattr(xp, "arange"):
        got = getattr(xp, "__name__", None) or shown(xp)
        msg = f"`xp` must be an array namespace, such as numpy or torch; got {got}."
        raise TypeError(msg)
    for name, x in arrays.items():
        own = namespace(x)
        if own is None or library_name(own) != library_name(xp):
            msg = (
                f"`{name}` must be an array of the library in `xp`, {library_name(xp)}; "
                f"got a {describe_kind(x)}."
            )
            raise TypeError(msg)


def check_dtype(
    kind: str | tuple[str, ...], /, *, xp: Namespace, hint: str = "", **arrays: Array
) -> None:
    for name, x in arrays.items():
        if not xp.isdtype(x.dtype, kind):
            words = {
                "integral": "an integer",
                "real floating": "a real floating",
                "bool": "a bool",
            }
            kinds = (kind,) if isinstance(kind, str) else kind
            msg = (
                f"`{name}` must have {listed((words[k] for k in kinds), word='or')} dtype; "
                f"got {dtype_name(x.dtype)}.{hint}"
            )
            raise TypeError(msg)


def check_floating(*, xp: Namespace, **arrays: Array) -> None:
    for name, x in arrays.items():
        # To ask for the kind of a dtype takes much longer than to compare two.
        if x.dtype not in (xp.float32, xp.float64):
            hint = " Cast it to float32 first."
            check_dtype("real floating", xp=xp, hint=hint, **{name: x})


def check_one_dtype(**arrays: Array) -> None:
    dtypes = [x.dtype for x in arrays.values()]
    if dtypes.count(dtypes[0]) != len(dtypes):
        odd = [f"`{name}`" for name, x in arrays.items() if x.dtype != dtypes[0]]
        msg = (
            f"{listed(f'`{name}`' for name in arrays)} must share one dtype; "
            f"got {listed(dtype_name(dtype) for dtype in dtypes)}. "
            f"Cast {listed(odd)} to {dtype_name(dtypes[0])}, or all to another."
        )
        raise TypeError(msg)


def check_weights(**arrays: Array) -> Namespace:
    """Check what features and their weights must have in common; return their namespace."""
    given = {name: x for name, x in arrays.items() if not is_absent(x)}
    xp = check_one_library(**given)
    check_one_device(**given)
    check_floating(xp=xp, **given)
    # Under torch.autocast a half meets float32 weights, and the library settles it.
    if not any(map(is_autocasting, given.values())):
        check_one_dtype(**given)
    return xp


def check_mask_dtype(name: str, x: Array, /, *, xp: Namespace) -> None:
    hint = " True marks a weight that is kept."
    if name.startswith("mask"):
        hint = (
            " True marks a key that the query may attend to. To add numbers to the scores, "
            "use `bias`; to make a mask from token ids, use token_padding_mask."
        )
    check_dtype("bool", xp=xp, hint=hint, **{name: x})


def check_bias_dtype(name: str, x: Array, /, *, xp: Namespace) -> None:
    if xp.isdtype(x.dtype, "bool"):
        msg = (
            f"`{name}` must have a real floating dtype; got bool. "
            f"To hide keys with True and False, use `mask`."
        )
        raise TypeError(msg)
    check_floating(xp=xp, **{name: x})


def check_fits_positions(q_offset: int, dtype: Any, /, *, xp: Namespace) -> None:
    """Python's integers have no end; a library's positions have."""
    if abs(q_offset) < 2**30 - 1:
        return  # all of them have this much room
    limit = int(xp.iinfo(dtype).max) // 2
    if abs(q_offset) > limit:
        msg = (
            f"`q_offset` must lie between -{limit} and {limit}, to fit into "
            f"{dtype_name(dtype)} positions; got {q_offset}."
        )
        raise ValueError(msg)


def check_floating_dtype(name: str, dtype: Any, /, *, xp: Namespace) -> None:
    """Check that `dtype` is one of the library's, and one that its arrays can have."""
    # JAX takes names and Python's types for dtypes, the others do not.
    is_foreign = isinstance(dtype, str) or getattr(dtype, "__module__", "") == "builtins"
    try:
        is_floating = not is_foreign and xp.isdtype(dtype, "real floating")
    except (TypeError, ValueError, AttributeError):
        is_floating = False
    if not is_floating:
        msg = (
            f"`{name}` must be a real floating dtype of {library_name(xp)}; "
            f"got {shown_dtype(dtype)}."
        )
        raise TypeError(msg)
    check_dtype_exists(name, dtype, xp=xp)


def check_dtype_exists(name: str, dtype: Any, /, *, xp: Namespace) -> None:
    if not has_dtype(dtype, xp):
        msg = (
            f"`{name}` must be a dtype that is switched on; got {dtype_name(dtype)}. "
            f"JAX has it after jax.config.update('jax_enable_x64', True)."
        )
        raise TypeError(msg)


def check_has_dtype(name: str, dtype: str, /, *, xp: Namespace) -> None:
    """Check that a library has a dtype of some name at all."""
    if not hasattr(xp, dtype):
        msg = f"`{name}` must be a dtype of {library_name(xp)}; got {dtype!r}."
        raise TypeError(msg)


def check_keep_mask(name: str, x: Array, shape: tuple[int, ...], /, *, xp: Namespace) -> None:
    """Check a dropout mask of features: their axes, each the same or 1."""
    check_mask_dtype(name, x, xp=xp)
    own = shape_of(x)
    if len(own) != len(shape) or not all(
        n == 1 or agree(n, m) for n, m in zip(own, shape, strict=True)
    ):
        msg = (
            f"`{name}` must have the shape of what is dropped, {shape}, where an axis may be "
            f"1; got shape {own}."
        )
        raise ValueError(msg)
