"""Encoder and decoder blocks: attention and feed-forward, each with a norm and a residual."""

from typing import Any, Literal, NamedTuple, Unpack

from jaxtyping import Bool, Float

from ._block_params import (
    DecoderBlockParams,
    DecoderDropoutMasks,
    EncoderBlockParams,
    EncoderDropoutMasks,
)
from ._checks import (
    check_bool,
    check_choice,
    check_dropout_masks,
    check_kind_of_params,
    check_memory,
    check_ndim,
    check_one_library,
    check_options,
    check_sizes_meet,
    is_absent,
)
from ._feed_forward import Activation, FeedForwardParams, dropped, think
from ._multi_head import MultiHeadAttentionParams, multi_head_attention
from ._norms import NormParams, normalise
from ._typing import Array, ArrayT, BlockOptions, PositionFunction

__all__ = ["DecoderBlockParams", "EncoderBlockParams", "decoder_block", "encoder_block"]

BLOCK_OPTIONS = frozenset(BlockOptions.__annotations__)
#: Those that say how to compute a score, not who attends to whom: the memory's, too.
CROSS_OPTIONS = ("scale", "softcap", "compute_dtype", "engine")

#: The norms, and the `epsilon` of each where nothing else is said.
EPSILONS = {"layer": 1e-5, "rms": 1e-6}


def encoder_block(
    params: EncoderBlockParams,
    x: Float[ArrayT, "*batch length model_dim"],
    /,
    *,
    mask: Bool[Array, "..."] | PositionFunction | None = None,
    is_causal: bool = False,
    is_pre_norm: bool = False,
    activation: Activation = "relu",
    norm: Literal["layer", "rms"] = "layer",
    epsilon: float | None = None,
    dropout_masks: EncoderDropoutMasks | None = None,
    dropout_rate: float | None = None,
    **options: Unpack[BlockOptions],
) -> Float[ArrayT, "*batch length model_dim"]:
    r"""
    Self attention and a feed-forward layer, each with a norm and a residual.

    .. math::

        y &= \mathrm{norm}(x + \mathrm{attention}(x)) \\
        \mathit{out} &= \mathrm{norm}(y + \mathrm{feed\_forward}(y))

    as in [1]_, 3.1; with `is_pre_norm`,

    .. math::

        y &= x + \mathrm{attention}(\mathrm{norm}(x)) \\
        \mathit{out} &= y + \mathrm{feed\_forward}(\mathrm{norm}(y))

    as in [2]_, where a stack of blocks has one more norm at its end.

    Parameters
    ----------
    params : EncoderBlockParams
        The weights, in the dtype of `x`; those of norms may have another.
    x : array, shape (..., length, model_dim)
        Features of each position, real floating.
    mask : bool array, or function of (q_pos, kv_pos), optional
        True where a position may attend to another, as in `attention`. Default: everywhere.
    is_causal : bool, optional
        Whether to hide what comes after each position as well. Default: False.
    is_pre_norm : bool, optional
        Whether the norms come before attention and feed-forward, as in GPT-2 and Llama,
        instead of after the residual, as in BERT. Default: False.
    activation : {"relu", "gelu", "gelu_tanh", "silu", "tanh"} or function of an array, optional
        As in `feed_forward`. Default: "relu".
    norm : {"layer", "rms"}, optional
        `layer_norm` or `rms_norm`. Default: "layer".
    epsilon : float, optional
        That of the norms. Default: 1e-5 for "layer", 1e-6 for "rms".
    dropout_masks : EncoderDropoutMasks, optional
        What is kept, place by place. Default: no dropout.
    dropout_rate : float, optional
        The rate that all of them were drawn with, in [0, 1); each needs the other.
    **options
        The other options of `attention`, with the same meaning.

    Returns
    -------
    array, shape (..., length, model_dim)
        Library, device and dtype of `x`.

    Raises
    ------
    ValueError, TypeError, NotImplementedError
        As `multi_head_attention`, `feed_forward` and `layer_norm`.

    See Also
    --------
    decoder_block : Causal, and with a memory.
    multi_head_attention, feed_forward, layer_norm : What it is made of.

    Notes
    -----
    A position that may attend to nothing still has its residual and the bias of the output.

    Rotary positions, QK-norm, a cache, or a norm before *and* after have no option: such a
    block is the lines of this one, written with what it is made of.

    References
    ----------
    .. [1] Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762.
    .. [2] Xiong et al., "On Layer Normalization in the Transformer Architecture", 2020,
           arXiv:2002.04745.

    Examples
    --------
    A stack is a loop:

    >>> import numpy as np
    >>> import attnfn as af
    >>> rng = np.random.default_rng(0)
    >>> layers = tuple(af.init_encoder_block(16, 4, rng=rng) for _ in range(6))
    >>> x = rng.normal(size=(2, 5, 16)).astype("float32")  # 2 sequences of 5 positions
    >>> mask = af.padding_mask(np.asarray([3, 5]), 5)
    >>> for layer in layers:
    ...     x = af.encoder_block(layer, x, mask=mask, activation="gelu")
    >>> x.shape
    (2, 5, 16)
    """
    check_kind_of_params("params", params, EncoderBlockParams)
    check_options("encoder_block", options, BLOCK_OPTIONS)
    check_dropout_masks(dropout_masks, dropout_rate, EncoderDropoutMasks)
    keep = EncoderDropoutMasks() if dropout_masks is None else dropout_masks
    residual = _residual(is_pre_norm, norm, epsilon, dropout_rate)
    _check_widths(x, params, "attention")

    y = residual.before(x, params.attention_norm, "params.attention_norm")
    y = multi_head_attention(
        params.attention,
        y,
        mask=mask,
        is_causal=is_causal,
        **_weights_dropout(keep.attention_weights, dropout_rate),
        **options,
    )
    y = dropped(y, keep.attention, dropout_rate, "dropout_masks.attention")
    x = residual.after(x, y, params.attention_norm, "params.attention_norm")

    return _thought_over(params, x, keep, activation, residual)


