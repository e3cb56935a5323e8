"""Where things stand, as features or as a bias: sinusoidal, ALiBi, relative."""

import math
from typing import Any

from jaxtyping import Float, Integer, Shaped

from ._backend import arange, chosen_namespace, plain, vector, wide_float
from ._backend import device as device_of
from ._checks import (
    check_bool,
    check_dtype,
    check_exact_ndim,
    check_floating,
    check_floating_dtype,
    check_integer,
    check_namespace,
    check_ndim,
    check_one_device,
    check_one_library,
    check_position_axes,
)
from ._frequencies import frequencies_of, moved
from ._numerics import cast
from ._typing import Array, ArrayT, Namespace

__all__ = [
    "alibi_bias",
    "alibi_slopes",
    "relative_position_bias",
    "relative_position_bucket",
    "sinusoidal_positions",
]


def sinusoidal_positions(
    positions: Shaped[ArrayT, "*batch length"],
    dim: int,
    /,
    *,
    base: float = 10000.0,
    interleaved: bool = True,
    dtype: Any = None,
) -> Float[ArrayT, "*batch length dim"]:
    r"""
    Sinusoidal positions: sines and cosines, to be added to the features.

    .. math::

        \mathit{out}_{p,2i} = \sin(p \cdot f_i), \qquad
        \mathit{out}_{p,2i+1} = \cos(p \cdot f_i), \qquad
        f_i = \mathit{base}^{-2i / \mathit{dim}}

    as in [1]_, 3.5.

    Parameters
    ----------
    positions : array, shape (..., length)
        Where each element stands, integer or real floating; any sign, traced is fine.
    dim : int
        Number of features, even.
    base : float, optional
        Above 1; the larger, the slower the last pair. Default: 10000.
    interleaved : bool, optional
        Whether sines and cosines alternate, as in the paper; False puts all sines first, as
        its code does. Default: True.
    dtype : optional
        A real floating dtype of the library. Default: float32.

    Returns
    -------
    array, shape (..., length, dim)
        Numbers between -1 and 1.

    Raises
    ------
    ValueError
        If `positions` has no axis, `dim` is odd or below 2, or `base` not above 1.
    TypeError
        If something has the wrong kind or dtype.

    See Also
    --------
    rotary_angles : Turns queries and keys by the same angles.

    Notes
    -----
    The code of the paper, and Whisper after it, spaces the frequencies so that the last is
    exactly ``1 / base``: ``interleaved=False`` with ``base=10000 ** (n / (n - 1))`` where
    ``n = dim // 2``.

    References
    ----------
    .. [1] Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> af.sinusoidal_positions(np.arange(3), 4).round(2)
    array([[ 0.  ,  1.  ,  0.  ,  1.  ],
           [ 0.84,  0.54,  0.01,  1.  ],
           [ 0.91, -0.42,  0.02,  1.  ]], dtype=float32)
    """
    xp = check_one_library(positions=positions)
    check_dtype(("integral", "real floating"), xp=xp, positions=positions)
    check_ndim("positions", positions, 1, "(..., length)")
    check_bool("interleaved", interleaved)
    frequencies = frequencies_of(dim, base)
    dtype = xp.float32 if dtype is None else dtype
    check_floating_dtype("dtype", dtype, xp=xp)

    where = device_of(positions)
    wide = wide_float(xp, where)
    angles = cast(positions, wide, xp=xp)[..., None] * moved(frequencies, xp, wide, where)
    both = [xp.sin(angles), xp.cos(angles)]
    if interleaved:
        pairs = xp.stack(both, axis=-1)
        out = xp.reshape(pairs, (*angles.shape[:-1], plain(dim)))
    else:
        out = xp.concat(both, axis=-1)
    return cast(out, dtype, xp=xp)


