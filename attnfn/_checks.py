"""The questions asked of arguments, and the words for a wrong answer."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ._backend import (
    describe_kind,
    device,
    has_dtype,
    is_autocasting,
    is_bool,
    is_integer,
    is_real,
    library_name,
    namespace,
    numpy_namespace,
)
from ._typing import Array, Namespace

__all__ = [
    "agree",
    "check_able",
    "check_above",
    "check_activated",
    "check_activation",
    "check_array",
    "check_axes",
    "check_bias_axes",
    "check_bias_dtype",
    "check_bool",
    "check_broadcast",
    "check_cache",
    "check_causal_lengths",
    "check_choice",
    "check_closed_form",
    "check_distinct",
    "check_divides",
    "check_dropout",
    "check_dropout_masks",
    "check_dtype",
    "check_dtype_exists",
    "check_embedding_sizes",
    "check_epsilon",
    "check_equal_sizes",
    "check_even",
    "check_exact_ndim",
    "check_exact_shape",
    "check_factors",
    "check_features",
    "check_fits_positions",
    "check_flat",
    "check_floating",
    "check_floating_dtype",
    "check_function",
    "check_fused_heads",
    "check_fused_widths",
    "check_has_dtype",
    "check_head_dim",
    "check_head_split",
    "check_heads_known",
    "check_integer",
    "check_keep_mask",
    "check_key_mask",
    "check_kind_of_params",
    "check_kv_heads",
    "check_leaf",
    "check_leaves",
    "check_map",
    "check_mask_axes",
    "check_mask_dtype",
    "check_memory",
    "check_modified_scores",
    "check_multiple",
    "check_namespace",
    "check_ndim",
    "check_new_tokens",
    "check_not_nested",
    "check_one_batch",
    "check_one_device",
    "check_one_dtype",
    "check_one_library",
    "check_one_shape",
    "check_one_square",
    "check_options",
    "check_pair",
    "check_pair_saved",
    "check_params",
    "check_partners",
    "check_parts",
    "check_path",
    "check_position_axes",
    "check_primals",
    "check_qkv_ndim",
    "check_real",
    "check_rng",
    "check_rotary_axes",
    "check_same_names",
    "check_same_shape",
    "check_scale",
    "check_scaled",
    "check_scaling",
    "check_shape",
    "check_share",
    "check_sizes_meet",
    "check_softcap",
    "check_some_layers",
    "check_some_position",
    "check_state_shape",
    "check_table_length",
    "check_tangent_shape",
    "check_tangents",
    "check_text",
    "check_unambiguous",
    "check_upstream",
    "check_weights",
    "check_window",
    "dtype_name",
    "is_absent",
    "shape_of",
]

LAYOUTS = {
    "query": "(..., num_heads, q_len, head_dim)",
    "key": "(..., num_kv_heads, kv_len, head_dim)",
    "value": "(..., num_kv_heads, kv_len, value_dim)",
}

#: What may be a function of positions instead of an array. `bias` is also a parameter's name.
FUNCTIONS = ("mask", "dropout_mask")

# ------------------------------------------------------------------ what kind of object it is


def shape_of(x: Array, /) -> tuple[int, ...]:
    return tuple(x.shape)


def dtype_name(dtype: Any, /) -> str:
    """Return "float32" for every library's float32."""
    name = getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or str(dtype)
    return str(name).rpartition(".")[2]


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
        got = getattr(xp, "__name__", None) or _shown(xp)
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
                f"`{name}` must have {_listed((words[k] for k in kinds), word='or')} dtype; "
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
            f"{_listed(f'`{name}`' for name in arrays)} must share one dtype; "
            f"got {_listed(dtype_name(dtype) for dtype in dtypes)}. "
            f"Cast {_listed(odd)} to {dtype_name(dtypes[0])}, or all to another."
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


# ------------------------------------------------------------------------- one plain choice


def check_options(function: str, given: Collection[str], known: Collection[str], /) -> None:
    for name in given:
        if name not in known:
            msg = f"{function}() has no option `{name}`; it takes {_listed(sorted(known))}."
            raise TypeError(msg)


def check_choice(name: str, choice: Any, known: Sequence[str], /) -> None:
    if not isinstance(choice, str) or choice not in known:
        msg = f"`{name}` must be one of {', '.join(map(repr, known))}; got {choice!r}."
        raise ValueError(msg)


def check_activation(activation: Any, known: Sequence[str], /) -> None:
    if not callable(activation) and activation not in known:
        names = ", ".join(map(repr, known))
        msg = (
            f"`activation` must be one of {names}, or a function of one array; "
            f"got {_shown(activation)}. SwiGLU is 'silu' with parameters that have a w_gate."
        )
        raise ValueError(msg)


def check_epsilon(epsilon: Any, /) -> None:
    check_real("epsilon", epsilon)
    if not 0 <= epsilon < math.inf:
        msg = f"`epsilon` must be 0 or more, and finite; got {epsilon}."
        raise ValueError(msg)


