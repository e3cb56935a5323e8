"""From the caller's arguments to one description that every engine reads."""

import math
from typing import Any, NamedTuple

from ._backend import (
    block,
    device,
    namespace,
    numpy_namespace,
    plain,
    scalar,
    share_device,
    transposed,
)
from ._checks import (
    agree,
    check_bias_axes,
    check_bias_dtype,
    check_bool,
    check_broadcast,
    check_dropout,
    check_dtype,
    check_equal_sizes,
    check_exact_shape,
    check_floating,
    check_floating_dtype,
    check_function,
    check_head_dim,
    check_integer,
    check_kv_heads,
    check_mask_axes,
    check_mask_dtype,
    check_multiple,
    check_one_device,
    check_one_dtype,
    check_one_library,
    check_pair,
    check_qkv_ndim,
    check_real,
    check_scale,
    check_softcap,
    check_unambiguous,
    check_window,
    is_absent,
    shape_of,
)
from ._numerics import cast, computed_in
from ._typing import Array, Namespace, PositionFunction, ScoreFunction

__all__ = [
    "AttentionProblem",
    "Span",
    "describe",
    "fit_term",
    "narrow",
    "narrow_heads",
    "turned",
    "with_arrays",
    "without_leading_axis",
]


class AttentionProblem(NamedTuple):
    """One attention call with every choice made and every shape settled.

    Arrays keep the axes they came with, so that nothing is copied; they broadcast, from the
    right, to the axes named here.
    """

    xp: Namespace
    q: Array  # (*batch, num_heads, q_len, head_dim), in the caller's dtype
    k: Array  # (*batch, num_kv_heads, kv_len, head_dim)
    v: Array  # (*batch, num_kv_heads, kv_len, value_dim), () where only weights are asked for
    shape: tuple[int, ...]  # of the scores: (*batch, num_heads, q_len, kv_len)
    num_kv_heads: int
    group: int  # query heads for each key/value head
    dtype: Any  # in which everything is computed
    scale: float | Array
    window: tuple[int | None, int | None]  # -left <= kv_pos - q_pos <= right, causal included
    score_mod: ScoreFunction | None = None
    softcap: float | None = None
    bias: Array | PositionFunction | None = None
    mask: Array | PositionFunction | None = None
    segments: tuple[Array, Array] | None = None  # (*batch, 1, q_len, 1), (*batch, 1, 1, kv_len)
    q_offset: int | Array = 0  # (*batch, 1, 1, 1) if it is an array with axes
    sinks: Array | None = None  # (*batch, num_heads, 1, 1)
    dropout_mask: Array | PositionFunction | None = None
    keep_rate: float = 1.0
    kv_start: int | Array = 0  # position of the first key
    bad_queries: Array | None = None  # bool, (..., q_len, 1); None: there are none
    bad_keys: Array | None = None  # bool, (..., num_heads or 1, 1, kv_len)
    bad_values: Array | None = None  # the same
    wants_lse: bool = False  # whether the lse is asked for, besides the output
    is_turned: bool = False  # whether keys and values lie (..., dim, kv_len)
    is_trusted: bool = False  # whether what is not finite was left where it is

    @property
    def is_of_arrays(self) -> bool:
        """Whether no function has to be asked, which would want to see every head."""
        return not (
            callable(self.mask)
            or callable(self.bias)
            or callable(self.score_mod)
            or callable(self.dropout_mask)
        )

    @property
    def uses_positions(self) -> bool:
        """Whether a score depends on where its query and its key stand."""
        return (
            self.window != (None, None)
            or self.score_mod is not None
            or callable(self.mask)
            or callable(self.bias)
        )


