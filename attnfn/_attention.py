"""The one door to the engines."""

from typing import Any, Unpack

from jaxtyping import Bool, Float, Integer

from ._backend import full_precision
from ._checks import check_options
from ._engines import choose_engine, engine_name
from ._problem import AttentionProblem, describe
from ._rows import weigh, whole
from ._scores import clean, score, with_nan
from ._typing import (
    Array,
    ArrayT,
    AttentionOptions,
    EngineName,
    PositionFunction,
    ScoreFunction,
    ScoreOptions,
    WeightOptions,
)

__all__ = [
    "attention",
    "attention_scores",
    "attention_weights",
    "attention_with_lse",
    "computed",
    "select_engine",
]

ATTENTION_OPTIONS = frozenset(AttentionOptions.__annotations__)
WEIGHT_OPTIONS = frozenset(WeightOptions.__annotations__)
SCORE_OPTIONS = frozenset(ScoreOptions.__annotations__)


def attention(
    query: Float[ArrayT, "*batch num_heads q_len head_dim"],
    key: Float[ArrayT, "*batch num_kv_heads kv_len head_dim"],
    value: Float[ArrayT, "*batch num_kv_heads kv_len value_dim"],
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
    compute_dtype: Any = None,
    engine: EngineName = "auto",
) -> Float[ArrayT, "*batch num_heads q_len value_dim"]:
    r"""
    Scaled dot-product attention.

    For each query, average the values, weighted by how well their keys match it:

    .. math::

        \mathrm{attention}(Q, K, V)
            = \mathrm{softmax}\!\left(\mathit{scale} \cdot Q K^\top\right) V

    as in [1]_, eq. 1. With every option, in this order:

    .. math::

        p_i &= i + \mathit{q\_offset} \\
        s &= (Q \cdot \mathit{scale})\, K^\top \\
        s &= \mathrm{score\_mod}(s, p, j) \\
        s &= \mathit{softcap} \cdot \tanh(s / \mathit{softcap}) \\
        s &= s + \mathit{bias} \\
        A &= \mathit{mask} \wedge (j \le p)
             \wedge (p - \mathit{left} \le j \le p + \mathit{right})
             \wedge (\text{same segment}) \\
        s &= s \text{ where } A, \text{ else } -\infty \\
        w &= e^{s} \,/\, \big(\textstyle\sum_j e^{s_j} + e^{\mathit{sink}}\big) \\
        \mathit{out} &= \big(w \cdot \mathit{dropout\_mask}
             / (1 - \mathit{dropout\_rate})\big)\, V

    Parameters
    ----------
    query : array, shape (..., num_heads, q_len, head_dim)
        What each position looks for. Real floating, one dtype for all three. ``(q_len,
        head_dim)`` alone is fine. Leading axes broadcast against those of `key` and `value`.
    key : array, shape (..., num_kv_heads, kv_len, head_dim)
        What each position offers to be found by. ``num_heads`` must be a multiple of
        ``num_kv_heads``: equal is multi-head attention, one is multi-query [2]_, between is
        grouped-query attention [3]_, in which query head ``h`` uses key/value head
        ``h // (num_heads // num_kv_heads)``.
    value : array, shape (..., num_kv_heads, kv_len, value_dim)
        What each position hands over. ``value_dim`` may differ from ``head_dim``.
    mask : bool array, or function of (q_pos, kv_pos), optional
        True where the query may attend to the key; shape ``(kv_len,)``, ``(q_len, kv_len)``,
        or one axis for each of the scores ``(..., num_heads, q_len, kv_len)``, each the
        scores' or 1. Default: everywhere. On functions see the notes.
    bias : floating array, or function of (q_pos, kv_pos), optional
        Added to the scores; shape as `mask`, and ``(num_heads, q_len, kv_len)`` as well. A
        -inf hides the key. Default: none.
    is_causal : bool, optional
        Whether to hide the keys after each query's own position as well. Default: False.
    window_size : tuple of two ints, optional
        ``(left, right)``: how many keys before and after its own position a query may attend
        to, 0 or more, both ends included; None is no bound. Default: no window.
    q_offset : int or integer array, shape () or (*batch,), optional
        Position of the first query among the keys, any sign. Needed with `is_causal`,
        `window_size` and functions where the lengths differ: ``q_offset=0`` puts the queries
        first, ``q_offset=kv_len - q_len`` last. Default: 0.
    segment_ids : integer array, or pair of them, optional
        Attend only within equal ids; ``(q_segments, kv_segments)``, or one array for both,
        shape ``(length,)`` or ``(*batch, length)``. Default: one segment.
    scale : float or 0-d array, optional
        Factor on the scores. Default: ``1 / sqrt(head_dim)``.
    softcap : float, optional
        Bend the scores into ``(-softcap, softcap)``, as Gemma 2 does; above 0. Default: no cap.
    score_mod : function of (scores, q_pos, kv_pos), optional
        Returns the scores to go on with, of the same shape; a -inf hides the key. It sees
        every batch and head axis. Default: none.
    sinks : float or floating array, shape (), (num_heads,) or (*batch, num_heads), optional
        Logit of a key whose value is 0 [4]_; 0.0 is "off-by-one" softmax. Default: none.
    dropout_mask : bool array, or function of (q_pos, kv_pos), optional
        True where a weight is kept; shape as `mask`. Draw it with probability
        ``1 - dropout_rate``. Default: no dropout.
    dropout_rate : float, optional
        The rate that `dropout_mask` was drawn with, in [0, 1); each needs the other.
    compute_dtype : dtype, optional
        In which everything is computed. Default: float32 for halves, else their own.
    engine : {"auto", "dense", "blockwise", "native"}, optional
        How to compute; engines agree up to rounding. "dense" keeps all scores at once.
        "blockwise" takes a few queries at a time, against the keys that they may see: its
        memory grows with the length, not with its square. "native" is the kernel made for the
        library: our own for NumPy, ``scaled_dot_product_attention`` for PyTorch. "auto", the
        default, chooses as `select_engine` says.

    Returns
    -------
    array, shape (..., num_heads, q_len, value_dim)
        Library, device and dtype of `query`. A query that may attend to nothing gets zeros.

    Raises
    ------
    ValueError
        If shapes do not fit together, a number is out of its range, `q_offset` is needed and
        not given, or arrays are on different devices.
    TypeError
        If something is not an array where it must be one, comes from another library, or has
        a dtype that does not fit: a mask that is not bool, queries that are not floating.
    NotImplementedError
        If the `engine` asked for by name cannot do it.

    See Also
    --------
    attention_with_lse : Returns the log-sum-exp of each row, too.
    attention_weights : What each query looks at.
    multi_head_attention : With projections, from features.
    causal_mask, padding_mask : Masks to look at, and to combine.

    Notes
    -----
    *Functions* are called with integer arrays ``q_pos`` of shape ``(q_len, 1)``, or
    ``(*batch, 1, q_len, 1)`` where `q_offset` has batch axes, and ``kv_pos`` of shape
    ``(1, kv_len)``, on the device of `query`. They may be called for any rows and columns,
    in any order, so what they return at one pair of positions must not depend on what else
    is asked.

    *Nothing to attend to*: the output is 0, the log-sum-exp -inf, every derivative 0. The same
    holds where a length is 0.

    *NaN and inf* in keys and values that a query may not attend to reach neither its output
    nor any gradient. A query that may attend to one of them gets NaN, and passes no gradient.

    Arguments are not changed, values are not inspected: it can be traced by ``jax.jit``,
    ``torch.compile`` and ``torch.func``, and differentiated any number of times.

    References
    ----------
    .. [1] Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762.
    .. [2] Shazeer, "Fast Transformer Decoding", 2019, arXiv:1911.02150.
    .. [3] Ainslie et al., "GQA", 2023, arXiv:2305.13245.
    .. [4] Xiao et al., "Efficient Streaming Language Models with Attention Sinks", 2023,
           arXiv:2309.17453.

    Examples
    --------
    With keys this far apart, each query picks the value of the key it matches:

    >>> import numpy as np
    >>> import attnfn as af
    >>> query = key = 100 * np.eye(2)[None, :, :]  # 1 head, 2 positions
    >>> value = np.asarray([[[1.0, 2.0], [3.0, 4.0]]])
    >>> af.attention(query, key, value)
    array([[[1., 2.],
            [3., 4.]]])

    Told not to look at the second position, both pick the first:

    >>> af.attention(query, key, value, mask=np.asarray([True, False]))
    array([[[1., 2.],
            [1., 2.]]])

    A bias as a function, which is never kept whole: the farther, the less.

    >>> far = lambda q_pos, kv_pos: -3.0 * abs(q_pos - kv_pos)
    >>> af.attention(np.zeros_like(query), key, value, bias=far).round(2)
    array([[[1.09, 2.09],
            [2.91, 3.91]]])

    Arrays with the axes ``(batch, length, num_heads, head_dim)`` are turned before and after:

    >>> x = np.zeros((2, 5, 3, 4))
    >>> turned = np.moveaxis(x, -2, -3)
    >>> np.moveaxis(af.attention(turned, turned, turned), -3, -2).shape
    (2, 5, 3, 4)
    """
    problem = describe(
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
        compute_dtype=compute_dtype,
    )
    return computed(problem, engine)


