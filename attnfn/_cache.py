"""Keys and values that are kept from one step of decoding to the next."""

from typing import Any, NamedTuple

from jaxtyping import Float, Integer, Shaped

from ._backend import (
    arange,
    chosen_namespace,
    full,
    may_overwrite,
    namespace,
    plain,
    scalar,
    write,
)
from ._backend import device as device_of
from ._checks import (
    check_bool,
    check_cache,
    check_dtype,
    check_exact_ndim,
    check_exact_shape,
    check_floating_dtype,
    check_integer,
    check_namespace,
    check_ndim,
    check_new_tokens,
    check_one_device,
    check_one_dtype,
    check_one_library,
    check_shape,
    is_absent,
    shape_of,
)
from ._numerics import cast
from ._typing import Array, ArrayT, Namespace

__all__ = [
    "KVCache",
    "append_kv_cache",
    "check_step",
    "gather_pages",
    "init_kv_cache",
    "length_of",
    "new_positions",
    "reorder_kv_cache",
]


class KVCache(NamedTuple):
    """
    Keys and values of the tokens so far, in arrays of a fixed size.

    It is a pytree as it stands, and nothing but arrays: a carry of ``jax.lax.scan`` and
    ``while_loop``, an argument of ``torch.compile``.

    Parameters
    ----------
    key : array, shape (..., num_kv_heads, capacity, head_dim)
        One key in each slot. Slots from `length` on are unwritten and may hold anything, NaN
        too.
    value : array, shape (..., num_kv_heads, capacity, value_dim)
        Their values.
    length : int32 array, shape () or (...,)
        How many tokens there have been, in all sequences alike or in each. It goes on counting
        when the cache is full. To go back to an earlier length is to replace it:
        ``cache._replace(length=...)``.
    positions : int32 array, shape (capacity,) or (..., capacity)
        Of a rolling cache alone: the position of the token in each slot, -1 where there is
        none. Else ``()``.

    See Also
    --------
    init_kv_cache : Makes an empty one.
    cached_attention : Uses it.

    Examples
    --------
    >>> import attnfn as af
    >>> cache = af.init_kv_cache(2, 512, 64)
    >>> cache.key.shape, cache.length, cache.positions
    ((2, 512, 64), array(0, dtype=int32), ())
    """

    key: Any
    value: Any
    length: Any
    positions: Any = ()


