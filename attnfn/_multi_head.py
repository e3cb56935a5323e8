"""Multi-head attention and its parameters."""

import itertools
from typing import Any, NamedTuple, Unpack

from jaxtyping import Float

from ._attention import attention, attention_weights
from ._checks import (
    check_bool,
    check_exact_ndim,
    check_exact_shape,
    check_fused_heads,
    check_fused_widths,
    check_head_split,
    check_integer,
    check_multiple,
    check_one_library,
    check_params,
    is_absent,
)
from ._heads import combine, project
from ._parameters import Initialiser
from ._typing import Array, ArrayT, AttentionOptions, Namespace, WeightOptions

__all__ = [
    "MultiHeadAttentionParams",
    "init_multi_head_attention",
    "multi_head_attention",
    "multi_head_attention_weights",
    "unfused",
]


class MultiHeadAttentionParams(NamedTuple):
    """
    Parameters of `multi_head_attention`, which carry the numbers of heads in their shapes.

    Query, key and value have either a weight each, or one fused `w_qkv`. An absent parameter
    is ``()``. It is a pytree as it stands: of JAX, of ``torch.func``, of optax and optree.

    Parameters
    ----------
    w_q : array, shape (model_dim, num_heads, head_dim)
        Makes the queries.
    w_k : array, shape (kv_model_dim, num_kv_heads, head_dim)
        Makes the keys.
    w_v : array, shape (v_model_dim, num_kv_heads, value_dim)
        Makes the values.
    w_o : array, shape (num_heads, value_dim, out_dim)
        Puts the heads together again.
    b_q : array, shape (num_heads, head_dim)
        Added to the queries.
    b_k : array, shape (num_kv_heads, head_dim)
        Added to the keys.
    b_v : array, shape (num_kv_heads, value_dim)
        Added to the values.
    b_o : array, shape (out_dim,)
        Added to the output.
    w_qkv : array, shape (model_dim, num_heads + 2 * num_kv_heads, head_dim)
        Instead of `w_q`, `w_k` and `w_v`: the heads of all three, in this order.
    b_qkv : array, shape (num_heads + 2 * num_kv_heads, head_dim)
        Instead of `b_q`, `b_k` and `b_v`.

    See Also
    --------
    init_multi_head_attention : Draws them.
    flatten_params : Gives them names to be stored under.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> params = af.init_multi_head_attention(16, 4, rng=np.random.default_rng(0))
    >>> params.w_q.shape, params.b_q
    ((16, 4, 4), ())
    >>> sum(x.size for x in af.flatten_params(params).values())
    1024
    """

    w_q: Any = ()
    w_k: Any = ()
    w_v: Any = ()
    w_o: Any = ()
    b_q: Any = ()
    b_k: Any = ()
    b_v: Any = ()
    b_o: Any = ()
    w_qkv: Any = ()
    b_qkv: Any = ()


