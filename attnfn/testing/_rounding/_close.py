"""The rule by which a result passes, and what is said of one that fails."""

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
from jaxtyping import Float

from ..._checks import check_above, check_options
from ..._typing import Array
from .._reference._call import Call, Options
from ._compare import Comparison, Verdict, compare
from ._visible import about_key, about_row, index_words

__all__ = ["assert_attention_close", "explained"]

OPTIONS = frozenset(Options.__annotations__)


def assert_attention_close(
    actual: Float[Array, "*batch num_heads q_len value_dim"],
    query: Float[Array, "*batch num_heads q_len head_dim"],
    key: Float[Array, "*batch num_kv_heads kv_len head_dim"],
    value: Float[Array, "*batch num_kv_heads kv_len value_dim"],
    /,
    *,
    lse: Float[Array, "*batch num_heads q_len"] | None = None,
    d_out: Float[Array, "*batch num_heads q_len value_dim"] | None = None,
    d_lse: Float[Array, "*batch num_heads q_len"] | None = None,
    gradients: Sequence[Any] | None = None,
    dtype: str | None = None,
    factor: float = 2.0,
    **options: Unpack[Options],
) -> None:
    r"""
    Assert that an output is attention, as closely as its precision allows.

    .. math::

        |\mathit{actual} - \mathit{oracle}| \le (\mathit{factor} \cdot r + c)\, E, \qquad
        r = \max \frac{|\mathit{plain} - \mathit{oracle}|}{E}

    element by element, where `plain` is the plain formula computed in the same precision, and
    :math:`E` the unit: how far that element moves if each step of the computation loses one
    unit of rounding, by itself. So no tolerance has to be chosen: it follows from the dtype,
    the lengths, and the size of the scores and values. It is the rule of FlashAttention's
    tests [1]_, with each element measured by its own unit.

    Parameters
    ----------
    actual : array, shape (..., num_heads, q_len, value_dim)
        What an implementation returned, an array of any library on any device.
    query : array, shape (..., num_heads, q_len, head_dim)
        What it was given, as it was given; see `oracle`.
    key : array, shape (..., num_kv_heads, kv_len, head_dim)
        What it was given.
    value : array, shape (..., num_kv_heads, kv_len, value_dim)
        What it was given.
    lse : array, shape (..., num_heads, q_len), optional
        The log-sum-exp that it returned besides, to be held to half as much again as the
        output: three times what the plain formula loses. Default: none is looked at.
    d_out : array, shape (..., num_heads, q_len, value_dim), optional
        The gradient that `gradients` were computed from.
    d_lse : array, shape (..., num_heads, q_len), optional
        And that of the lse. Default: zero.
    gradients : tuple of up to five arrays, or AttentionGradients, optional
        ``(query, key, value, bias, sinks)``, as far as there are any; None or ``()`` stands
        for one that is not looked at. Held to what `lse` is.
    dtype : {"float16", "bfloat16", "float32", "float64"}, optional
        The precision that it is held to. Default: the dtype of `actual`.
    factor : float, optional
        How many times as much as the plain formula it may lose; above 0. Default: 2.
    **options
        What it was asked for: the options of `oracle` but `digits`.

    Returns
    -------
    None
        If it passes.

    Raises
    ------
    AssertionError
        If an element is too far off, a NaN or an inf is where none may be or none is where one
        must be, the output is 0 everywhere and should not be, or a result has the wrong
        shape or dtype: that of `query` for the output, that of its argument for a gradient,
        and for the lse float32 at least.
    ValueError, TypeError, NotImplementedError
        As `oracle` and `oracle_vjp`, for a call that has no answer.

    See Also
    --------
    oracle, oracle_vjp : What is compared with.
    error_bound : What no computation may exceed.

    Notes
    -----
    The units of :math:`c` are those that an exact computation would be off in one more
    step, and those in which kernels differ that add in another order: 3 for halves, whose
    sums are kept in float32, and 9 for float32 and float64.

    What the rule cannot see: an error that is smaller than the rounding of the precision, such
    as a scale that is off by a hundredth in bfloat16. Hold to float32 what computes
    in it, whatever it returns: ``dtype="float32"``.

    References
    ----------
    .. [1] Dao, "FlashAttention-2", 2023, arXiv:2307.08691, and the tests of its code.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> from attnfn.testing import assert_attention_close
    >>> rng = np.random.default_rng(0)
    >>> query, key, value = rng.normal(size=(3, 1, 4, 8)).astype(np.float32)
    >>> out = af.attention(query, key, value, is_causal=True)
    >>> assert_attention_close(out, query, key, value, is_causal=True)

    One that looks a key too far:

    >>> wrong = af.attention(query, key, value, window_size=(None, 1))
    >>> assert_attention_close(wrong, query, key, value, is_causal=True)
    Traceback (most recent call last):
    AssertionError: This is not attention, to float32 and a factor of 2.
    `actual`: 24 of 32 elements are wrong, in 3 of 4 rows.
        at (0, 1, 6): got 0.254454, wanted 0.0515138; off by 0.203, where 1.12e-07 is allowed
        row (0, 1), at position 1, may attend to keys 0-1 of 4
            is_causal hides 2-3
    """
    check_options("assert_attention_close", options, OPTIONS)
    check_above("factor", factor, 0)
    verdict = compare(
        actual,
        query,
        key,
        value,
        lse=lse,
        d_out=d_out,
        d_lse=d_lse,
        gradients=gradients,
        dtype=dtype,
        factor=factor,
        options=dict(options),
    )
    if not verdict.is_right:
        raise AssertionError(explained(verdict))


