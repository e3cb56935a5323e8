"""The oracle: attention by plain formula, in float64 or in any number of digits."""

from typing import Any, Unpack

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped

from ..._checks import check_closed_form, check_exact_shape, check_options
from ..._derivatives import AttentionGradients
from ..._typing import Array, PositionFunction, ScoreFunction
from .._arrays import is_array, to_float64
from ._call import Call, Options, WeightOptions, read, sum_to
from ._digits import Numbers, numbers
from ._rows import in_numbers, modified_scores, row_at, scale_of, share_kept

__all__ = ["oracle", "oracle_vjp", "oracle_weights", "oracle_with_lse"]

OPTIONS = frozenset(Options.__annotations__)
WEIGHT_OPTIONS = frozenset(WeightOptions.__annotations__)


def oracle(
    query: Float[Array, "*batch num_heads q_len head_dim"],
    key: Float[Array, "*batch num_kv_heads kv_len head_dim"],
    value: Float[Array, "*batch num_kv_heads kv_len value_dim"],
    /,
    *,
    mask: Bool[Array, "..."] | PositionFunction | None = None,
    bias: Float[Array, "..."] | PositionFunction | None = None,
    is_causal: bool = False,
    window_size: tuple[int | None, int | None] | None = None,
    q_offset: int | Integer[Array, "..."] | None = None,
    segment_ids: Integer[Array, "..."] | tuple[Array, Array] | None = None,
    scale: float | Float[Array, ""] | None = None,
    softcap: float | None = None,
    score_mod: ScoreFunction | None = None,
    sinks: float | Float[Array, "..."] | None = None,
    dropout_mask: Bool[Array, "..."] | PositionFunction | None = None,
    dropout_rate: float | None = None,
    digits: int | None = None,
) -> Shaped[np.ndarray, "*batch num_heads q_len value_dim"]:
    r"""
    Attention by its definition, one query at a time, in float64 or in more digits.

    .. math::

        \mathrm{out}_i = \sum_j w_{ij} \cdot \mathit{keep}_{ij} \, v_j, \qquad
        w_{ij} = e^{s_{ij}} \,/\, \big(\textstyle\sum_j e^{s_{ij}} + e^{\mathit{sink}}\big)

    over the keys :math:`j` that query :math:`i` may attend to. It shares no code with the
    engines of `attnfn.attention`: nothing is hidden and then taken away again, since a key
    that a query may not attend to is never looked at.

    Parameters
    ----------
    query : array, shape (..., num_heads, q_len, head_dim)
        What each position looks for: an array of any library, on any device, in any floating
        dtype; nested lists, too. It need not share its library with the others.
    key : array, shape (..., num_kv_heads, kv_len, head_dim)
        What each position offers to be found by.
    value : array, shape (..., num_kv_heads, kv_len, value_dim)
        What each position hands over.
    mask : bool array, or function of (q_pos, kv_pos), optional
        True where the query may attend to the key, as in `attnfn.attention`. Functions are
        called once, with all positions, as arrays of the library of `query`.
    bias : floating array, or function of (q_pos, kv_pos), optional
        Added to the scores.
    is_causal : bool, optional
        Whether to hide the keys after each query's own position as well. Default: False.
    window_size : tuple of two ints, optional
        ``(left, right)``, both ends included; None is no bound.
    q_offset : int or integer array, shape () or (*batch,), optional
        Position of the first query among the keys.
    segment_ids : integer array, or pair of them, optional
        Attend only within equal ids.
    scale : float or 0-d array, optional
        Factor on the scores. Default: ``1 / sqrt(head_dim)``, in as many digits as are
        computed.
    softcap : float, optional
        Bend the scores into ``(-softcap, softcap)``.
    score_mod : function of (scores, q_pos, kv_pos), optional
        Returns the scores to go on with. It is called once, with arrays of the library of
        `query`: float64, also on JAX; float32 on MLX. With `digits`, with NumPy arrays of
        ``mpmath.mpf``, so it must be made of operators or of mpmath's functions.
    sinks : float or floating array, shape (), (num_heads,) or (*batch, num_heads), optional
        Logit of a key whose value is 0.
    dropout_mask : bool array, or function of (q_pos, kv_pos), optional
        True where a weight is kept.
    dropout_rate : float, optional
        The rate that `dropout_mask` was drawn with.
    digits : int, optional
        How many decimal digits to compute with, in mpmath. Default: float64, which has 16.

    Returns
    -------
    numpy.ndarray, shape (..., num_heads, q_len, value_dim)
        In float64; with `digits`, of ``mpmath.mpf``. A query that may attend to nothing gets
        zeros; one that may attend to a key or a value with a NaN or an inf gets NaN.

    Raises
    ------
    ValueError, TypeError
        As `attnfn.attention`, except that libraries, devices and dtypes may differ.
    ImportError
        If there are `digits`, and no mpmath.

    See Also
    --------
    oracle_with_lse : And the log-sum-exp of each row.
    oracle_vjp : Its gradients.
    attnfn.attention : The same, fast; its page says what every option means.

    Examples
    --------
    >>> import numpy as np
    >>> from attnfn.testing import oracle
    >>> query = key = np.zeros((1, 2, 4), np.float16)
    >>> value = np.asarray([[[1.0, 2.0], [3.0, 4.0]]], np.float16)
    >>> oracle(query, key, value, is_causal=True)
    array([[[1., 2.],
            [2., 3.]]])

    A third, in 30 digits:

    >>> import mpmath
    >>> out = oracle([[0.0]], [[0.0]] * 3, [[1.0], [0.0], [0.0]], digits=30)
    >>> print(mpmath.nstr(out[0, 0], 30))
    0.333333333333333333333333333333
    """
    out, _ = oracle_with_lse(
        query,
        key,
        value,
        mask=mask,
        bias=bias,
        is_causal=is_causal,
        window_size=window_size,
        q_offset=q_offset,
        segment_ids=segment_ids,
        scale=scale,
        softcap=softcap,
        score_mod=score_mod,
        sinks=sinks,
        dropout_mask=dropout_mask,
        dropout_rate=dropout_rate,
        digits=digits,
    )
    return out