def init_kv_cache(
    num_kv_heads: int,
    capacity: int,
    head_dim: int,
    /,
    *,
    value_dim: int | None = None,
    batch: int | tuple[int, ...] = (),
    is_ragged: bool = False,
    is_rolling: bool = False,
    dtype: Any = None,
    xp: Namespace | None = None,
    device: Any = None,
) -> KVCache:
    """
    Make an empty cache for keys and values.

    Parameters
    ----------
    num_kv_heads : int
        Number of key/value heads, 1 or more.
    capacity : int
        How many tokens it can hold, 1 or more.
    head_dim : int
        Width of a key, 1 or more.
    value_dim : int, optional
        Width of a value. Default: `head_dim`.
    batch : int or tuple of ints, optional
        How many sequences. Default: ``()``, one, without an axis for it.
    is_ragged : bool, optional
        Whether each sequence has a length of its own. Default: False, one for all.
    is_rolling : bool, optional
        Whether a new token takes the place of the oldest when the cache is full, for models
        with a window; else it is dropped. Default: False.
    dtype : optional
        A real floating dtype of the library. Default: float32.
    xp : array namespace, optional
        The library to make it with. Default: NumPy.
    device : optional
        Where to make it. Default: the library's own default.

    Returns
    -------
    KVCache
        Zeros, and the length 0.

    Raises
    ------
    ValueError
        If a size is below 1, or an axis of the batch negative.
    TypeError
        If a size is not an int, or `dtype` not one of the library's.

    See Also
    --------
    append_kv_cache : Puts keys and values into it.
    cached_attention : And attends to them.

    Examples
    --------
    >>> import attnfn as af
    >>> cache = af.init_kv_cache(2, 512, 64, batch=3, is_ragged=True)
    >>> cache.key.shape, cache.length
    ((3, 2, 512, 64), array([0, 0, 0], dtype=int32))
    """
    value_dim = head_dim if value_dim is None else value_dim
    sizes = {
        "num_kv_heads": num_kv_heads,
        "capacity": capacity,
        "head_dim": head_dim,
        "value_dim": value_dim,
    }
    for name, n in sizes.items():
        check_integer(name, n, least=1)
    check_shape("batch", batch)
    check_bool("is_ragged", is_ragged)
    check_bool("is_rolling", is_rolling)
    if xp is not None:
        check_namespace(xp)
    resolved = chosen_namespace(xp)
    dtype = resolved.float32 if dtype is None else dtype
    check_floating_dtype("dtype", dtype, xp=resolved)

    axes = tuple(map(plain, batch if isinstance(batch, tuple | list) else (batch,)))
    of_length = axes if is_ragged else ()
    num_kv_heads, capacity, head_dim, value_dim = map(plain, sizes.values())
    where = (resolved, device)
    return KVCache(
        key=full((*axes, num_kv_heads, capacity, head_dim), 0, dtype, *where),
        value=full((*axes, num_kv_heads, capacity, value_dim), 0, dtype, *where),
        length=full(of_length, 0, resolved.int32, *where),
        positions=full((*of_length, capacity), -1, resolved.int32, *where)
        if is_rolling
        else (),
    )


def append_kv_cache(
    cache: KVCache,
    key: Float[ArrayT, "*batch num_kv_heads length head_dim"],
    value: Float[ArrayT, "*batch num_kv_heads length value_dim"],
    /,
    *,
    is_donated: bool = False,
) -> KVCache:
    """
    Put the keys and values of new tokens after those in a cache.

    Parameters
    ----------
    cache : KVCache
        What there is so far.
    key : array, shape (..., num_kv_heads, length, head_dim)
        The keys of the new tokens, in the dtype of the cache.
    value : array, shape (..., num_kv_heads, length, value_dim)
        Their values.
    is_donated : bool, optional
        Whether the arrays of `cache` are given up, so that NumPy and PyTorch may write into
        them instead of into a copy; what `cache` holds afterwards is undefined. What is kept
        for a derivative is copied all the same. With JAX, ``jax.jit(..., donate_argnums=...)``
        says this. Default: False.

    Returns
    -------
    KVCache
        The cache with the new tokens. Those past the capacity are dropped, and `length`
        counts them all the same; in a rolling cache they take the places of the oldest.

    Raises
    ------
    ValueError
        If shapes do not fit together.
    TypeError
        If something comes from another library, or has another dtype than the cache.

    See Also
    --------
    cached_attention : Does this, and attends.
    init_kv_cache : Makes an empty cache.

    Notes
    -----
    Sequences of different lengths are padded on the right to be put in together, and then each
    is given its own length, ``cache._replace(length=lengths)``: what comes next takes the
    places of the padding, which no query sees before that.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> cache = af.init_kv_cache(1, 4, 1)
    >>> two = np.asarray([[[7.0], [8.0]]], dtype="float32")
    >>> cache = af.append_kv_cache(cache, two, two)
    >>> cache.key[0, :, 0], cache.length
    (array([7., 8., 0., 0.], dtype=float32), array(2, dtype=int32))
    """
    check_bool("is_donated", is_donated)
    xp = check_step(cache, key, value)
    is_donated = is_donated and may_overwrite(cache.key, cache.value, key, value)
    return _appended(cache, key, value, is_donated, xp=xp)


