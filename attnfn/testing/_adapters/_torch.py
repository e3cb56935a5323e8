"""PyTorch's functions: `scaled_dot_product_attention` and `flex_attention`."""

import warnings
from collections.abc import Callable
from typing import Any

from ..._typing import Array
from .._subject import Subject
from ._call import Call, described, folded, unfolded
from ._checks import check_options
from ._parameters import Parameters
from ._signature import Place, Signature, Vjp, name_of, subject

__all__ = ["flex_like", "torch_like"]


def _two_axes(x: Array, _call: Call) -> Array:
    return x if x.ndim > 1 else x[None, :]


def _grouped(call: Call, parameters: Parameters) -> dict[str, Any]:
    return {"enable_gqa": True} if call.is_grouped and "enable_gqa" in parameters else {}


_TORCH = Signature(
    places={
        "mask": Place(("attn_mask", "mask"), _two_axes),
        "bias": Place(("attn_mask", "bias"), _two_axes),
        "is_causal": Place(("is_causal", "causal")),
        "scale": Place(("scale",)),
    },
    is_folded=False,
    more=_grouped,
)


def torch_like(function: Callable[..., Any], /, *, vjp: Vjp | None = None) -> Subject:
    """
    Adapt a function with the signature of PyTorch's `scaled_dot_product_attention`.

    ``function(query, key, value, attn_mask, is_causal, scale, enable_gqa)``, whichever of them
    it has, with axes ``(..., num_heads, length, dim)``. ``attn_mask`` serves a mask (bool) and
    a bias (floating); both together are given as a bias that is -inf where the mask is not
    True.
    ``enable_gqa`` is True where heads are grouped.

    Parameters
    ----------
    function : function of (query, key, value)
        Returns the output.
    vjp : function of (query, key, value, d_out), optional
        Its gradients, called as `function` is. Default: those that its library finds.

    Returns
    -------
    Subject
        What every check can ask.

    Examples
    --------
    >>> import torch
    >>> from attnfn.testing import torch_like
    >>> sdpa = torch_like(torch.nn.functional.scaled_dot_product_attention)
    >>> sorted(sdpa.options)
    ['bias', 'is_causal', 'mask', 'scale']
    >>> query, key, value = torch.zeros(2, 3, 8), torch.zeros(2, 3, 8), torch.ones(2, 3, 8)
    >>> sdpa.attention(query, key, value, is_causal=True).shape
    torch.Size([2, 3, 8])
    """
    return subject(function, _TORCH, vjp=vjp)


#: What `score_mod` and `block_mask` can express.
_OF_SCORE_MOD = ("bias", "score_mod", "softcap")
_OF_BLOCK_MASK = ("is_causal", "lengths", "mask", "q_offset", "segment_ids", "window_size")


def flex_like(function: Callable[..., Any], /) -> Subject:
    """
    Adapt a function with the signature of PyTorch's `flex_attention`.

    ``function(query, key, value, score_mod, block_mask, scale, enable_gqa, return_aux)``,
    whichever of them it has, with axes ``(batch, num_heads, length, dim)``. Options become
    functions of indices as a user would write them: ``score_mod`` caps the scores, then adds
    the bias; ``block_mask`` is made by PyTorch's `create_block_mask`. Without a ``q_offset``
    the first query stands at the first key.

    Parameters
    ----------
    function : function of (query, key, value)
        Returns the output, with the log-sum-exp if asked for it.

    Returns
    -------
    Subject
        What every check can ask.

    Examples
    --------
    >>> from torch.nn.attention.flex_attention import flex_attention
    >>> from attnfn.testing import flex_like
    >>> sorted(flex_like(flex_attention).options)
    ['bias', 'is_causal', 'lengths', 'mask', 'q_offset', 'scale', 'score_mod', 'segment_ids',
     'softcap', 'window_size']
    """
    parameters = Parameters(function)
    options = {"scale"} if "scale" in parameters else set()
    options |= set(_OF_SCORE_MOD) if "score_mod" in parameters else set()
    options |= set(_OF_BLOCK_MASK) if "block_mask" in parameters else set()
    lse = parameters.first("return_aux", "return_lse")
    name = name_of(function)

    def result(
        arrays: tuple[Array, Array, Array], given: dict[str, Any], *, has_lse: bool
    ) -> Any:
        check_options(given, options, name)
        call = folded(described(*arrays, given))
        keywords = {**_of_indices(call), **_grouped(call, parameters)}
        if "scale" in call.options:
            keywords["scale"] = call.options["scale"]
        if has_lse:
            keywords |= _asking(lse)
        with warnings.catch_warnings():
            # Not compiled it is slow, which is all the same here.
            warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
            found = function(*call[:3], **keywords)
        if not has_lse:
            return unfolded(call, found)
        out, aux = found
        return unfolded(call, out), unfolded(call, getattr(aux, "lse", aux), axes=2)

    def attention(query: Array, key: Array, value: Array, /, **given: Any) -> Array:
        return result((query, key, value), given, has_lse=False)

    def attention_with_lse(
        query: Array, key: Array, value: Array, /, **given: Any
    ) -> tuple[Array, Array]:
        return result((query, key, value), given, has_lse=True)

    return Subject(
        attention,
        frozenset(options),
        attention_with_lse if lse is not None else None,
        name=name,
    )