def oracle_with_lse(
    query: Float[Array, "*batch num_heads q_len head_dim"],
    key: Float[Array, "*batch num_kv_heads kv_len head_dim"],
    value: Float[Array, "*batch num_kv_heads kv_len value_dim"],
    /,
    *,
    digits: int | None = None,
    **options: Unpack[Options],
) -> tuple[
    Shaped[np.ndarray, "*batch num_heads q_len value_dim"],
    Shaped[np.ndarray, "*batch num_heads q_len"],
]:
    r"""
    Attention by its definition, and the log-sum-exp of each row of scores.

    .. math:: \mathit{lse} = \log \big(\textstyle\sum_j e^{s_j} + e^{\mathit{sink}}\big)

    Parameters
    ----------
    query : array, shape (..., num_heads, q_len, head_dim)
        What each position looks for, an array of any library.
    key : array, shape (..., num_kv_heads, kv_len, head_dim)
        What each position offers to be found by.
    value : array, shape (..., num_kv_heads, kv_len, value_dim)
        What each position hands over.
    digits : int, optional
        How many decimal digits to compute with. Default: float64.
    **options
        The other options of `oracle`.

    Returns
    -------
    out : numpy.ndarray, shape (..., num_heads, q_len, value_dim)
        What `oracle` returns.
    lse : numpy.ndarray, shape (..., num_heads, q_len)
        With the natural logarithm; -inf for a query that may attend to nothing and has no sink.

    Raises
    ------
    ValueError, TypeError, ImportError
        As `oracle`.

    See Also
    --------
    oracle : The output alone.

    Examples
    --------
    Four keys that match equally well:

    >>> import numpy as np
    >>> from attnfn.testing import oracle_with_lse
    >>> out, lse = oracle_with_lse(np.zeros((1, 2)), np.zeros((4, 2)), np.ones((4, 3)))
    >>> np.exp(lse).round(6)
    array([4.])
    """
    check_options("oracle_with_lse", options, OPTIONS)
    call = read(query, key, value, **options)
    with numbers(digits) as number:
        out = number.of(np.zeros((*call.shape[:-1], call.v.shape[-1])))
        lse = number.of(np.zeros(call.shape[:-1]))
        for at, row in _rows(call, number):
            out[at], lse[at] = row.out, row.lse
    rows = call.public_shape[:-1]
    return out.reshape((*rows, call.v.shape[-1])), lse.reshape(rows)