def check_able(engine: str, obstacle: str | None, /) -> None:
    """Check that nothing keeps an engine from computing a problem."""
    if obstacle is not None:
        msg = (
            f"`engine` must be one that can do what is asked; {engine!r} cannot do {obstacle}. "
            f"Use 'auto' or 'dense'."
        )
        raise NotImplementedError(msg)


def check_closed_form(function: str, score_mod: Any, /) -> None:
    if score_mod is not None:
        msg = (
            f"`score_mod` must be None in {function}(), since the derivative of a function has "
            f"no closed form; got one. Differentiate attention() by the library's own means, "
            f"such as torch.autograd or jax.grad."
        )
        raise NotImplementedError(msg)


def check_pair_saved(saved: Any, /) -> None:
    if not isinstance(saved, tuple | list) or len(saved) != 2:
        msg = (
            f"`saved` must be a pair (out, lse), as attention_with_lse() returns it; "
            f"got {_shown_kind(saved)}."
        )
        raise TypeError(msg)


def check_upstream(gradients: Any, /, **above: Any) -> None:
    """Check that gradients come with those that they were computed from."""
    if gradients is not None and above["d_out"] is None:
        msg = (
            "`gradients` must come with `d_out`, the gradient of the output that they were "
            "computed from; got None."
        )
        raise ValueError(msg)
    for name, x in above.items():
        if gradients is None and x is not None:
            msg = f"`{name}` must be None without `gradients`; got {_shown_kind(x)}."
            raise ValueError(msg)
    if gradients is not None and not (
        isinstance(gradients, tuple | list) and 1 <= len(gradients) <= 5
    ):
        msg = (
            f"`gradients` must be a tuple (query, key, value, bias, sinks), or the first of "
            f"them; got {_shown_kind(gradients)}."
        )
        raise TypeError(msg)


def check_primals(primals: Any, /) -> None:
    if not isinstance(primals, tuple | list) or len(primals) != 3:
        msg = (
            f"`primals` must be a tuple (query, key, value); got {_shown_kind(primals)}. "
            f"`bias` and `sinks` are options, as in attention()."
        )
        raise TypeError(msg)


def check_tangents(tangents: Any, /) -> None:
    if not isinstance(tangents, tuple | list) or not 3 <= len(tangents) <= 5:
        msg = (
            f"`tangents` must be a tuple (query, key, value), with bias and sinks after them "
            f"if these change, too; got {_shown_kind(tangents)}. What does not change is ()."
        )
        raise TypeError(msg)


def check_tangent_shape(name: str, x: Array, argument: str, given: Any, /) -> None:
    """Check that a tangent has an argument to change, and its shape."""
    if given is None or callable(given):
        got = "not given" if given is None else "a function"
        msg = (
            f"`{name}` must be () unless there is an array `{argument}` to change; got shape "
            f"{shape_of(x)} where `{argument}` is {got}."
        )
        raise ValueError(msg)
    own, wanted = shape_of(x), () if namespace(given) is None else shape_of(given)
    if len(own) != len(wanted) or not all(map(agree, own, wanted)):
        msg = f"`{name}` must have the shape of `{argument}`, here {wanted}; got shape {own}."
        raise ValueError(msg)


def check_bool(name: str, x: Any, /) -> None:
    if not is_bool(x):
        msg = f"`{name}` must be True or False; got {_shown(x)}."
        raise TypeError(msg)


def check_integer(name: str, x: Any, /, *, least: int | None = None, also: str = "") -> None:
    if not is_integer(x):
        msg = f"`{name}` must be an int{also and f' or {also}'}; got {_shown(x)}."
        raise TypeError(msg)
    if least is not None and x < least:
        msg = f"`{name}` must be {least} or more; got {x}."
        raise ValueError(msg)


def check_real(name: str, x: Any, /, *, also: str = "") -> None:
    if not is_real(x):
        msg = f"`{name}` must be a number{also and f' or {also}'}; got {_shown(x)}."
        raise TypeError(msg)


def check_above(name: str, x: Any, bound: float, /) -> None:
    check_real(name, x)
    if not bound < x < math.inf:
        msg = f"`{name}` must be finite and greater than {bound}; got {x}."
        raise ValueError(msg)


def check_even(name: str, x: Any, /) -> None:
    """Check a number of features that come in pairs."""
    check_integer(name, x, least=2)
    if x % 2:
        msg = f"`{name}` must be even, since features come in pairs; got {x}."
        raise ValueError(msg)


def check_shape(name: str, x: Any, /) -> None:
    """Check what gives some axes: their sizes, or one."""
    for n in x if isinstance(x, tuple | list) else (x,):
        if not is_integer(n):
            msg = f"`{name}` must be an int or a tuple of ints; got {_shown(x)}."
            raise TypeError(msg)
        if n < 0:
            msg = f"`{name}` must hold sizes of 0 or more; got {x}."
            raise ValueError(msg)


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


