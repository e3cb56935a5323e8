"""Between one wide model axis and many narrow heads."""

from typing import TypeAlias

from jaxtyping import Float, Shaped

from ._backend import affine
from ._checks import (
    check_divides,
    check_exact_ndim,
    check_exact_shape,
    check_integer,
    check_ndim,
    check_one_library,
    check_sizes_meet,
    check_weights,
    is_absent,
)
from ._typing import Array, ArrayT, Namespace

__all__ = [
    "combine",
    "combine_heads",
    "merge_heads",
    "project",
    "project_heads",
    "split_heads",
]

Names: TypeAlias = tuple[str, str, str]


def split_heads(
    x: Shaped[ArrayT, "*batch length model_dim"], num_heads: int, /
) -> Shaped[ArrayT, "*batch num_heads length head_dim"]:
    """
    Cut the model axis into heads.

    Parameters
    ----------
    x : array, shape (..., length, model_dim)
        Features of each position, any dtype.
    num_heads : int
        How many heads to make, 1 or more; must divide ``model_dim``. Head ``h`` takes the
        features from ``h * head_dim`` on.

    Returns
    -------
    array, shape (..., num_heads, length, head_dim)
        The same numbers, with ``head_dim = model_dim // num_heads``.

    Raises
    ------
    ValueError
        If `x` has fewer than 2 axes, or ``model_dim`` is not a multiple of `num_heads`.
    TypeError
        If `x` is not an array, or `num_heads` not an int.

    See Also
    --------
    merge_heads : The inverse.
    project_heads : Multiply by a weight that has the heads in its shape.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> af.split_heads(np.zeros((2, 5, 12)), 3).shape
    (2, 3, 5, 4)

    An array that has the axes ``(batch, length, heads, dim)`` already needs no cutting, but
    ``np.moveaxis(x, -2, -3)``.
    """
    xp = check_one_library(x=x)
    check_ndim("x", x, 2, "(..., length, model_dim)")
    check_integer("num_heads", num_heads, least=1)
    *batch, length, model_dim = x.shape
    check_divides(num_heads, model_dim, tuple(x.shape))
    x_heads: Array = xp.reshape(x, (*batch, length, num_heads, model_dim // num_heads))
    return _swapped(x_heads, xp=xp)


def merge_heads(
    x: Shaped[ArrayT, "*batch num_heads length head_dim"], /
) -> Shaped[ArrayT, "*batch length model_dim"]:
    """
    Lay the heads side by side again.

    Parameters
    ----------
    x : array, shape (..., num_heads, length, head_dim)
        Features of each position, by head, any dtype.

    Returns
    -------
    array, shape (..., length, model_dim)
        The same numbers, with ``model_dim = num_heads * head_dim``.

    Raises
    ------
    ValueError
        If `x` has fewer than 3 axes.
    TypeError
        If `x` is not an array.

    See Also
    --------
    split_heads : The inverse.
    combine_heads : Multiply by a weight that has the heads in its shape.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> x = np.arange(24.0).reshape(2, 12)
    >>> bool(np.all(af.merge_heads(af.split_heads(x, 3)) == x))
    True
    """
    xp = check_one_library(x=x)
    check_ndim("x", x, 3, "(..., num_heads, length, head_dim)")
    *batch, num_heads, length, head_dim = x.shape
    return xp.reshape(_swapped(x, xp=xp), (*batch, length, num_heads * head_dim))


def project_heads(
    x: Float[ArrayT, "*batch length model_dim"],
    weight: Float[ArrayT, "model_dim num_heads head_dim"],
    bias: Float[ArrayT, "num_heads head_dim"] | tuple[()] = (),
    /,
) -> Float[ArrayT, "*batch num_heads length head_dim"]:
    r"""
    Project the features of each position into every head.

    .. math:: \mathit{out}_{h,i} = x_i W_h + b_h

    the first half of multi-head attention [1]_: this makes queries, keys and values.

    Parameters
    ----------
    x : array, shape (..., length, model_dim)
        Features of each position, real floating.
    weight : array, shape (model_dim, num_heads, head_dim)
        One matrix for each head, in the dtype of `x`.
    bias : array, shape (num_heads, head_dim), optional
        One vector for each head. Default: ``()``, none.

    Returns
    -------
    array, shape (..., num_heads, length, head_dim)
        In the dtype of `x`.

    Raises
    ------
    ValueError
        If shapes do not fit together.
    TypeError
        If something is not an array, not real floating, or of another library or dtype.

    See Also
    --------
    combine_heads : The way back.
    multi_head_attention : Both, around `attention`.

    References
    ----------
    .. [1] Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, 3.2.2.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> x = np.asarray([[1.0, 2.0]])  # 1 position, model_dim 2
    >>> weight = np.stack([np.eye(2), 10 * np.eye(2)], axis=1)  # 2 heads
    >>> af.project_heads(x, weight)
    array([[[ 1.,  2.]],
    <BLANKLINE>
           [[10., 20.]]])
    """
    return project(x, weight, bias, ("x", "weight", "bias"))


def combine_heads(
    x: Float[ArrayT, "*batch num_heads length value_dim"],
    weight: Float[ArrayT, "num_heads value_dim model_dim"],
    bias: Float[ArrayT, "model_dim"] | tuple[()] = (),
    /,
) -> Float[ArrayT, "*batch length model_dim"]:
    r"""
    Add up what every head has to say about each position.

    .. math:: \mathit{out}_i = \sum_h x_{h,i} W_h + b

    the last step of multi-head attention [1]_.

    Parameters
    ----------
    x : array, shape (..., num_heads, length, value_dim)
        Features of each position, by head, real floating; the output of `attention`.
    weight : array, shape (num_heads, value_dim, model_dim)
        One matrix for each head, in the dtype of `x`.
    bias : array, shape (model_dim,), optional
        Added to the sum. Default: ``()``, none.

    Returns
    -------
    array, shape (..., length, model_dim)
        In the dtype of `x`.

    Raises
    ------
    ValueError
        If shapes do not fit together.
    TypeError
        If something is not an array, not real floating, or of another library or dtype.

    See Also
    --------
    project_heads : The way there.
    multi_head_attention : Both, around `attention`.

    References
    ----------
    .. [1] Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, 3.2.2.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> x = np.asarray([[[1.0, 2.0]], [[10.0, 20.0]]])  # 2 heads, 1 position
    >>> af.combine_heads(x, np.stack([np.eye(2), np.eye(2)]))
    array([[11., 22.]])
    """
    return combine(x, weight, bias, ("x", "weight", "bias"))


def project(x: Array, weight: Array, bias: Array, names: Names, /) -> Array:
    """Do what `project_heads` does; `names` are those of the arguments in an error."""
    xp = check_weights(**dict(zip(names, (x, weight, bias), strict=True)))
    check_ndim(names[0], x, 2, "(..., length, model_dim)")
    check_exact_ndim(names[1], weight, 3, "(model_dim, num_heads, head_dim)")
    model_dim, num_heads, head_dim = weight.shape
    check_sizes_meet("model_dim", **{names[0]: (x, -1), names[1]: (weight, 0)})
    matrix = xp.reshape(weight, (model_dim, num_heads * head_dim))
    if is_absent(bias):
        out = x @ matrix
    else:
        check_exact_shape(names[2], bias, [(num_heads, head_dim)], "(num_heads, head_dim)")
        out = affine(x, matrix, xp.reshape(bias, (num_heads * head_dim,)))
    return _swapped(xp.reshape(out, (*out.shape[:-1], num_heads, head_dim)), xp=xp)


def combine(x: Array, weight: Array, bias: Array, names: Names, /) -> Array:
    """Do what `combine_heads` does; `names` are those of the arguments in an error."""
    xp = check_weights(**dict(zip(names, (x, weight, bias), strict=True)))
    check_ndim(names[0], x, 3, "(..., num_heads, length, value_dim)")
    check_exact_ndim(names[1], weight, 3, "(num_heads, value_dim, model_dim)")
    num_heads, value_dim, model_dim = weight.shape
    check_sizes_meet("num_heads", **{names[0]: (x, -3), names[1]: (weight, 0)})
    check_sizes_meet("value_dim", **{names[0]: (x, -1), names[1]: (weight, 1)})
    x, matrix = merge_heads(x), xp.reshape(weight, (num_heads * value_dim, model_dim))
    if is_absent(bias):
        return x @ matrix
    check_exact_shape(names[2], bias, [(model_dim,)], "(model_dim,)")
    return affine(x, matrix, bias)


def _swapped(x: Array, /, *, xp: Namespace) -> Array:
    """Exchange the axes of heads and positions."""
    # Not moveaxis, which torch.func.vmap cannot batch.
    *batch, a, b, c = range(x.ndim)
    return xp.permute_dims(x, (*batch, b, a, c))