def oracle_weights(
    query: Float[Array, "*batch num_heads q_len head_dim"],
    key: Float[Array, "*batch num_kv_heads kv_len head_dim"],
    /,
    *,
    digits: int | None = None,
    **options: Unpack[WeightOptions],
) -> Shaped[np.ndarray, "*batch num_heads q_len kv_len"]:
    r"""
    Attention weights by their definition: what part of its output a query takes from a key.

    .. math:: w = e^{s} \,/\, \big(\textstyle\sum_j e^{s_j} + e^{\mathit{sink}}\big)

    Parameters
    ----------
    query : array, shape (..., num_heads, q_len, head_dim)
        What each position looks for, an array of any library.
    key : array, shape (..., num_kv_heads, kv_len, head_dim)
        What each position offers to be found by.
    digits : int, optional
        How many decimal digits to compute with. Default: float64.
    **options
        The other options of `oracle` without `dropout_mask` and `dropout_rate`.

    Returns
    -------
    numpy.ndarray, shape (..., num_heads, q_len, kv_len)
        Before dropout; a key that the query may not attend to has 0.

    Raises
    ------
    ValueError, TypeError, ImportError
        As `oracle`.

    See Also
    --------
    oracle : The values, averaged by these weights.

    Examples
    --------
    >>> import numpy as np
    >>> from attnfn.testing import oracle_weights
    >>> oracle_weights(np.zeros((2, 1)), np.zeros((2, 1)), is_causal=True)
    array([[1. , 0. ],
           [0.5, 0.5]])
    """
    check_options("oracle_weights", options, WEIGHT_OPTIONS)
    call = read(query, key, (), **options)
    with numbers(digits) as number:
        weights = number.of(np.zeros(call.shape))
        for at, row in _rows(call, number):
            weights[at][row.seen] = row.weights
    return weights.reshape(call.public_shape)


def oracle_vjp(
    query: Float[Array, "*batch num_heads q_len head_dim"],
    key: Float[Array, "*batch num_kv_heads kv_len head_dim"],
    value: Float[Array, "*batch num_kv_heads kv_len value_dim"],
    d_out: Float[Array, "*batch num_heads q_len value_dim"],
    /,
    *,
    d_lse: Float[Array, "*batch num_heads q_len"] | None = None,
    digits: int | None = None,
    **options: Unpack[Options],
) -> AttentionGradients:
    r"""
    Backward pass of attention by its definition: the closed form, one query at a time.

    With :math:`w` a row of weights, :math:`\mathit{keep}` that of the dropout mask over
    ``1 - dropout_rate``, and :math:`s` the capped scores before the bias:

    .. math::

        dv_j &\mathrel{+}= w_j \cdot \mathit{keep}_j \, d\mathit{out} \\
        dP_j &= \mathit{keep}_j \, (v_j \cdot d\mathit{out}) \\
        \delta &= \textstyle\sum_j w_j \, dP_j - d\mathit{lse} \\
        ds_j &= w_j \, (dP_j - \delta), \qquad
            d\mathit{bias}_j \mathrel{+}= ds_j, \qquad
            d\mathit{sink} \mathrel{-}= w_{\mathit{sink}} \, \delta \\
        dr_j &= \mathit{scale} \cdot ds_j \, \big(1 - (s_j / \mathit{softcap})^2\big) \\
        dq &= \textstyle\sum_j dr_j \, k_j, \qquad dk_j \mathrel{+}= dr_j \, q

    Parameters
    ----------
    query : array, shape (..., num_heads, q_len, head_dim)
        What each position looks for, an array of any library.
    key : array, shape (..., num_kv_heads, kv_len, head_dim)
        What each position offers to be found by.
    value : array, shape (..., num_kv_heads, kv_len, value_dim)
        What each position hands over.
    d_out : floating array, shape (..., num_heads, q_len, value_dim)
        Gradient of a loss with respect to the output, in the output's full shape.
    d_lse : floating array, shape (..., num_heads, q_len), optional
        Gradient with respect to the log-sum-exp. Default: zero.
    digits : int, optional
        How many decimal digits to compute with. Default: float64.
    **options
        The other options of `oracle`, but for `score_mod`, which has no closed form.

    Returns
    -------
    attnfn.AttentionGradients
        ``(query, key, value, bias, sinks)``, each in the shape of its argument, summed over the
        axes along which that was broadcast; ``()`` for a `bias` or `sinks` that was not given,
        and for a `bias` that is a function. A query that may attend to nothing, or whose output
        is NaN, gets no gradient and passes none on, but what `d_lse` gives to an lse that is
        finite.

    Raises
    ------
    ValueError, TypeError, ImportError
        As `oracle`, and if `d_out` or `d_lse` does not have the shape of what it belongs to.
    NotImplementedError
        If there is a `score_mod`.

    See Also
    --------
    attnfn.attention_vjp : The same, fast.

    Examples
    --------
    >>> import numpy as np
    >>> from attnfn.testing import oracle_vjp
    >>> query, key = np.ones((1, 1)), np.ones((2, 1))
    >>> value = np.asarray([[1.0], [3.0]])
    >>> oracle_vjp(query, key, value, np.ones((1, 1))).key
    array([[-0.5],
           [ 0.5]])
    """
    check_options("oracle_vjp", options, OPTIONS)
    check_closed_form("oracle_vjp", options.get("score_mod"))
    call = read(query, key, value, **options)
    d_out, d_lse = to_float64(d_out), None if d_lse is None else to_float64(d_lse)
    rows = call.public_shape[:-1]
    layout = "(*batch, num_heads, q_len{})"
    shape = (*rows, call.v.shape[-1])
    check_exact_shape("d_out", d_out, [shape], layout.format(", value_dim"))
    if d_lse is not None:
        check_exact_shape("d_lse", d_lse, [rows], layout.format(""))

    bias, sinks = options.get("bias"), options.get("sinks")
    with numbers(digits) as number:
        found = _gradients(
            call,
            number,
            number.of(d_out).reshape((*call.shape[:-1], shape[-1])),
            number.of(np.zeros(rows) if d_lse is None else d_lse).reshape(call.shape[:-1]),
            has_bias=bias is not None and not callable(bias),
        )
        given = (query, key, value, bias, sinks)
        return AttentionGradients(
            *(
                () if like is None or x is None else sum_to(x, _shape_of(like))
                for x, like in zip(found, given, strict=True)
            )
        )


