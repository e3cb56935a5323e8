"""From a call in an implementation's conventions to the one core, and back from its result."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from ..._attention import attention_scores
from ..._backend import chosen_namespace, device, namespace
from ..._masks import padding_mask
from ..._typing import Array, Namespace
from ._conventions import Conventions

__all__ = ["Core", "translated"]

#: ``core(query, key, value, **options) -> (out, lse)``: `attention_with_lse` or the oracle.
Core = Callable[..., tuple[Array, Array]]

Options = dict[str, Any]


class _Call(NamedTuple):
    query: Array
    key: Array
    value: Array
    options: Options

    @property
    def xp(self) -> Namespace:
        return namespace(self.query) or chosen_namespace(None)

    def with_options(self, **options: Any) -> "_Call":
        return self._replace(options={**self.options, **options})

    def option(self, name: str) -> Any:
        return self.options.get(name)


def translated(core: Core, conventions: Conventions) -> Core:
    """
    Return attention in the given conventions, computed by `core`, which has attnfn's.

    The result takes the options of `core`, understood by `conventions`, and ``lengths``, the
    number of each sequence's keys (or whatever `conventions` take a length to be).
    """

    def attention_in_conventions(
        query: Array, key: Array, value: Array, /, **options: Any
    ) -> tuple[Array, Array]:
        call = _Call(query, key, value, options)
        for step in _STEPS:
            call = step(call, conventions)
        out, lse = core(*call[:3], **call.options)
        return _result(core, call, conventions, out, lse, options.get("bias"))

    return attention_in_conventions


# What the inputs and options become, in the order in which each step needs the ones before


def _polarity(call: _Call, conventions: Conventions) -> _Call:
    mask = call.option("mask")
    if mask is None or conventions.mask == "attend":
        return call
    if callable(mask):
        return call.with_options(mask=lambda q_pos, kv_pos: ~mask(q_pos, kv_pos))
    return call.with_options(mask=~mask)


def _positions(call: _Call, conventions: Conventions) -> _Call:
    """Say where the queries stand, where a convention does and the caller has not."""
    q_len, kv_len = call.query.shape[-2], call.key.shape[-2]
    lengths = call.option("lengths")
    is_given = call.option("q_offset") is not None
    if conventions.alignment == "explicit" or is_given or not _needs_positions(call.options):
        return call
    is_first = conventions.alignment == "by_lengths" and lengths is None
    if conventions.alignment == "top_left" or is_first:
        return call.with_options(q_offset=0)
    if lengths is None:
        return call.with_options(q_offset=kv_len - q_len)
    return call.with_options(q_offset=_counts(lengths, conventions) - q_len)


def _needs_positions(options: Options) -> bool:
    given = (options.get(name) for name in ("mask", "bias", "score_mod", "dropout_mask"))
    is_placed = options.get("is_causal", False) or options.get("window_size") is not None
    return bool(is_placed) or any(callable(f) for f in given)


def _counts(lengths: Array, conventions: Conventions) -> Array:
    if conventions.lengths == "cumulative":
        return lengths[1:] - lengths[:-1]
    return lengths + 1 if conventions.lengths == "last_index" else lengths


def _lengths(call: _Call, conventions: Conventions) -> _Call:
    """Hide the keys after each sequence's length."""
    options = dict(call.options)
    lengths = options.pop("lengths", None)
    if lengths is None:
        return call._replace(options=options)
    counts = _counts(lengths, conventions)
    padding = padding_mask(counts, call.key.shape[-2])
    mask = options.get("mask")
    if mask is None:
        return call._replace(options={**options, "mask": padding})
    if not callable(mask):
        return call._replace(options={**options, "mask": mask & padding})

    def both(q_pos: Array, kv_pos: Array) -> Array:
        return mask(q_pos, kv_pos) & (kv_pos < counts[..., None, None, None])

    return call._replace(options={**options, "mask": both})


def _window(call: _Call, conventions: Conventions) -> _Call:
    window = call.option("window_size")
    if window is None or conventions.window == "inclusive":
        return call
    left, right = (side - 1 if side else side for side in window)
    return call.with_options(window_size=(left, right))


def _groups(call: _Call, conventions: Conventions) -> _Call:
    """Give each query head its own key head, where they are tiled."""
    query, key, value = call[:3]
    if conventions.groups == "interleaved" or query.ndim < 3 or key.ndim < 3:
        return call
    num_heads = query.shape[-3]

    def tiled(x: Array) -> Array:
        heads = call.xp.arange(num_heads, **_on(x)) % x.shape[-3]
        return call.xp.take(x, heads, axis=-3)

    return call._replace(key=tiled(key), value=tiled(value))


def _scale(call: _Call, conventions: Conventions) -> _Call:
    if call.option("scale") is not None or conventions.default_scale == "root":
        return call
    return call.with_options(scale=1.0)


def _bias(call: _Call, conventions: Conventions) -> _Call:
    bias = call.option("bias")
    if bias is None or conventions.bias == "after_scale":
        return call
    scale = call.option("scale")
    factor = 1 / math.sqrt(call.query.shape[-1]) if scale is None else scale
    if callable(bias):
        return call.with_options(bias=lambda q_pos, kv_pos: bias(q_pos, kv_pos) * factor)
    return call.with_options(bias=bias * factor)