def describe(
    query: Array,
    key: Array,
    value: Array,  # () where only weights are asked for
    /,
    *,
    mask: Array | PositionFunction | None = None,
    bias: Array | PositionFunction | None = None,
    is_causal: bool = False,
    window_size: tuple[int | None, int | None] | None = None,
    q_offset: int | Array | None = None,
    segment_ids: Array | tuple[Array, Array] | None = None,
    scale: float | Array | None = None,
    softcap: float | None = None,
    score_mod: ScoreFunction | None = None,
    sinks: float | Array | None = None,
    dropout_mask: Array | PositionFunction | None = None,
    dropout_rate: float | None = None,
    compute_dtype: Any = None,
    wants_lse: bool = False,
) -> AttentionProblem:
    """Validate the arguments of one call and normalise them."""
    # Not `mask is bias is None`: torch.compile cannot tell whether one function is another.
    is_plain = (
        mask is None
        and bias is None
        and window_size is None
        and q_offset is None
        and segment_ids is None
        and scale is None
        and softcap is None
        and score_mod is None
        and sinks is None
        and dropout_mask is None
        and dropout_rate is None
    )
    if is_plain and compute_dtype is None:
        problem = _at_a_glance(query, key, value, is_causal, wants_lse)
        if problem is not None:
            return problem

    arrays = {"query": query, "key": key}
    if not is_absent(value):
        arrays["value"] = value
    segments = _segment_pair(segment_ids)
    terms = {"mask": mask, "bias": bias, "dropout_mask": dropout_mask}
    numbers = {"q_offset": q_offset, "scale": scale, "sinks": sinks}
    options = _array_options(terms, numbers) | segments
    xp = _library(arrays, options)
    shape, num_kv_heads, group = _shapes(arrays, xp=xp)
    dtype = _compute_dtype(query.dtype, compute_dtype, xp=xp)

    check_bool("is_causal", is_causal)
    check_window(window_size)
    check_softcap(softcap)
    check_function("score_mod", score_mod)
    check_dropout(dropout_mask, dropout_rate)
    if q_offset is None and not agree(*shape[-2:]):
        by_position = {
            "is_causal": is_causal,
            "window_size": window_size is not None,
            "mask": callable(mask),
            "bias": callable(bias),
            "score_mod": callable(score_mod),
            "dropout_mask": callable(dropout_mask),
        }
        check_unambiguous(by_position, *shape[-2:])

    return AttentionProblem(
        xp=xp,
        q=query,
        k=key,
        v=value,
        shape=shape,
        num_kv_heads=num_kv_heads,
        group=group,
        dtype=dtype,
        scale=_scale(scale, query.shape[-1], dtype, xp=xp),
        window=_window(window_size, bool(is_causal)),
        wants_lse=wants_lse,
        score_mod=score_mod,
        softcap=None if softcap is None else float(softcap),
        bias=_term("bias", bias, shape, dtype, xp=xp),
        mask=_term("mask", mask, shape, dtype, xp=xp),
        segments=_segments(segments, shape, xp=xp),
        q_offset=_offset(q_offset, shape[:-3], xp=xp),
        sinks=_sinks(sinks, shape, dtype, xp=xp, like=query),
        dropout_mask=_term("dropout_mask", dropout_mask, shape, dtype, xp=xp),
        keep_rate=1.0 if dropout_rate is None else 1.0 - float(dropout_rate),
    )


def _at_a_glance(
    query: Array, key: Array, value: Array, is_causal: Any, wants_lse: bool, /
) -> AttentionProblem | None:
    """Return the problem of a call without options where none of the checks would complain.

    Most calls are such, and a small one would feel the many questions. None: ask them.
    """
    if type(query) is not type(key) or type(query) is not type(value):
        return None
    xp = namespace(query)
    if xp is None or not _is_plain(query, key, value, xp=xp):
        return None
    shape = (*shape_of(query)[:-1], key.shape[-2])
    head_dim = query.shape[-1]
    if head_dim == 0 or (
        is_causal is not False and (is_causal is not True or shape[-2] != shape[-1])
    ):
        return None
    if xp is not numpy_namespace and not share_device(query, key, value):
        return None
    return AttentionProblem(
        xp,
        query,
        key,
        value,
        shape,
        1 if len(shape) < 3 else shape[-3],
        1,
        query.dtype,
        1 / math.sqrt(head_dim),
        (None, 0 if is_causal else None),
        wants_lse=wants_lse,
    )


class Span(NamedTuple):
    """Some of the positions along an axis; where it starts may be traced."""

    start: int | Array
    size: int


