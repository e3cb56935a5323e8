"""Attention to what a cache holds: decoding, and prefill in chunks."""

from collections.abc import Callable
from typing import Any, TypeAlias, Unpack

from jaxtyping import Float

from ._attention import computed
from ._backend import device as device_of
from ._backend import greatest, may_overwrite
from ._cache import KVCache, append_kv_cache, check_step, length_of, new_positions
from ._checks import check_equal_sizes, check_options, is_absent
from ._numerics import cast
from ._problem import AttentionProblem, Span, describe, narrow
from ._scores import positions, within_window
from ._tiles import visible
from ._typing import Array, ArrayT, CachedOptions, Namespace

__all__ = ["cached_attention"]

CACHED_OPTIONS = frozenset(CachedOptions.__annotations__)

#: ``f(q_pos, kv_pos)``: which query may attend to which slot.
Allowed: TypeAlias = Callable[[Array, Array], Array]


def cached_attention(
    query: Float[ArrayT, "*batch num_heads q_len head_dim"],
    key: Float[ArrayT, "*batch num_kv_heads q_len head_dim"],
    value: Float[ArrayT, "*batch num_kv_heads q_len value_dim"],
    cache: KVCache,
    /,
    *,
    is_donated: bool = False,
    **options: Unpack[CachedOptions],
) -> tuple[Float[ArrayT, "*batch num_heads q_len value_dim"], KVCache]:
    r"""
    Attention of new tokens to those in a cache and to themselves.

    .. math::

        \mathit{cache}' &= \mathrm{append}(\mathit{cache}, K, V) \\
        \mathit{out} &= \mathrm{attention}(Q, \mathit{cache}'_K, \mathit{cache}'_V), \qquad
        \mathit{q\_offset} = \mathit{cache}_{\mathit{length}}

    One token at a time is decoding, many at once prefill, in any number of chunks: together
    they give what `attention` gives for the whole sequence.

    Parameters
    ----------
    query : array, shape (..., num_heads, q_len, head_dim)
        What each new token looks for.
    key : array, shape (..., num_kv_heads, q_len, head_dim)
        What each new token offers to be found by, with the axes of ``cache.key`` and in its
        dtype.
    value : array, shape (..., num_kv_heads, q_len, value_dim)
        What each new token hands over.
    cache : KVCache
        The tokens before.
    is_donated : bool, optional
        Whether the arrays of `cache` are given up, so that NumPy and PyTorch may write into
        them instead of into a copy, see `append_kv_cache`. Default: False.
    **options
        The options of `attention`, all but `q_offset`, which the cache knows. Here `is_causal`
        is True unless said otherwise; False lets the new tokens see one another both ways.
        Masks, biases and segments given as arrays have ``capacity`` keys, one for each slot.

    Returns
    -------
    out : array, shape (..., num_heads, q_len, value_dim)
        Library, device and dtype of `query`.
    cache : KVCache
        With the new tokens in it.

    Raises
    ------
    ValueError, TypeError, NotImplementedError
        As `attention` and `append_kv_cache`.

    See Also
    --------
    init_kv_cache : Makes an empty cache.
    append_kv_cache : Says what becomes of tokens past the capacity.

    Notes
    -----
    *Sizes* do not change from step to step, so that ``jax.jit`` compiles once for all steps of
    as many tokens. Where values may be looked at, on NumPy and on PyTorch's CPU tensors
    outside of a graph, only the slots that can be seen are read.

    *Unwritten slots* are seen by no query, whatever they hold.

    *In a rolling cache* masks, biases and other functions are given the true positions of the
    tokens, and so are `is_causal` and `window_size`; a query sees at most the last
    ``capacity`` positions, its own among them. Arrays, which know slots alone, have one key
    for each slot, and, where there is more than one query, one for each new token after them.

    References
    ----------
    .. [1] Pope et al., "Efficiently Scaling Transformer Inference", 2022, arXiv:2211.05102.

    Examples
    --------
    A prompt of 4 tokens, then one token more; the same as all 5 at once:

    >>> import numpy as np
    >>> import attnfn as af
    >>> x = np.random.default_rng(0).normal(size=(2, 5, 8))  # 2 heads
    >>> cache = af.init_kv_cache(2, 16, 8, dtype=np.float64)
    >>> first, cache = af.cached_attention(*[x[:, :4, :]] * 3, cache)
    >>> last, cache = af.cached_attention(*[x[:, 4:, :]] * 3, cache)
    >>> whole = af.attention(x, x, x, is_causal=True)
    >>> np.allclose(np.concatenate([first, last], axis=-2), whole)
    True
    >>> cache.length
    array(5, dtype=int32)
    """
    check_options("cached_attention", options, CACHED_OPTIONS)
    chosen: dict[str, Any] = {"is_causal": True, **options}
    engine = chosen.pop("engine", "auto")
    xp = check_step(cache, key, value)
    check_equal_sizes("length", -2, query=query, key=key)
    is_donated = is_donated and may_overwrite(query)
    if is_absent(cache.positions):
        after = append_kv_cache(cache, key, value, is_donated=is_donated)
        problem = _problem(query, cache, after, chosen, xp=xp)
    else:
        # The first of many tokens may see what the last of them replaces.
        q_len = query.shape[-2]
        before = None if q_len == 1 else _joined(cache, key, value, xp=xp)
        after = append_kv_cache(cache, key, value, is_donated=is_donated)
        problem = _rolling_problem(query, before or after, cache, chosen, xp=xp)
    return computed(problem, engine), after


