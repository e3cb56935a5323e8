"""Rotary positions: queries and keys turned by angles that grow with their positions."""

from typing import Any

from jaxtyping import Float, Integer, Shaped

from ._backend import device, namespace, plain, wide_float
from ._checks import (
    check_bool,
    check_dtype,
    check_exact_shape,
    check_floating,
    check_floating_dtype,
    check_integer,
    check_ndim,
    check_one_device,
    check_one_library,
    check_one_shape,
    check_rotary_axes,
    check_scaled,
    check_scaling,
    shape_of,
)
from ._frequencies import RotaryScaling, frequencies_of, moved
from ._numerics import cast
from ._typing import Array, ArrayT, Namespace

__all__ = ["apply_rotary", "rotary_angles"]


def rotary_angles(
    positions: Shaped[ArrayT, "*batch length"],
    dim: int,
    /,
    *,
    base: float = 10000.0,
    scaling: RotaryScaling | None = None,
    length: int | Integer[Array, "..."] | None = None,
    dtype: Any = None,
) -> tuple[Float[ArrayT, "..."], Float[ArrayT, "..."]]:
    r"""
    Rotary angles, as cosines and sines.

    .. math::

        \theta_{p,i} = p \cdot f_i, \qquad f_i = \mathit{base}^{-2i / \mathit{dim}},
        \qquad i = 0, \dots, \mathit{dim} / 2 - 1

    as in [1]_, 3.2.2, for `apply_rotary`.

    Parameters
    ----------
    positions : array, shape (..., length)
        Where each query or key stands, integer or real floating; any sign, traced is fine.
    dim : int
        How many features of a head are turned, even: ``head_dim``, or less where only the
        first ones are.
    base : float, optional
        Above 1; the larger, the slower the last pair turns. Default: 10000.
    scaling : function of (frequencies, length), optional
        What to take instead of the frequencies in a model made for longer sequences:
        `LinearScaling`, `DynamicNTKScaling`, `YaRNScaling`, `Llama3Scaling`,
        `LongRoPEScaling`, or a function of your own, see the notes. Default: none.
    length : int or integer array, shape () or (*batch,), optional
        Length of the whole sequence, for a scaling that depends on it. Default: the greatest
        of the positions of each sequence, plus 1.
    dtype : optional
        A real floating dtype of the library. Default: float32.

    Returns
    -------
    cos : array, shape (length, dim / 2) or (*batch, 1, length, dim / 2)
        Cosines, ready to be used for every head.
    sin : array, shape (length, dim / 2) or (*batch, 1, length, dim / 2)
        Sines.

    Raises
    ------
    ValueError
        If `positions` has no axis, `dim` is odd or below 2, `base` not above 1, or `length`
        has neither 0 axes nor those of the batch.
    TypeError
        If something has the wrong kind or dtype.

    See Also
    --------
    apply_rotary : Turns queries and keys.
    sinusoidal_positions : The same angles, added to the features instead.

    Notes
    -----
    Angles are computed in float64 where the library and the device have it, then rounded: at
    position 100 000 float32 alone is off by 0.004.

    A `scaling` is called with the frequencies, a tuple of ``dim / 2`` floats, and the length,
    an int or an integer array that broadcasts against them. It returns the frequencies to
    take, numbers or an array of the library, and what to multiply cosines and sines by. This
    one leaves all but the first 8 pairs as they are:

    .. code-block:: python

        scaling = lambda frequencies, length: (
            [f if i < 8 else 0.0 for i, f in enumerate(frequencies)], 1.0
        )

    References
    ----------
    .. [1] Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021,
           arXiv:2104.09864.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> cos, sin = af.rotary_angles(np.arange(3), 4)
    >>> np.arctan2(sin, cos).round(2)  # the second pair turns 100 times as slowly
    array([[0.  , 0.  ],
           [1.  , 0.01],
           [2.  , 0.02]], dtype=float32)

    Positions of each sequence by itself:

    >>> cos, sin = af.rotary_angles(np.asarray([[0, 1, 2], [5, 6, 7]]), 4)
    >>> cos.shape
    (2, 1, 3, 2)
    """
    given: dict[str, Array] = {"positions": positions}
    if length is not None and namespace(length) is not None:
        given["length"] = length
    xp = check_one_library(**given)
    check_one_device(**given)
    check_dtype(("integral", "real floating"), xp=xp, positions=positions)
    check_ndim("positions", positions, 1, "(..., length)")
    frequencies: Any = frequencies_of(dim, base)
    factor = 1.0
    if scaling is not None:
        check_scaling(scaling)
        scaled = scaling(frequencies, _length(positions, length, xp=xp))
        frequencies, factor = check_scaled(scaled, len(frequencies), positions=positions)
    dtype = xp.float32 if dtype is None else dtype
    check_floating_dtype("dtype", dtype, xp=xp)

    where = device(positions)
    wide = wide_float(xp, where)
    angles = cast(positions, wide, xp=xp)[..., None] * moved(frequencies, xp, wide, where)
    if angles.ndim > 2:
        angles = angles[..., None, :, :]
    cos, sin = xp.cos(angles) * factor, xp.sin(angles) * factor
    return cast(cos, dtype, xp=xp), cast(sin, dtype, xp=xp)


