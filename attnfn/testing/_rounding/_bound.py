"""A bound of the error that attention may have in a given precision."""

from typing import Any, Unpack

import numpy as np
from jaxtyping import Float

from ..._checks import check_closed_form, check_options
from ..._typing import Array
from .._arrays import dtype_of, is_array
from .._reference._call import Options, read
from .._reference._oracle import oracle
from ._dense import Dense, blocks, dense, score_bound
from ._precision import Precision, precision_of

__all__ = ["error_bound"]

OPTIONS = frozenset(Options.__annotations__)


def error_bound(
    query: Float[Array, "*batch num_heads q_len head_dim"],
    key: Float[Array, "*batch num_kv_heads kv_len head_dim"],
    value: Float[Array, "*batch num_kv_heads kv_len value_dim"],
    /,
    *,
    dtype: str | None = None,
    compute_dtype: str | None = None,
    **options: Unpack[Options],
) -> Float[np.ndarray, "*batch num_heads q_len value_dim"]:
    r"""
    How far the output of a correct computation may be from attention, at most.

    With :math:`u` the unit of rounding of the precision that everything is computed in,
    :math:`\gamma_n = n u / (1 - n u)`, :math:`n` keys of width :math:`d`, and :math:`B` a bound
    of the scores of a head:

    .. math::

        \epsilon_j &= (\gamma_d + 5u) \textstyle\sum_c |\mathit{scale} \cdot q_c k_{jc}|
            + u\,(2|s_j| + 3B + 4) \\
        D &= \textstyle\sum_j w_j\, e^{-\epsilon_j} \, (1 - \gamma_{2n}) \\
        |\widehat{\mathit{out}} - \mathit{out}| &\le
            \textstyle\sum_j w_j |v_j| \Big(
            \frac{e^{\epsilon_j}}{D} (1 + \gamma_{2n} + 4u + u_{\mathit{dtype}}) - 1 \Big)
            + u_{\mathit{dtype}} |\mathit{out}|

    as follows from the analysis of sums and products in [1]_, and from a relative error of
    :math:`e^\epsilon - 1` in an exponential whose argument is off by :math:`\epsilon`. With
    softcap and bias, :math:`\epsilon` goes on through these, and what rounding them loses comes
    to it; a sink is one key more.

    Parameters
    ----------
    query : array, shape (..., num_heads, q_len, head_dim)
        What each position looks for, an array of any library; see `oracle`.
    key : array, shape (..., num_kv_heads, kv_len, head_dim)
        What each position offers to be found by.
    value : array, shape (..., num_kv_heads, kv_len, value_dim)
        What each position hands over.
    dtype : {"float16", "bfloat16", "float32", "float64"}, optional
        In which the result comes, and in which the arrays were given. Default: that of `query`.
    compute_dtype : {"float16", "bfloat16", "float32", "float64"}, optional
        In which every step in between is rounded; sums are float32 at least. Default: float32
        for halves, else `dtype`.
    **options
        The options of `oracle` but `digits`, and `score_mod`, whose errors nobody knows.

    Returns
    -------
    numpy.ndarray, shape (..., num_heads, q_len, value_dim)
        Of each element, 0 or more; inf where nothing can be said, NaN where the output is NaN.

    Raises
    ------
    ValueError, TypeError
        As `oracle`.
    NotImplementedError
        If there is a `score_mod`.

    See Also
    --------
    assert_attention_close : The rule for tests: what is usual, which is much less.

    Notes
    -----
    It holds for sums in any order, in blocks with a running maximum or at once; for any number
    taken off the scores that is no farther from 0 than they may be; for exponentials to base
    e or 2, and a tanh made of them, good to two units in the last place; for a scale that is
    multiplied into query, key or scores; and for weights that are rounded to `dtype`
    before the second product, as fused kernels do in halves. It does not hold where products
    of float32 are rounded to less, as TensorFloat-32 does.

    A bound adds up what can go wrong as if all of it went wrong in one direction: none of
    10,000 random problems exceeds it. Of 1,200 in float32, half of all errors are less than a
    thousandth of it, and the greatest is a fifth. In halves, where most is lost in the result,
    half of them are less than a fifteenth, and some are nearly as great.

    References
    ----------
    .. [1] Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., 2002, chapter 3.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> from attnfn.testing import error_bound, oracle
    >>> rng = np.random.default_rng(0)
    >>> query, key, value = rng.normal(size=(3, 1, 4, 8)).astype(np.float32)
    >>> error = abs(af.attention(query, key, value) - oracle(query, key, value))
    >>> bound = error_bound(query, key, value)
    >>> bool((error <= bound).all()), bool((bound < 1e-5).all())
    (True, True)
    """
    check_options("error_bound", options, OPTIONS)
    check_closed_form("error_bound", options.get("score_mod"))
    if dtype is None:
        dtype = dtype_of(query) if is_array(query) else "float64"
    to = precision_of("dtype", dtype)
    step = to.sums if compute_dtype is None else precision_of("compute_dtype", compute_dtype)
    call = read(query, key, value, **options)
    with np.errstate(all="ignore"):
        bound = np.concatenate(
            [_bound(block, to, step) for block in blocks(dense(call))], axis=-2
        )
    out = oracle(query, key, value, **options)
    return np.where(np.isnan(out), np.nan, bound.reshape(out.shape))


