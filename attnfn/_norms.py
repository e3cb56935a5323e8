"""Layer norm and its simpler kin, over the last axis."""

from typing import Any, NamedTuple

from jaxtyping import Float

from ._backend import full_precision
from ._checks import (
    check_bool,
    check_epsilon,
    check_exact_shape,
    check_floating,
    check_integer,
    check_kind_of_params,
    check_leaves,
    check_ndim,
    check_one_device,
    check_one_library,
    is_absent,
)
from ._numerics import cast, computed_in
from ._parameters import Maker
from ._typing import Array, ArrayT, Namespace

__all__ = ["NormParams", "init_norm", "layer_norm", "rms_norm"]


class NormParams(NamedTuple):
    """
    Parameters of `layer_norm` and `rms_norm`.

    An absent parameter is ``()``: without a weight the factor is 1, without a bias nothing is
    added.

    Parameters
    ----------
    weight : array, shape (model_dim,)
        Factor on each feature. Gemma stores it less 1: add it before.
    bias : array, shape (model_dim,)
        Added to each feature.

    See Also
    --------
    init_norm : Makes them.

    Examples
    --------
    >>> import attnfn as af
    >>> af.NormParams()
    NormParams(weight=(), bias=())
    """

    weight: Any = ()
    bias: Any = ()


def init_norm(
    model_dim: int,
    /,
    *,
    has_bias: bool = False,
    dtype: Any = None,
    xp: Namespace | None = None,
    device: Any = None,
) -> NormParams:
    """
    Make the parameters that a norm begins with: factors of 1, and biases of 0.

    Parameters
    ----------
    model_dim : int
        Width of the features, 1 or more.
    has_bias : bool, optional
        Whether there is a bias, as most layer norms have. Default: False.
    dtype : optional
        A real floating dtype of the library. Default: float32.
    xp : array namespace, optional
        The library to make them with. Default: NumPy.
    device : optional
        Where to make them. Default: the library's own default.

    Returns
    -------
    NormParams
        The parameters; what is absent is ``()``.

    Raises
    ------
    ValueError
        If `model_dim` is below 1.
    TypeError
        If `model_dim` is not an int, or `has_bias` not a bool.

    See Also
    --------
    layer_norm, rms_norm : Use them.

    Examples
    --------
    >>> import attnfn as af
    >>> af.init_norm(2, has_bias=True)
    NormParams(weight=array([1., 1.], dtype=float32), bias=array([0., 0.], dtype=float32))
    """
    make = Maker(xp=xp, dtype=dtype, device=device)
    check_integer("model_dim", model_dim, least=1)
    check_bool("has_bias", has_bias)
    bias = make.zeros((model_dim,)) if has_bias else ()
    return NormParams(make.finished(make.ones((model_dim,))), make.finished(bias))


def layer_norm(
    params: NormParams, x: Float[ArrayT, "*batch model_dim"], /, *, epsilon: float = 1e-5
) -> Float[ArrayT, "*batch model_dim"]:
    r"""
    Bring the features of each position to mean 0 and variance 1.

    .. math::

        \mathit{out} = \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}} \cdot w + b, \qquad
        \mu = \mathrm{mean}(x), \quad \sigma^2 = \mathrm{mean}\big((x - \mu)^2\big)

    over the last axis, as in [1]_.

    Parameters
    ----------
    params : NormParams
        The weight :math:`w` and the bias :math:`b`, of any real floating dtype.
    x : array, shape (..., model_dim)
        Features, real floating.
    epsilon : float, optional
        Added to the variance, 0 or more: 1e-5 in most models, 1e-12 in BERT. Default: 1e-5.

    Returns
    -------
    array, shape (..., model_dim)
        Library, device and dtype of `x`; computed in float32 if that is a half.

    Raises
    ------
    ValueError
        If `x` has no axis, a parameter not the shape ``(model_dim,)``, or `epsilon` is
        negative.
    TypeError
        If something is not an array, not real floating, or of another library.

    See Also
    --------
    rms_norm : Without the mean.

    References
    ----------
    .. [1] Ba, Kiros and Hinton, "Layer Normalization", 2016, arXiv:1607.06450.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> af.layer_norm(af.NormParams(), np.asarray([1.0, 2.0, 3.0]), epsilon=0.0).round(4)
    array([-1.2247,  0.    ,  1.2247])
    """
    return normalise("layer", params, x, epsilon)


def rms_norm(
    params: NormParams, x: Float[ArrayT, "*batch model_dim"], /, *, epsilon: float = 1e-6
) -> Float[ArrayT, "*batch model_dim"]:
    r"""
    Bring the features of each position to root mean square 1.

    .. math::

        \mathit{out} = \frac{x}{\sqrt{\mathrm{mean}(x^2) + \varepsilon}} \cdot w + b

    over the last axis, as in [1]_.

    Parameters
    ----------
    params : NormParams
        The weight :math:`w` and, rarely, a bias :math:`b`, of any real floating dtype.
    x : array, shape (..., model_dim)
        Features, real floating.
    epsilon : float, optional
        Added to the mean square, 0 or more. Default: 1e-6.

    Returns
    -------
    array, shape (..., model_dim)
        Library, device and dtype of `x`; computed in float32 if that is a half.

    Raises
    ------
    ValueError
        If `x` has no axis, a parameter not the shape ``(model_dim,)``, or `epsilon` is
        negative.
    TypeError
        If something is not an array, not real floating, or of another library.

    See Also
    --------
    layer_norm : With the mean taken away first.

    References
    ----------
    .. [1] Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv:1910.07467.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> af.rms_norm(af.NormParams(), np.asarray([1.0, 7.0]), epsilon=0.0)
    array([0.2, 1.4])
    """
    return normalise("rms", params, x, epsilon)


def normalise(
    kind: str, params: NormParams, x: Array, epsilon: float, /, name: str = "params"
) -> Array:
    """Do what `layer_norm` or `rms_norm` does; `name` is that of the parameters in an error."""
    xp = _check_norm(params, x, epsilon, name)
    dtype = computed_in(x.dtype, xp=xp)
    with full_precision(x):
        out = cast(x, dtype, xp=xp)
        if kind == "layer":
            out = out - xp.mean(out, axis=-1, keepdims=True)
        out = out / xp.sqrt(xp.mean(out * out, axis=-1, keepdims=True) + float(epsilon))
        if not is_absent(params.weight):
            out = out * cast(params.weight, dtype, xp=xp)
        if not is_absent(params.bias):
            out = out + cast(params.bias, dtype, xp=xp)
        return cast(out, x.dtype, xp=xp)


def _check_norm(params: NormParams, x: Array, epsilon: float, name: str, /) -> Namespace:
    check_kind_of_params(name, params, NormParams)
    check_leaves(name, params)
    arrays = {"x": x} | {
        f"{name}.{leaf}": given
        for leaf, given in params._asdict().items()
        if not is_absent(given)
    }
    xp = check_one_library(**arrays)
    check_one_device(**arrays)
    check_floating(xp=xp, **arrays)
    check_ndim("x", x, 1, "(..., model_dim)")
    check_epsilon(epsilon)
    for leaf, given in list(arrays.items())[1:]:
        check_exact_shape(leaf, given, [(x.shape[-1],)], "(model_dim,)")
    return xp
