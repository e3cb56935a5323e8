"""Functions with attnfn's own axes, and whichever of its options."""

from collections.abc import Callable, Mapping
from typing import Any

from .._subject import OPTIONS, Subject
from ._signature import Place, Signature, Vjp, subject

__all__ = ["attnfn_like"]

#: What else an option is called where axes are ours.
_ALSO = {
    "mask": ("attn_mask",),
    "is_causal": ("causal",),
    "window_size": ("window",),
    "scale": ("scaling", "softmax_scale", "sm_scale"),
    "softcap": ("soft_cap", "logit_cap", "logits_soft_cap"),
    "lengths": ("kv_lengths", "seq_lengths"),
}

_SIGNATURE = Signature(
    places={name: Place((name, *_ALSO.get(name, ()))) for name in sorted(OPTIONS)},
    is_folded=False,
)


def attnfn_like(
    function: Callable[..., Any],
    /,
    *,
    names: Mapping[str, str] | None = None,
    returns_lse: bool = False,
    vjp: Vjp | None = None,
) -> Subject:
    """
    Adapt a function with attnfn's axes, and whichever of its options.

    Its arrays are ``(..., num_heads, length, dim)``. It is asked only for options
    that its signature has, under attnfn's names or usual ones: ``causal``, ``scaling``,
    ``window``.

    Parameters
    ----------
    function : function of (query, key, value)
        Returns the output, or the output and its log-sum-exp.
    names : dict of str to str, optional
        What options are called in its signature, where they are called otherwise:
        ``{"is_causal": "autoregressive"}``. Default: as here.
    returns_lse : bool, optional
        Whether it returns ``(out, lse)``. Default: False.
    vjp : function of (query, key, value, d_out), optional
        Its gradients, where its library cannot differentiate it: called with axes and
        options as `function` is, and returns those of query, key and value, then of bias and
        of sinks where given. Default: those that its library finds.

    Returns
    -------
    Subject
        What every check can ask.

    Examples
    --------
    >>> import numpy as np
    >>> from attnfn.testing import attnfn_like
    >>> def attention(q, k, v, causal=False):
    ...     scores = q @ k.mT / np.sqrt(q.shape[-1])
    ...     weights = np.exp(np.where(np.tri(*scores.shape[-2:]) == 0, -np.inf, scores))
    ...     return weights / weights.sum(axis=-1, keepdims=True) @ v
    >>> attnfn_like(attention).options
    frozenset({'is_causal'})
    """
    return subject(function, _SIGNATURE, returns_lse=returns_lse, vjp=vjp, names=names)