def init_multi_head_attention(
    model_dim: int,
    num_heads: int,
    /,
    *,
    rng: Any,
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
    value_dim: int | None = None,
    kv_model_dim: int | None = None,
    v_model_dim: int | None = None,
    out_dim: int | None = None,
    is_fused: bool = False,
    has_bias: bool = False,
    init: str = "xavier",
    dtype: Any = None,
    xp: Namespace | None = None,
    device: Any = None,
) -> MultiHeadAttentionParams:
    r"""
    Draw the parameters of `multi_head_attention`.

    One seed gives the same parameters on every library, fused or apart.

    Parameters
    ----------
    model_dim : int
        Width of the features that make the queries, 1 or more.
    num_heads : int
        Number of query heads, 1 or more.
    rng : numpy.random.Generator
        Where the numbers come from; it is advanced.
    num_kv_heads : int, optional
        Number of key/value heads; must divide `num_heads`. Default: `num_heads`.
    head_dim : int, optional
        Width of a query and of a key. Default: ``model_dim // num_heads``.
    value_dim : int, optional
        Width of a value. Default: `head_dim`.
    kv_model_dim : int, optional
        Width of the features that make the keys. Default: `model_dim`.
    v_model_dim : int, optional
        Width of the features that make the values. Default: `kv_model_dim`.
    out_dim : int, optional
        Width of the result. Default: `model_dim`.
    is_fused : bool, optional
        Whether query, key and value share one weight. Default: False.
    has_bias : bool, optional
        Whether there are biases; they begin at zero. Default: False.
    init : {"xavier", "orthogonal", "normal"}, optional
        "xavier" draws uniformly from :math:`\pm\sqrt{6 / (n_{in} + n_{out})}` [1]_;
        "orthogonal" a matrix with orthonormal rows or columns [2]_; "normal" with standard
        deviation 0.02, as BERT and GPT-2 do. The fans are those of the whole matrix
        ``(model_dim, num_heads * head_dim)``, not of one head. Default: "xavier".
    dtype : optional
        A real floating dtype of the library. Default: float32.
    xp : array namespace, optional
        The library to make them with. Default: NumPy.
    device : optional
        Where to make them. Default: the library's own default.

    Returns
    -------
    MultiHeadAttentionParams
        The parameters; what is absent is ``()``.

    Raises
    ------
    ValueError
        If a size is below 1, `num_heads` not a multiple of `num_kv_heads`, `model_dim` not
        one of `num_heads` where `head_dim` is not given, `init` is unknown, or widths
        differ that a fused weight has in common.
    TypeError
        If a size is not an int, or `rng` not a generator of NumPy's.

    See Also
    --------
    multi_head_attention : Uses them.

    References
    ----------
    .. [1] Glorot and Bengio, "Understanding the difficulty of training deep feedforward
           neural networks", 2010.
    .. [2] Saxe et al., "Exact solutions to the nonlinear dynamics of learning in deep linear
           neural networks", 2013, arXiv:1312.6120.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> rng = np.random.default_rng(0)
    >>> params = af.init_multi_head_attention(16, 4, rng=rng, num_kv_heads=2, is_fused=True)
    >>> params.w_qkv.shape, params.w_o.shape
    ((16, 8, 4), (4, 4, 16))
    """
    make = Initialiser(init, rng, xp=xp, dtype=dtype, device=device)
    check_bool("is_fused", is_fused)
    check_bool("has_bias", has_bias)
    check_integer("model_dim", model_dim, least=1)
    check_integer("num_heads", num_heads, least=1)
    if head_dim is None:
        check_head_split(model_dim, num_heads)
        head_dim = model_dim // num_heads
    num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    value_dim = head_dim if value_dim is None else value_dim
    kv_model_dim = model_dim if kv_model_dim is None else kv_model_dim
    v_model_dim = kv_model_dim if v_model_dim is None else v_model_dim
    out_dim = model_dim if out_dim is None else out_dim
    sizes = {
        "num_kv_heads": num_kv_heads,
        "head_dim": head_dim,
        "value_dim": value_dim,
        "kv_model_dim": kv_model_dim,
        "v_model_dim": v_model_dim,
        "out_dim": out_dim,
    }
    for name, n in sizes.items():
        check_integer(name, n, least=1)
    check_multiple(num_heads, num_kv_heads)

    q, k, v = (
        make.matrix(width, heads * dim).reshape(width, heads, dim)
        for width, heads, dim in (
            (model_dim, num_heads, head_dim),
            (kv_model_dim, num_kv_heads, head_dim),
            (v_model_dim, num_kv_heads, value_dim),
        )
    )
    o = make.matrix(num_heads * value_dim, out_dim).reshape(num_heads, value_dim, out_dim)
    if is_fused:
        check_fused_widths(model_dim, kv_model_dim, v_model_dim, head_dim, value_dim)
        weights = {"w_qkv": make.joined(q, k, v), "w_o": o}
    else:
        weights = {"w_q": q, "w_k": k, "w_v": v, "w_o": o}
    biases = {}
    if has_bias:
        # A bias has the shape of its weight without the axis that is summed over.
        for name, w in weights.items():
            biases[f"b{name[1:]}"] = make.zeros(w.shape[-1:] if name == "w_o" else w.shape[1:])
    leaves = weights | biases
    return MultiHeadAttentionParams(**{name: make.finished(x) for name, x in leaves.items()})