def attention_with_lse(
    query: Float[ArrayT, "*batch num_heads q_len head_dim"],
    key: Float[ArrayT, "*batch num_kv_heads kv_len head_dim"],
    value: Float[ArrayT, "*batch num_kv_heads kv_len value_dim"],
    /,
    **options: Unpack[AttentionOptions],
) -> tuple[
    Float[ArrayT, "*batch num_heads q_len value_dim"], Float[ArrayT, "*batch num_heads q_len"]
]:
    r"""
    Attention, and the log-sum-exp of each row of scores.

    .. math:: \mathit{lse} = \log \big(\textstyle\sum_j e^{s_j} + e^{\mathit{sink}}\big)

    with the natural logarithm. It is what `merge_attentions` needs to join attentions over
    different keys, and what a backward pass needs to find the weights again.

    Parameters
    ----------
    query : array, shape (..., num_heads, q_len, head_dim)
        What each position looks for.
    key : array, shape (..., num_kv_heads, kv_len, head_dim)
        What each position offers to be found by.
    value : array, shape (..., num_kv_heads, kv_len, value_dim)
        What each position hands over.
    **options
        Every option of `attention`, with the same meaning.

    Returns
    -------
    out : array, shape (..., num_heads, q_len, value_dim)
        What `attention` returns.
    lse : array, shape (..., num_heads, q_len)
        In the compute dtype; -inf for a query that may attend to nothing and has no sink.

    Raises
    ------
    ValueError, TypeError, NotImplementedError
        As `attention`.

    See Also
    --------
    attention : The output alone.
    merge_attentions : Joins several.

    Examples
    --------
    Four keys that match equally well:

    >>> import numpy as np
    >>> import attnfn as af
    >>> query, key = np.zeros((1, 2)), np.zeros((4, 2))
    >>> out, lse = af.attention_with_lse(query, key, np.arange(4.0)[:, None])
    >>> out
    array([[1.5]])
    >>> np.exp(lse)
    array([4.])
    """
    check_options("attention_with_lse", options, ATTENTION_OPTIONS)
    chosen: dict[str, Any] = dict(options)
    engine = chosen.pop("engine", "auto")
    problem = describe(query, key, value, wants_lse=True, **chosen)
    compute = choose_engine(problem, engine)
    out, lse = compute(problem)
    return _output(problem, out), whole(problem, lse, problem.shape[:-1])


