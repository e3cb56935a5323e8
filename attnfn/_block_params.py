"""The parameters of encoder and decoder blocks, and what may be dropped in them."""

from typing import Any, Literal, NamedTuple

from ._checks import check_bool, check_choice
from ._feed_forward import FeedForwardParams, init_feed_forward
from ._multi_head import MultiHeadAttentionParams, init_multi_head_attention
from ._norms import NormParams, init_norm
from ._typing import Namespace

__all__ = [
    "DecoderBlockParams",
    "DecoderDropoutMasks",
    "EncoderBlockParams",
    "EncoderDropoutMasks",
    "init_decoder_block",
    "init_encoder_block",
]

#: What a norm may be: `layer_norm` or `rms_norm`.
NORMS = ("layer", "rms")


class EncoderBlockParams(NamedTuple):
    """
    Parameters of `encoder_block`.

    A stack of blocks is a tuple of them.

    Parameters
    ----------
    attention : MultiHeadAttentionParams
        How positions look at each other.
    attention_norm : NormParams
        The norm before the attention, or after it.
    feed_forward : FeedForwardParams
        What each position makes of it.
    feed_forward_norm : NormParams
        The norm before the feed-forward layer, or after it.

    See Also
    --------
    init_encoder_block : Draws them.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> rng = np.random.default_rng(0)
    >>> layers = tuple(af.init_encoder_block(16, 4, rng=rng) for _ in range(6))
    >>> layers[5].feed_forward.w_in.shape
    (16, 64)
    """

    attention: MultiHeadAttentionParams
    attention_norm: NormParams
    feed_forward: FeedForwardParams
    feed_forward_norm: NormParams


class DecoderBlockParams(NamedTuple):
    """
    Parameters of `decoder_block`.

    Without a cross attention, which is ``()`` then, it is a block of a decoder-only model.

    Parameters
    ----------
    self_attention : MultiHeadAttentionParams
        How positions look at each other.
    self_attention_norm : NormParams
        The norm before it, or after it.
    feed_forward : FeedForwardParams
        What each position makes of all it has seen.
    feed_forward_norm : NormParams
        The norm before it, or after it.
    cross_attention : MultiHeadAttentionParams
        How positions look at the memory.
    cross_attention_norm : NormParams
        The norm before it, or after it.

    See Also
    --------
    init_decoder_block : Draws them.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> params = af.init_decoder_block(16, 4, rng=np.random.default_rng(0))
    >>> params.cross_attention
    ()
    """

    self_attention: MultiHeadAttentionParams
    self_attention_norm: NormParams
    feed_forward: FeedForwardParams
    feed_forward_norm: NormParams
    cross_attention: Any = ()
    cross_attention_norm: Any = ()


class EncoderDropoutMasks(NamedTuple):
    """
    What is kept of an `encoder_block`, at each place where something may be dropped.

    Bool arrays, True where a number is kept, drawn by the caller with probability
    ``1 - dropout_rate``. An axis may be 1, to drop the same all along it. ``()`` drops
    nothing at that place.

    Parameters
    ----------
    attention_weights : array, shape (..., num_heads, length, length)
        Of the weights of the attention: `dropout_mask` of `attention`, a function included.
    attention : array, shape (..., length, model_dim)
        Of the output of the attention, before it is added.
    hidden : array, shape (..., length, hidden_dim)
        Of the features in the middle of the feed-forward layer.
    feed_forward : array, shape (..., length, model_dim)
        Of the output of the feed-forward layer, before it is added.

    See Also
    --------
    encoder_block : Takes them.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> rng = np.random.default_rng(0)
    >>> masks = af.EncoderDropoutMasks(hidden=rng.random((2, 5, 64)) >= 0.1)
    >>> masks.attention
    ()
    """

    attention_weights: Any = ()
    attention: Any = ()
    hidden: Any = ()
    feed_forward: Any = ()