def _softcap(call: _Call, conventions: Conventions) -> _Call:
    """Add the bias where `score_mod` stands, which is before the cap."""
    if conventions.softcap == "after_mask" and call.option("softcap") is not None:
        call = _with_added(call, -1e30)
    bias, score_mod = call.option("bias"), call.option("score_mod")
    if bias is None or call.option("softcap") is None or conventions.softcap == "before_bias":
        return call

    def with_bias(scores: Array, q_pos: Array, kv_pos: Array) -> Array:
        if score_mod is not None:
            scores = score_mod(scores, q_pos, kv_pos)
        return scores + (bias(q_pos, kv_pos) if callable(bias) else bias)

    q_offset = call.option("q_offset")
    # An array has all rows at once, which an engine that cuts rows does not ask for.
    whole = {} if callable(bias) or "engine" not in call.options else {"engine": "dense"}
    placed = 0 if q_offset is None else q_offset
    return call.with_options(bias=None, score_mod=with_bias, q_offset=placed, **whole)


#: What `attention_scores` needs to know to say which keys are hidden.
_HIDING = ("mask", "is_causal", "window_size", "q_offset", "segment_ids")


def _mask_value(call: _Call, conventions: Conventions) -> _Call:
    if conventions.mask_value == "-inf":
        return call
    is_lowest = conventions.mask_value == "lowest"
    return _with_added(call, None if is_lowest else float(conventions.mask_value))


def _with_added(call: _Call, amount: float | None) -> _Call:
    """Hide no key: add a number, or the lowest, to the scores of those that were hidden."""
    if not any(name in call.options for name in _HIDING):
        return call
    none = _zero_where_seen(call)
    lowest = float(call.xp.finfo(none.dtype).min)
    added = call.xp.where(none == 0, none, lowest if amount is None else amount)
    bias = call.option("bias")
    rest = {name: x for name, x in call.options.items() if name not in _HIDING}
    if call.option("q_offset") is not None:
        rest["q_offset"] = call.option("q_offset")
    return call._replace(options={**rest, "bias": added if bias is None else added + bias})


def _zero_where_seen(call: _Call) -> Array:
    """Return the scores of queries and keys that are 0: -inf where a key is hidden."""
    hiding = {name: call.options[name] for name in _HIDING if name in call.options}
    return attention_scores(
        call.xp.zeros_like(call.query),
        call.xp.zeros_like(call.key),
        scale=1.0,
        compute_dtype=call.option("compute_dtype"),
        **hiding,
    )


def _softmax_dtype(call: _Call, conventions: Conventions) -> _Call:
    is_narrowed = conventions.softmax_dtype == "float32" and call.query.dtype == call.xp.float64
    return call.with_options(compute_dtype=call.xp.float32) if is_narrowed else call


_STEPS = (
    _polarity,
    _positions,
    _lengths,
    _window,
    _groups,
    _scale,
    _bias,
    _softcap,
    _softmax_dtype,
    _mask_value,
)


# What the result becomes


def _result(
    core: Core, call: _Call, conventions: Conventions, out: Array, lse: Array, bias: Any
) -> tuple[Array, Array]:
    xp = call.xp
    is_empty = lse == -math.inf
    if conventions.empty_row == "uniform":
        # All scores are 0: the mean of the values that the row's head uses.
        query, key = xp.zeros_like(call.query), xp.zeros_like(call.key)
        mean, _ = core(query, key, call.value, scale=1.0)
        out = xp.where(is_empty[..., None], mean, out)
    elif conventions.empty_row == "nan":
        out = xp.where(is_empty[..., None], math.nan, out)

    if conventions.biased_row == "nan" and bias is not None:
        is_biased = is_empty & ~_is_hidden(call)
        out = xp.where(is_biased[..., None], math.nan, out)
        is_empty = is_empty & ~is_biased

    if conventions.lse_sinks == "excluded" and call.option("sinks") is not None:
        _, lse = core(*call[:3], **{**call.options, "sinks": None})
        is_empty = lse == -math.inf
    if conventions.lse_base == "2":
        lse = lse / math.log(2)
    if conventions.lse_dtype == "query":
        lse = xp.astype(lse, call.query.dtype)
    empty = _EMPTY_LSE[conventions.empty_lse]
    is_held = empty >= float(xp.finfo(lse.dtype).min)
    lse = xp.where(is_empty, empty if is_held else -math.inf, lse)
    return _leaks(call, conventions, out, lse)


def _is_hidden(call: _Call) -> Array:
    """Whether a query may attend to nothing, whatever the bias is."""
    return call.xp.all(_zero_where_seen(call) == -math.inf, axis=-1)


def _leaks(
    call: _Call, conventions: Conventions, out: Array, lse: Array
) -> tuple[Array, Array]:
    """Let NaN and infinities through where hidden keys and values are only weighted with 0."""
    xp = call.xp
    if conventions.hidden_key == "leaks":
        leak = _for_each_query_head(call, xp.sum(0 * call.key, axis=(-2, -1), keepdims=True))
        out, lse = out + leak, lse + xp.astype(leak[..., 0], lse.dtype)
    if conventions.hidden_value == "leaks":
        out = out + _for_each_query_head(call, xp.sum(0 * call.value, axis=-2, keepdims=True))
    return out, lse


def _for_each_query_head(call: _Call, x: Array) -> Array:
    """Repeat what there is one of for each key head."""
    if x.ndim < 3 or call.query.ndim < 3 or x.shape[-3] == 0:
        return x
    return call.xp.repeat(x, call.query.shape[-3] // x.shape[-3], axis=-3)


_EMPTY_LSE = {
    "-inf": -math.inf,
    "+inf": math.inf,
    "zero": 0.0,
    "finite": -1e30,  # any large negative number: which one is nobody's promise
}


def _on(x: Array) -> dict[str, Any]:
    where = device(x)
    return {} if where is None else {"device": where}