def attention_weights(
    query: Float[ArrayT, "*batch num_heads q_len head_dim"],
    key: Float[ArrayT, "*batch num_kv_heads kv_len head_dim"],
    /,
    **options: Unpack[WeightOptions],
) -> Float[ArrayT, "*batch num_heads q_len kv_len"]:
    r"""
    Attention weights: what part of its output each query takes from each key.

    .. math:: w = e^{s} \,/\, \big(\textstyle\sum_j e^{s_j} + e^{\mathit{sink}}\big)

    Parameters
    ----------
    query : array, shape (..., num_heads, q_len, head_dim)
        What each position looks for.
    key : array, shape (..., num_kv_heads, kv_len, head_dim)
        What each position offers to be found by.
    **options
        The options of `attention` without `dropout_mask`, `dropout_rate` and `engine`: these
        are the weights before dropout, all of them at once.

    Returns
    -------
    array, shape (..., num_heads, q_len, kv_len)
        In the compute dtype. A row adds up to 1, less the sink's share; to 0 if the query
        may attend to nothing. A hidden key has exactly 0.

    Raises
    ------
    ValueError, TypeError
        As `attention`.

    See Also
    --------
    attention : The values, averaged by these weights.
    attention_scores : What the softmax is taken of.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> query = key = np.zeros((3, 2))
    >>> af.attention_weights(query, key, is_causal=True).round(2)
    array([[1.  , 0.  , 0.  ],
           [0.5 , 0.5 , 0.  ],
           [0.33, 0.33, 0.33]])
    """
    check_options("attention_weights", options, WEIGHT_OPTIONS)
    problem = describe(query, key, (), **options)
    with full_precision(query):
        return whole(problem, weigh(clean(problem)), problem.shape)


