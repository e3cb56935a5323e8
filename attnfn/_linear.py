"""Linear attention: a sum over keys that is kept, in place of a softmax over scores."""

import math
from typing import Any, NamedTuple, Unpack

from jaxtyping import Bool, Float

from ._backend import arange, device, full_precision, row_sum, running_sum, transposed
from ._checks import (
    check_bool,
    check_causal_lengths,
    check_features,
    check_floating,
    check_integer,
    check_key_mask,
    check_kind_of_params,
    check_map,
    check_one_device,
    check_one_library,
    check_options,
    check_state_shape,
)
from ._numerics import cast, finite_vectors
from ._problem import AttentionProblem, describe
from ._rows import whole
from ._typing import Array, ArrayT, FeatureMap, LinearAttentionOptions, Namespace

__all__ = ["LinearAttentionState", "linear_attention", "linear_attention_with_state"]

LINEAR_OPTIONS = frozenset(LinearAttentionOptions.__annotations__)


class LinearAttentionState(NamedTuple):
    r"""
    What linear attention keeps of the keys and values it has seen, whatever their number.

    .. math:: S = \sum_j \phi(k_j) v_j^\top, \qquad z = \sum_j \phi(k_j)

    The states of disjoint sets of keys add up, as these are sums.

    Parameters
    ----------
    s : array, shape (..., num_kv_heads, feature_dim, value_dim)
        The values, spread over the features of their keys; compute dtype.
    z : array, shape (..., num_kv_heads, feature_dim)
        The features of the keys; compute dtype.

    See Also
    --------
    linear_attention_with_state : Takes one, and returns the next.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> x = np.zeros((3, 2))  # 3 positions, whose features are all 1
    >>> _, state = af.linear_attention_with_state(x, x, x)
    >>> state.z
    array([3., 3.])
    """

    s: Any
    z: Any


def linear_attention(
    query: Float[ArrayT, "*batch num_heads q_len head_dim"],
    key: Float[ArrayT, "*batch num_kv_heads kv_len head_dim"],
    value: Float[ArrayT, "*batch num_kv_heads kv_len value_dim"],
    /,
    *,
    mask: Bool[Array, "..."] | None = None,
    is_causal: bool = False,
    feature_map: FeatureMap | None = None,
    chunk_len: int = 64,
    compute_dtype: Any = None,
) -> Float[ArrayT, "*batch num_heads q_len value_dim"]:
    r"""
    Linear attention: time and memory grow with the length, not with its square.

    .. math::

        \mathit{out}_i = \frac{\phi(q_i)^\top \sum_j \phi(k_j) v_j^\top}
            {\phi(q_i)^\top \sum_j \phi(k_j)}, \qquad \phi(x) = \mathrm{elu}(x) + 1

    as in [1]_, eq. 5, the sums over the keys that may be attended to: with `is_causal`, those
    up to each position. It is another formula than `attention`, with the same axes, not an
    approximation of it.

    Parameters
    ----------
    query : array, shape (..., num_heads, q_len, head_dim)
        What each position looks for. Real floating, as `key` and `value`, in one dtype.
    key : array, shape (..., num_kv_heads, kv_len, head_dim)
        What each position offers to be found by. Each key/value head serves
        ``num_heads // num_kv_heads`` query heads in a row.
    value : array, shape (..., num_kv_heads, kv_len, value_dim)
        What each position hands over.
    mask : bool array, optional
        True where a key may be attended to, by every query: shape ``(kv_len,)``, or
        ``(..., num_kv_heads, 1, kv_len)`` with axes that may be 1, as `padding_mask` makes
        it. Default: all may.
    is_causal : bool, optional
        Whether each query attends to the keys up to its own position; there are as many
        queries as keys then. Default: False.
    feature_map : function of an array, optional
        Another :math:`\phi`, from ``(..., length, head_dim)`` to
        ``(..., length, feature_dim)``, not negative. Default: ``elu(x) + 1``.
    chunk_len : int, optional
        With `is_causal`: within so many positions the sums are made by products of all pairs,
        1 or more; the result is the same up to rounding. Default: 64.
    compute_dtype : dtype, optional
        In which everything is computed. Default: float32 for halves, else their own.

    Returns
    -------
    array, shape (..., num_heads, q_len, value_dim)
        Library, device and dtype of `query`. A query that may attend to nothing gets zeros.

    Raises
    ------
    ValueError
        If shapes do not fit together, or `is_causal` is asked of other numbers of queries
        than of keys.
    TypeError
        If something is not an array, comes from another library, or has a dtype that does
        not fit.

    See Also
    --------
    linear_attention_with_state : For long sequences in pieces, and for decoding.
    attention : With a softmax.

    Notes
    -----
    *NaN and inf* in keys and values that a query may not attend to reach neither its output
    nor any gradient; a query that may attend to one gets NaN, and passes no gradient.

    References
    ----------
    .. [1] Katharopoulos et al., "Transformers are RNNs", 2020, arXiv:2006.16236.

    Examples
    --------
    Where all features are 1, each position gets the mean of what it may see:

    >>> import numpy as np
    >>> import attnfn as af
    >>> query = key = np.zeros((3, 2))
    >>> af.linear_attention(query, key, np.asarray([[1.0], [3.0], [8.0]]), is_causal=True)
    array([[1.],
           [2.],
           [4.]])
    """
    out, _ = linear_attention_with_state(
        query,
        key,
        value,
        mask=mask,
        is_causal=is_causal,
        feature_map=feature_map,
        chunk_len=chunk_len,
        compute_dtype=compute_dtype,
    )
    return out