def reorder_kv_cache(cache: KVCache, indices: Integer[Array, "new_batch"], /) -> KVCache:
    """
    Choose sequences of a cache, as beam search does at each step.

    Parameters
    ----------
    cache : KVCache
        A cache with a batch axis.
    indices : array, shape (new_batch,), integer
        Which sequences to go on with, along the first axis; any number of them, repeated or
        not.

    Returns
    -------
    KVCache
        Sequence ``i`` is that of ``indices[i]`` before.

    Raises
    ------
    ValueError
        If `cache` has no batch axis, or `indices` not one axis.
    TypeError
        If `indices` is not an integer array.

    See Also
    --------
    append_kv_cache : Puts new tokens in.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> cache = af.init_kv_cache(1, 4, 1, batch=2, is_ragged=True)
    >>> cache = cache._replace(length=np.asarray([3, 5], dtype="int32"))
    >>> af.reorder_kv_cache(cache, np.asarray([1, 1, 0])).length
    array([5, 5, 3], dtype=int32)
    """
    check_cache(cache)
    xp = check_one_library(**{"cache.key": cache.key, "indices": indices})
    check_dtype("integral", xp=xp, indices=indices)
    check_exact_ndim("indices", indices, 1, "(new_batch,)")
    check_ndim("cache.key", cache.key, 4, "(batch, ..., num_kv_heads, capacity, head_dim)")

    def chosen(x: Array, ndim: int) -> Array:
        # What all sequences share has no batch axis.
        is_shared = is_absent(x) or namespace(x) is None or x.ndim < ndim
        return x if is_shared else xp.take(x, indices, axis=0)

    return KVCache(
        chosen(cache.key, 4),
        chosen(cache.value, 4),
        chosen(cache.length, 1),
        chosen(cache.positions, 2),
    )


def gather_pages(
    pool: Shaped[ArrayT, "num_pages num_kv_heads page_len dim"],
    pages: Integer[ArrayT, "*batch sequence_pages"],
    /,
) -> Shaped[ArrayT, "*batch num_kv_heads kv_len dim"]:
    """
    Gather the keys or values of each sequence, in order, from a pool of pages [1]_.

    Parameters
    ----------
    pool : array, shape (num_pages, num_kv_heads, page_len, dim)
        Pages of keys or values that any sequence may use, any dtype.
    pages : array, shape (..., sequence_pages), integer
        Which pages hold each sequence, in order. Where a sequence has fewer, the rest may be
        any numbers from 0 to ``num_pages - 1``: what they bring is to be hidden, by
        `is_causal` and a `q_offset` for each sequence, or by `padding_mask`.

    Returns
    -------
    array, shape (..., num_kv_heads, kv_len, dim)
        With ``kv_len = sequence_pages * page_len``, for `attention`.

    Raises
    ------
    ValueError
        If an array has the wrong number of axes, or is on another device.
    TypeError
        If `pages` is not an integer array, or from another library.

    See Also
    --------
    attention : Hides what is past the end of each sequence.
    KVCache : The same without pages.

    References
    ----------
    .. [1] Kwon et al., "Efficient Memory Management for Large Language Model Serving with
           PagedAttention", 2023, arXiv:2309.06180.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> pool = np.asarray([[[[0.0], [1.0]]], [[[2.0], [3.0]]], [[[4.0], [5.0]]]])
    >>> af.gather_pages(pool, np.asarray([[2, 0], [1, 0]]))[..., 0]
    array([[[4., 5., 0., 1.]],
    <BLANKLINE>
           [[2., 3., 0., 1.]]])
    """
    xp = check_one_library(pool=pool, pages=pages)
    check_one_device(pool=pool, pages=pages)
    check_dtype("integral", xp=xp, pages=pages)
    check_exact_ndim("pool", pool, 4, "(num_pages, num_kv_heads, page_len, dim)")
    check_ndim("pages", pages, 1, "(..., sequence_pages)")
    _, num_kv_heads, page_len, dim = pool.shape
    *batch, count = pages.shape
    found = xp.take(pool, xp.reshape(pages, (-1,)), axis=0)
    found = xp.reshape(found, (*batch, count, num_kv_heads, page_len, dim))
    *axes, i, h, j, d = range(found.ndim)
    found = xp.permute_dims(found, (*axes, h, i, j, d))
    return xp.reshape(found, (*batch, num_kv_heads, count * page_len, dim))


