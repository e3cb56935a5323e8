"""What a score is: the order of operations, for any rows and columns.

Every engine calls `score`; none has an opinion of its own on masks, caps or biases.
"""

import math
from typing import Any, NamedTuple

from ._backend import (
    arange,
    device,
    few_rows_product,
    known_bound,
    known_finite,
    namespace,
    sees_any,
    transposed,
)
from ._checks import (
    agree,
    check_fits_positions,
    check_modified_scores,
    check_one_device,
    check_one_library,
    is_absent,
)
from ._numerics import cast, finite_vectors
from ._problem import AttentionProblem, Span, fit_term, narrow
from ._typing import Array, Namespace

__all__ = [
    "NotFiniteError",
    "Scores",
    "allowed_of",
    "bad_rows",
    "check_trust",
    "clean",
    "evaluate",
    "kept",
    "positions",
    "product",
    "product_over_rows",
    "score",
    "score_before_bias",
    "sees",
    "trust",
    "with_nan",
    "within_window",
]


class Scores(NamedTuple):
    """The final logits of some rows and columns, and which of them are allowed."""

    values: Array  # (*batch, num_heads, q_len, kv_len), -inf where hidden
    allowed: Array | None  # bool, broadcasts to `values`; None: every query sees every key
    bound: float = math.inf  # no value but -inf is known to be farther from 0


def clean(problem: AttentionProblem) -> AttentionProblem:
    """Cast what is to be multiplied, and take zeros for vectors that hold a NaN or an inf."""
    xp = problem.xp
    q, bad_q = finite_vectors(problem.q, problem.dtype, xp=xp)
    k, bad_k = finite_vectors(problem.k, problem.dtype, xp=xp)
    v, bad_v = problem.v, None
    if not is_absent(v):
        v, bad_v = finite_vectors(v, problem.dtype, xp=xp)
    return problem._replace(
        q=q * problem.scale,
        k=k,
        v=v,
        bad_queries=None if bad_q is None else bad_q[..., None],
        bad_keys=None if bad_k is None else _by_query_head(problem, bad_k),
        bad_values=None if bad_v is None else _by_query_head(problem, bad_v),
    )


def trust(problem: AttentionProblem) -> AttentionProblem:
    """Cast what is to be multiplied, and take it to be finite until `check_trust` says no."""
    xp, q, k, v, *rest, _ = problem
    if q.dtype != problem.dtype:
        q, k, v = (cast(x, problem.dtype, xp=xp) for x in (q, k, v))
    # `_replace` takes as long as a small product.
    return AttentionProblem._make((xp, q * problem.scale, k, v, *rest, True))


class NotFiniteError(Exception):
    """Says that a problem that was trusted has to be cleaned."""


def check_trust(problem: AttentionProblem, product: Array, /) -> float:
    """Look at the product of what was taken to be finite: a NaN or an inf shows in it.

    Return what no number in it is farther from 0 than; inf if that is not known.
    """
    if not problem.is_trusted:
        return math.inf
    bound = known_bound(product)
    if bound < math.inf:
        return bound
    if not known_finite(product):
        raise NotFiniteError
    return math.inf


def score(problem: AttentionProblem) -> Scores:
    """Compute the scores of a clean problem: score_mod, softcap, bias, mask, in this order."""
    return score_before_bias(problem)[0]


def score_before_bias(problem: AttentionProblem) -> tuple[Scores, Array]:
    """Return the scores, and what they were before the bias and the mask."""
    xp = problem.xp
    at = _positions(problem) if problem.uses_positions else ()
    allowed = allowed_of(problem, at)
    k = problem.k if problem.is_turned else transposed(problem.k, xp)
    s = product(problem, problem.q, k)
    bound = check_trust(problem, s)

    if problem.score_mod is not None:
        # What is hidden may have overflowed, and the function may multiply it by itself.
        s = s if allowed is None else xp.where(allowed, s, 0.0)
        s = _modified(problem, s, at)
    if problem.softcap is not None:
        s = _capped(s, problem.softcap, keep_inf=problem.score_mod is not None, xp=xp)
    before = s
    if problem.bias is not None:
        s, bound = s + _term(problem, "bias", at), math.inf
    if allowed is not None:
        s = xp.where(allowed, s, -math.inf)
    return Scores(s, allowed, bound), before


