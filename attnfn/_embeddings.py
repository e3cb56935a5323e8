"""From tokens to features: what each token means, and where it stands."""

from typing import Any, NamedTuple

from jaxtyping import Float, Integer

from ._backend import arange, device, namespace, plain
from ._checks import (
    check_dtype,
    check_embedding_sizes,
    check_exact_ndim,
    check_exact_shape,
    check_floating,
    check_integer,
    check_kind_of_params,
    check_leaves,
    check_ndim,
    check_one_device,
    check_one_library,
    check_table_length,
    is_absent,
)
from ._numerics import cast
from ._parameters import Initialiser
from ._typing import Array, ArrayT, Namespace

__all__ = ["EmbeddingParams", "embedding", "init_embedding", "learned_positions"]


class EmbeddingParams(NamedTuple):
    """
    Parameters of `embedding`: a table of tokens, and perhaps one of positions.

    Parameters
    ----------
    tokens : array, shape (num_tokens, model_dim)
        What each token means.
    positions : array, shape (max_length, model_dim)
        What is added for where it stands; ``()`` where positions come in another way, such
        as `apply_rotary` or `sinusoidal_positions`.

    See Also
    --------
    init_embedding : Draws them.

    Examples
    --------
    The last layer of a language model often has the weights of the first, turned round:

    >>> import numpy as np
    >>> import attnfn as af
    >>> params = af.init_embedding(8, rng=np.random.default_rng(0), num_tokens=100)
    >>> x = af.embedding(params, np.asarray([3, 14, 15]))
    >>> (x @ params.tokens.T).shape  # a logit for each token
    (3, 100)
    """

    tokens: Any = ()
    positions: Any = ()


def init_embedding(
    model_dim: int,
    /,
    *,
    rng: Any,
    num_tokens: int | None = None,
    max_length: int | None = None,
    init: str = "normal",
    dtype: Any = None,
    xp: Namespace | None = None,
    device: Any = None,
) -> EmbeddingParams:
    """
    Draw the tables of `embedding` and of `learned_positions`.

    One seed gives the same tables on every library, that of the tokens with positions and
    without.

    Parameters
    ----------
    model_dim : int
        Width of the features, 1 or more.
    rng : numpy.random.Generator
        Where the numbers come from; it is advanced.
    num_tokens : int, optional
        How many tokens there are. Default: no table of tokens.
    max_length : int, optional
        How many positions there are. Default: no table of positions.
    init : {"normal", "xavier", "orthogonal"}, optional
        As in `init_multi_head_attention`. Default: "normal", a standard deviation of 0.02.
    dtype : optional
        A real floating dtype of the library. Default: float32.
    xp : array namespace, optional
        The library to make them with. Default: NumPy.
    device : optional
        Where to make them. Default: the library's own default.

    Returns
    -------
    EmbeddingParams
        The tables; what is absent is ``()``.

    Raises
    ------
    ValueError
        If a size is below 1, neither number is given, or `init` is unknown.
    TypeError
        If a size is not an int, or `rng` not a generator of NumPy's.

    See Also
    --------
    embedding : Uses them.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> rng = np.random.default_rng(0)
    >>> params = af.init_embedding(8, rng=rng, num_tokens=100, max_length=16)
    >>> params.tokens.shape, params.positions.shape
    ((100, 8), (16, 8))
    """
    make = Initialiser(init, rng, xp=xp, dtype=dtype, device=device)
    check_integer("model_dim", model_dim, least=1)
    check_embedding_sizes(num_tokens, max_length)
    return EmbeddingParams(
        *(
            () if n is None else make.finished(make.matrix(n, model_dim))
            for n in (num_tokens, max_length)
        )
    )