def explained(verdict: Verdict, /) -> str:
    """Say what is wrong with the results of a call."""
    lines = [
        f"This is not attention, to {verdict.precision} and a factor of {verdict.factor:g}."
    ]
    lines += verdict.unfit
    for found in verdict.compared:
        if found.is_lost or found.wrong.any():
            lines += _about(found, verdict.call)
    return "\n".join(lines)


def _about(found: Comparison, call: Call, /) -> list[str]:
    """Say how many elements are wrong, the worst one, and what its row could attend to."""
    called = {"out": "actual", "lse": "lse"}.get(found.name, f"gradients.{found.name}")
    if found.is_lost:
        return [f"`{called}` is 0 everywhere; wanted up to {np.nanmax(abs(found.wanted)):.3g}."]
    count, size = np.count_nonzero(found.wrong), found.wrong.size
    words = f"{count} of {size} elements {'is' if count == 1 else 'are'} wrong"
    has_rows = found.name in ("out", "query", "key", "value")
    if has_rows:
        rows = found.wrong.any(axis=-1)
        words += f", in {np.count_nonzero(rows)} of {rows.size} rows"
    nans = np.count_nonzero(found.wrong & np.isnan(found.got))
    if nans:
        words += f"; {nans} {'is' if nans == 1 else 'are'} NaN"
    at = found.worst
    got, wanted = found.got[at], found.wanted[at]
    worst = f"    at {index_words(at)}: got {got:.3g}, wanted {wanted:.3g}"
    if np.isfinite(got) and np.isfinite(wanted):
        worst = f"    at {index_words(at)}: got {got:.6g}, wanted {wanted:.6g}"
        worst += f"; off by {found.error[at]:.3g}, where {found.allowed[at]:.3g} is allowed"
    lines = [f"`{called}`: {words}.", worst]
    if found.name in ("key", "value"):
        lines += about_key(call, found.name, found.wanted.shape, at[:-1])
    elif found.name in ("out", "lse", "query"):
        shape = found.wanted.shape if found.name == "lse" else found.wanted.shape[:-1]
        lines += about_row(call, shape, at[: len(shape)])
    return lines