def check_scaling(scaling: Any, /) -> None:
    if not callable(scaling):
        msg = (
            f"`scaling` must be a function of (frequencies, length), such as "
            f"LinearScaling(4.0); got {_shown(scaling)}."
        )
        raise TypeError(msg)


def check_scaled(scaled: Any, n: int, /, **arrays: Array) -> tuple[Any, float]:
    """Check what a scaling returned: so many frequencies, or an array of them, and a factor."""
    if not isinstance(scaled, tuple | list) or len(scaled) != 2:
        msg = (
            f"`scaling` must return a pair (frequencies, attention_factor); "
            f"got {_shown_kind(scaled)}."
        )
        raise TypeError(msg)
    frequencies, factor = scaled
    if isinstance(frequencies, tuple | list):
        own: tuple[int, ...] = (len(frequencies),)
    else:
        if namespace(frequencies) is not numpy_namespace:
            check_one_library(**arrays, **{"scaling(frequencies, length)": frequencies})
        own = shape_of(frequencies)
    if own[-1:] != (n,):
        msg = f"`scaling` must return dim / 2 = {n} frequencies; got shape {own}."
        raise ValueError(msg)
    return frequencies, factor


def check_factors(name: str, factors: Any, n: int, /) -> None:
    if len(factors) != n:
        msg = f"`{name}` must hold dim / 2 = {n} numbers; got {len(factors)}."
        raise ValueError(msg)


def check_text(name: str, x: Any, /) -> None:
    if not isinstance(x, str):
        msg = f"`{name}` must be a str; got {_shown(x)}."
        raise TypeError(msg)


def check_pair(name: str, x: Any, /) -> None:
    if len(x) != 2:
        msg = (
            f"`{name}` must be one array of ids, or a pair of them for queries and keys; "
            f"got a {type(x).__name__} of {len(x)}."
        )
        raise ValueError(msg)


def check_function(name: str, x: Any, /) -> None:
    if x is not None and not callable(x):
        msg = (
            f"`{name}` must be a function of (scores, q_pos, kv_pos); got {_shown(x)}. "
            f"To add an array to the scores, use `bias`."
        )
        raise TypeError(msg)


def check_scale(scale: Any, /) -> None:
    xp = namespace(scale)
    if xp is not None:
        if scale.ndim != 0:
            msg = (
                f"`scale` must be one number; got shape {shape_of(scale)}. "
                f"For a scale per head, multiply `query` by it."
            )
            raise ValueError(msg)
        check_dtype(("integral", "real floating"), xp=xp, scale=scale)
    elif not is_real(scale):
        msg = f"`scale` must be a number or a 0-d array; got {_shown(scale)}."
        raise TypeError(msg)
    elif not -math.inf < scale < math.inf:
        msg = f"`scale` must be finite; got {scale}."
        raise ValueError(msg)


def check_softcap(softcap: Any, /) -> None:
    if softcap is None:
        return
    if not is_real(softcap):
        msg = (
            f"`softcap` must be a number; got {_shown(softcap)}. "
            f"For a cap that is an array, use `score_mod`."
        )
        raise TypeError(msg)
    if not 0 < softcap < math.inf:
        msg = f"`softcap` must be positive and finite; got {softcap}. None means no cap."
        raise ValueError(msg)


def check_dropout(dropout_mask: Any, dropout_rate: Any, /) -> None:
    if dropout_mask is None and dropout_rate is None:
        return
    if dropout_mask is None:
        msg = (
            f"`dropout_rate` needs a `dropout_mask`; got dropout_rate={_shown(dropout_rate)} "
            f"alone. Draw one that is True with probability 1 - dropout_rate."
        )
        raise ValueError(msg)
    if dropout_rate is None:
        msg = (
            "`dropout_mask` needs a `dropout_rate`; got None. "
            "Pass the rate that the mask was drawn with; 0.0 means no rescaling."
        )
        raise ValueError(msg)
    _check_dropout_rate(dropout_rate)


def check_dropout_masks(dropout_masks: Any, dropout_rate: Any, kind: type, /) -> None:
    if dropout_masks is None and dropout_rate is None:
        return
    if dropout_masks is None:
        msg = (
            f"`dropout_rate` needs `dropout_masks`; got dropout_rate={_shown(dropout_rate)} "
            f"alone. Draw {kind.__name__} that are True with probability 1 - dropout_rate."
        )
        raise ValueError(msg)
    check_kind_of_params("dropout_masks", dropout_masks, kind)
    if dropout_rate is None:
        msg = (
            "`dropout_masks` need a `dropout_rate`; got None. "
            "Pass the rate that the masks were drawn with; 0.0 means no rescaling."
        )
        raise ValueError(msg)
    _check_dropout_rate(dropout_rate)