def embedding(
    params: EmbeddingParams,
    tokens: Integer[ArrayT, "*batch length"],
    /,
    *,
    offset: int | Integer[Array, "..."] = 0,
) -> Float[ArrayT, "*batch length model_dim"]:
    r"""
    Turn tokens into features: what each means, and where it stands.

    .. math:: \mathit{out}_i = T_{\mathit{token}_i} + P_{\mathit{offset} + i}

    without the second term where `params` has no table of positions.

    Parameters
    ----------
    params : EmbeddingParams
        The tables.
    tokens : array, shape (..., length), integer
        Rows of the table of tokens, from 0 on. Values are not inspected: a token beyond the
        table is an error on NumPy and PyTorch, and gives NaN on JAX.
    offset : int or integer array, shape () or (*batch,), optional
        Position of the first token, 0 or more: with a cache, how much is in it. Default: 0.

    Returns
    -------
    array, shape (..., length, model_dim)
        Library, device and dtype of the tables.

    Raises
    ------
    ValueError
        If there are more positions than the table has, or shapes do not fit together.
    TypeError
        If `tokens` are not integers, a table not real floating, or libraries differ.

    See Also
    --------
    learned_positions : The second term alone.
    token_padding_mask : Which tokens are real.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> tables = af.EmbeddingParams(tokens=10 * np.eye(2), positions=np.ones((5, 2)))
    >>> af.embedding(tables, np.asarray([1, 0, 1]))
    array([[ 1., 11.],
           [11.,  1.],
           [ 1., 11.]])
    """
    check_kind_of_params("params", params, EmbeddingParams)
    check_leaves("params", params, needed=("tokens",))
    xp = _check_table("params.tokens", params.tokens, tokens=tokens)
    check_dtype("integral", xp=xp, tokens=tokens)
    check_ndim("tokens", tokens, 1, "(..., length)")
    out = _looked_up(params.tokens, tokens, xp=xp)
    if is_absent(params.positions):
        return out
    return out + _positions(
        "params.positions", params.positions, plain(out.shape[-2]), offset, out.shape[:-2]
    )


def learned_positions(
    table: Float[ArrayT, "max_length model_dim"],
    length: int,
    /,
    *,
    offset: int | Integer[Array, "..."] = 0,
) -> Float[ArrayT, "... length model_dim"]:
    r"""
    Learned positions: the rows of a table, to be added to the features.

    .. math:: \mathit{out}_i = P_{\mathit{offset} + i}

    as in [1]_.

    Parameters
    ----------
    table : array, shape (max_length, model_dim)
        One row for each position, real floating.
    length : int
        How many positions there are, 0 or more.
    offset : int or integer array, shape (...,), optional
        Position of the first, 0 or more; one for each sequence if it has axes. The values of
        an array are not inspected: a position beyond the table is an error on NumPy and
        PyTorch, and gives NaN on JAX. Default: 0.

    Returns
    -------
    array, shape (..., length, model_dim)
        With the axes of `offset` in front, in the dtype of `table`.

    Raises
    ------
    ValueError
        If there are more positions than the table has, or a number is negative.
    TypeError
        If `length` is not an int, `offset` neither an int nor an integer array, or `table`
        not real floating.

    See Also
    --------
    sinusoidal_positions, apply_rotary : Positions without an end.

    References
    ----------
    .. [1] Gehring et al., "Convolutional Sequence to Sequence Learning", 2017,
           arXiv:1705.03122.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> af.learned_positions(np.asarray([[0.0], [0.1], [0.2], [0.3]]), 2, offset=1)
    array([[0.1],
           [0.2]])
    """
    _check_table("table", table)
    check_integer("length", length, least=0)
    return _positions("table", table, plain(length), offset, None)


def _positions(
    name: str, table: Array, length: int, offset: Any, batch: tuple[int, ...] | None, /
) -> Array:
    """Return rows of a table; `batch` says which axes an offset may have, None: any."""
    xp = _check_table(name, table)
    if namespace(offset) is None:
        check_integer("offset", offset, also="an integer array", least=0)
        check_table_length(name, table, length, plain(offset))
        return table[plain(offset) : plain(offset) + length, :]
    _check_table(name, table, offset=offset)
    check_dtype("integral", xp=xp, offset=offset)
    check_table_length(name, table, length, 0)
    if batch is not None and offset.ndim:
        check_exact_shape("offset", offset, [(), tuple(batch)], "() or (*batch,)")
    steps = arange(length, xp, device(table))
    return _looked_up(table, cast(offset, steps.dtype, xp=xp)[..., None] + steps, xp=xp)


def _looked_up(table: Array, rows: Array, /, *, xp: Namespace) -> Array:
    """Return the rows of a table at any array of integers."""
    # PyTorch takes no shorter integers for indices.
    rows = rows if rows.dtype in (xp.int32, xp.int64) else xp.astype(rows, xp.int32)
    flat = xp.take(table, xp.reshape(rows, (-1,)), axis=0)
    return xp.reshape(flat, (*rows.shape, table.shape[1]))


def _check_table(name: str, table: Array, /, **others: Array) -> Namespace:
    arrays = {name: table, **others}
    xp = check_one_library(**arrays)
    check_one_device(**arrays)
    check_floating(xp=xp, **{name: table})
    check_exact_ndim(name, table, 2, "(rows, model_dim)")
    return xp
