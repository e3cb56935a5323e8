"""Parameters of encoder and decoder blocks from and to the layers of other libraries."""

from collections.abc import Mapping
from typing import Any, TypeVar

from .._block_params import DecoderBlockParams, EncoderBlockParams
from .._checks import check_kind_of_params, is_absent
from .._feed_forward import FeedForwardParams
from .._multi_head import MultiHeadAttentionParams
from .._norms import NormParams
from .._parameters import flatten_params
from .._typing import Array
from ._attention import apart
from ._layouts import DECODER_BLOCKS, ENCODER_BLOCKS, Layouts
from ._rearrange import read, write

__all__ = ["decoder_block_from", "decoder_block_to", "encoder_block_from", "encoder_block_to"]

Block = TypeVar("Block", EncoderBlockParams, DecoderBlockParams)

#: What a part of a block is, by the last word of its name.
PARTS: dict[str, Any] = {
    "attention": MultiHeadAttentionParams,
    "forward": FeedForwardParams,
    "norm": NormParams,
}


def encoder_block_from(
    weights: Mapping[str, Array], layout: str, /, *, num_heads: int, prefix: str = ""
) -> EncoderBlockParams:
    """
    Take parameters of `encoder_block` from the weights of another library's layer.

    Parameters
    ----------
    weights : dict of str to array
        The weights by the names that the library gives them, of any array library.
    layout : {"torch", "bert", "whisper"}
        Whose names and shapes they are:

        - "torch": ``torch.nn.TransformerEncoderLayer``.
        - "bert": a layer of BERT in Hugging Face's transformers. It is `encoder_block` with
          ``activation="gelu"`` and ``epsilon=1e-12``.
        - "whisper": a layer of Whisper's encoder there, and of models with the same names, such
          as BART. Whisper's is `encoder_block` with ``activation="gelu"`` and
          ``is_pre_norm=True``.
    num_heads : int
        Number of heads.
    prefix : str, optional
        What the names of this layer begin with, such as ``"encoder.layer.0."``; others are left
        alone. Default: ``""``, every name is of this layer.

    Returns
    -------
    EncoderBlockParams
        The same numbers in the same dtype, on the same device. Gradients reach `weights`.

    Raises
    ------
    ValueError
        If weights are missing or left over (all of them are told) or misshapen, or the layout
        is unknown.
    TypeError
        If `weights` is not a flat dict of arrays of one library.

    See Also
    --------
    encoder_block_to : The way back.
    attnfn.encoder_block : Takes the parameters.

    Examples
    --------
    >>> import torch
    >>> import attnfn as af
    >>> from attnfn import convert
    >>> layer = torch.nn.TransformerEncoderLayer(8, 2, 32, batch_first=True).eval()
    >>> params = convert.encoder_block_from(layer.state_dict(), "torch", num_heads=2)
    >>> x = torch.ones(1, 3, 8)
    >>> torch.allclose(af.encoder_block(params, x), layer(x), atol=1e-6)
    True
    """
    return _block_from(EncoderBlockParams, weights, ENCODER_BLOCKS, layout, num_heads, prefix)


def encoder_block_to(
    params: EncoderBlockParams, layout: str, /, *, prefix: str = ""
) -> dict[str, Array]:
    """
    Give parameters of `encoder_block` as the weights of another library's layer.

    Parameters
    ----------
    params : EncoderBlockParams
        The parameters, of any array library.
    layout : {"torch", "bert", "whisper"}
        Whose names and shapes the weights are to have, as in `encoder_block_from`.
    prefix : str, optional
        What every name is to begin with. Default: ``""``.

    Returns
    -------
    dict of str to array
        The same numbers by the names of the library, joined where it joins them.

    Raises
    ------
    ValueError
        If the layout has no place for a parameter, or lacks one, or is unknown.
    TypeError
        If `params` are not EncoderBlockParams.

    See Also
    --------
    encoder_block_from : The way back.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> from attnfn import convert
    >>> params = af.init_encoder_block(8, 2, rng=np.random.default_rng(0), has_bias=False)
    >>> weights = convert.encoder_block_to(params, "torch", prefix="layers.0.")
    >>> weights["layers.0.linear1.weight"].shape
    (32, 8)
    """
    return _block_to(EncoderBlockParams, params, ENCODER_BLOCKS, layout, prefix)


