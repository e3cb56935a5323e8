"""From the features of a sequence to its class: pooling, and a head."""

from typing import Any, NamedTuple

from jaxtyping import Bool, Float

from ._checks import (
    check_activation,
    check_bool,
    check_exact_shape,
    check_floating,
    check_integer,
    check_kind_of_params,
    check_leaves,
    check_mask_dtype,
    check_ndim,
    check_one_device,
    check_one_library,
    check_partners,
    check_some_position,
    is_absent,
)
from ._feed_forward import ACTIVATIONS, Activation, activated, affine
from ._numerics import cast, computed_in
from ._parameters import Initialiser
from ._typing import Array, ArrayT, Namespace

__all__ = ["ClassifierParams", "classifier", "cls_pool", "init_classifier", "mean_pool"]


def mean_pool(
    x: Float[ArrayT, "*batch length model_dim"],
    mask: Bool[Array, "..."] | None = None,
    /,
) -> Float[ArrayT, "*batch model_dim"]:
    r"""
    Mean of the features of a sequence, padding left out.

    .. math:: \mathit{out} = \sum_i A_i x_i \Big/ \sum_i A_i

    Parameters
    ----------
    x : array, shape (..., length, model_dim)
        Features of each position, real floating.
    mask : bool array, optional
        True where a position counts: of shape ``(..., length)``, ``(length,)``, or
        ``(..., 1, 1, length)`` as `padding_mask` and `token_padding_mask` make it. What is
        left out may be NaN. Default: all count.

    Returns
    -------
    array, shape (..., model_dim)
        Library, device and dtype of `x`; 0 where no position counts.

    Raises
    ------
    ValueError
        If `x` has fewer than 2 axes, or the mask another shape.
    TypeError
        If the mask is not bool, or `x` not real floating.

    See Also
    --------
    cls_pool : The first position alone.
    classifier : What to do with the result.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> x = np.asarray([[[1.0], [2.0], [9.0]], [[1.0], [2.0], [9.0]]])
    >>> af.mean_pool(x, af.padding_mask(np.asarray([2, 3]), 3))
    array([[1.5],
           [4. ]])
    """
    xp = check_one_library(x=x)
    check_floating(xp=xp, x=x)
    check_ndim("x", x, 2, "(..., length, model_dim)")
    wide = cast(x, computed_in(x.dtype, xp=xp), xp=xp)
    if mask is None:
        count = max(1, x.shape[-2])
    else:
        counts = xp.reshape(mask, _mask_shape(x, mask))
        # Selected: 0 * NaN is NaN.
        wide = xp.where(counts, wide, 0.0)
        count = xp.sum(cast(counts, wide.dtype, xp=xp), axis=-2)
        count = xp.where(count == 0, 1.0, count)
    return cast(xp.sum(wide, axis=-2) / count, x.dtype, xp=xp)


def cls_pool(
    x: Float[ArrayT, "*batch length model_dim"], /
) -> Float[ArrayT, "*batch model_dim"]:
    """
    Take the features of the first position, where BERT has its token [CLS].

    Parameters
    ----------
    x : array, shape (..., length, model_dim)
        Features of each position.

    Returns
    -------
    array, shape (..., model_dim)
        Those of the first.

    Raises
    ------
    ValueError
        If `x` has fewer than 2 axes, or no position.
    TypeError
        If `x` is not an array.

    See Also
    --------
    mean_pool : The mean of all positions.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> af.cls_pool(np.asarray([[1.0, 2.0], [3.0, 4.0]]))
    array([1., 2.])
    """
    check_one_library(x=x)
    check_ndim("x", x, 2, "(..., length, model_dim)")
    check_some_position(x)
    features: Array = x
    return features[..., 0, :]


class ClassifierParams(NamedTuple):
    """
    Parameters of `classifier`.

    Parameters
    ----------
    w_out : array, shape (hidden_dim, num_classes)
        Makes the logits, of `hidden_dim` features or, without a `w_in`, of `model_dim`.
    b_out : array, shape (num_classes,)
        Added to the logits.
    w_in : array, shape (model_dim, hidden_dim)
        A layer in between, as in the pooler of BERT.
    b_in : array, shape (hidden_dim,)
        Added in this layer.

    See Also
    --------
    init_classifier : Draws them.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> params = af.init_classifier(16, 3, rng=np.random.default_rng(0))
    >>> params.w_out.shape, params.w_in
    ((16, 3), ())
    """

    w_out: Any
    b_out: Any = ()
    w_in: Any = ()
    b_in: Any = ()