def _asking(lse: str | None) -> dict[str, Any]:
    if lse != "return_aux":
        return {"return_lse": True}
    from torch.nn.attention.flex_attention import AuxRequest

    return {"return_aux": AuxRequest(lse=True)}


def _of_indices(call: Call) -> dict[str, Any]:
    """Return ``score_mod`` and ``block_mask``, where something needs them."""
    found: dict[str, Any] = {}
    if any(name in call.options for name in _OF_SCORE_MOD):
        found["score_mod"] = _score_mod(call)
    if any(name in call.options for name in _OF_BLOCK_MASK if name != "q_offset"):
        from torch.nn.attention.flex_attention import create_block_mask

        size, num_heads = call.query.shape[:2]
        sizes = (size, num_heads, call.q_len, call.kv_len)
        found["block_mask"] = create_block_mask(
            _mask_mod(call), *sizes, device=call.query.device
        )
    return found


def _offset(call: Call) -> Callable[[Any], Any]:
    offset = call.options.get("q_offset", 0)
    return (lambda b: offset[b]) if getattr(offset, "ndim", 0) else (lambda _: offset)


def _at(x: Array, *index: Any) -> Any:
    """Return one number of what has four axes, some of which may be 1."""
    return x[tuple(i if n > 1 else 0 * i for i, n in zip(index, x.shape, strict=True))]


def _score_mod(call: Call) -> Callable[..., Any]:
    bias, cap = call.options.get("bias"), call.options.get("softcap")
    own, offset = call.options.get("score_mod"), _offset(call)

    def score_mod(score: Any, b: Any, h: Any, i: Any, j: Any) -> Any:
        if own is not None:
            score = own(score, i + offset(b), j)
        if cap is not None:
            score = cap * (score / cap).tanh()
        return score if bias is None else score + _at(bias, b, h, i, j)

    return score_mod


def _mask_mod(call: Call) -> Callable[..., Any]:
    given, offset = call.options, _offset(call)
    left, right = given.get("window_size", (None, None))
    segments = given.get("segment_ids")
    if segments is not None and not isinstance(segments, tuple):
        segments = (segments, segments)

    def mask_mod(b: Any, h: Any, i: Any, j: Any) -> Any:
        p = i + offset(b)
        seen = j >= 0
        if "mask" in given:
            seen = seen & _at(given["mask"], b, h, i, j)
        if "is_causal" in given:
            seen = seen & (j <= p)
        if left is not None:
            seen = seen & (j >= p - left)
        if right is not None:
            seen = seen & (j <= p + right)
        if "lengths" in given:
            seen = seen & (j < given["lengths"][b])
        if segments is not None:
            of_q, of_k = (x if x.ndim == 2 else x[None, :] for x in segments)
            first = [b if x.shape[0] > 1 else 0 * b for x in (of_q, of_k)]
            seen = seen & (of_q[first[0], i] == of_k[first[1], j])
        return seen

    return mask_mod