class DecoderDropoutMasks(NamedTuple):
    """
    What is kept of a `decoder_block`, at each place where something may be dropped.

    As `EncoderDropoutMasks`, with the places of both attentions.

    Parameters
    ----------
    self_attention_weights : array, shape (..., num_heads, length, length)
        Of the weights of the self attention, a function included.
    self_attention : array, shape (..., length, model_dim)
        Of the output of the self attention, before it is added.
    cross_attention_weights : array, shape (..., num_heads, length, memory_len)
        Of the weights of the cross attention, a function included.
    cross_attention : array, shape (..., length, model_dim)
        Of the output of the cross attention, before it is added.
    hidden : array, shape (..., length, hidden_dim)
        Of the features in the middle of the feed-forward layer.
    feed_forward : array, shape (..., length, model_dim)
        Of the output of the feed-forward layer, before it is added.

    See Also
    --------
    decoder_block : Takes them.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> rng = np.random.default_rng(0)
    >>> masks = af.DecoderDropoutMasks(feed_forward=rng.random((5, 16)) >= 0.1)
    >>> masks.hidden
    ()
    """

    self_attention_weights: Any = ()
    self_attention: Any = ()
    cross_attention_weights: Any = ()
    cross_attention: Any = ()
    hidden: Any = ()
    feed_forward: Any = ()


def init_encoder_block(
    model_dim: int,
    num_heads: int,
    /,
    *,
    rng: Any,
    hidden_dim: int | None = None,
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
    is_fused: bool = False,
    is_gated: bool = False,
    has_bias: bool = False,
    norm: Literal["layer", "rms"] = "layer",
    init: str = "xavier",
    dtype: Any = None,
    xp: Namespace | None = None,
    device: Any = None,
) -> EncoderBlockParams:
    """
    Draw the parameters of `encoder_block`.

    One seed gives the same parameters on every library.

    Parameters
    ----------
    model_dim : int
        Width of the features, 1 or more.
    num_heads : int
        Number of query heads, 1 or more.
    rng : numpy.random.Generator
        Where the numbers come from; it is advanced.
    hidden_dim : int, optional
        Width in the middle of the feed-forward layer. Default: ``4 * model_dim``.
    num_kv_heads : int, optional
        Number of key/value heads; must divide `num_heads`. Default: `num_heads`.
    head_dim : int, optional
        Width of each head. Default: ``model_dim // num_heads``.
    is_fused : bool, optional
        Whether query, key and value share one weight. Default: False.
    is_gated : bool, optional
        Whether the feed-forward layer has a gate, as SwiGLU has. Default: False.
    has_bias : bool, optional
        Whether there are biases, those of layer norms included; they begin at zero.
        Default: False.
    norm : {"layer", "rms"}, optional
        What the norms are to be; those of "rms" have no bias. Default: "layer".
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
    EncoderBlockParams
        The parameters; what is absent is ``()``.

    Raises
    ------
    ValueError, TypeError
        As `init_multi_head_attention` and `init_feed_forward`; also if `norm` is unknown.

    See Also
    --------
    encoder_block : Uses them.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> params = af.init_encoder_block(16, 4, rng=np.random.default_rng(0), has_bias=True)
    >>> sum(x.size for x in af.flatten_params(params).values())
    3280
    """
    draw = _Parts(
        {"rng": rng, "init": init, "has_bias": has_bias},
        {"dtype": dtype, "xp": xp, "device": device},
        norm,
    )
    heads = {"num_kv_heads": num_kv_heads, "head_dim": head_dim, "is_fused": is_fused}
    attention = draw.attention(model_dim, num_heads, **heads)
    return EncoderBlockParams(
        attention,
        draw.norm_of(model_dim),
        draw.feed_forward(model_dim, hidden_dim, is_gated=is_gated),
        draw.norm_of(model_dim),
    )