def alibi_slopes(
    num_heads: int,
    /,
    *,
    dtype: Any = None,
    xp: Namespace | None = None,
    device: Any = None,
) -> Float[Array, "num_heads"]:
    r"""
    How fast the attention of each head fades with the distance.

    .. math:: m_h = 2^{-8 (h + 1) / n}, \qquad h = 0, \dots, n - 1

    as in [1]_, for `n` heads. Where that is no power of 2, the slopes of the next smaller one
    come first, and then every second one of the next greater, as in the paper's code.

    Parameters
    ----------
    num_heads : int
        Number of query heads, 1 or more.
    dtype : optional
        A real floating dtype of the library. Default: float32.
    xp : array namespace, optional
        The library to make them with. Default: NumPy.
    device : optional
        Where to make them. Default: the library's own default.

    Returns
    -------
    array, shape (num_heads,)
        Numbers between 0 and 1.

    Raises
    ------
    ValueError
        If `num_heads` is below 1.
    TypeError
        If `num_heads` is not an int, or `xp` no array namespace.

    See Also
    --------
    alibi_bias : Uses them.

    References
    ----------
    .. [1] Press et al., "Train Short, Test Long: Attention with Linear Biases Enables Input
           Length Extrapolation", 2022, arXiv:2108.12409.

    Examples
    --------
    >>> import attnfn as af
    >>> af.alibi_slopes(4)
    array([0.25      , 0.0625    , 0.015625  , 0.00390625], dtype=float32)
    """
    check_integer("num_heads", num_heads, least=1)
    if xp is not None:
        check_namespace(xp)
    resolved = chosen_namespace(xp)
    dtype = resolved.float32 if dtype is None else dtype
    check_floating_dtype("dtype", dtype, xp=resolved)

    n = 2 ** math.floor(math.log2(num_heads))
    slopes = [2.0 ** (-8 * (h + 1) / n) for h in range(n)]
    slopes += [2.0 ** (-4 * (h + 1) / n) for h in range(0, 2 * (num_heads - n), 2)]
    return vector(slopes, dtype, resolved, device)


def alibi_bias(
    slopes: Float[ArrayT, "num_heads"],
    q_pos: Integer[ArrayT, "..."],
    kv_pos: Integer[ArrayT, "..."],
    /,
) -> Float[ArrayT, "*batch num_heads q_len kv_len"]:
    r"""
    Attention with linear biases: the farther a key, the less it counts.

    .. math:: \mathit{bias}_{h,i,j} = -m_h \, |p_i - j|

    as in [1]_. It is a function of positions, so that no engine has to hold it whole.

    Parameters
    ----------
    slopes : array, shape (num_heads,)
        How fast each head fades, real floating; `alibi_slopes`, or learned.
    q_pos : array, shape (q_len, 1) or (*batch, 1, q_len, 1), integer
        Position of each query.
    kv_pos : array, shape (1, kv_len) or (*batch, 1, 1, kv_len), integer
        Position of each key.

    Returns
    -------
    array, shape (..., num_heads, q_len, kv_len)
        Numbers up to 0, in the dtype of `slopes`; in float32 if that is a half.

    Raises
    ------
    ValueError
        If shapes are not as above, or arrays on different devices.
    TypeError
        If something has the wrong dtype, or comes from another library.

    See Also
    --------
    attention : Takes it as `bias`.
    alibi_slopes : The slopes of the paper.

    References
    ----------
    .. [1] Press et al., "Train Short, Test Long: Attention with Linear Biases Enables Input
           Length Extrapolation", 2022, arXiv:2108.12409.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> q_pos, kv_pos = np.arange(3)[:, None], np.arange(3)[None, :]
    >>> af.alibi_bias(np.asarray([0.5]), q_pos, kv_pos)
    array([[[-0. , -0.5, -1. ],
            [-0.5, -0. , -0.5],
            [-1. , -0.5, -0. ]]])

    As the bias of an attention:

    >>> slopes = af.alibi_slopes(8)
    >>> x = np.zeros((8, 3, 4), dtype="float32")
    >>> af.attention(x, x, x, bias=lambda q_pos, kv_pos: af.alibi_bias(slopes, q_pos, kv_pos),
    ...              is_causal=True).shape
    (8, 3, 4)
    """
    xp = _check_positions(q_pos, kv_pos, slopes=slopes)
    check_exact_ndim("slopes", slopes, 1, "(num_heads,)")
    distance = xp.abs(_apart(q_pos, kv_pos))
    m: Array = _at_least_single(slopes, xp=xp)
    if distance.ndim == 2:
        distance = distance[None, :, :]
    return -m[:, None, None] * xp.astype(distance, m.dtype)