def narrow(problem: AttentionProblem, rows: Span, keys: Span, /) -> AttentionProblem:
    """Return the problem of some rows against some keys: nothing else of it is touched."""
    q_len, kv_len = problem.shape[-2:]

    def cut(x: Any, axis: int, span: Span, whole: int) -> Any:
        # What is a function is evaluated for these positions alone; an axis of 1 broadcasts,
        # unless there is just one position and nothing is left of it.
        if x is None or is_absent(x) or callable(x) or x.ndim < -axis or span.size == whole:
            return x
        return x if x.shape[axis] == 1 != whole else block(x, span.start, span.size, axis)

    def cut_both(x: Any) -> Any:
        return cut(cut(x, -2, rows, q_len), -1, keys, kv_len)

    by_key = -1 if problem.is_turned else -2
    segments = problem.segments
    if segments is not None:
        segments = (cut(segments[0], -2, rows, q_len), cut(segments[1], -1, keys, kv_len))
    return problem._replace(
        q=cut(problem.q, -2, rows, q_len),
        k=cut(problem.k, by_key, keys, kv_len),
        v=cut(problem.v, by_key, keys, kv_len),
        shape=(*problem.shape[:-2], rows.size, keys.size),
        bias=cut_both(problem.bias),
        mask=cut_both(problem.mask),
        dropout_mask=cut_both(problem.dropout_mask),
        segments=segments,
        q_offset=problem.q_offset + rows.start,
        kv_start=problem.kv_start + keys.start,
        bad_queries=cut(problem.bad_queries, -2, rows, q_len),
        bad_keys=cut(problem.bad_keys, -1, keys, kv_len),
        bad_values=cut(problem.bad_values, -1, keys, kv_len),
    )


def turned(problem: AttentionProblem, /) -> AttentionProblem:
    """Return a problem whose keys and values lie (..., dim, kv_len)."""
    k, v = (transposed(x, problem.xp) for x in (problem.k, problem.v))
    return problem._replace(k=k, v=v, is_turned=True)


def narrow_heads(problem: AttentionProblem, heads: Span, /) -> AttentionProblem:
    """Return the problem of some key/value heads and the query heads that they serve."""
    many, few = problem.shape[-3], problem.num_kv_heads
    served = Span(heads.start * problem.group, heads.size * problem.group)

    def cut(x: Any, span: Span, whole: int) -> Any:
        if x is None or is_absent(x) or x.ndim < 3 or x.shape[-3] == 1 or span.size == whole:
            return x
        return block(x, span.start, span.size, -3)

    by_query_head = ("q", "mask", "bias", "sinks", "dropout_mask")
    bad = ("bad_queries", "bad_keys", "bad_values")
    cuts = {name: cut(getattr(problem, name), served, many) for name in (*by_query_head, *bad)}
    return problem._replace(
        k=cut(problem.k, heads, few),
        v=cut(problem.v, heads, few),
        shape=(*problem.shape[:-3], served.size, *problem.shape[-2:]),
        num_kv_heads=heads.size,
        **cuts,
    )