def sees(scores: Scores, bad_keys: Array | None, /, *, xp: Namespace) -> Array | bool:
    """Return which rows may attend to a bad key: (..., q_len, 1), or False for none."""
    if bad_keys is None:
        return False
    if scores.allowed is None:
        return xp.any(bad_keys, axis=-1, keepdims=True)
    return sees_any(scores.allowed, bad_keys, xp)


def bad_rows(problem: AttentionProblem, scores: Scores, empty: Array | bool, /) -> Array | bool:
    """Return the rows that become NaN: not empty with a bad query, or seeing a bad key."""
    is_bad = sees(scores, problem.bad_keys, xp=problem.xp)
    if problem.bad_queries is None:
        return is_bad
    alive = problem.bad_queries if empty is False else problem.bad_queries & ~empty
    return alive | is_bad


def with_nan(problem: AttentionProblem, scores: Scores, /) -> Array:
    """Return the scores with NaN at what is not finite and may be seen."""
    values, allowed, _ = scores
    for bad in (problem.bad_queries, problem.bad_keys):
        if bad is not None:
            where = bad if allowed is None else bad & allowed
            values = problem.xp.where(where, math.nan, values)
    return values


def kept(problem: AttentionProblem) -> Array:
    """Return the dropout mask of a problem: True where a weight is kept."""
    return _term(problem, "dropout_mask", _positions(problem))


def evaluate(
    problem: AttentionProblem, name: str, row: int, rows: int, key: int, keys: int, /
) -> Array:
    """Return what a function given as mask, bias or dropout mask says of some rows and keys."""
    part = narrow(problem, Span(row, rows), Span(key, keys))
    return _term(part, name, _positions(part))


def product(problem: AttentionProblem, rows: Array, keys: Array, /) -> Array:
    """Multiply the rows of every query head by what its key/value head has.

    The rows of the query heads that share one are lined up, (..., group * q_len, dim), so that
    one product serves the whole group and nothing is repeated.
    """
    if problem.group == 1:
        return few_rows_product(rows, keys)
    reshape, few, group = problem.xp.reshape, problem.num_kv_heads, problem.group
    num_heads, q_len = rows.shape[-3:-1]
    out = few_rows_product(_lined_up(problem, rows), keys)
    *batch, _, _, dim = out.shape
    out = reshape(out, (*batch, few, group, q_len, dim))
    return reshape(out, (*batch, num_heads, q_len, dim))


def product_over_rows(problem: AttentionProblem, left: Array, right: Array, /) -> Array:
    """Multiply the transpose of rows by rows: what each key/value head gets of its group."""
    if problem.group > 1:
        left, right = _lined_up(problem, left), _lined_up(problem, right)
    return transposed(left, problem.xp) @ right


def _lined_up(problem: AttentionProblem, rows: Array, /) -> Array:
    reshape, few, group = problem.xp.reshape, problem.num_kv_heads, problem.group
    *batch, _, q_len, dim = rows.shape
    # Two axes become two others in two steps: neither Dask's chunks nor the sizes that
    # torch.export does not know allow it in one.
    rows = reshape(rows, (*batch, few, group, q_len, dim))
    return reshape(rows, (*batch, few, group * q_len, dim))


def _by_query_head(problem: AttentionProblem, x: Array, /) -> Array:
    """Spread (..., num_kv_heads, kv_len) over the query heads: (..., num_heads, 1, kv_len)."""
    x = x[..., None, :]
    if problem.group == 1 or x.ndim < 3 or x.shape[-3] == 1:
        return x
    *batch, num_kv_heads, _, kv_len = x.shape
    x = problem.xp.broadcast_to(x, (*batch, num_kv_heads, problem.group, kv_len))
    return problem.xp.reshape(x, (*batch, num_kv_heads * problem.group, 1, kv_len))