def _check_dropout_rate(dropout_rate: Any, /) -> None:
    if not is_real(dropout_rate):
        msg = f"`dropout_rate` must be a number; got {_shown(dropout_rate)}."
        raise TypeError(msg)
    if not 0 <= dropout_rate < 1:
        msg = f"`dropout_rate` must be in [0, 1); got {dropout_rate}."
        raise ValueError(msg)


def check_share(name: str, x: Any, /) -> None:
    check_real(name, x)
    if not 0 <= x <= 1:
        msg = f"`{name}` must be in [0, 1]; got {x}."
        raise ValueError(msg)


def check_window(window_size: Any, /, *, is_needed: bool = False) -> None:
    if window_size is None and not is_needed:
        return
    if is_integer(window_size):
        n = max(1, window_size)
        msg = (
            f"`window_size` must be a pair (left, right); got {window_size}. Libraries read "
            f"one number in several ways: ({n}, {n}) looks both ways, ({n}, 0) back over {n} "
            f"keys and itself, ({n - 1}, 0) back over {n} keys in all; None is no bound."
        )
        raise TypeError(msg)
    if not isinstance(window_size, tuple | list) or len(window_size) != 2:
        msg = f"`window_size` must be a pair (left, right); got {_shown(window_size)}."
        raise TypeError(msg)
    for bound in window_size:
        if bound is not None and not is_integer(bound):
            msg = (
                f"`window_size` must hold two ints, or None for no bound; "
                f"got {_shown(window_size)}."
            )
            raise TypeError(msg)
        if bound is not None and bound < 0:
            msg = (
                f"`window_size` must hold bounds of 0 or more; got {tuple(window_size)}. "
                f"(left, right) means q_pos - left <= kv_pos <= q_pos + right; "
                f"None, not -1, is no bound."
            )
            raise ValueError(msg)


def check_unambiguous(options: dict[str, bool], q_len: int, kv_len: int, /) -> None:
    """Refuse to guess where the queries stand among the keys."""
    used = [name for name, is_used in options.items() if is_used]
    if used and not agree(q_len, kv_len):
        msg = (
            f"`{used[0]}` needs `q_offset` when q_len and kv_len differ; "
            f"got q_len={q_len}, kv_len={kv_len}. q_offset={kv_len - q_len} puts the queries "
            f"last, as in decoding from a cache; q_offset=0 puts them first, "
            f"as torch and JAX do."
        )
        raise ValueError(msg)


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
            f"got {_shown_dtype(dtype)}."
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


# ------------------------------------------------------------------------- sizes and shapes


def check_qkv_ndim(**arrays: Array) -> None:
    for name, x in arrays.items():
        if x.ndim < 2:
            check_ndim(name, x, 2, LAYOUTS[name])


def check_ndim(name: str, x: Array, least: int, layout: str, /) -> None:
    if x.ndim < least:
        msg = (
            f"`{name}` must have shape {layout}, with {least} or more axes; "
            f"got shape {shape_of(x)}."
        )
        raise ValueError(msg)


def check_exact_ndim(name: str, x: Array, ndim: int, layout: str, /) -> None:
    if x.ndim != ndim:
        msg = f"`{name}` must have shape {layout}; got shape {shape_of(x)}."
        raise ValueError(msg)


def check_equal_sizes(size: str, axis: int, /, **arrays: Array) -> None:
    """Check that one axis has the same size in all arrays."""
    sizes = [x.shape[axis] for x in arrays.values()]
    if not all(agree(n, sizes[0]) for n in sizes):
        msg = (
            f"{_listed(f'`{name}`' for name in arrays)} must have the same {size} "
            f"(axis {axis}): {_listed(map(str, sizes))}; "
            f"got shapes {_listed(str(shape_of(x)) for x in arrays.values())}."
        )
        raise ValueError(msg)


def check_sizes_meet(size: str, /, **ends: tuple[Array, int]) -> None:
    """Check that axes which are summed over together have the same size."""
    sizes = [x.shape[axis] for x, axis in ends.values()]
    if not agree(*sizes):
        where = _listed(f"axis {axis} of `{name}`" for name, (_, axis) in ends.items())
        msg = (
            f"{size} must be the same in {where}: {_listed(map(str, sizes))}; "
            f"got shapes {_listed(str(shape_of(x)) for x, _ in ends.values())}."
        )
        raise ValueError(msg)


def check_divides(num_heads: int, model_dim: int, shape: tuple[int, ...], /) -> None:
    if model_dim % num_heads:
        msg = (
            f"`num_heads` must divide model_dim, the last axis of `x`; "
            f"got num_heads={num_heads} for shape {shape}."
        )
        raise ValueError(msg)