def relative_position_bucket(
    relative_position: Integer[ArrayT, "..."],
    /,
    *,
    num_buckets: int = 32,
    max_distance: int = 128,
    is_bidirectional: bool = True,
) -> Integer[ArrayT, "..."]:
    r"""
    Which bucket of T5 each distance between a key and a query falls into.

    With :math:`b` buckets for a direction, half of them if `is_bidirectional`, and
    :math:`e = \lfloor b / 2 \rfloor`:

    .. math::

        \mathit{bucket}(d) = d \text{ if } d < e, \text{ else }
        \min\!\left(b - 1,\; e + \left\lfloor
            \frac{\log(d / e)}{\log(\mathit{max\_distance} / e)} (b - e) \right\rfloor\right)

    as in [1]_: near distances have a bucket each, far ones share.

    Parameters
    ----------
    relative_position : array, integer
        ``kv_pos - q_pos``, any shape.
    num_buckets : int, optional
        Number of buckets, 4 or more; 2 or more where not `is_bidirectional`. Default: 32.
    max_distance : int, optional
        From which distance on all fall into the last one; more than half of the buckets of
        a direction. Default: 128.
    is_bidirectional : bool, optional
        Whether keys after the query have buckets of their own, the second half; else they
        fall into bucket 0. True in an encoder, False in a decoder. Default: True.

    Returns
    -------
    array, integer
        Buckets from 0 to ``num_buckets - 1``, the shape and dtype of `relative_position`.

    Raises
    ------
    ValueError
        If `num_buckets` or `max_distance` is too small or does not fit.
    TypeError
        If `relative_position` is not an integer array, or a choice of the wrong kind.

    See Also
    --------
    relative_position_bias : Looks a learned number up for each.

    References
    ----------
    .. [1] Raffel et al., "Exploring the Limits of Transfer Learning with a Unified
           Text-to-Text Transformer", 2020, arXiv:1910.10683, 2.1.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> af.relative_position_bucket(np.asarray([-200, -9, -2, 0, 2, 9, 200]))
    array([15,  8,  2,  0, 18, 24, 31])
    """
    xp = check_one_library(relative_position=relative_position)
    check_dtype("integral", xp=xp, relative_position=relative_position)
    _check_buckets(num_buckets, max_distance, is_bidirectional)
    choices = (plain(num_buckets), plain(max_distance), is_bidirectional)
    return _bucket(relative_position, *choices, xp=xp)