def multi_head_attention(
    params: MultiHeadAttentionParams,
    query: Float[ArrayT, "*batch q_len model_dim"],
    key: Float[ArrayT, "*batch kv_len kv_model_dim"] | None = None,
    value: Float[ArrayT, "*batch kv_len v_model_dim"] | None = None,
    /,
    **options: Unpack[AttentionOptions],
) -> Float[ArrayT, "*batch q_len out_dim"]:
    r"""
    Attention with several heads, each on its own projection of the features.

    .. math::

        \mathrm{head}_h = \mathrm{attention}(X W^Q_h, Y W^K_h, Z W^V_h), \qquad
        \mathit{out} = \sum_h \mathrm{head}_h W^O_h

    as in [1]_, 3.2.2, with biases where `params` has them.

    Parameters
    ----------
    params : MultiHeadAttentionParams
        The weights, which say how many heads there are and how wide.
    query : array, shape (..., q_len, model_dim)
        Features of the positions that ask. Without batch axes (latents, say) they are used
        for every sequence in the batch of `key`.
    key : array, shape (..., kv_len, kv_model_dim), optional
        Features of the positions that are asked. Default: `query`, self-attention.
    value : array, shape (..., kv_len, v_model_dim), optional
        Features that are handed over. Default: `key`.
    **options
        Every option of `attention`, with the same meaning.

    Returns
    -------
    array, shape (..., q_len, out_dim)
        Library, device and dtype of `query`.

    Raises
    ------
    ValueError
        If shapes do not fit together, or weights are missing or given twice.
    TypeError
        As `attention`.

    See Also
    --------
    attention : What happens in the middle.
    project_heads, combine_heads : What happens before and after.
    multi_head_attention_weights : What each head looks at.

    Notes
    -----
    What is to happen between the lines, such as rotary positions, QK-norm, a cache or gating,
    is written between the lines:

    .. code-block:: python

        q = af.project_heads(x, params.w_q, params.b_q)
        k = af.project_heads(x, params.w_k, params.b_k)
        v = af.project_heads(x, params.w_v, params.b_v)
        out = af.combine_heads(af.attention(q, k, v), params.w_o, params.b_o)

    References
    ----------
    .. [1] Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> rng = np.random.default_rng(0)
    >>> params = af.init_multi_head_attention(16, 4, rng=rng)
    >>> x = rng.normal(size=(2, 5, 16)).astype("float32")  # 2 sequences of 5 positions
    >>> af.multi_head_attention(params, x, is_causal=True).shape
    (2, 5, 16)
    """
    q, k, v = _projected(params, query, key, value)
    out = attention(q, k, v, **options)
    return combine(out, params.w_o, params.b_o, ("attention", "params.w_o", "params.b_o"))


def multi_head_attention_weights(
    params: MultiHeadAttentionParams,
    query: Float[ArrayT, "*batch q_len model_dim"],
    key: Float[ArrayT, "*batch kv_len kv_model_dim"] | None = None,
    /,
    **options: Unpack[WeightOptions],
) -> Float[ArrayT, "*batch num_heads q_len kv_len"]:
    """
    Attention weights of each head of `multi_head_attention`.

    Parameters
    ----------
    params : MultiHeadAttentionParams
        The weights; those of the values and of the output are not used.
    query : array, shape (..., q_len, model_dim)
        Features of the positions that ask.
    key : array, shape (..., kv_len, kv_model_dim), optional
        Features of the positions that are asked. Default: `query`.
    **options
        Every option of `attention_weights`, with the same meaning.

    Returns
    -------
    array, shape (..., num_heads, q_len, kv_len)
        Rows that add up to 1, or to 0 where there is nothing to attend to; compute dtype.

    Raises
    ------
    ValueError
        If shapes do not fit together, or weights are missing or given twice.
    TypeError
        As `attention_weights`.

    See Also
    --------
    multi_head_attention : The output.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> rng = np.random.default_rng(0)
    >>> params = af.init_multi_head_attention(16, 4, rng=rng)
    >>> x = rng.normal(size=(2, 5, 16)).astype("float32")
    >>> af.multi_head_attention_weights(params, x).shape
    (2, 4, 5, 5)
    """
    q, k, _ = _projected(params, query, key, None, needs_value=False)
    return attention_weights(q, k, **options)