def apply_rotary(
    x: Float[ArrayT, "*batch length head_dim"],
    cos: Float[ArrayT, "..."],
    sin: Float[ArrayT, "..."],
    /,
    *,
    interleaved: bool = False,
) -> Float[ArrayT, "*batch length head_dim"]:
    r"""
    Turn pairs of features, so that a score depends on how far query and key are apart.

    .. math::

        \begin{pmatrix} a_i' \\ b_i' \end{pmatrix} =
        \begin{pmatrix} \cos\theta_i & -\sin\theta_i \\
                         \sin\theta_i & \cos\theta_i \end{pmatrix}
        \begin{pmatrix} a_i \\ b_i \end{pmatrix}

    as in [1]_, 3.2.2: it is applied to queries and keys, not to values.

    Parameters
    ----------
    x : array, shape (..., length, head_dim)
        Queries or keys, real floating; mostly ``(*batch, num_heads, length, head_dim)``.
    cos : array, shape (length, dim / 2), or as many axes as `x`
        As `rotary_angles` gives it; each axis that of `x`, or 1. Where ``dim`` is less than
        ``head_dim``, the features after the first ``dim`` stay as they are.
    sin : array, shape (length, dim / 2), or as many axes as `x`
        The same.
    interleaved : bool, optional
        Which features are a pair: True for :math:`(x_{2i}, x_{2i+1})`, as in the paper,
        False for :math:`(x_i, x_{i + \mathit{dim}/2})`, as in GPT-NeoX and Hugging Face's
        Llama. Weights made for one give wrong results with the other. Default: False.

    Returns
    -------
    array, shape (..., length, head_dim)
        In the dtype of `x`; halves are computed in float32.

    Raises
    ------
    ValueError
        If shapes do not fit together.
    TypeError
        If something is not a real floating array, or from another library.

    See Also
    --------
    rotary_angles : Makes `cos` and `sin`.

    References
    ----------
    .. [1] Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021,
           arXiv:2104.09864.

    Examples
    --------
    A quarter turn at each position:

    >>> import numpy as np
    >>> import attnfn as af
    >>> x = np.asarray([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    >>> angles = np.pi / 2 * np.arange(3)[:, None]
    >>> af.apply_rotary(x, np.cos(angles), np.sin(angles)).round(3) + 0.0
    array([[ 1.,  0.],
           [ 0.,  1.],
           [-1.,  0.]])

    Between the lines of multi-head attention:

    >>> query = np.zeros((2, 8, 3, 4), dtype="float32")  # 2 sequences, 8 heads, 3 positions
    >>> cos, sin = af.rotary_angles(np.arange(3), 4)
    >>> af.apply_rotary(query, cos, sin).shape
    (2, 8, 3, 4)
    """
    arrays: dict[str, Array] = {"x": x, "cos": cos, "sin": sin}
    xp = check_one_library(**arrays)
    check_one_device(**arrays)
    check_floating(xp=xp, **arrays)
    check_ndim("x", x, 2, "(..., num_heads, length, head_dim)")
    check_one_shape(cos=cos, sin=sin)
    check_rotary_axes(cos, shape_of(x))
    check_bool("interleaved", interleaved)

    dtype = x.dtype if xp.finfo(x.dtype).bits >= 32 else xp.float32
    cos, sin = (cast(angles, dtype, xp=xp) for angles in (cos, sin))
    half = cos.shape[-1]
    features = cast(x, dtype, xp=xp)
    if interleaved:
        a, b = features[..., 0 : 2 * half : 2], features[..., 1 : 2 * half : 2]
    else:
        a, b = features[..., :half], features[..., half : 2 * half]
    turned = [a * cos - b * sin, b * cos + a * sin]
    if interleaved:
        pairs = xp.stack(turned, axis=-1)
        turned = [xp.reshape(pairs, (*pairs.shape[:-2], 2 * half))]
    rest = features[..., 2 * half :]
    return cast(xp.concat([*turned, rest], axis=-1), x.dtype, xp=xp)


def _length(positions: Array, length: Any, /, *, xp: Namespace) -> Any:
    """Return the length of the sequences, with the axes of positions and frequencies."""
    if length is None:
        if positions.shape[-1] == 0:
            return 0
        longest = xp.max(positions, axis=-1, keepdims=True) + 1
        return longest[..., None]
    if namespace(length) is None:
        check_integer("length", length, also="an integer array", least=0)
        return plain(length)
    check_dtype("integral", xp=xp, length=length)
    check_exact_shape("length", length, [(), shape_of(positions)[:-1]], "() or (*batch,)")
    return length[..., None, None] if length.ndim else length