def check_step(cache: KVCache, key: Array, value: Array, /) -> Namespace:
    """Check that new keys and values fit into a cache; return the namespace."""
    check_cache(cache)
    arrays = {"key": key, "value": value, "cache.key": cache.key, "cache.value": cache.value}
    xp = check_one_library(**arrays)
    check_one_device(**arrays)
    for name in ("length", "positions"):
        x = getattr(cache, name)
        if namespace(x) is not None:
            check_one_library(**{f"cache.{name}": x, "key": key})
            check_one_device(**{f"cache.{name}": x, "key": key})
            check_dtype("integral", xp=xp, **{f"cache.{name}": x})
        elif name == "length":
            check_integer("cache.length", x, also="an integer array")
    check_one_dtype(**arrays)
    check_ndim("cache.key", cache.key, 2, "(..., num_kv_heads, capacity, head_dim)")
    check_new_tokens(key, value, cache)
    batch, capacity = shape_of(cache.key)[:-3], cache.key.shape[-2]
    of_length = shape_of(cache.length) if namespace(cache.length) is not None else ()
    if of_length:
        check_exact_shape("cache.length", cache.length, [(), batch], "() or (*batch,)")
    if not is_absent(cache.positions):
        wanted = [(*of_length, capacity)]
        check_exact_shape("cache.positions", cache.positions, wanted, "(*batch, capacity)")
    return xp


def length_of(cache: KVCache, /, *, xp: Namespace) -> Array:
    """Return the length of a cache as an array, though NumPy makes a number of a 0-d sum."""
    return _int32(cache.length, like=cache.key, xp=xp)


def new_positions(cache: KVCache, n: int, /, *, xp: Namespace) -> Array:
    """Return the positions of the next `n` tokens: (n,), or (*batch, n)."""
    slots = xp.astype(arange(n, xp, device_of(cache.key)), xp.int32)
    return length_of(cache, xp=xp)[..., None] + slots


def _appended(
    cache: KVCache, key: Array, value: Array, is_donated: bool, /, *, xp: Namespace
) -> KVCache:
    length, n, capacity = length_of(cache, xp=xp), key.shape[-2], cache.key.shape[-2]
    after = _int32(length + n, like=cache.key, xp=xp)
    if is_absent(cache.positions):
        # What comes later cannot fit, whatever the length is.
        most = min(n, capacity)
        k = _written(cache.key, key[..., :most, :], [length], is_donated)
        v = _written(cache.value, value[..., :most, :], [length], is_donated)
        return KVCache(k, v, after)

    surplus = max(0, n - capacity)
    key, value = key[..., surplus:, :], value[..., surplus:, :]
    positions = new_positions(cache, n, xp=xp)[..., surplus:]
    start = (length + surplus) % capacity
    # Those that run over the end go on at the beginning.
    starts = [start, start - capacity] if n > 1 else [start]
    pairs = [
        (cache.key, key),
        (cache.value, value),
        (cache.positions[..., None, :, None], positions[..., None, :, None]),
    ]
    k, v, at = (_written(*pair, starts, is_donated) for pair in pairs)
    return KVCache(k, v, after, at[..., 0, :, 0])


def _written(x: Array, new: Array, starts: list[Array], is_donated: bool, /) -> Array:
    for start in starts:
        # A copy is ours to write into.
        x, is_donated = write(x, new, start, is_donated), True
    return x


def _int32(x: Any, /, *, like: Array, xp: Namespace) -> Array:
    if namespace(x) is None:
        return scalar(plain(x), xp.int32, xp, device_of(like))
    return cast(x, xp.int32, xp=xp)