def decoder_block(
    params: DecoderBlockParams,
    x: Float[ArrayT, "*batch length model_dim"],
    memory: Float[ArrayT, "*batch memory_len memory_dim"] | None = None,
    /,
    *,
    mask: Bool[Array, "..."] | PositionFunction | None = None,
    memory_mask: Bool[Array, "..."] | PositionFunction | None = None,
    is_causal: bool = True,
    is_pre_norm: bool = False,
    activation: Activation = "relu",
    norm: Literal["layer", "rms"] = "layer",
    epsilon: float | None = None,
    dropout_masks: DecoderDropoutMasks | None = None,
    dropout_rate: float | None = None,
    **options: Unpack[BlockOptions],
) -> Float[ArrayT, "*batch length model_dim"]:
    r"""
    Causal self attention, cross attention to a memory, and a feed-forward layer.

    .. math::

        y &= \mathrm{norm}(x + \mathrm{self\_attention}(x)) \\
        z &= \mathrm{norm}(y + \mathrm{cross\_attention}(y, \mathit{memory})) \\
        \mathit{out} &= \mathrm{norm}(z + \mathrm{feed\_forward}(z))

    as in [1]_, 3.1; without a memory there is no second line, and with `is_pre_norm` the
    norms come first, as in `encoder_block`.

    Parameters
    ----------
    params : DecoderBlockParams
        The weights, in the dtype of `x`; those of norms may have another.
    x : array, shape (..., length, model_dim)
        Features of each position, real floating.
    memory : array, shape (..., memory_len, memory_dim), optional
        What an encoder has made; needed if `params` has a cross attention. Default: none.
    mask : bool array, or function of (q_pos, kv_pos), optional
        True where a position may attend to another, as in `attention`. Default: everywhere
        that the order allows.
    memory_mask : bool array, or function of (q_pos, kv_pos), optional
        True where a position may attend to one of the memory. Default: everywhere.
    is_causal : bool, optional
        Whether to hide what comes after each position from the self attention. Default: True.
    is_pre_norm : bool, optional
        Whether the norms come before attention and feed-forward instead of after the
        residual. Default: False.
    activation : {"relu", "gelu", "gelu_tanh", "silu", "tanh"} or function of an array, optional
        As in `feed_forward`. Default: "relu".
    norm : {"layer", "rms"}, optional
        `layer_norm` or `rms_norm`. Default: "layer".
    epsilon : float, optional
        That of the norms. Default: 1e-5 for "layer", 1e-6 for "rms".
    dropout_masks : DecoderDropoutMasks, optional
        What is kept, place by place. Default: no dropout.
    dropout_rate : float, optional
        The rate that all of them were drawn with, in [0, 1); each needs the other.
    **options
        The other options of `attention`, with the same meaning, for the self attention.
        `scale`, `softcap`, `compute_dtype` and `engine` are for the cross attention as well;
        order, windows, biases, segments, sinks and `score_mod` never are.

    Returns
    -------
    array, shape (..., length, model_dim)
        Library, device and dtype of `x`.

    Raises
    ------
    ValueError, TypeError, NotImplementedError
        As `encoder_block`; also if a memory is given without parameters that attend to it,
        or these without a memory.

    See Also
    --------
    encoder_block : Makes the memory.

    Notes
    -----
    The norm of the memory, where there is one, is the encoder's.

    References
    ----------
    .. [1] Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> rng = np.random.default_rng(0)
    >>> params = af.init_decoder_block(16, 4, rng=rng, has_cross_attention=True)
    >>> x = rng.normal(size=(2, 5, 16)).astype("float32")
    >>> memory = rng.normal(size=(2, 7, 16)).astype("float32")
    >>> memory_mask = af.padding_mask(np.asarray([3, 7]), 7)
    >>> af.decoder_block(params, x, memory, memory_mask=memory_mask).shape
    (2, 5, 16)
    """
    check_kind_of_params("params", params, DecoderBlockParams)
    check_memory(memory, memory_mask, params.cross_attention)
    check_options("decoder_block", options, BLOCK_OPTIONS)
    check_dropout_masks(dropout_masks, dropout_rate, DecoderDropoutMasks)
    keep = DecoderDropoutMasks() if dropout_masks is None else dropout_masks
    residual = _residual(is_pre_norm, norm, epsilon, dropout_rate)
    _check_widths(x, params, "self_attention")

    y = residual.before(x, params.self_attention_norm, "params.self_attention_norm")
    y = multi_head_attention(
        params.self_attention,
        y,
        mask=mask,
        is_causal=is_causal,
        **_weights_dropout(keep.self_attention_weights, dropout_rate),
        **options,
    )
    y = dropped(y, keep.self_attention, dropout_rate, "dropout_masks.self_attention")
    x = residual.after(x, y, params.self_attention_norm, "params.self_attention_norm")

    if memory is not None:
        _check_widths(x, params, "cross_attention")
        y = residual.before(x, params.cross_attention_norm, "params.cross_attention_norm")
        y = multi_head_attention(
            params.cross_attention,
            y,
            memory,
            mask=memory_mask,
            **_weights_dropout(keep.cross_attention_weights, dropout_rate),
            **_cross_options(options),
        )
        y = dropped(y, keep.cross_attention, dropout_rate, "dropout_masks.cross_attention")
        x = residual.after(x, y, params.cross_attention_norm, "params.cross_attention_norm")

    return _thought_over(params, x, keep, activation, residual)


