"""JAX's splash attention, whose mask is part of the kernel."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..._typing import Array
from .._subject import Subject
from ._call import Call, described, folded, unfolded
from ._checks import check_options
from ._parameters import Parameters
from ._signature import name_of

__all__ = ["splash_like"]

_OPTIONS = frozenset({"is_causal", "mask", "q_offset", "segment_ids", "softcap", "window_size"})


def splash_like(make: Callable[..., Any], /, *, has_sinks: bool = True) -> Subject:
    """
    Adapt what makes kernels, with the signature of JAX's `make_splash_mha`.

    ``make(mask, head_shards=1, q_seq_shards=1, save_residuals, attn_logits_soft_cap)`` returns,
    for a bool NumPy array ``(num_heads, q_len, kv_len)`` that causal order and window are part
    of, a kernel: ``kernel(q, k, v, segment_ids, sinks=...)`` with axes ``(num_heads, length,
    dim)``. It is called for one sequence after another. There is no scale in it.

    Parameters
    ----------
    make : function of (mask)
        Returns a kernel.
    has_sinks : bool, optional
        Whether kernels take sinks. Default: True.

    Returns
    -------
    Subject
        What every check can ask.

    Examples
    --------
    >>> from attnfn.testing import splash_like
    >>> def make(mask, *, head_shards, q_seq_shards, save_residuals=False): ...
    >>> sorted(splash_like(make).options)
    ['is_causal', 'mask', 'q_offset', 'segment_ids', 'sinks', 'window_size']
    """
    parameters = Parameters(make)
    options = set(_OPTIONS)
    if "attn_logits_soft_cap" not in parameters:
        options.remove("softcap")
    if has_sinks:
        options.add("sinks")
    name = name_of(make)

    def rows(arrays: tuple[Array, Array, Array], given: dict[str, Any], **asking: Any) -> Any:
        check_options(given, options, name)
        call = folded(described(*arrays, given))
        keywords = {
            n: 1 for n in ("head_shards", "q_seq_shards") if parameters.says(n)
        } | asking
        if "softcap" in call.options:
            keywords["attn_logits_soft_cap"] = call.options["softcap"]
        masks = _masks(call)
        found = []
        for b in range(call.query.shape[0]):
            q, k, v = (x[b, ...] for x in call[:3])
            own = {"sinks": _sinks(call, b)} if "sinks" in call.options else {}
            kernel = make(masks[b], **keywords)
            found.append(kernel(q, k, v, _segments(call, b), **own))
        return call, found

    def attention(query: Array, key: Array, value: Array, /, **given: Any) -> Array:
        call, found = rows((query, key, value), given)
        return unfolded(call, call.xp.stack(found))

    def attention_with_lse(
        query: Array, key: Array, value: Array, /, **given: Any
    ) -> tuple[Array, Array]:
        call, found = rows((query, key, value), given, save_residuals=True)
        out = call.xp.stack([out for out, _ in found])
        lse = call.xp.stack([_first(residuals) for _, residuals in found])
        return unfolded(call, out), unfolded(call, lse, axes=2)

    return Subject(
        attention,
        frozenset(options),
        attention_with_lse if "save_residuals" in parameters else None,
        name=name,
    )


def _masks(call: Call) -> Any:
    """Return who may attend to whom, (batch, num_heads, q_len, kv_len), in NumPy."""
    given = call.options
    q_pos, kv_pos = np.arange(call.q_len)[:, None], np.arange(call.kv_len)
    offset = np.asarray(given.get("q_offset", 0))
    distance = kv_pos - (q_pos + offset[..., None, None, None])
    left, right = given.get("window_size", (None, None))
    seen = np.ones((*call.query.shape[:2], call.q_len, call.kv_len), bool)
    if "mask" in given:
        seen = seen & np.asarray(given["mask"])
    if "is_causal" in given:
        seen = seen & (distance <= 0)
    if left is not None:
        seen = seen & (distance >= -left)
    if right is not None:
        seen = seen & (distance <= right)
    return seen


def _sinks(call: Call, b: int) -> Array:
    sinks = call.xp.asarray(call.options["sinks"], dtype=call.query.dtype)
    if sinks.ndim == 2:
        return sinks[b, ...]
    return call.xp.broadcast_to(sinks, (call.query.shape[1],))


def _segments(call: Call, b: int) -> Any:
    segments = call.options.get("segment_ids")
    if segments is None:
        return None
    from jax.experimental.pallas.ops.tpu.splash_attention import SegmentIds

    pair = segments if isinstance(segments, tuple) else (segments, segments)
    return SegmentIds(*(x[min(b, len(x) - 1)] if x.ndim > 1 else x for x in pair))


def _first(residuals: Any) -> Array:
    while isinstance(residuals, tuple | list):
        residuals = residuals[0]
    return residuals
