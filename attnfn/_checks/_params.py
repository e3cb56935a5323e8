"""Parameters: what kind they are, which are there, and how they lie in a file."""

from collections.abc import Collection, Sequence
from typing import Any

from .._backend import describe_kind
from .._typing import Array
from ._arrays import check_array
from ._values import check_integer
from ._words import agree, is_absent, listed, shape_of

__all__ = [
    "check_distinct",
    "check_embedding_sizes",
    "check_flat",
    "check_fused_heads",
    "check_fused_widths",
    "check_head_split",
    "check_heads_known",
    "check_kind_of_params",
    "check_leaf",
    "check_leaves",
    "check_memory",
    "check_not_nested",
    "check_one_square",
    "check_params",
    "check_partners",
    "check_path",
    "check_same_names",
    "check_same_shape",
    "check_some_layers",
]


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
            f"{listed(f'`{name}`' for name in layers)} must have one shape but for the "
            f"number of heads (axis -3); got {listed(map(str, shapes))}."
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
            f"missing: {listed(missing)}."
        )
        raise ValueError(msg)
    names = ("w_q", "w_k", "w_v", "b_q", "b_k", "b_v") if is_fused else ("b_qkv",)
    surplus = [name for name in names if not is_absent(getattr(params, name))]
    if surplus:
        msg = (
            f"`params` must hold either a fused w_qkv and b_qkv or w_q, w_k, w_v and their "
            f"biases, not both; got {listed(surplus)} beside "
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
            msg = f"`{name}` must hold {listed(needed)}; missing: {leaf}."
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


def check_embedding_sizes(num_tokens: Any, max_length: Any, /) -> None:
    if num_tokens is None and max_length is None:
        msg = "`num_tokens` or `max_length` must be given, or both; got None for each."
        raise ValueError(msg)
    for name, n in (("num_tokens", num_tokens), ("max_length", max_length)):
        if n is not None:
            check_integer(name, n, least=1)


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
            f"{listed(names)} {'is' if len(names) == 1 else 'are'} {what}"
            for names, what in ((missing, "missing"), (surplus, "left over"))
            if names
        ]
        msg = f"{rule}; {listed(found)}."
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