def relative_position_bias(
    table: Float[ArrayT, "num_buckets num_heads"],
    q_pos: Integer[ArrayT, "..."],
    kv_pos: Integer[ArrayT, "..."],
    /,
    *,
    max_distance: int = 128,
    is_bidirectional: bool = True,
) -> Float[ArrayT, "*batch num_heads q_len kv_len"]:
    r"""
    Relative position bias of T5: a learned number for each head and bucket of distances.

    .. math:: \mathit{bias}_{h,i,j} = \mathit{table}_{\mathit{bucket}(j - p_i),\, h}

    as in [1]_. It is a function of positions, so that no engine has to hold it whole.

    Parameters
    ----------
    table : array, shape (num_buckets, num_heads)
        The learned numbers, real floating; gradients reach it on every engine.
    q_pos : array, shape (q_len, 1) or (*batch, 1, q_len, 1), integer
        Position of each query.
    kv_pos : array, shape (1, kv_len) or (*batch, 1, 1, kv_len), integer
        Position of each key.
    max_distance : int, optional
        As in `relative_position_bucket`. Default: 128.
    is_bidirectional : bool, optional
        As in `relative_position_bucket`. Default: True.

    Returns
    -------
    array, shape (..., num_heads, q_len, kv_len)
        In the dtype of `table`.

    Raises
    ------
    ValueError
        If shapes are not as above, or arrays on different devices.
    TypeError
        If something has the wrong dtype, or comes from another library.

    See Also
    --------
    attention : Takes it as `bias`; T5 has ``scale=1.0`` beside it.
    relative_position_bucket : The buckets.

    References
    ----------
    .. [1] Raffel et al., "Exploring the Limits of Transfer Learning with a Unified
           Text-to-Text Transformer", 2020, arXiv:1910.10683, 2.1.

    Examples
    --------
    Of 4 buckets, 2 are for keys up to the query, 2 for those after it:

    >>> import numpy as np
    >>> import attnfn as af
    >>> table = np.asarray([[0.0], [1.0], [2.0], [3.0]])
    >>> q_pos, kv_pos = np.arange(3)[:, None], np.arange(3)[None, :]
    >>> af.relative_position_bias(table, q_pos, kv_pos)
    array([[[0., 3., 3.],
            [1., 0., 3.],
            [1., 1., 0.]]])
    """
    xp = _check_positions(q_pos, kv_pos, table=table)
    check_exact_ndim("table", table, 2, "(num_buckets, num_heads)")
    num_buckets, num_heads = table.shape
    _check_buckets(num_buckets, max_distance, is_bidirectional)
    apart, most = _apart(q_pos, kv_pos), plain(max_distance)
    # Looked up for each distance first, of which there are few, and then for each pair.
    distances = arange(2 * most + 1, xp, device_of(table)) - most
    buckets = _bucket(distances, num_buckets, most, is_bidirectional, xp=xp)
    by_distance = xp.take(table, buckets, axis=0)
    at = xp.reshape(xp.clip(apart, -most, most) + most, (-1,))
    *batch, q_len, kv_len = apart.shape
    found = xp.take(by_distance, at, axis=0)
    found = xp.reshape(found, (*batch[:-1], q_len, kv_len, num_heads))
    *axes, i, j, h = range(found.ndim)
    return xp.permute_dims(found, (*axes, h, i, j))


def _check_positions(q_pos: Array, kv_pos: Array, /, **numbers: Array) -> Namespace:
    """Check the arrays of a bias that is a function of positions; return their namespace."""
    arrays = {**numbers, "q_pos": q_pos, "kv_pos": kv_pos}
    xp = check_one_library(**arrays)
    check_one_device(**arrays)
    check_floating(xp=xp, **numbers)
    check_dtype("integral", xp=xp, q_pos=q_pos, kv_pos=kv_pos)
    return xp


def _apart(q_pos: Array, kv_pos: Array, /) -> Array:
    """Return how far each key stands after each query."""
    apart = kv_pos - q_pos
    check_position_axes(apart)
    return apart


def _at_least_single(x: Array, /, *, xp: Namespace) -> Array:
    # Distances above 256 are no numbers of bfloat16.
    return x if xp.finfo(x.dtype).bits >= 32 else xp.astype(x, xp.float32)


def _check_buckets(num_buckets: Any, max_distance: Any, is_bidirectional: Any, /) -> None:
    check_bool("is_bidirectional", is_bidirectional)
    check_integer("num_buckets", num_buckets, least=4 if is_bidirectional else 2)
    each = num_buckets // 2 if is_bidirectional else num_buckets
    check_integer("max_distance", max_distance, least=each // 2 + 1)


def _bucket(
    apart: Array,
    num_buckets: int,
    max_distance: int,
    is_bidirectional: bool,
    /,
    *,
    xp: Namespace,
) -> Array:
    each = num_buckets // 2 if is_bidirectional else num_buckets
    known = vector(_buckets_by_distance(each, max_distance), apart.dtype, xp, device_of(apart))
    distance = xp.abs(xp.clip(apart, -max_distance, max_distance if is_bidirectional else 0))
    found = xp.reshape(xp.take(known, xp.reshape(distance, (-1,)), axis=0), apart.shape)
    return found + each * xp.astype(apart > 0, found.dtype) if is_bidirectional else found


def _buckets_by_distance(each: int, max_distance: int, /) -> list[int]:
    """Return the bucket of every distance: a table, as logarithms differ in the last digit."""
    exact = each // 2
    by_log = (each - exact) / math.log(max_distance / exact)
    # Where a boundary is a whole number, its logarithm may come out a little too small.
    return [
        d if d < exact else min(each - 1, exact + int(math.log(d / exact) * by_log + 1e-9))
        for d in range(max_distance + 1)
    ]