def init_decoder_block(
    model_dim: int,
    num_heads: int,
    /,
    *,
    rng: Any,
    hidden_dim: int | None = None,
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
    has_cross_attention: bool = False,
    memory_dim: int | None = None,
    is_fused: bool = False,
    is_gated: bool = False,
    has_bias: bool = False,
    norm: Literal["layer", "rms"] = "layer",
    init: str = "xavier",
    dtype: Any = None,
    xp: Namespace | None = None,
    device: Any = None,
) -> DecoderBlockParams:
    """
    Draw the parameters of `decoder_block`.

    One seed gives the same parameters on every library, with a cross attention and without.

    Parameters
    ----------
    model_dim : int
        Width of the features, 1 or more.
    num_heads : int
        Number of query heads, 1 or more.
    rng : numpy.random.Generator
        Where the numbers come from; it is advanced.
    hidden_dim : int, optional
        Width in the middle of the feed-forward layer. Default: ``4 * model_dim``.
    num_kv_heads : int, optional
        Number of key/value heads; must divide `num_heads`. Default: `num_heads`.
    head_dim : int, optional
        Width of each head. Default: ``model_dim // num_heads``.
    has_cross_attention : bool, optional
        Whether there is a memory to attend to. Default: False.
    memory_dim : int, optional
        Width of the memory. Default: `model_dim`.
    is_fused : bool, optional
        Whether query, key and value of the self attention share one weight. Default: False.
    is_gated : bool, optional
        Whether the feed-forward layer has a gate, as SwiGLU has. Default: False.
    has_bias : bool, optional
        Whether there are biases, those of layer norms included; they begin at zero.
        Default: False.
    norm : {"layer", "rms"}, optional
        What the norms are to be; those of "rms" have no bias. Default: "layer".
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
    DecoderBlockParams
        The parameters; what is absent is ``()``.

    Raises
    ------
    ValueError, TypeError
        As `init_multi_head_attention` and `init_feed_forward`; also if `norm` is unknown.

    See Also
    --------
    decoder_block : Uses them.

    Examples
    --------
    A block as Llama has it:

    >>> import numpy as np
    >>> import attnfn as af
    >>> rng = np.random.default_rng(0)
    >>> params = af.init_decoder_block(
    ...     16, 4, rng=rng, num_kv_heads=2, hidden_dim=40, is_gated=True, norm="rms"
    ... )
    >>> list(af.flatten_params(params.feed_forward))
    ['w_in', 'w_out', 'w_gate']
    """
    draw = _Parts(
        {"rng": rng, "init": init, "has_bias": has_bias},
        {"dtype": dtype, "xp": xp, "device": device},
        norm,
    )
    check_bool("has_cross_attention", has_cross_attention)
    heads = {"num_kv_heads": num_kv_heads, "head_dim": head_dim}
    params = DecoderBlockParams(
        draw.attention(model_dim, num_heads, **heads, is_fused=is_fused),
        draw.norm_of(model_dim),
        draw.feed_forward(model_dim, hidden_dim, is_gated=is_gated),
        draw.norm_of(model_dim),
    )
    if not has_cross_attention:
        return params
    cross = draw.attention(model_dim, num_heads, **heads, kv_model_dim=memory_dim)
    return params._replace(cross_attention=cross, cross_attention_norm=draw.norm_of(model_dim))


class _Parts:
    """Draws the parts of a block by what they have in common."""

    def __init__(self, drawn: dict[str, Any], made: dict[str, Any], norm: str, /) -> None:
        check_choice("norm", norm, NORMS)
        check_bool("has_bias", drawn["has_bias"])
        self.options = drawn | made
        self.norm_options = made | {"has_bias": drawn["has_bias"] and norm == "layer"}

    def attention(self, *sizes: int, **options: Any) -> MultiHeadAttentionParams:
        return init_multi_head_attention(*sizes, **options, **self.options)

    def feed_forward(
        self, model_dim: int, hidden_dim: int | None, /, *, is_gated: bool
    ) -> FeedForwardParams:
        hidden_dim = 4 * model_dim if hidden_dim is None else hidden_dim
        return init_feed_forward(model_dim, hidden_dim, is_gated=is_gated, **self.options)

    def norm_of(self, model_dim: int, /) -> NormParams:
        return init_norm(model_dim, **self.norm_options)