def linear_attention_with_state(
    query: Float[ArrayT, "*batch num_heads q_len head_dim"],
    key: Float[ArrayT, "*batch num_kv_heads kv_len head_dim"],
    value: Float[ArrayT, "*batch num_kv_heads kv_len value_dim"],
    state: LinearAttentionState | None = None,
    /,
    **options: Unpack[LinearAttentionOptions],
) -> tuple[Float[ArrayT, "*batch num_heads q_len value_dim"], LinearAttentionState]:
    r"""
    Linear attention to these keys and to all that a state has seen before.

    .. math::

        \mathit{out}_i = \frac{\phi(q_i)^\top S_i}{\phi(q_i)^\top z_i}, \qquad
        S_i = S + \sum_j \phi(k_j) v_j^\top, \quad z_i = z + \sum_j \phi(k_j)

    as in [1]_, 3.4. A sequence may be cut anywhere; decoding is pieces of length 1.

    Parameters
    ----------
    query : array, shape (..., num_heads, q_len, head_dim)
        What each position looks for.
    key : array, shape (..., num_kv_heads, kv_len, head_dim)
        What each position offers to be found by.
    value : array, shape (..., num_kv_heads, kv_len, value_dim)
        What each position hands over.
    state : LinearAttentionState, optional
        What was seen before. Default: nothing.
    **options
        Every option of `linear_attention`, with the same meaning.

    Returns
    -------
    out : array, shape (..., num_heads, q_len, value_dim)
        Library, device and dtype of `query`.
    state : LinearAttentionState
        With all of these keys and values in it, in the compute dtype.

    Raises
    ------
    ValueError, TypeError
        As `linear_attention`; also if `state` has other shapes than it would be returned with.

    See Also
    --------
    linear_attention : From beginning to end at once.

    References
    ----------
    .. [1] Katharopoulos et al., "Transformers are RNNs", 2020, arXiv:2006.16236.

    Examples
    --------
    One position after the other:

    >>> import numpy as np
    >>> import attnfn as af
    >>> query = key = np.zeros((3, 2))
    >>> value = np.asarray([[1.0], [3.0], [8.0]])
    >>> state = None
    >>> for i in range(3):
    ...     piece = slice(i, i + 1)
    ...     out, state = af.linear_attention_with_state(
    ...         query[piece], key[piece], value[piece], state, is_causal=True
    ...     )
    >>> out
    array([[4.]])
    """
    check_options("linear_attention_with_state", options, LINEAR_OPTIONS)
    is_causal = options.get("is_causal", False)
    chunk_len = options.get("chunk_len", 64)
    check_bool("is_causal", is_causal)
    check_integer("chunk_len", chunk_len, least=1)
    problem = describe(query, key, value, scale=1.0, compute_dtype=options.get("compute_dtype"))
    if is_causal:
        check_causal_lengths(*problem.shape[-2:])
    with full_precision(query):
        parts = _prepared(problem, options.get("mask"), options.get("feature_map"))
        before = _state_before(parts, state)
        if is_causal:
            top, bottom, after = _causal(parts, before, chunk_len)
        else:
            after = _plus(before, _state_of(parts.k, parts.v, xp=parts.xp))
            top, bottom = _read(parts.q, after)
        return _finished(problem, parts, top, bottom, is_causal), _returned(parts, after)