def _projected(
    params: MultiHeadAttentionParams,
    query: Array,
    key: Array | None,
    value: Array | None,
    /,
    *,
    needs_value: bool = True,
) -> tuple[Array, Array, Array]:
    """Return the queries, keys and values of every head."""
    check_params(params, needs_value=needs_value)
    inputs = {"query": query, "key": query if key is None else key}
    if needs_value:
        inputs["value"] = inputs["key"] if value is None else value
    given = {name: x for name, x in inputs.items() if name == "query" or x is not query}
    check_one_library(**given, **{"params.w_o": params.w_o} if needs_value else {})
    is_fused = not is_absent(params.w_qkv)
    if is_fused and needs_value and len(given) == 1:
        return _projected_at_once(params, query)

    parts = unfused(params) if is_fused else params
    q, k, *v = (
        project(
            x,
            getattr(parts, f"w_{name[0]}"),
            getattr(parts, f"b_{name[0]}"),
            (name, f"params.w_{suffix}", f"params.b_{suffix}"),
        )
        for name, x in inputs.items()
        for suffix in ("qkv" if is_fused else name[0],)
    )
    return q, k, v[0] if v else ()


def _projected_at_once(
    params: MultiHeadAttentionParams, x: Array, /
) -> tuple[Array, Array, Array]:
    """Return queries, keys and values of the same features: one product for all three."""
    bounds = _head_bounds(params)
    qkv = project(x, params.w_qkv, params.b_qkv, ("query", "params.w_qkv", "params.b_qkv"))
    q, k, v = (qkv[..., start:end, :, :] for start, end in itertools.pairwise(bounds))
    return q, k, v


def unfused(params: MultiHeadAttentionParams, /) -> MultiHeadAttentionParams:
    """Return the same parameters, with views of the fused ones for query, key and value."""
    pairs = list(itertools.pairwise(_head_bounds(params)))
    leaves = {
        f"w_{name}": params.w_qkv[:, start:end, :]
        for name, (start, end) in zip("qkv", pairs, strict=True)
    }
    if not is_absent(params.b_qkv):
        leaves |= {
            f"b_{name}": params.b_qkv[start:end, :]
            for name, (start, end) in zip("qkv", pairs, strict=True)
        }
    return params._replace(w_qkv=(), b_qkv=(), **leaves)


def _head_bounds(params: MultiHeadAttentionParams, /) -> tuple[int, int, int, int]:
    """Return where the heads of query, key and value begin in fused weights, and the end."""
    check_exact_ndim("params.w_o", params.w_o, 3, "(num_heads, value_dim, out_dim)")
    check_exact_ndim("params.w_qkv", params.w_qkv, 3, "(model_dim, all_heads, head_dim)")
    num_heads, total = params.w_o.shape[0], params.w_qkv.shape[1]
    check_fused_heads(num_heads, total)
    if not is_absent(params.b_qkv):
        shape = tuple(params.w_qkv.shape[1:])
        check_exact_shape("params.b_qkv", params.b_qkv, [shape], "(all_heads, head_dim)")
    num_kv_heads = (total - num_heads) // 2
    return 0, num_heads, num_heads + num_kv_heads, total