def _rows(call: Call, number: Numbers, /) -> Any:
    call = in_numbers(call, number)
    scores = modified_scores(call, number)
    for at in np.ndindex(call.shape[:-1]):
        yield at, row_at(call, number, scores, at)


def _gradients(
    call: Call, number: Numbers, d_out: np.ndarray, d_lse: np.ndarray, /, *, has_bias: bool
) -> tuple[np.ndarray | None, ...]:
    """Return the gradients of everything, with every axis."""
    d_q, d_k, d_v = (number.of(np.zeros(x.shape)) for x in (call.q, call.k, call.v))
    d_bias = number.of(np.zeros(call.shape)) if has_bias else None
    d_sinks = number.of(np.zeros(call.shape[:-2]))
    scale = scale_of(call, number)
    for at, row in _rows(call, number):
        if row.lse == -np.inf or _has_nan(row.lse):
            continue
        *batch, h, _ = at
        # A bad value makes the output NaN, which then says nothing of the rest.
        is_lost = _has_nan(row.out)
        d_row = 0 * d_out[at] if is_lost else d_out[at]
        d_p = 0 * row.weights if is_lost else row.values @ d_row
        if call.keep is not None:
            d_p = d_p * share_kept(call, number, at)[row.seen]
        delta = row.weights @ d_p - d_lse[at]
        # Where a weight is 0 its value may be as large as numbers get.
        d_s = np.where(row.weights == 0, row.weights, row.weights * (d_p - delta))
        d_raw = d_s * scale
        if call.softcap is not None:
            d_raw = d_raw * (1 - (row.capped / call.softcap) ** 2)

        d_q[at] = d_raw @ row.keys
        d_k[*batch, call.head_of(call.k, h)][row.seen] += np.outer(d_raw, number.of(call.q[at]))
        d_v[*batch, call.head_of(call.v, h)][row.seen] += np.outer(row.kept, d_row)
        d_sinks[*batch, h] -= row.sink_weight * delta
        if d_bias is not None:
            d_bias[at][row.seen] = d_s
    return d_q, d_k, d_v, d_bias, d_sinks


def _has_nan(x: Any, /) -> bool:
    return bool(np.any(x != x))


def _shape_of(x: Any, /) -> tuple[int, ...]:
    return tuple(x.shape) if is_array(x) else np.shape(x)