class _Parts(NamedTuple):
    """Features of finite queries and keys, by key/value head."""

    xp: Namespace
    q: Array  # (*batch, num_kv_heads, group, q_len, feature_dim)
    k: Array  # (*batch, num_kv_heads, kv_len, feature_dim), 0 where hidden
    v: Array  # (*batch, num_kv_heads, kv_len, value_dim)
    bad_q: Array | None  # (*batch, num_kv_heads, group, q_len)
    bad_kv: Array | None  # (*batch, num_kv_heads, kv_len), of those that are not hidden
    has_heads: bool


def _prepared(problem: AttentionProblem, mask: Array, phi: FeatureMap | None, /) -> _Parts:
    """Clean the arrays of a call, take their features, and hide what is masked."""
    xp, few, group = problem.xp, problem.num_kv_heads, problem.group
    check_map("feature_map", phi)
    q, bad_q = finite_vectors(problem.q, problem.dtype, xp=xp)
    k, bad_k = finite_vectors(problem.k, problem.dtype, xp=xp)
    v, bad_v = finite_vectors(problem.v, problem.dtype, xp=xp)
    bads = [bad for bad in (bad_k, bad_v) if bad is not None]
    bad_kv = bads[0] | bads[-1] if bads else None

    seen = None
    if mask is not None:
        check_key_mask(mask, problem.shape, few, key=k)
        seen = mask if mask.ndim == 1 else mask[..., 0, :]
        k = xp.where(seen[..., None], k, 0.0)
        bad_kv = None if bad_kv is None else bad_kv & seen
    if phi is None:
        q, k = _elu_plus_one(q), _elu_plus_one(k)
    else:
        features = {"feature_map(query)": phi(q), "feature_map(key)": phi(k)}
        check_features(features, query=q, key=k)
        q, k = features.values()
    k = k if seen is None else xp.where(seen[..., None], k, 0.0)

    has_heads = len(problem.shape) > 2
    if not has_heads:
        q, k, v = q[None, ...], k[None, ...], v[None, ...]
    k, v = _with_one_batch(k, v, few, xp=xp)
    return _Parts(
        xp=xp,
        q=_by_group(q, group, xp=xp),
        k=k,
        v=v,
        bad_q=None if bad_q is None else _by_group(bad_q[..., None], group, xp=xp)[..., 0],
        bad_kv=bad_kv,
        has_heads=has_heads,
    )


def _elu_plus_one(x: Array, /) -> Array:
    xp = check_one_library(x=x)
    # Guarded inside and outside of exp: the derivative of what is not selected must be finite.
    return xp.where(x > 0, x + 1, xp.exp(xp.where(x > 0, 0.0, x)))