def attention_scores(
    query: Float[ArrayT, "*batch num_heads q_len head_dim"],
    key: Float[ArrayT, "*batch num_kv_heads kv_len head_dim"],
    /,
    **options: Unpack[ScoreOptions],
) -> Float[ArrayT, "*batch num_heads q_len kv_len"]:
    """
    Attention scores: the final logits, of which the softmax is taken.

    Scaled, then changed by `score_mod`, capped, biased and masked, in the order of
    `attention`.

    Parameters
    ----------
    query : array, shape (..., num_heads, q_len, head_dim)
        What each position looks for.
    key : array, shape (..., num_kv_heads, kv_len, head_dim)
        What each position offers to be found by.
    **options
        The options of `attention` that say what a score is: all but `sinks`,
        `dropout_mask`, `dropout_rate` and `engine`.

    Returns
    -------
    array, shape (..., num_heads, q_len, kv_len)
        In the compute dtype; -inf where the query may not attend to the key.

    Raises
    ------
    ValueError, TypeError
        As `attention`.

    See Also
    --------
    attention_weights : Their softmax.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> query = key = np.asarray([[1.0], [2.0]])
    >>> af.attention_scores(query, key, is_causal=True)
    array([[  1., -inf],
           [  2.,   4.]])
    """
    check_options("attention_scores", options, SCORE_OPTIONS)
    problem = describe(query, key, (), **options)
    with full_precision(query):
        problem = clean(problem)
        values = with_nan(problem, score(problem))
    return whole(problem, values, problem.shape)


def select_engine(
    query: Float[ArrayT, "*batch num_heads q_len head_dim"],
    key: Float[ArrayT, "*batch num_kv_heads kv_len head_dim"],
    value: Float[ArrayT, "*batch num_kv_heads kv_len value_dim"],
    /,
    **options: Unpack[AttentionOptions],
) -> EngineName:
    """
    Which engine a call of `attention` with these arguments uses.

    Parameters
    ----------
    query : array, shape (..., num_heads, q_len, head_dim)
        What each position looks for.
    key : array, shape (..., num_kv_heads, kv_len, head_dim)
        What each position offers to be found by.
    value : array, shape (..., num_kv_heads, kv_len, value_dim)
        What each position hands over.
    **options
        Every option of `attention`, with the same meaning.

    Returns
    -------
    {"dense", "blockwise", "native"}
        What ``engine="auto"`` takes, see the notes; any other `engine` that can do it is
        returned as it is.

    Raises
    ------
    ValueError, TypeError, NotImplementedError
        As `attention`.

    See Also
    --------
    attention : Takes `engine`.

    Notes
    -----
    The first that applies:

    1. "native", if the library has a kernel that can do all that is asked and is faster. On
       NumPy it can do all but `score_mod`, and is faster from 2^17 scores on, all heads
       together, but for 8 queries and fewer to a key/value head without softcap, window,
       segments and functions. On PyTorch it can do no `score_mod` or function, nothing within
       the transforms of ``torch.func`` and in forward mode; in a graph or on another device
       than a CPU no `softcap`, dropout, log-sum-exp, or array as `q_offset`, either. It is
       slower for 16 queries and fewer to a key/value head that need no gradient, unless all
       keys together have more than 2^16 numbers, and with what a graph cannot have for fewer
       than 2^16 scores a head.
    2. "dense", if queries had better not be cut: lengths that are not known, arrays of Dask and
       ndonnx, on PyTorch what is being compiled and forward-mode derivatives, on JAX a function
       given outside of ``jax.jit``.
    3. "dense", if a head has fewer than 2^16 scores, or a key/value head 16 queries or fewer.
    4. "blockwise".

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> x = np.zeros((1, 4, 8))
    >>> af.select_engine(x, x, x)
    'dense'
    """
    check_options("select_engine", options, ATTENTION_OPTIONS)
    chosen: dict[str, Any] = dict(options)
    engine = chosen.pop("engine", "auto")
    return engine_name(describe(query, key, value, **chosen), engine)


def computed(problem: AttentionProblem, engine: EngineName, /) -> Array:
    """Return the output of a problem, by the engine asked for."""
    compute = choose_engine(problem, engine)
    out, _ = compute(problem)
    return _output(problem, out)


def _output(problem: AttentionProblem, out: Array) -> Array:
    """Give the output its full shape and the dtype of the query."""
    out = whole(problem, out, (*problem.shape[:-1], problem.v.shape[-1]))
    return out if out.dtype == problem.q.dtype else problem.xp.astype(out, problem.q.dtype)
