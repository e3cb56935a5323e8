"""Parameters of multi-head attention from and to the layers of other libraries."""

from collections.abc import Mapping

from .._checks import check_params, is_absent
from .._multi_head import MultiHeadAttentionParams, unfused
from .._parameters import flatten_params
from .._typing import Array
from ._layouts import ATTENTIONS
from ._rearrange import read, write

__all__ = ["apart", "multi_head_attention_from", "multi_head_attention_to"]


def multi_head_attention_from(
    weights: Mapping[str, Array],
    layout: str,
    /,
    *,
    num_heads: int | None = None,
    prefix: str = "",
) -> MultiHeadAttentionParams:
    """
    Take parameters of `multi_head_attention` from the weights of another library's layer.

    Parameters
    ----------
    weights : dict of str to array
        The weights by the names that the library gives them, of any array library.
    layout : {"torch", "flax", "keras", "equinox", "bert", "gpt2", "gpt2_cross", "llama", \
"whisper"}
        Whose names and shapes they are:

        - "torch": ``torch.nn.MultiheadAttention``.
        - "flax": ``MultiHeadAttention`` of ``flax.nnx`` and of ``flax.linen``.
        - "keras": ``keras.layers.MultiHeadAttention`` and ``GroupQueryAttention``.
        - "equinox": ``equinox.nn.MultiheadAttention``.
        - "bert", "gpt2", "llama", "whisper": the attention of these models in Hugging Face's
          transformers, and of those that have the same names, such as Qwen2 and BART.
        - "gpt2_cross": the cross-attention of GPT-2.
    num_heads : int, optional
        Number of query heads. Not needed for "flax" and "keras", whose weights have the heads
        in their shapes; the others keep them side by side.
    prefix : str, optional
        What the names of this layer begin with, such as ``"encoder.layer.0.attention."``;
        others are left alone. Default: ``""``, every name is of this layer.

    Returns
    -------
    MultiHeadAttentionParams
        The same numbers in the same dtype, on the same device, fused where they are stored
        fused. Gradients reach `weights`.

    Raises
    ------
    ValueError
        If weights are missing or left over (all of them are told) or misshapen, `num_heads` is
        missing, or the layout unknown.
    TypeError
        If `weights` is not a flat dict of arrays of one library.

    See Also
    --------
    multi_head_attention_to : The way back.
    attnfn.flatten_params : Makes a flat dict of nested ones, such as Flax has.

    Examples
    --------
    >>> import numpy as np
    >>> from attnfn import convert
    >>> names = ("self.query", "self.key", "self.value", "output.dense")
    >>> weights = {f"{name}.weight": np.ones((6, 6)) for name in names}
    >>> weights |= {f"{name}.bias": np.ones(6) for name in names}
    >>> params = convert.multi_head_attention_from(weights, "bert", num_heads=2)
    >>> params.w_q.shape, params.b_q.shape, params.w_o.shape
    ((6, 2, 3), (2, 3), (2, 3, 6))
    >>> del weights["self.key.bias"]
    >>> convert.multi_head_attention_from(weights, "bert", num_heads=2)
    Traceback (most recent call last):
        ...
    ValueError: `weights` must hold what the layout 'bert' has names for; 'self.key.bias' is
    missing.
    """
    leaves = read(weights, ATTENTIONS, layout, num_heads=num_heads, prefix=prefix)
    return MultiHeadAttentionParams(**leaves)


def multi_head_attention_to(
    params: MultiHeadAttentionParams, layout: str, /, *, prefix: str = ""
) -> dict[str, Array]:
    """
    Give parameters of `multi_head_attention` as the weights of another library's layer.

    Parameters
    ----------
    params : MultiHeadAttentionParams
        The parameters, fused or not, of any array library.
    layout : {"torch", "flax", "keras", "equinox", "bert", "gpt2", "gpt2_cross", "llama", \
"whisper"}
        Whose names and shapes the weights are to have, as in `multi_head_attention_from`.
    prefix : str, optional
        What every name is to begin with. Default: ``""``.

    Returns
    -------
    dict of str to array
        The same numbers by the names of the library, joined where it joins them.

    Raises
    ------
    ValueError
        If the layout has no place for a parameter, such as a bias or a number of key/value
        heads of their own, or lacks one, or is unknown.
    TypeError
        If `params` are not MultiHeadAttentionParams.

    See Also
    --------
    multi_head_attention_from : The way back.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> from attnfn import convert
    >>> params = af.init_multi_head_attention(6, 2, rng=np.random.default_rng(0))
    >>> weights = convert.multi_head_attention_to(params, "torch")
    >>> {name: w.shape for name, w in weights.items()}
    {'in_proj_weight': (18, 6), 'out_proj.weight': (6, 6)}
    """
    return write(flatten_params(apart(params)), ATTENTIONS, layout, prefix=prefix)


def apart(params: MultiHeadAttentionParams, /) -> MultiHeadAttentionParams:
    """Return the parameters with those of query, key and value each by its own."""
    check_params(params, needs_value=True)
    return params if is_absent(params.w_qkv) else unfused(params)