def without_leading_axis(
    problem: AttentionProblem, /
) -> tuple[AttentionProblem, dict[str, Array]]:
    """Take the leading axis off a clean problem of arrays: one of the batch, or the heads.

    Return the problem at any one position along it, and the arrays that vary along it, for
    `with_arrays`. Query heads that share keys stay together, on an axis of their own.
    """
    rest = problem.shape[1:]
    is_of_heads = len(rest) == 2
    keeps_group = is_of_heads and problem.group > 1
    fixed, varying = {}, {}
    for name, x in _arrays(problem).items():
        if x.ndim < len(problem.shape):
            continue
        by_query_head = keeps_group and name not in ("k", "v") and x.shape[0] > 1
        each = problem.group if by_query_head else 1
        own = (each, *x.shape[1:]) if keeps_group else tuple(x.shape[1:])
        if x.shape[0] > each:
            varying[name] = problem.xp.reshape(x, (x.shape[0] // each, *own))
        else:
            fixed[name] = problem.xp.reshape(x, own)
    one = problem._replace(
        shape=(problem.group, *rest) if keeps_group else rest,
        num_kv_heads=1 if is_of_heads else problem.num_kv_heads,
    )
    return with_arrays(one, fixed), varying


def with_arrays(problem: AttentionProblem, arrays: dict[str, Array], /) -> AttentionProblem:
    """Return a problem with other arrays, by the names of `without_leading_axis`."""
    found = _arrays(problem) | arrays
    segments = (found.pop("q_segments", None), found.pop("kv_segments", None))
    return problem._replace(segments=None if segments[0] is None else segments, **found)


def _arrays(problem: AttentionProblem, /) -> dict[str, Array]:
    """Return the arrays that may have the axes of a problem, by name."""
    names = ["q", "k", "v", "bias", "mask", "q_offset", "sinks", "dropout_mask"]
    names += ["bad_queries", "bad_keys", "bad_values"]
    found = {name: getattr(problem, name) for name in names}
    found["q_segments"], found["kv_segments"] = problem.segments or (None, None)
    return {name: x for name, x in found.items() if namespace(x) is not None}


def fit_term(
    name: str,
    x: Array,
    shape: tuple[int, ...],
    dtype: Any,
    /,
    *,
    xp: Namespace,
    called: str = "",
) -> Array:
    """Check a mask, bias or dropout mask against the scores' shape, and cast a bias."""
    called = called or name
    x = _without_surplus(x, len(shape), xp=xp)
    if name == "bias":
        check_bias_dtype(called, x, xp=xp)
        check_bias_axes(called, x, shape)
        return cast(x, dtype, xp=xp)
    check_mask_dtype(called, x, xp=xp)
    check_mask_axes(called, x, shape)
    return x


def _term(
    name: str, x: Any, shape: tuple[int, ...], dtype: Any, /, *, xp: Namespace
) -> Array | PositionFunction | None:
    """Normalise what may be an array, a function to be asked later, or absent."""
    return x if x is None or callable(x) else fit_term(name, x, shape, dtype, xp=xp)


def _array_options(terms: dict[str, Any], numbers: dict[str, Any], /) -> dict[str, Array]:
    """Return those options that are arrays; whatever is no number is to be one."""
    given = {name: x for name, x in terms.items() if x is not None and not callable(x)}
    for name, x in numbers.items():
        if x is not None and namespace(x) is not None:
            given[name] = x
    return given


def _library(arrays: dict[str, Array], options: dict[str, Array], /) -> Namespace:
    """Find the one library, and device, of every array among the arguments."""
    xp = check_one_library(**arrays, **options)
    if xp is not numpy_namespace:
        check_one_device(**arrays, **options)
    return xp


def _shapes(arrays: dict[str, Array], /, *, xp: Namespace) -> tuple[tuple[int, ...], int, int]:
    """Return the shape of the scores, the number of key/value heads, and the group."""
    query, key = arrays["query"], arrays["key"]
    if _is_plain(query, key, arrays.get("value", key), xp=xp):
        shape = shape_of(query)
        return (*shape[:-1], key.shape[-2]), 1 if len(shape) < 3 else shape[-3], 1
    check_qkv_ndim(**arrays)
    check_floating(xp=xp, **arrays)
    check_one_dtype(**arrays)
    check_equal_sizes("head_dim", -1, query=query, key=key)
    if "value" in arrays:
        check_equal_sizes("kv_len", -2, key=key, value=arrays["value"])
    shapes = {name: shape_of(x) for name, x in arrays.items()}
    batch = check_broadcast("batch axes", **{name: s[:-3] for name, s in shapes.items()})

    num_heads, *kv_heads = [s[-3] if len(s) > 2 else 1 for s in shapes.values()]
    check_kv_heads(**arrays)
    num_kv_heads = next((n for n in kv_heads if n != 1), 1)
    if num_heads == 1:
        num_heads = num_kv_heads
    check_multiple(num_heads, num_kv_heads)
    group = 1 if num_heads == num_kv_heads else num_heads // num_kv_heads
    axes = (num_heads,) if max(map(len, shapes.values())) > 2 else ()
    return (*batch, *axes, query.shape[-2], key.shape[-2]), num_kv_heads, group


def _is_plain(query: Array, key: Array, value: Array, /, *, xp: Namespace) -> bool:
    """Return whether nothing has to be broadcast, grouped or cast, as in most calls.

    One cheap question in place of many: where it is True, none of the checks would complain.
    """
    dtype, q, k, v = query.dtype, query.shape, key.shape, value.shape
    return (
        dtype in (xp.float32, xp.float64)
        and dtype == key.dtype == value.dtype
        and len(q) > 1
        and (q == k == v or (q[:-2] == k[:-2] == v[:-2] and q[-1] == k[-1] and k[-2] == v[-2]))
    )


def _compute_dtype(dtype: Any, asked: Any, /, *, xp: Namespace) -> Any:
    if asked is not None:
        check_floating_dtype("compute_dtype", asked, xp=xp)
        return asked
    return computed_in(dtype, xp=xp)


def _scale(scale: Any, head_dim: int, dtype: Any, /, *, xp: Namespace) -> float | Array:
    if scale is None:
        check_head_dim(head_dim)
        return 1 / math.sqrt(head_dim)
    check_scale(scale)
    # NumPy's float64 scalars would widen a float32 query; Python's do not.
    return float(scale) if namespace(scale) is None else cast(scale, dtype, xp=xp)


def _window(
    window_size: tuple[int | None, int | None] | None, is_causal: bool, /
) -> tuple[int | None, int | None]:
    """Return both bounds on ``kv_pos - q_pos``; causal is a right bound of 0."""
    left, right = window_size or (None, None)
    return plain(left), 0 if is_causal else plain(right)


def _offset(q_offset: Any, batch: tuple[int, ...], /, *, xp: Namespace) -> int | Array:
    if q_offset is None:
        return 0
    if namespace(q_offset) is None:
        check_integer("q_offset", q_offset, also="an integer array")
        return plain(q_offset)
    check_dtype("integral", xp=xp, q_offset=q_offset)
    x = _without_surplus(q_offset, len(batch), xp=xp)
    check_exact_shape("q_offset", x, [(), batch], "() or (*batch,)")
    return x[..., None, None, None] if x.ndim else x


def _segment_pair(segment_ids: Any, /) -> dict[str, Array]:
    """Return the ids of queries and keys, under the names that an error gives them."""
    if segment_ids is None:
        return {}
    if isinstance(segment_ids, tuple | list):
        check_pair("segment_ids", segment_ids)
        return {"segment_ids[0]": segment_ids[0], "segment_ids[1]": segment_ids[1]}
    return {"segment_ids": segment_ids}


def _segments(
    given: dict[str, Array], shape: tuple[int, ...], /, *, xp: Namespace
) -> tuple[Array, Array] | None:
    if not given:
        return None
    names = list(given) * (3 - len(given))
    q, kv = (
        _segment_ids(name, given[name], length, shape[:-3], xp=xp)
        for name, length in zip(names, shape[-2:], strict=True)
    )
    return q[..., :, None], kv[..., None, :]


def _segment_ids(
    name: str, x: Array, length: int, batch: tuple[int, ...], /, *, xp: Namespace
) -> Array:
    """Check one side's ids; those with a batch get an axis for the heads."""
    check_dtype("integral", xp=xp, **{name: x})
    x = _without_surplus(x, len(batch) + 1, xp=xp)
    check_exact_shape(name, x, [(length,), (*batch, length)], "(length,) or (*batch, length)")
    return x if x.ndim == 1 else x[..., None, :]


def _sinks(
    sinks: Any, shape: tuple[int, ...], dtype: Any, /, *, xp: Namespace, like: Array
) -> Array | None:
    if sinks is None:
        return None
    if namespace(sinks) is None:
        check_real("sinks", sinks, also="an array")
        return scalar(float(sinks), dtype, xp, device(like))
    check_floating(xp=xp, sinks=sinks)
    heads = shape[:-2]
    x = _without_surplus(sinks, len(heads), xp=xp)
    layout = "(), (num_heads,) or (*batch, num_heads)"
    check_exact_shape("sinks", x, [(), heads[-1:], heads], layout)
    x = cast(x, dtype, xp=xp)
    return x[..., None, None] if x.ndim else x


def _without_surplus(x: Array, ndim: int, /, *, xp: Namespace) -> Array:
    """Drop leading axes of size 1 beyond the number of axes that can mean something."""
    shape = tuple(x.shape)
    while len(shape) > ndim and shape[0] == 1:
        shape = shape[1:]
    return x if len(shape) == x.ndim else xp.reshape(x, shape)