def _problem(
    query: Array, cache: KVCache, after: KVCache, options: dict[str, Any], /, *, xp: Namespace
) -> AttentionProblem:
    """Describe the attention to the slots that are written."""
    length, q_len = length_of(cache, xp=xp), query.shape[-2]
    longest = greatest(length)
    is_known = longest is not None and length.ndim == 0
    offset = longest if is_known else length
    problem = describe(query, after.key, after.value, q_offset=offset, **options)
    if not is_known and problem.window[1] != 0:
        end = problem.q_offset + q_len
        problem = _hidden(problem, lambda _, kv_pos: kv_pos < end, is_small=True)
    if longest is None:
        return problem
    rows = Span(0, q_len)
    keys = visible(problem, rows)
    size = min(keys.size, max(0, longest + q_len - keys.start))
    problem = narrow(problem, rows, Span(keys.start, size))
    # Of one query, whatever is left is within the window.
    return problem._replace(window=(None, None)) if is_known and q_len == 1 else problem


def _rolling_problem(
    query: Array, seen: KVCache, cache: KVCache, options: dict[str, Any], /, *, xp: Namespace
) -> AttentionProblem:
    """Describe the attention to slots in any order, each of which knows its position."""
    capacity, q_len = cache.key.shape[-2], query.shape[-2]
    length = length_of(cache, xp=xp)
    problem = describe(query, seen.key, seen.value, q_offset=length, **options)
    left, right = problem.window
    left = capacity - 1 if left is None else min(left, capacity - 1)

    def at(slots: Array) -> Array:
        found = cast(xp.take(seen.positions, slots[0, :], axis=-1), slots.dtype, xp=xp)
        return found[..., None, None, :] if found.ndim > 1 else found[None, :]

    def allowed(q_pos: Array, slots: Array) -> Array:
        kv_pos = at(slots)
        return within_window(q_pos, kv_pos, left, right, xp=xp) & (kv_pos >= 0)

    problem = problem._replace(
        window=(None, None),
        mask=_at_positions(problem.mask, at),
        bias=_at_positions(problem.bias, at),
        dropout_mask=_at_positions(problem.dropout_mask, at),
        score_mod=_at_positions(problem.score_mod, at),
    )
    return _hidden(problem, allowed, is_small=q_len == 1)


def _joined(cache: KVCache, key: Array, value: Array, /, *, xp: Namespace) -> KVCache:
    """Return a cache that holds new tokens beside all of the old ones."""
    positions = new_positions(cache, key.shape[-2], xp=xp)
    return KVCache(
        xp.concat([cache.key, key], axis=-2),
        xp.concat([cache.value, value], axis=-2),
        cache.length,
        xp.concat([cache.positions, positions], axis=-1),
    )


def _at_positions(f: Any, at: Callable[[Array], Array], /) -> Any:
    """Have a function called with the positions of keys in place of their slots."""
    if not callable(f):
        return f
    return lambda *args: f(*args[:-1], at(args[-1]))


def _hidden(
    problem: AttentionProblem, allowed: Allowed, /, *, is_small: bool
) -> AttentionProblem:
    """Hide slots, by an array if it is small or is to be joined with one."""
    mask = problem.mask
    if callable(mask):
        return problem._replace(mask=lambda *at: mask(*at) & allowed(*at))
    if mask is None and not is_small:
        return problem._replace(mask=allowed)
    q_len, kv_len = problem.shape[-2:]
    where = device_of(problem.q)
    seen = allowed(*positions(q_len, kv_len, problem.q_offset, xp=problem.xp, where=where))
    return problem._replace(mask=seen if mask is None else mask & seen)