def _bound(block: Dense, to: Precision, step: Precision, /) -> Any:
    """Bound the errors of some rows."""
    u, a, kv_len = step.unit, step.sums.unit, block.allowed.shape[-1]
    s, off = _scores(block, step)
    sink = np.asarray(-np.inf) if block.sinks is None else block.sinks
    top = np.maximum(s.max(axis=-1, keepdims=True, initial=-np.inf), sink)
    top = np.where(np.isfinite(top), top, 0.0)
    w, w_sink = np.exp(s - top), np.exp(sink - top)
    total = w.sum(axis=-1, keepdims=True) + w_sink
    total = np.where(total == 0, 1.0, total)
    w, w_sink = w / total, w_sink / total

    near, sink = (np.where(np.isfinite(x), x, 0.0) for x in (s, sink))
    farthest = score_bound(block, near) + abs(sink)
    off = off + a * (2 * abs(near) + 3 * farthest + 4)
    off_sink = u * abs(sink) + a * (2 * abs(sink) + 3 * farthest + 4)
    sums = gamma(2 * kv_len + 2, a)
    least = (w * np.exp(-off)).sum(axis=-1, keepdims=True) + w_sink * np.exp(-off_sink)
    least = np.where(least == 0, 1.0, least * (1 - sums))
    kept = w if block.share is None else w * block.share
    # Dividing, and what dropout does, are four steps at most.
    more = np.exp(off) / least * (1 + sums) * (1 + 4 * u) * (1 + to.unit) - 1
    v = abs(block.v)
    error = (kept * more) @ v
    lost = max(step.least_weight, to.least_weight) * block.allowed
    error = error + (lost if block.share is None else lost * block.share) @ v
    out = abs(kept @ block.v) + error
    error = error + to.unit * out + np.where(error > 0, to.least, 0.0)
    return np.where(out > to.greatest, np.inf, error)


def _scores(block: Dense, step: Precision, /) -> tuple[Any, Any]:
    """Return the scores of some rows, -inf where hidden, and how far each may be off."""
    u, a = step.unit, step.sums.unit
    q, keys = block.q * block.scale, np.swapaxes(block.k, -1, -2)
    s = q @ keys
    off = (gamma(q.shape[-1], a) + 5 * u) * (abs(q) @ abs(keys))
    if block.softcap is not None:
        cap = block.softcap
        off = off + 2 * u * abs(s)
        # It bends least nearest to 0.
        slope = 1 - np.tanh(np.maximum(abs(s) - off, 0.0) / cap) ** 2
        s = cap * np.tanh(s / cap)
        off = slope * off + 4 * u * abs(s) + 8 * a * cap
    if block.bias is not None:
        off = off + u * (2 * abs(block.bias) + abs(s) + off)
        s = s + block.bias
    return np.where(block.allowed, s, -np.inf), np.where(block.allowed, off, 0.0)


def gamma(n: int, unit: float, /) -> float:
    """Return what a sum of n terms loses at most, in parts of the sum of their sizes."""
    return n * unit / (1 - n * unit) if n * unit < 1 else np.inf