def decoder_block_from(
    weights: Mapping[str, Array], layout: str, /, *, num_heads: int, prefix: str = ""
) -> DecoderBlockParams:
    """
    Take parameters of `decoder_block` from the weights of another library's layer.

    Parameters
    ----------
    weights : dict of str to array
        The weights by the names that the library gives them, of any array library.
    layout : {"torch", "gpt2", "llama", "whisper"}
        Whose names and shapes they are:

        - "torch": ``torch.nn.TransformerDecoderLayer``.
        - "gpt2": a block of GPT-2 in Hugging Face's transformers, with cross-attention or
          without. It is `decoder_block` with ``activation="gelu_tanh"`` and
          ``is_pre_norm=True``.
        - "llama": a layer of Llama there, and of models with the same names, such as Qwen2. Its
          queries and keys are rotated by halves, which is not a matter of parameters.
        - "whisper": a layer of Whisper's decoder there, and of models with the same names, such
          as BART. Whisper's is `decoder_block` with ``activation="gelu"`` and
          ``is_pre_norm=True``.
    num_heads : int
        Number of query heads; that of key/value heads follows.
    prefix : str, optional
        What the names of this layer begin with, such as ``"model.layers.0."``; others are left
        alone. Default: ``""``, every name is of this layer.

    Returns
    -------
    DecoderBlockParams
        The same numbers in the same dtype, on the same device. Gradients reach `weights`.

    Raises
    ------
    ValueError
        If weights are missing or left over (all of them are told) or misshapen, or the layout
        is unknown.
    TypeError
        If `weights` is not a flat dict of arrays of one library.

    See Also
    --------
    decoder_block_to : The way back.
    attnfn.decoder_block : Takes the parameters.

    Examples
    --------
    >>> import torch
    >>> import attnfn as af
    >>> from attnfn import convert
    >>> layer = torch.nn.TransformerDecoderLayer(8, 2, 32, batch_first=True).eval()
    >>> params = convert.decoder_block_from(layer.state_dict(), "torch", num_heads=2)
    >>> x, memory = torch.ones(1, 1, 8), torch.ones(1, 3, 8)
    >>> torch.allclose(af.decoder_block(params, x, memory), layer(x, memory), atol=1e-6)
    True
    """
    return _block_from(DecoderBlockParams, weights, DECODER_BLOCKS, layout, num_heads, prefix)


def decoder_block_to(
    params: DecoderBlockParams, layout: str, /, *, prefix: str = ""
) -> dict[str, Array]:
    """
    Give parameters of `decoder_block` as the weights of another library's layer.

    Parameters
    ----------
    params : DecoderBlockParams
        The parameters, of any array library.
    layout : {"torch", "gpt2", "llama", "whisper"}
        Whose names and shapes the weights are to have, as in `decoder_block_from`.
    prefix : str, optional
        What every name is to begin with. Default: ``""``.

    Returns
    -------
    dict of str to array
        The same numbers by the names of the library, joined where it joins them.

    Raises
    ------
    ValueError
        If the layout has no place for a parameter, or lacks one, or is unknown.
    TypeError
        If `params` are not DecoderBlockParams.

    See Also
    --------
    decoder_block_from : The way back.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> from attnfn import convert
    >>> params = af.init_decoder_block(8, 2, rng=np.random.default_rng(0), has_bias=True)
    >>> weights = convert.decoder_block_to(params, "gpt2", prefix="h.0.")
    >>> weights["h.0.attn.c_attn.weight"].shape
    (8, 24)
    """
    return _block_to(DecoderBlockParams, params, DECODER_BLOCKS, layout, prefix)


def _block_from(
    kind: type[Block],
    weights: Mapping[str, Array],
    layouts: Layouts,
    layout: str,
    num_heads: int,
    prefix: str,
    /,
) -> Block:
    leaves = read(weights, layouts, layout, num_heads=num_heads, prefix=prefix)
    parts: dict[str, dict[str, Array]] = {}
    for path, x in leaves.items():
        part, _, leaf = path.partition(".")
        parts.setdefault(part, {})[leaf] = x
    kinds = {part: PARTS[part.rpartition("_")[2]] for part in parts}
    return kind(**{part: kinds[part](**own) for part, own in parts.items()})


def _block_to(
    kind: type[Block], params: Block, layouts: Layouts, layout: str, prefix: str, /
) -> dict[str, Array]:
    check_kind_of_params("params", params, kind)
    parts: dict[str, Any] = params._asdict()
    for part, x in parts.items():
        if part.endswith("attention") and not is_absent(x):
            parts[part] = apart(x)
    return write(flatten_params(parts), layouts, layout, prefix=prefix)