def _with_one_batch(k: Array, v: Array, few: int, /, *, xp: Namespace) -> tuple[Array, Array]:
    """Write out the axes of keys and values that the others have, so that a state has all."""
    if k.ndim > 2 and k.shape[:-2] == v.shape[:-2] and k.shape[-3] == few:
        return k, v
    ndim = max(k.ndim, v.ndim, 3)
    pair = [xp.reshape(x, (*[1] * (ndim - x.ndim), *x.shape)) for x in (k, v)]
    batch = [max(n, m) for n, m in zip(pair[0].shape[:-3], pair[1].shape[:-3], strict=True)]
    k, v = (xp.broadcast_to(x, (*batch, few, *x.shape[-2:])) for x in pair)
    return k, v


def _by_group(q: Array, group: int, /, *, xp: Namespace) -> Array:
    """Part the query heads by the key/value head they share."""
    if group == 1:
        return q[..., None, :, :]
    *batch, heads, q_len, dim = q.shape
    return xp.reshape(q, (*batch, heads // group, group, q_len, dim))


def _state_of(k: Array, v: Array, /, *, xp: Namespace) -> LinearAttentionState:
    return LinearAttentionState(transposed(k, xp) @ v, xp.sum(k, axis=-2))


def _plus(a: LinearAttentionState, b: LinearAttentionState, /) -> LinearAttentionState:
    return LinearAttentionState(a.s + b.s, a.z + b.z)


def _read(q: Array, state: LinearAttentionState, /) -> tuple[Array, Array]:
    """Return the numerator and the denominator of each query: all rows of a group at once."""
    return q @ state.s[..., None, :, :], q @ state.z[..., None, :, None]


def _causal(
    parts: _Parts, state: LinearAttentionState, chunk_len: int, /
) -> tuple[Array, Array, LinearAttentionState]:
    """Take the positions chunk by chunk, and then what is left of them."""
    length = parts.k.shape[-2]
    end = length - length % chunk_len
    pieces = [(slice(0, end), chunk_len)] if end else []
    if end < length or not pieces:
        pieces.append((slice(end, length), max(1, length - end)))
    tops, bottoms = [], []
    for piece, size in pieces:
        q, k, v = (x[..., piece, :] for x in parts[1:4])
        top, bottom, state = _chunks(q, k, v, state, size, xp=parts.xp)
        tops.append(top)
        bottoms.append(bottom)
    if len(pieces) == 1:
        return tops[0], bottoms[0], state
    return parts.xp.concat(tops, axis=-2), parts.xp.concat(bottoms, axis=-2), state


def _chunks(
    q: Array, k: Array, v: Array, state: LinearAttentionState, size: int, /, *, xp: Namespace
) -> tuple[Array, Array, LinearAttentionState]:
    """Take whole chunks, all at once: a query sees what was before its chunk as a state."""
    *_, group, length, _ = q.shape
    count = length // size
    q = _lined_up(q, count, size, xp=xp)
    k, v = (xp.reshape(x, (*x.shape[:-2], count, size, x.shape[-1])) for x in (k, v))

    own = _state_of(k, v, xp=xp)
    s = _running(state.s[..., None, :, :], own.s, -3, xp=xp)
    z = _running(state.z[..., None, :], own.z, -2, xp=xp)

    pairs = q @ transposed(k, xp)  # (..., count, group * size, size)
    at = arange(size, xp, device(q))
    is_earlier = at[None, :] <= at[:, None]
    by_query = xp.reshape(pairs, (*pairs.shape[:-2], group, size, size))
    pairs = xp.reshape(xp.where(is_earlier, by_query, 0.0), pairs.shape)

    top = pairs @ v + q @ s[..., :-1, :, :]
    bottom = xp.sum(pairs, axis=-1, keepdims=True) + q @ z[..., :-1, :, None]
    top, bottom = (_in_line(x, group, size, xp=xp) for x in (top, bottom))
    return top, bottom, LinearAttentionState(s[..., -1, :, :], z[..., -1, :])


def _running(first: Array, own: Array, axis: int, /, *, xp: Namespace) -> Array:
    """Return what has been added up before each chunk, and after the last."""
    return running_sum(xp.concat([first, own], axis=axis), axis, xp)


def _lined_up(q: Array, count: int, size: int, /, *, xp: Namespace) -> Array:
    """Line up the queries of a group within each chunk: (..., count, group * size, dim)."""
    *batch, group, _, dim = q.shape
    q = xp.reshape(q, (*batch, group, count, size, dim))
    if group > 1:
        *axes, a, b, c, d = range(q.ndim)
        q = xp.permute_dims(q, (*axes, b, a, c, d))
    return xp.reshape(q, (*batch, count, group * size, dim))


def _in_line(x: Array, group: int, size: int, /, *, xp: Namespace) -> Array:
    """Undo `_lined_up`: (..., group, length, dim)."""
    *batch, count, _, dim = x.shape
    x = xp.reshape(x, (*batch, count, group, size, dim))
    if group > 1:
        *axes, a, b, c, d = range(x.ndim)
        x = xp.permute_dims(x, (*axes, b, a, c, d))
    return xp.reshape(x, (*batch, group, count * size, dim))


def _state_before(parts: _Parts, state: LinearAttentionState | None, /) -> LinearAttentionState:
    """Check a state that is given, or make one that has seen nothing."""
    k, v = parts.k, parts.v
    shape = (*k.shape[:-2], k.shape[-1], v.shape[-1])
    if state is None:
        where = device(k)
        on = {} if where is None else {"device": where}
        zeros = (parts.xp.zeros(own, dtype=k.dtype, **on) for own in (shape, shape[:-1]))
        return LinearAttentionState(*zeros)
    check_kind_of_params("state", state, LinearAttentionState)
    check_one_library(key=k, **{"state.s": state.s, "state.z": state.z})
    check_one_device(key=k, **{"state.s": state.s, "state.z": state.z})
    check_floating(xp=parts.xp, **{"state.s": state.s, "state.z": state.z})
    check_state_shape(state, shape if parts.has_heads else shape[1:])
    s, z = (cast(x, k.dtype, xp=parts.xp) for x in state)
    return LinearAttentionState(*((s, z) if parts.has_heads else (s[None, ...], z[None, ...])))


def _returned(parts: _Parts, state: LinearAttentionState, /) -> LinearAttentionState:
    """Return a state as its caller sees it: NaN if there was any."""
    s, z = state
    if parts.bad_kv is not None:
        bad = parts.xp.any(parts.bad_kv, axis=-1)
        s = parts.xp.where(bad[..., None, None], math.nan, s)
        z = parts.xp.where(bad[..., None], math.nan, z)
    return LinearAttentionState(*((s, z) if parts.has_heads else (s[0, ...], z[0, ...])))


def _finished(
    problem: AttentionProblem, parts: _Parts, top: Array, bottom: Array, is_causal: bool, /
) -> Array:
    """Divide, put NaN where it belongs, and give the output its shape and dtype."""
    xp = parts.xp
    empty = bottom == 0
    out = xp.where(empty, 0.0, top / xp.where(empty, 1.0, bottom))
    if parts.bad_q is not None:
        out = xp.where(parts.bad_q[..., None] & ~empty, math.nan, out)
    if parts.bad_kv is not None:
        seen = cast(parts.bad_kv, xp.int32, xp=xp)
        count = running_sum(seen, -1, xp) if is_causal else row_sum(seen, xp)
        is_bad = count > 0
        out = xp.where(is_bad[..., None, :, None], math.nan, out)
    *batch, few, group, q_len, value_dim = out.shape
    out = xp.reshape(out, (*batch, few * group, q_len, value_dim))
    out = out if parts.has_heads else out[0, ...]
    out = whole(problem, out, (*problem.shape[:-1], value_dim))
    return cast(out, problem.q.dtype, xp=xp)
