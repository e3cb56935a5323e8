"""The feed-forward layer: each position thinks for itself."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

from jaxtyping import Bool, Float

from ._backend import full_precision, normal_cdf, sigmoid
from ._checks import (
    check_activated,
    check_activation,
    check_bool,
    check_dropout,
    check_exact_ndim,
    check_exact_shape,
    check_floating,
    check_integer,
    check_keep_mask,
    check_kind_of_params,
    check_leaves,
    check_ndim,
    check_one_device,
    check_one_library,
    check_partners,
    check_sizes_meet,
    check_weights,
    is_absent,
)
from ._numerics import cast, computed_in
from ._parameters import Initialiser
from ._typing import Array, ArrayT, Namespace

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "FeedForwardParams",
    "activated",
    "affine",
    "dropped",
    "feed_forward",
    "gelu",
    "init_feed_forward",
    "think",
]

Activation: TypeAlias = (
    Literal["relu", "gelu", "gelu_tanh", "silu", "tanh"] | Callable[[Array], Array]
)


class FeedForwardParams(NamedTuple):
    """
    Parameters of `feed_forward`.

    With a `w_gate` it is gated, as in SwiGLU. An absent parameter is ``()``.

    Parameters
    ----------
    w_in : array, shape (model_dim, hidden_dim)
        Widens the features.
    w_out : array, shape (hidden_dim, model_dim)
        Narrows them again.
    b_in : array, shape (hidden_dim,)
        Added to the widened features.
    b_out : array, shape (model_dim,)
        Added to the output.
    w_gate : array, shape (model_dim, hidden_dim)
        Makes the factors on the widened features.
    b_gate : array, shape (hidden_dim,)
        Added to what makes the factors.

    See Also
    --------
    init_feed_forward : Draws them.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> params = af.init_feed_forward(4, 16, rng=np.random.default_rng(0))
    >>> params.w_in.shape, params.w_gate
    ((4, 16), ())
    """

    w_in: Any
    w_out: Any
    b_in: Any = ()
    b_out: Any = ()
    w_gate: Any = ()
    b_gate: Any = ()


def init_feed_forward(
    model_dim: int,
    hidden_dim: int,
    /,
    *,
    rng: Any,
    is_gated: bool = False,
    has_bias: bool = False,
    init: str = "xavier",
    dtype: Any = None,
    xp: Namespace | None = None,
    device: Any = None,
) -> FeedForwardParams:
    """
    Draw the parameters of `feed_forward`.

    One seed gives the same parameters on every library, with a gate and without.

    Parameters
    ----------
    model_dim : int
        Width of the features, 1 or more.
    hidden_dim : int
        Width in the middle, 1 or more; often ``4 * model_dim``.
    rng : numpy.random.Generator
        Where the numbers come from; it is advanced.
    is_gated : bool, optional
        Whether there is a gate, as SwiGLU has. Default: False.
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
    FeedForwardParams
        The parameters; what is absent is ``()``.

    Raises
    ------
    ValueError
        If a size is below 1, or `init` is unknown.
    TypeError
        If a size is not an int, or `rng` not a generator of NumPy's.

    See Also
    --------
    feed_forward : Uses them.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> rng = np.random.default_rng(0)
    >>> params = af.init_feed_forward(4, 16, rng=rng, is_gated=True, has_bias=True)
    >>> [x.shape for x in params]
    [(4, 16), (16, 4), (16,), (4,), (4, 16), (16,)]
    """
    make = Initialiser(init, rng, xp=xp, dtype=dtype, device=device)
    check_integer("model_dim", model_dim, least=1)
    check_integer("hidden_dim", hidden_dim, least=1)
    check_bool("is_gated", is_gated)
    check_bool("has_bias", has_bias)

    w_in, w_out = make.matrix(model_dim, hidden_dim), make.matrix(hidden_dim, model_dim)
    w_gate = make.matrix(model_dim, hidden_dim) if is_gated else ()
    b_in = make.zeros((hidden_dim,)) if has_bias else ()
    b_out = make.zeros((model_dim,)) if has_bias else ()
    b_gate = b_in if is_gated else ()
    return FeedForwardParams(
        *(make.finished(x) for x in (w_in, w_out, b_in, b_out, w_gate, b_gate))
    )


def feed_forward(
    params: FeedForwardParams,
    x: Float[ArrayT, "*batch model_dim"],
    /,
    *,
    activation: Activation = "relu",
    dropout_mask: Bool[Array, "..."] | None = None,
    dropout_rate: float | None = None,
) -> Float[ArrayT, "*batch model_dim"]:
    r"""
    Two linear maps with a non-linear function between them, at each position.

    .. math::

        \mathit{out} = \mathrm{act}(x W_{in} + b_{in})\, W_{out} + b_{out}

    as in [1]_, 3.3; where there is a gate,

    .. math::

        \mathit{out} = \big(\mathrm{act}(x W_{gate} + b_{gate})
            \odot (x W_{in} + b_{in})\big) W_{out} + b_{out}

    as in [2]_: SwiGLU with "silu", GEGLU with "gelu" or "gelu_tanh", ReGLU with "relu".

    Parameters
    ----------
    params : FeedForwardParams
        The weights, in the dtype of `x`.
    x : array, shape (..., model_dim)
        Features of each position, real floating.
    activation : {"relu", "gelu", "gelu_tanh", "silu", "tanh"} or function of an array, optional
        "gelu" is :math:`x \Phi(x)` with the exact distribution function of the normal
        distribution [3]_, "gelu_tanh" its approximation by a tanh, "silu"
        :math:`x / (1 + e^{-x})`. Those with a name are computed in float32 for halves; a
        function is given what there is. Default: "relu".
    dropout_mask : array, shape (..., hidden_dim), bool, optional
        True where a feature in the middle is kept; an axis may be 1. Draw it with
        probability ``1 - dropout_rate``. Default: no dropout.
    dropout_rate : float, optional
        The rate that `dropout_mask` was drawn with, in [0, 1); each needs the other.

    Returns
    -------
    array, shape (..., model_dim)
        Library, device and dtype of `x`.

    Raises
    ------
    ValueError
        If shapes do not fit together, a weight is missing, or `activation` is unknown.
    TypeError
        If something is not an array, not real floating, or of another library or dtype.

    See Also
    --------
    encoder_block, decoder_block : Where it is used.

    References
    ----------
    .. [1] Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762.
    .. [2] Shazeer, "GLU Variants Improve Transformer", 2020, arXiv:2002.05202.
    .. [3] Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016, arXiv:1606.08415.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> params = af.FeedForwardParams(w_in=np.asarray([[1.0, -1.0]]), w_out=np.ones((2, 1)))
    >>> af.feed_forward(params, np.asarray([[-3.0], [2.0]]))  # relu(x) + relu(-x)
    array([[3.],
           [2.]])
    """
    check_dropout(dropout_mask, dropout_rate)
    return think(params, x, activation, dropout_mask, dropout_rate, "params")


def gelu(x: Float[ArrayT, "..."], /) -> Float[ArrayT, "..."]:
    r"""
    Weigh each number by the chance that a standard normal one is less.

    .. math:: \mathit{out} = x \, \Phi(x)

    as in [1]_, exactly, where it stands by itself: after the convolutions of Whisper, in the
    head of BERT's language model. The Array API has no error function to write it with.

    Parameters
    ----------
    x : array, shape (...)
        Real floating; halves are computed in float32.

    Returns
    -------
    array, shape (...)
        Library, device and dtype of `x`.

    Raises
    ------
    TypeError
        If `x` is not a real floating array.

    See Also
    --------
    feed_forward : Takes it as an `activation`, among others.

    References
    ----------
    .. [1] Hendrycks and Gimpel, "Gaussian Error Linear Units (GELUs)", 2016,
           arXiv:1606.08415.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> af.gelu(np.asarray([-1.0, 0.0, 1.0])).round(4)
    array([-0.1587,  0.    ,  0.8413])
    """
    check_floating(xp=check_one_library(x=x), x=x)
    return activated(x, "gelu")


def think(
    params: FeedForwardParams,
    x: Array,
    activation: Activation,
    dropout_mask: Array | None,
    dropout_rate: float | None,
    name: str,
    /,
    mask_name: str = "dropout_mask",
) -> Array:
    """Do what `feed_forward` does; the names are those of the arguments in an error."""
    check_kind_of_params(name, params, FeedForwardParams)
    check_leaves(name, params, needed=("w_in", "w_out"))
    check_partners(name, params, b_gate="w_gate")
    check_activation(activation, tuple(ACTIVATIONS))

    hidden = affine(x, params.w_in, params.b_in, f"{name}.w_in", f"{name}.b_in")
    if is_absent(params.w_gate):
        hidden = activated(hidden, activation)
    else:
        gate = affine(x, params.w_gate, params.b_gate, f"{name}.w_gate", f"{name}.b_gate")
        check_sizes_meet(
            "hidden_dim",
            **{f"{name}.w_in": (params.w_in, 1), f"{name}.w_gate": (params.w_gate, 1)},
        )
        hidden = activated(gate, activation) * hidden
    check_sizes_meet(
        "hidden_dim",
        **{f"{name}.w_in": (params.w_in, 1), f"{name}.w_out": (params.w_out, 0)},
    )
    hidden = dropped(hidden, dropout_mask, dropout_rate, mask_name)
    return affine(
        hidden, params.w_out, params.b_out, f"{name}.w_out", f"{name}.b_out", "hidden"
    )


def affine(
    x: Array, weight: Array, bias: Array, weight_name: str, bias_name: str, /, name: str = "x"
) -> Array:
    """Map the last axis; the names are those of the arguments in an error."""
    check_weights(**{name: x, weight_name: weight, bias_name: bias})
    check_ndim(name, x, 1, "(..., in_dim)")
    check_exact_ndim(weight_name, weight, 2, "(in_dim, out_dim)")
    check_sizes_meet("in_dim", **{name: (x, -1), weight_name: (weight, 0)})
    out = x @ weight
    if not is_absent(bias):
        check_exact_shape(bias_name, bias, [(weight.shape[1],)], "(out_dim,)")
        out = out + bias
    return out


def dropped(x: Array, keep: Array | None, rate: float | None, name: str, /) -> Array:
    """Set to zero what is not kept, and make the rest larger by as much."""
    if keep is None or is_absent(keep):
        return x
    assert rate is not None, "check_dropout has seen to it"
    xp = check_one_library(x=x, **{name: keep})
    check_one_device(x=x, **{name: keep})
    check_keep_mask(name, keep, tuple(x.shape), xp=xp)
    return xp.where(keep, x / (1.0 - float(rate)), 0.0)


def activated(x: Array, activation: Activation, /) -> Array:
    xp = check_one_library(x=x)
    if callable(activation):
        out = activation(x)
        check_activated(out, x, xp=xp)
        return out
    wide = cast(x, computed_in(x.dtype, xp=xp), xp=xp)
    with full_precision(x):
        return cast(ACTIVATIONS[activation](wide, xp), x.dtype, xp=xp)


def relu(x: Array, xp: Namespace, /) -> Array:
    # Selected, not the maximum: a NaN stays, and the gradient at 0 is 0 on every library.
    return xp.where(x <= 0, 0.0, x)


def exact_gelu(x: Array, xp: Namespace, /) -> Array:
    return x * normal_cdf(x, xp)


def gelu_tanh(x: Array, xp: Namespace, /) -> Array:
    return 0.5 * x * (1 + xp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def silu(x: Array, xp: Namespace, /) -> Array:
    return x * sigmoid(x, xp)


def tanh(x: Array, xp: Namespace, /) -> Array:
    return xp.tanh(x)


ACTIVATIONS = {
    "relu": relu,
    "gelu": exact_gelu,
    "gelu_tanh": gelu_tanh,
    "silu": silu,
    "tanh": tanh,
}