class _Residual(NamedTuple):
    """Where the norm of a step is, and which one."""

    is_pre_norm: bool
    norm: str
    epsilon: float
    dropout_rate: float | None

    def before(self, x: Array, params: NormParams, name: str, /) -> Array:
        """Return what a step is to work on."""
        return self._normalised(x, params, name) if self.is_pre_norm else x

    def after(self, x: Array, y: Array, params: NormParams, name: str, /) -> Array:
        """Return `x` with what a step has made of it."""
        return x + y if self.is_pre_norm else self._normalised(x + y, params, name)

    def _normalised(self, x: Array, params: NormParams, name: str, /) -> Array:
        return normalise(self.norm, params, x, self.epsilon, name)


def _residual(
    is_pre_norm: bool, norm: str, epsilon: float | None, dropout_rate: float | None, /
) -> _Residual:
    check_bool("is_pre_norm", is_pre_norm)
    check_choice("norm", norm, tuple(EPSILONS))
    epsilon = EPSILONS[norm] if epsilon is None else epsilon
    return _Residual(is_pre_norm, norm, epsilon, dropout_rate)


def _thought_over(
    params: EncoderBlockParams | DecoderBlockParams,
    x: Array,
    keep: EncoderDropoutMasks | DecoderDropoutMasks,
    activation: Activation,
    residual: _Residual,
    /,
) -> Array:
    """Take the last step of a block, the feed-forward layer."""
    rate = residual.dropout_rate
    y = residual.before(x, params.feed_forward_norm, "params.feed_forward_norm")
    y = think(
        params.feed_forward,
        y,
        activation,
        keep.hidden,
        rate,
        "params.feed_forward",
        "dropout_masks.hidden",
    )
    y = dropped(y, keep.feed_forward, rate, "dropout_masks.feed_forward")
    return residual.after(x, y, params.feed_forward_norm, "params.feed_forward_norm")


def _weights_dropout(keep: Any, rate: float | None, /) -> dict[str, Any]:
    """Return the options of `attention` that drop some of its weights."""
    return {} if is_absent(keep) else {"dropout_mask": keep, "dropout_rate": rate}


def _cross_options(options: BlockOptions, /) -> dict[str, Any]:
    """Return what a cross attention is told: where its queries stand, and how to compute."""
    shared = {name: x for name, x in options.items() if name in CROSS_OPTIONS}
    q_offset = options.get("q_offset")
    return shared | {"q_offset": 0 if q_offset is None else q_offset}


def _check_widths(x: Array, params: Any, attention: str, /) -> None:
    """Check that what is added to `x` is as wide as `x`."""
    name = f"params.{attention}"
    weights = getattr(params, attention)
    check_kind_of_params(name, weights, MultiHeadAttentionParams)
    check_kind_of_params("params.feed_forward", params.feed_forward, FeedForwardParams)
    outputs = {
        f"{name}.w_o": weights.w_o,
        "params.feed_forward.w_out": params.feed_forward.w_out,
    }
    given = {leaf: w for leaf, w in outputs.items() if not is_absent(w)}
    check_one_library(x=x, **given)
    check_ndim("x", x, 2, "(..., length, model_dim)")
    for leaf, w in given.items():
        check_sizes_meet("model_dim", x=(x, -1), **{leaf: (w, -1)})