def init_classifier(
    model_dim: int,
    num_classes: int,
    /,
    *,
    rng: Any,
    hidden_dim: int | None = None,
    has_bias: bool = False,
    init: str = "xavier",
    dtype: Any = None,
    xp: Namespace | None = None,
    device: Any = None,
) -> ClassifierParams:
    """
    Draw the parameters of `classifier`.

    One seed gives the same parameters on every library.

    Parameters
    ----------
    model_dim : int
        Width of the features, 1 or more.
    num_classes : int
        Number of classes, 1 or more.
    rng : numpy.random.Generator
        Where the numbers come from; it is advanced.
    hidden_dim : int, optional
        Width of a layer in between. Default: no such layer.
    has_bias : bool, optional
        Whether there are biases; they begin at zero. Default: False.
    init : {"xavier", "orthogonal", "normal"}, optional
        As in `init_multi_head_attention`. Default: "xavier".
    dtype : optional
        A real floating dtype of the library. Default: float32.
    xp : array namespace, optional
        The library to make them with. Default: NumPy.
    device : optional
        Where to make them. Default: the library's own default.

    Returns
    -------
    ClassifierParams
        The parameters; what is absent is ``()``.

    Raises
    ------
    ValueError
        If a size is below 1, or `init` is unknown.
    TypeError
        If a size is not an int, or `rng` not a generator of NumPy's.

    See Also
    --------
    classifier : Uses them.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> rng = np.random.default_rng(0)
    >>> params = af.init_classifier(16, 3, rng=rng, hidden_dim=8, has_bias=True)
    >>> [x.shape for x in params]
    [(8, 3), (3,), (16, 8), (8,)]
    """
    make = Initialiser(init, rng, xp=xp, dtype=dtype, device=device)
    check_integer("model_dim", model_dim, least=1)
    check_integer("num_classes", num_classes, least=1)
    if hidden_dim is not None:
        check_integer("hidden_dim", hidden_dim, least=1)
    check_bool("has_bias", has_bias)

    w_in = make.matrix(model_dim, hidden_dim) if hidden_dim is not None else ()
    w_out = make.matrix(model_dim if hidden_dim is None else hidden_dim, num_classes)
    b_out = make.zeros((num_classes,)) if has_bias else ()
    b_in = make.zeros((hidden_dim,)) if has_bias and hidden_dim is not None else ()
    return ClassifierParams(*(make.finished(x) for x in (w_out, b_out, w_in, b_in)))


def classifier(
    params: ClassifierParams,
    x: Float[ArrayT, "*batch model_dim"],
    /,
    *,
    activation: Activation = "tanh",
) -> Float[ArrayT, "*batch num_classes"]:
    r"""
    Classify the pooled features of a sequence: the logit of each class.

    .. math:: \mathit{out} = h W_{out} + b_{out}, \qquad h = \mathrm{act}(x W_{in} + b_{in})

    with :math:`h = x` where `params` has no `w_in`.

    Parameters
    ----------
    params : ClassifierParams
        The weights, in the dtype of `x`.
    x : array, shape (..., model_dim)
        Features of each sequence, from `mean_pool` or `cls_pool`; or of each position, to
        classify these.
    activation : {"tanh", "relu", "gelu", "gelu_tanh", "silu"} or function, optional
        As in `feed_forward`; of no use without a `w_in`. Default: "tanh", as in BERT.

    Returns
    -------
    array, shape (..., num_classes)
        Logits: their softmax over the last axis are the probabilities.

    Raises
    ------
    ValueError
        If shapes do not fit together, a weight is missing, or `activation` is unknown.
    TypeError
        If something is not an array, not real floating, or of another library or dtype.

    See Also
    --------
    mean_pool, cls_pool : Make one vector of a sequence.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> params = af.ClassifierParams(w_out=np.eye(2), b_out=np.asarray([0.0, 10.0]))
    >>> af.classifier(params, np.asarray([3.0, 4.0]))
    array([ 3., 14.])
    """
    check_kind_of_params("params", params, ClassifierParams)
    check_leaves("params", params, needed=("w_out",))
    check_partners("params", params, b_in="w_in")
    check_activation(activation, tuple(ACTIVATIONS))
    h: Array = x
    if not is_absent(params.w_in):
        h = affine(x, params.w_in, params.b_in, "params.w_in", "params.b_in")
        h = activated(h, activation)
    return affine(h, params.w_out, params.b_out, "params.w_out", "params.b_out")


def _mask_shape(x: Array, mask: Array, /) -> tuple[int, ...]:
    """Check the mask of a mean; return its shape beside that of `x`."""
    xp = check_one_library(x=x, mask=mask)
    check_one_device(x=x, mask=mask)
    check_mask_dtype("mask", mask, xp=xp)
    *batch, length, _ = x.shape
    own = (*batch, length)
    layout = "(..., length), (length,) or (..., 1, 1, length)"
    check_exact_shape("mask", mask, [own, (length,), (*batch, 1, 1, length)], layout)
    return (length, 1) if mask.ndim == 1 else (*own, 1)
