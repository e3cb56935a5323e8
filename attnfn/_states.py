"""Attention as a monoid: partial results over disjoint sets of keys, and their union."""

import math
from collections.abc import Sequence

from jaxtyping import Float

from ._backend import constant
from ._checks import (
    check_exact_shape,
    check_floating,
    check_ndim,
    check_one_device,
    check_one_dtype,
    check_one_library,
    check_one_shape,
    check_parts,
    shape_of,
)
from ._numerics import cast
from ._typing import Array, ArrayT, Namespace

__all__ = ["merge_attentions"]


def merge_attentions(
    outs: Float[ArrayT, "parts *batch q_len value_dim"] | Sequence[ArrayT],
    lses: Float[ArrayT, "parts *batch q_len"] | Sequence[ArrayT],
    /,
) -> tuple[Float[ArrayT, "*batch q_len value_dim"], Float[ArrayT, "*batch q_len"]]:
    r"""
    Join attentions over disjoint sets of keys into the attention over all of them.

    .. math::

        \mathit{lse} = \log \sum_p e^{\mathit{lse}_p}, \qquad
        \mathit{out} = \sum_p e^{\mathit{lse}_p - \mathit{lse}}\, \mathit{out}_p

    as in [1]_. This is how a sequence is split over devices, over blocks of keys, or into a
    shared prefix and the rest. The order of the parts does not matter, nor how they are
    bracketed; the part ``(0, -inf)`` changes nothing.

    Parameters
    ----------
    outs : sequence of arrays, or array, shape (parts, ..., q_len, value_dim)
        The output of each part, as `attention_with_lse` returns it.
    lses : sequence of arrays, or array, shape (parts, ..., q_len)
        The log-sum-exp of each part, natural logarithm. An attention sink is one more part,
        with the output 0 and the sink as its lse; give it once, not with every part.

    Returns
    -------
    out : array, shape (..., q_len, value_dim)
        The attention over the union of the keys, in the dtype of `outs`.
    lse : array, shape (..., q_len)
        Its log-sum-exp, in the dtype of `lses`, in which everything is computed.

    Raises
    ------
    ValueError
        If there are no parts in a list, as many outputs as lses, or shapes differ.
    TypeError
        If something is not an array, or not real floating.

    See Also
    --------
    attention_with_lse : Makes the parts.

    Notes
    -----
    A part with ``lse = -inf`` is ignored, also if its output is NaN, as some kernels leave
    rows with nothing to attend to. If all parts are, the output is 0 and the lse -inf.
    Derivatives of any order exist, with respect to both arguments.

    References
    ----------
    .. [1] Rabe and Staats, "Self-attention Does Not Need O(n^2) Memory", 2021,
           arXiv:2112.05682.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> rng = np.random.default_rng(0)
    >>> query, key, value = (rng.normal(size=(2, 6, 4)) for _ in range(3))
    >>> parts = [
    ...     af.attention_with_lse(query, key[:, :4], value[:, :4]),
    ...     af.attention_with_lse(query, key[:, 4:], value[:, 4:]),
    ... ]
    >>> out, lse = af.merge_attentions(*zip(*parts))
    >>> np.allclose(out, af.attention(query, key, value))
    True
    """
    xp, parts, part_lses = _stacked(outs, lses)
    lse, shares = _union(part_lses, xp=xp)
    # A part without a share may hold NaN, and 0 * NaN is NaN.
    is_empty = (part_lses == -math.inf)[..., None]
    kept = xp.where(is_empty, 0.0, cast(parts, lse.dtype, xp=xp))
    out = xp.sum(shares[..., None] * kept, axis=0)
    return cast(out, parts.dtype, xp=xp), lse


def _stacked(outs: Array, lses: Array, /) -> tuple[Namespace, Array, Array]:
    """Return both arguments as arrays, with the parts along the first axis."""
    named = _named("outs", outs) | _named("lses", lses)
    check_parts(outs, lses)
    xp = check_one_library(**named)
    check_one_device(**named)
    check_floating(xp=xp, **named)
    pair = []
    for name, x in (("outs", outs), ("lses", lses)):
        own = _named(name, x)
        if isinstance(x, list | tuple):
            check_one_shape(**own)
            check_one_dtype(**own)
            x = xp.stack(list(x), axis=0)
        pair.append(x)
    outs, lses = pair
    check_ndim("outs", outs, 2, "(parts, ..., q_len, value_dim)")
    check_exact_shape("lses", lses, [shape_of(outs)[:-1]], "(parts, ..., q_len)")
    return xp, outs, lses


def _named(name: str, x: Array, /) -> dict[str, Array]:
    """Return the arrays in `x`, under the names that an error gives them."""
    if isinstance(x, list | tuple):
        return {f"{name}[{i}]": part for i, part in enumerate(x)}
    return {name: x}


def _union(lses: Array, /, *, xp: Namespace) -> tuple[Array, Array]:
    """Return the log of the sum of the exponentials, and each part's share of the sum."""
    if lses.shape[0] == 0:
        return xp.sum(lses, axis=0) - math.inf, lses
    live = lses != -math.inf
    peak = constant(xp.max(lses, axis=0))
    peak = xp.where(peak == -math.inf, 0.0, peak)
    # Guarded inside and outside of exp: the derivative of what is not selected must be finite.
    exp = xp.where(live, xp.exp(xp.where(live, lses - peak, 0.0)), 0.0)
    total = xp.sum(exp, axis=0)
    nothing = total == 0
    total = xp.where(nothing, 1.0, total)
    return xp.where(nothing, -math.inf, xp.log(total) + peak), exp / total