def positions(
    q_len: int, kv_len: int, q_offset: Any, kv_start: Any = 0, /, *, xp: Namespace, where: Any
) -> tuple[Array, Array]:
    """Return where each query and each key stands: (q_len, 1) or with batch, and (1, kv_len).

    `q_offset` is an integer, or an array that broadcasts against (..., q_len, 1).
    """
    q_pos = arange(q_len, xp, where)[:, None]
    kv_pos = arange(kv_len, xp, where)[None, :]
    if isinstance(q_offset, int):
        check_fits_positions(q_offset, q_pos.dtype, xp=xp)
    elif namespace(q_offset) is not None:
        q_offset = xp.astype(q_offset, q_pos.dtype)
    return _moved(q_pos, q_offset), _moved(kv_pos, kv_start)


def _moved(positions: Array, by: Any, /) -> Array:
    # Adding nothing takes as long as making the positions.
    return positions if isinstance(by, int) and by == 0 else positions + by


def within_window(
    q_pos: Array, kv_pos: Array, left: int | None, right: int | None, /, *, xp: Namespace
) -> Array | None:
    """Return where ``-left <= kv_pos - q_pos <= right``, None if neither is a bound."""
    inside = None
    if left is not None:
        inside = kv_pos >= q_pos - _reach(left, q_pos.dtype, xp=xp)
    if right is not None:
        before_end = kv_pos <= _moved(q_pos, _reach(right, q_pos.dtype, xp=xp))
        inside = before_end if inside is None else inside & before_end
    return inside


def _reach(bound: int, dtype: Any, /, *, xp: Namespace) -> int:
    """Return a bound that can be added to any position and is as good as a larger one."""
    return bound if bound < 2**30 else min(bound, int(xp.iinfo(dtype).max) // 2)


def _positions(problem: AttentionProblem) -> tuple[Array, Array]:
    q_len, kv_len = problem.shape[-2:]
    starts = (problem.q_offset, problem.kv_start)
    return positions(q_len, kv_len, *starts, xp=problem.xp, where=device(problem.q))


def allowed_of(problem: AttentionProblem, at: tuple[Array, ...] | None = None) -> Array | None:
    """Return which query may attend to which key, None where each may attend to all.

    `at` are the positions, if they have been made.
    """
    if at is None:
        at = _positions(problem) if problem.uses_positions else ()
    terms = []
    if problem.window != (None, None):
        (q_pos, kv_pos), (left, right) = at, problem.window
        terms.append(within_window(q_pos, kv_pos, left, right, xp=problem.xp))
    if problem.segments is not None:
        q_segments, kv_segments = problem.segments
        terms.append(q_segments == kv_segments)
    if problem.mask is not None:
        terms.append(_term(problem, "mask", at))
    allowed = None
    for term in terms:
        allowed = term if allowed is None else allowed & term
    return allowed


def _term(problem: AttentionProblem, name: str, at: tuple[Array, ...]) -> Array:
    """Return a mask, bias or dropout mask, evaluated if it is a function."""
    term = getattr(problem, name)
    if not callable(term):
        return term
    term, called = term(*at), f"{name}(q_pos, kv_pos)"
    check_one_library(q_pos=at[0], **{called: term})
    check_one_device(q_pos=at[0], **{called: term})
    return fit_term(name, term, problem.shape, problem.dtype, xp=problem.xp, called=called)


def _modified(problem: AttentionProblem, s: Array, at: tuple[Array, ...]) -> Array:
    """Apply `score_mod` to scores that have every batch and head axis."""
    assert problem.score_mod is not None
    xp = problem.xp
    if s.ndim != len(problem.shape) or not all(map(agree, s.shape, problem.shape)):
        s = xp.broadcast_to(s, problem.shape)
    out = problem.score_mod(s, *at)
    check_modified_scores(out, s, xp=xp)
    return cast(out, s.dtype, xp=xp)


def _capped(s: Array, cap: float, /, *, keep_inf: bool, xp: Namespace) -> Array:
    """Bend scores into (-cap, cap). A -inf that hides a key goes on hiding it."""
    if not keep_inf:
        return cap * xp.tanh(s / cap)
    hidden = s == -math.inf
    return xp.where(hidden, -math.inf, cap * xp.tanh(xp.where(hidden, 0.0, s) / cap))