def check_multiple(num_heads: int, num_kv_heads: int, /) -> None:
    if num_heads != num_kv_heads and (num_kv_heads == 0 or num_heads % num_kv_heads):
        msg = (
            f"`num_heads` must be a multiple of `num_kv_heads`, so that each key/value head "
            f"serves the same number of query heads; got num_heads={num_heads} and "
            f"num_kv_heads={num_kv_heads}. "
            f"Heads are axis -3: (..., num_heads, length, dim)."
        )
        raise ValueError(msg)


def check_kv_heads(**arrays: Array) -> None:
    """Check the heads of key and value: the same number, or one side has one."""
    heads = [x.shape[-3] for name, x in arrays.items() if name != "query" and x.ndim > 2]
    if len(heads) == 2 and 1 not in heads:
        key, value = arrays["key"], arrays["value"]
        check_equal_sizes("num_kv_heads", -3, key=key, value=value)


def check_head_dim(head_dim: int, /) -> None:
    if head_dim == 0:
        msg = (
            "`scale` must be given where head_dim is 0, since 1 / sqrt(0) is no number; "
            "got None."
        )
        raise ValueError(msg)


def check_broadcast(axes: str, /, **shapes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that the given ones broadcast to."""
    out: list[int] = []
    for i in range(1, 1 + max(map(len, shapes.values()))):
        sizes = [shape[-i] for shape in shapes.values() if len(shape) >= i]
        wide = [n for n in sizes if n != 1]
        if any(not agree(n, wide[0]) for n in wide):
            msg = (
                f"The {axes} of {_listed(f'`{name}`' for name in shapes)} must broadcast, so "
                f"be equal, 1 or absent; got {_listed(map(str, shapes.values()))}."
            )
            raise ValueError(msg)
        out.insert(0, wide[0] if wide else 1)
    return tuple(out)


def check_mask_axes(name: str, x: Array, shape: tuple[int, ...], /) -> None:
    """Check the axes of a mask against the scores': (kv_len,), (q_len, kv_len) or all."""
    own = shape_of(x)
    # A query or key with one axis has been refused, so the scores have two axes or more.
    if len(own) not in (1, 2, len(shape)):
        msg = (
            f"`{name}` must have shape (kv_len,), (q_len, kv_len), or one axis for each of the "
            f"scores {shape}; got shape {own}. Write {name}[:, None, None, :] for "
            f"(batch, kv_len), {name}[:, None] for (batch, q_len, kv_len)."
        )
        raise ValueError(msg)
    _check_fits(name, own, shape)


def check_bias_axes(name: str, x: Array, shape: tuple[int, ...], /) -> None:
    """Check the axes of a bias: a mask's, and (num_heads, q_len, kv_len)."""
    own = shape_of(x)
    if len(own) not in (1, 2, 3, len(shape)) or len(own) > len(shape):
        msg = (
            f"`{name}` must have shape (kv_len,), (q_len, kv_len), (num_heads, q_len, kv_len), "
            f"or one axis for each of the scores {shape}; got shape {own}. Write "
            f"{name}[:, None, None, :] for (batch, kv_len), {name}[:, None] for "
            f"(batch, q_len, kv_len)."
        )
        raise ValueError(msg)
    _check_fits(name, own, shape)


def _check_fits(name: str, own: tuple[int, ...], shape: tuple[int, ...], /) -> None:
    """Check that each axis is the scores' or 1; the result is never made larger."""
    hint = f" Write {name}[:, None, None, :] for (batch, kv_len)."
    for n, wanted in zip(reversed(own), reversed(shape), strict=False):
        if n != 1 and not agree(n, wanted):
            msg = (
                f"`{name}` must broadcast to the scores (..., num_heads, q_len, kv_len) = "
                f"{shape} without enlarging them; got shape {own}."
                f"{hint if len(own) == 2 else ''}"
            )
            raise ValueError(msg)


def check_rotary_axes(cos: Array, shape: tuple[int, ...], /) -> None:
    """Check the axes of cosines and sines against those of what is to be turned."""
    own = shape_of(cos)
    if len(own) not in (2, len(shape)):
        msg = (
            f"`cos` and `sin` must have shape (length, dim / 2), or one axis for each of `x` "
            f"{shape}; got shape {own}. Write cos[:, None] for (batch, length, dim / 2), which "
            f"is what rotary_angles() gives for positions of shape (batch, length)."
        )
        raise ValueError(msg)
    fits = all(
        n == 1 or agree(n, wanted)
        for n, wanted in zip(own[-2::-1], shape[-2::-1], strict=False)
    )
    if not fits or 2 * own[-1] > shape[-1]:
        msg = (
            f"`cos` and `sin` must have the length (axis -2) of `x`, at most half as many "
            f"features (axis -1), and broadcast to it without enlarging it; "
            f"got shape {own} for `x` of shape {shape}."
        )
        raise ValueError(msg)


def check_position_axes(apart: Array, /) -> None:
    """Check how far queries and keys are apart: an array with room for the axis of heads."""
    own = shape_of(apart)
    if len(own) < 2 or (len(own) > 2 and own[-3] != 1):
        msg = (
            f"`q_pos` and `kv_pos` must have shapes (q_len, 1) and (1, kv_len), or "
            f"(*batch, 1, q_len, 1) and (*batch, 1, 1, kv_len); got {own} when broadcast."
        )
        raise ValueError(msg)


def check_exact_shape(
    name: str, x: Array, shapes: Sequence[tuple[int, ...]], layout: str, /
) -> None:
    """Check that a shape is one of a few, nothing broadcast."""
    own = shape_of(x)
    if not any(len(own) == len(shape) and all(map(agree, own, shape)) for shape in shapes):
        wanted = _listed((str(shape) for shape in dict.fromkeys(shapes)), word="or")
        msg = f"`{name}` must have shape {layout}, here {wanted}; got shape {own}."
        raise ValueError(msg)


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


def check_one_shape(**arrays: Array) -> None:
    shapes = [shape_of(x) for x in arrays.values()] or [()]
    if any(len(own) != len(shapes[0]) or not all(map(agree, own, shapes[0])) for own in shapes):
        msg = (
            f"{_listed(f'`{name}`' for name in arrays)} must have one shape; "
            f"got {_listed(map(str, shapes))}."
        )
        raise ValueError(msg)


def check_one_batch(**arrays: Array) -> None:
    """Check that all axes but the last are the same."""
    batches = [shape_of(x)[:-1] for x in arrays.values()]
    if any(len(b) != len(batches[0]) or not all(map(agree, b, batches[0])) for b in batches):
        msg = (
            f"{_listed(f'`{name}`' for name in arrays)} must have the same axes before the "
            f"last; got shapes {_listed(str(shape_of(x)) for x in arrays.values())}."
        )
        raise ValueError(msg)


def check_one_square(**layers: Array) -> None:
    """Check that weights of self-attention have one shape, but for their number of heads."""
    shapes = [shape_of(x) for x in layers.values()]
    for name, (*_, q_len, kv_len) in zip(layers, shapes, strict=True):
        if not agree(q_len, kv_len):
            msg = (
                f"`{name}` must be square, the weights of self-attention; "
                f"got q_len={q_len} and kv_len={kv_len}."
            )
            raise ValueError(msg)
    first, *others = [(*shape[:-3], *shape[-2:]) for shape in shapes]
    if any(len(own) != len(first) or not all(map(agree, own, first)) for own in others):
        msg = (
            f"{_listed(f'`{name}`' for name in layers)} must have one shape but for the "
            f"number of heads (axis -3); got {_listed(map(str, shapes))}."
        )
        raise ValueError(msg)


def check_some_layers(num_layers: int, /) -> None:
    if num_layers == 0:
        msg = "`weights` must hold one layer or more; got none."
        raise ValueError(msg)


def check_params(params: Any, /, *, needs_value: bool) -> None:
    """Check that the weights of query, key, value and output are there, and once."""
    apart = ("w_q", "w_k", "w_v") if needs_value else ("w_q", "w_k")
    if not hasattr(params, "w_qkv"):
        msg = f"`params` must be MultiHeadAttentionParams; got {describe_kind(params)}."
        raise TypeError(msg)
    for name, x in params._asdict().items():
        if not is_absent(x):
            check_leaf(f"params.{name}", x)
    is_fused = not is_absent(params.w_qkv)
    missing = [] if is_fused else [name for name in apart if is_absent(getattr(params, name))]
    if is_absent(params.w_o) and (needs_value or is_fused):
        missing.append("w_o")
    if missing:
        msg = (
            f"`params` must hold w_q, w_k and w_v, or w_qkv, and w_o; "
            f"missing: {_listed(missing)}."
        )
        raise ValueError(msg)
    names = ("w_q", "w_k", "w_v", "b_q", "b_k", "b_v") if is_fused else ("b_qkv",)
    surplus = [name for name in names if not is_absent(getattr(params, name))]
    if surplus:
        msg = (
            f"`params` must hold either a fused w_qkv and b_qkv or w_q, w_k, w_v and their "
            f"biases, not both; got {_listed(surplus)} beside "
            f"{'w_qkv' if is_fused else 'w_q'}."
        )
        raise ValueError(msg)


def check_kind_of_params(name: str, params: Any, kind: type, /) -> None:
    """Check that parameters have the names of a kind, and are arrays or absent."""
    fields = getattr(kind, "_fields", ())
    if getattr(params, "_fields", None) != fields:
        got = "None" if params is None else describe_kind(params)
        msg = f"`{name}` must be {kind.__name__}; got {got}."
        raise TypeError(msg)


def check_leaves(name: str, params: Any, /, *, needed: Collection[str] = ()) -> None:
    """Check that those parameters that are needed are there, and that all are arrays."""
    for leaf, x in params._asdict().items():
        if leaf in needed and is_absent(x):
            msg = f"`{name}` must hold {_listed(needed)}; missing: {leaf}."
            raise ValueError(msg)
        if not is_absent(x):
            check_leaf(f"{name}.{leaf}", x)


def check_memory(memory: Any, memory_mask: Any, cross_attention: Any, /) -> None:
    """Check that a memory and the parameters that attend to it are there together."""
    if memory is None:
        if not is_absent(cross_attention):
            msg = "`memory` must be given where `params` has a cross_attention; got None."
            raise ValueError(msg)
        if memory_mask is not None:
            msg = "`memory_mask` needs a `memory`; got None. The mask of `x` is `mask`."
            raise ValueError(msg)
    elif is_absent(cross_attention):
        msg = (
            "`params` must have a cross_attention to attend to a `memory`; got none. "
            "init_decoder_block makes one where has_cross_attention=True."
        )
        raise ValueError(msg)


def check_map(name: str, x: Any, /) -> None:
    if x is not None and not callable(x):
        msg = f"`{name}` must be a function of one array; got {_shown(x)}."
        raise TypeError(msg)


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


def check_embedding_sizes(num_tokens: Any, max_length: Any, /) -> None:
    if num_tokens is None and max_length is None:
        msg = "`num_tokens` or `max_length` must be given, or both; got None for each."
        raise ValueError(msg)
    for name, n in (("num_tokens", num_tokens), ("max_length", max_length)):
        if n is not None:
            check_integer(name, n, least=1)


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


def check_partners(name: str, params: Any, /, **partners: str) -> None:
    """Check that no parameter is there without another that it belongs to."""
    for leaf, other in partners.items():
        if is_absent(getattr(params, other)) and not is_absent(getattr(params, leaf)):
            msg = f"`{name}` must hold {other} where it holds {leaf}; got {leaf} alone."
            raise ValueError(msg)


def check_fused_heads(num_heads: int, total: int, /) -> None:
    if total <= num_heads or (total - num_heads) % 2:
        msg = (
            f"`params.w_qkv` must have num_heads + 2 * num_kv_heads heads (axis 1); "
            f"got {total} where `params.w_o` has num_heads={num_heads} (axis 0)."
        )
        raise ValueError(msg)


def check_fused_widths(
    model_dim: int, kv_model_dim: int, v_model_dim: int, head_dim: int, value_dim: int, /
) -> None:
    if not (model_dim == kv_model_dim == v_model_dim and head_dim == value_dim):
        msg = (
            f"`is_fused` needs one model_dim, and value_dim equal to head_dim; got "
            f"model_dim={model_dim}, kv_model_dim={kv_model_dim}, v_model_dim={v_model_dim}, "
            f"head_dim={head_dim}, value_dim={value_dim}. Use is_fused=False."
        )
        raise ValueError(msg)


def check_head_split(model_dim: int, num_heads: int, /) -> None:
    if model_dim % num_heads:
        msg = (
            f"`num_heads` must divide `model_dim` unless `head_dim` is given; "
            f"got num_heads={num_heads} and model_dim={model_dim}."
        )
        raise ValueError(msg)


def check_rng(rng: Any, kind: type, /) -> None:
    if not isinstance(rng, kind):
        msg = (
            f"`rng` must be a numpy.random.Generator; got {_shown(rng)}. "
            f"Make one with numpy.random.default_rng(seed)."
        )
        raise TypeError(msg)


def check_leaf(name: str, x: Any, /) -> None:
    """Check that a leaf is an array, or has a shape and a dtype in place of one."""
    if x is None:
        msg = f"`{name}` must be an array; got None. An absent parameter is written ()."
        raise TypeError(msg)
    if not (hasattr(x, "shape") and hasattr(x, "dtype")):
        check_array(name, x)


def check_path(name: str, /) -> None:
    if "." in name:
        msg = f"A name in `params` must not hold a dot, which separates names; got {name!r}."
        raise ValueError(msg)


def check_distinct(names: Sequence[str], /) -> None:
    for name in names:
        if names.count(name) > 1:
            msg = f"`params` must have names that differ as text; got {name!r} twice."
            raise ValueError(msg)


def check_flat(name: str, flat: Any, /) -> None:
    # Not an instance check: torch.nn.ParameterDict is no Mapping.
    if not hasattr(flat, "keys"):
        got = "None" if flat is None else describe_kind(flat)
        msg = f"`{name}` must be a dict of arrays by name; got {got}."
        raise TypeError(msg)


def check_not_nested(name: str, x: Any, /) -> None:
    if hasattr(x, "keys"):
        msg = (
            f"`{name}` must be an array; got a {describe_kind(x)}. "
            f"Make one flat dict of nested ones with flatten_params."
        )
        raise TypeError(msg)


def check_same_names(
    wanted: Collection[str],
    given: Collection[str],
    /,
    *,
    rule: str = "`flat` must hold the names of `like`",
) -> None:
    missing = [repr(name) for name in wanted if name not in given]
    surplus = [repr(name) for name in given if name not in wanted]
    if missing or surplus:
        found = [
            f"{_listed(names)} {'is' if len(names) == 1 else 'are'} {what}"
            for names, what in ((missing, "missing"), (surplus, "left over"))
            if names
        ]
        msg = f"{rule}; {_listed(found)}."
        raise ValueError(msg)


def check_same_shape(name: str, x: Any, like: Any, /) -> None:
    if shape_of(x) != shape_of(like):
        msg = (
            f"`{name}` must have the shape that it has in `like`, {shape_of(like)}; "
            f"got shape {shape_of(x)}."
        )
        raise ValueError(msg)


def check_heads_known(layout: str, /) -> None:
    msg = (
        f"`num_heads` must be given for the layout {layout!r}, whose weights do not tell it; "
        f"got None."
    )
    raise ValueError(msg)


def check_axes(
    name: str, x: Array, axes: Sequence[Sequence[str]], sizes: Mapping[str, int], /
) -> dict[str, int]:
    """Check a shape whose sizes are products of named ones; return those it tells."""
    told: dict[str, int] = {}
    fits = len(x.shape) == len(axes)
    for n, group in zip(x.shape, axes, strict=False):
        known = math.prod(sizes[axis] for axis in group if axis in sizes)
        unknown = [axis for axis in group if axis not in sizes]
        if unknown and known and n % known == 0:
            (axis,) = unknown
            told[axis] = n // known
        else:
            fits = fits and not unknown and n == known
    if not fits:
        shown = ", ".join(" * ".join(group) for group in axes)
        shown += "," if len(axes) == 1 else ""
        found = [f"{a}={sizes[a]}" for g in axes for a in g if a in sizes and not a.isdigit()]
        also = f", where {_listed(found)}" if found else ""
        msg = f"`{name}` must have the shape ({shown}){also}; got {shape_of(x)}."
        raise ValueError(msg)
    return told


def is_absent(x: Any, /) -> bool:
    """Return whether a parameter is the empty tuple, which stands for none."""
    return isinstance(x, tuple) and not x


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


def check_modified_scores(x: Any, scores: Array, /, *, xp: Namespace) -> None:
    """Check what `score_mod` returned."""
    check_one_library(scores=scores, **{"score_mod(scores, q_pos, kv_pos)": x})
    check_one_device(scores=scores, **{"score_mod(scores, q_pos, kv_pos)": x})
    check_floating(xp=xp, **{"score_mod(scores, q_pos, kv_pos)": x})
    if len(x.shape) != len(scores.shape) or not all(map(agree, x.shape, scores.shape)):
        msg = (
            f"`score_mod` must return scores of the shape it was given, "
            f"{shape_of(scores)}; got shape {shape_of(x)}."
        )
        raise ValueError(msg)


def check_activated(x: Any, given: Array, /, *, xp: Namespace) -> None:
    """Check what a function given as `activation` returned."""
    check_one_library(x=given, **{"activation(x)": x})
    check_floating(xp=xp, **{"activation(x)": x})
    if len(x.shape) != len(given.shape) or not all(map(agree, x.shape, given.shape)):
        msg = (
            f"`activation` must return an array of the shape it was given, "
            f"{shape_of(given)}; got shape {shape_of(x)}."
        )
        raise ValueError(msg)


def agree(n: Any, m: Any, /) -> bool:
    """Return whether two sizes are equal, or one of them is not known before it is computed."""
    # Dask writes an unknown size as NaN, ndonnx as None.
    return bool(n == m) or n is None or m is None or n != n or m != m


def _listed(words: Any, /, *, word: str = "and") -> str:
    *most, last = [str(w) for w in words]
    return f"{', '.join(most)} {word} {last}" if most else last


def _shown_dtype(dtype: Any, /) -> str:
    """Show what was given as a dtype, with its library: "numpy int32"."""
    if isinstance(dtype, str):
        return repr(dtype)
    root = (dtype if isinstance(dtype, type) else type(dtype)).__module__.partition(".")[0]
    return dtype_name(dtype) if root == "builtins" else f"{root} {dtype_name(dtype)}"


def _shown_kind(x: Any, /) -> str:
    """Say what came where a tuple was wanted, and how many there are in it."""
    kind = "None" if x is None else describe_kind(x)
    return f"a {kind} of {len(x)}" if isinstance(x, tuple | list) else kind


def _shown(x: Any, /) -> str:
    """Show a value that may be an array, short enough for one sentence."""
    if namespace(x) is not None:
        return f"a {describe_kind(x)} of shape {shape_of(x)}"
    text = repr(x)
    return text if len(text) <= 60 else describe_kind(x)
