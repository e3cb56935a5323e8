"""Which query may attend to which key: boolean masks, True where it may."""

from typing import Any

from jaxtyping import Bool, Integer

from ._backend import arange, chosen_namespace, namespace, plain
from ._backend import device as device_of
from ._checks import (
    check_dtype,
    check_integer,
    check_namespace,
    check_ndim,
    check_one_batch,
    check_one_device,
    check_one_library,
    check_one_shape,
    check_unambiguous,
    check_window,
)
from ._scores import positions, within_window
from ._typing import Array, ArrayT, Namespace

__all__ = [
    "causal_mask",
    "chunk_mask",
    "padding_mask",
    "prefix_mask",
    "segment_mask",
    "sliding_window_mask",
    "token_padding_mask",
]


def causal_mask(
    q_len: int,
    kv_len: int | None = None,
    /,
    *,
    q_offset: int | Integer[Array, "..."] | None = None,
    xp: Namespace | None = None,
    device: Any = None,
) -> Bool[Array, "... q_len kv_len"]:
    r"""
    Let each query attend to its own position and to those before it.

    .. math:: A_{ij} = [\, j \le i + \mathit{q\_offset} \,]

    Parameters
    ----------
    q_len : int
        Number of queries, 0 or more.
    kv_len : int, optional
        Number of keys, 0 or more. Default: `q_len`.
    q_offset : int or integer array, shape () or (*batch,), optional
        Position of the first query among the keys. Needed where the lengths differ:
        ``kv_len - q_len`` puts the queries last, 0 first. Default: 0.
    xp : array namespace, optional
        The library to make the mask with, e.g. ``numpy`` or ``torch``. Default: that of
        `q_offset` if it is an array, else NumPy.
    device : optional
        Where to make it. Default: that of `q_offset`, else the library's own default.

    Returns
    -------
    array, shape (q_len, kv_len) or (*batch, 1, q_len, kv_len), bool
        True where the query may attend to the key.

    Raises
    ------
    ValueError
        If the lengths differ and `q_offset` is not given, or a length is negative.
    TypeError
        If a length is not an int, or `xp` and `q_offset` are of different libraries.

    See Also
    --------
    attention : Takes ``is_causal=True``, and then makes no mask that has to be kept.
    sliding_window_mask, chunk_mask, prefix_mask : Other structures, to combine by ``&``, ``|``.

    Examples
    --------
    >>> import attnfn as af
    >>> af.causal_mask(3).astype(int)
    array([[1, 0, 0],
           [1, 1, 0],
           [1, 1, 1]])

    Two queries that follow one key in a cache:

    >>> af.causal_mask(2, 3, q_offset=1).astype(int)
    array([[1, 1, 0],
           [1, 1, 1]])
    """
    return _window_mask("causal_mask", (None, 0), q_len, kv_len, q_offset, xp, device)


def sliding_window_mask(
    q_len: int,
    kv_len: int | None = None,
    /,
    *,
    window_size: tuple[int | None, int | None],
    q_offset: int | Integer[Array, "..."] | None = None,
    xp: Namespace | None = None,
    device: Any = None,
) -> Bool[Array, "... q_len kv_len"]:
    r"""
    Let each query attend to the keys near its own position.

    .. math::

        A_{ij} = [\, -\mathit{left} \le j - (i + \mathit{q\_offset}) \le \mathit{right} \,]

    as in [1]_.

    Parameters
    ----------
    q_len : int
        Number of queries, 0 or more.
    kv_len : int, optional
        Number of keys, 0 or more. Default: `q_len`.
    window_size : tuple of two ints
        ``(left, right)``: how many keys before and after its own position a query may
        attend to, 0 or more; None is no bound. ``(w - 1, 0)`` is a causal window of `w` keys.
    q_offset : int or integer array, shape () or (*batch,), optional
        Position of the first query among the keys. Needed where the lengths differ:
        ``kv_len - q_len`` puts the queries last, 0 first. Default: 0.
    xp : array namespace, optional
        The library to make the mask with. Default: that of `q_offset`, else NumPy.
    device : optional
        Where to make it. Default: that of `q_offset`, else the library's own default.

    Returns
    -------
    array, shape (q_len, kv_len) or (*batch, 1, q_len, kv_len), bool
        True where the query may attend to the key.

    Raises
    ------
    ValueError
        If the lengths differ and `q_offset` is not given, or a length or bound is negative.
    TypeError
        If a length is not an int, or `window_size` not a pair of ints or None.

    See Also
    --------
    attention : Takes `window_size`, and then makes no mask that has to be kept.
    chunk_mask : Windows that do not slide.

    References
    ----------
    .. [1] Beltagy et al., "Longformer", 2020, arXiv:2004.05150.

    Examples
    --------
    >>> import attnfn as af
    >>> af.sliding_window_mask(4, window_size=(1, 0)).astype(int)
    array([[1, 0, 0, 0],
           [1, 1, 0, 0],
           [0, 1, 1, 0],
           [0, 0, 1, 1]])
    """
    check_window(window_size, is_needed=True)
    return _window_mask("sliding_window_mask", window_size, q_len, kv_len, q_offset, xp, device)


def chunk_mask(
    q_len: int,
    kv_len: int | None = None,
    /,
    *,
    chunk_len: int,
    q_offset: int | Integer[Array, "..."] | None = None,
    xp: Namespace | None = None,
    device: Any = None,
) -> Bool[Array, "... q_len kv_len"]:
    r"""
    Let each query attend to the keys of its own chunk, before and after it.

    .. math::

        A_{ij} = [\, \lfloor j / c \rfloor = \lfloor (i + \mathit{q\_offset}) / c \rfloor \,]

    Combined with `causal_mask` by ``&`` it is the chunked attention of Llama 4.

    Parameters
    ----------
    q_len : int
        Number of queries, 0 or more.
    kv_len : int, optional
        Number of keys, 0 or more. Default: `q_len`.
    chunk_len : int
        Number of positions in a chunk, 1 or more. The first chunk begins at key 0.
    q_offset : int or integer array, shape () or (*batch,), optional
        Position of the first query among the keys. Needed where the lengths differ:
        ``kv_len - q_len`` puts the queries last, 0 first. Default: 0.
    xp : array namespace, optional
        The library to make the mask with. Default: that of `q_offset`, else NumPy.
    device : optional
        Where to make it. Default: that of `q_offset`, else the library's own default.

    Returns
    -------
    array, shape (q_len, kv_len) or (*batch, 1, q_len, kv_len), bool
        True where the query may attend to the key.

    Raises
    ------
    ValueError
        If the lengths differ and `q_offset` is not given, a length is negative, or
        `chunk_len` is below 1.
    TypeError
        If a length is not an int.

    See Also
    --------
    sliding_window_mask : Chunks that move along with the query.
    segment_mask : Chunks of any lengths.

    Examples
    --------
    >>> import attnfn as af
    >>> af.chunk_mask(4, chunk_len=2).astype(int)
    array([[1, 1, 0, 0],
           [1, 1, 0, 0],
           [0, 0, 1, 1],
           [0, 0, 1, 1]])
    """
    check_integer("chunk_len", chunk_len, least=1)
    chunk_len = plain(chunk_len)
    q_pos, kv_pos = _grid("chunk_mask", q_len, kv_len, q_offset, xp, device)
    return q_pos // chunk_len == kv_pos // chunk_len


def prefix_mask(
    q_len: int,
    kv_len: int | None = None,
    /,
    *,
    prefix_len: int | Integer[Array, "..."],
    q_offset: int | Integer[Array, "..."] | None = None,
    xp: Namespace | None = None,
    device: Any = None,
) -> Bool[Array, "... q_len kv_len"]:
    r"""
    Let every query attend to the prefix, and beyond it causally.

    .. math::

        A_{ij} = [\, j < \mathit{prefix\_len} \;\text{or}\; j \le i + \mathit{q\_offset} \,]

    as in the prefix language model of [1]_. Do not combine it with ``is_causal=True``,
    which would hide the prefix again.

    Parameters
    ----------
    q_len : int
        Number of queries, 0 or more.
    kv_len : int, optional
        Number of keys, 0 or more. Default: `q_len`.
    prefix_len : int or integer array, shape () or (*batch,)
        Number of keys, from the first on, that every query may attend to.
    q_offset : int or integer array, shape () or (*batch,), optional
        Position of the first query among the keys. Needed where the lengths differ:
        ``kv_len - q_len`` puts the queries last, 0 first. Default: 0.
    xp : array namespace, optional
        The library to make the mask with. Default: that of `prefix_len` or
        `q_offset` if one is an array, else NumPy.
    device : optional
        Where to make it. Default: theirs, else the library's own default.

    Returns
    -------
    array, shape (q_len, kv_len) or (*batch, 1, q_len, kv_len), bool
        True where the query may attend to the key.

    Raises
    ------
    ValueError
        If the lengths differ and `q_offset` is not given, or a length is negative.
    TypeError
        If a length is not an int, or `prefix_len` neither an int nor an integer array.

    See Also
    --------
    causal_mask : Without a prefix.

    References
    ----------
    .. [1] Raffel et al., "Exploring the Limits of Transfer Learning with a Unified
           Text-to-Text Transformer", 2019, arXiv:1910.10683, 3.2.1.

    Examples
    --------
    >>> import attnfn as af
    >>> af.prefix_mask(4, prefix_len=2).astype(int)
    array([[1, 1, 0, 0],
           [1, 1, 0, 0],
           [1, 1, 1, 0],
           [1, 1, 1, 1]])
    """
    q_pos, kv_pos = _grid(
        "prefix_mask", q_len, kv_len, q_offset, xp, device, prefix_len=prefix_len
    )
    prefix = _aligned("prefix_len", prefix_len, least=0)
    return (kv_pos <= q_pos) | (kv_pos < prefix)


def segment_mask(
    q_segments: Integer[ArrayT, "*batch q_len"],
    kv_segments: Integer[ArrayT, "*batch kv_len"] | None = None,
    /,
) -> Bool[ArrayT, "... q_len kv_len"]:
    r"""
    Let each query attend to the keys of its own segment.

    .. math:: A_{ij} = [\, \mathit{q\_segments}_i = \mathit{kv\_segments}_j \,]

    Several sequences packed into one are kept apart in this way.

    Parameters
    ----------
    q_segments : array, shape (..., q_len), integer
        Which segment each query belongs to. Any numbers; they need not be sorted.
    kv_segments : array, shape (..., kv_len), integer, optional
        Which segment each key belongs to. Default: `q_segments`.

    Returns
    -------
    array, shape (q_len, kv_len) or (*batch, 1, q_len, kv_len), bool
        True where the query may attend to the key.

    Raises
    ------
    ValueError
        If an array has no axis, or the batch axes differ.
    TypeError
        If something is not an integer array, or they are of different libraries.

    See Also
    --------
    attention : Takes `segment_ids`, and then makes no mask that has to be kept.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> af.segment_mask(np.asarray([0, 0, 1])).astype(int)
    array([[1, 1, 0],
           [1, 1, 0],
           [0, 0, 1]])
    """
    arrays: dict[str, Array] = {"q_segments": q_segments}
    if kv_segments is not None:
        arrays["kv_segments"] = kv_segments
    xp = check_one_library(**arrays)
    check_one_device(**arrays)
    check_dtype("integral", xp=xp, **arrays)
    for name, x in arrays.items():
        check_ndim(name, x, 1, "(..., length)")
    check_one_batch(**arrays)
    q: Array = q_segments
    kv: Array = q_segments if kv_segments is None else kv_segments
    if q.ndim > 1:
        q, kv = q[..., None, :], kv[..., None, :]
    return q[..., :, None] == kv[..., None, :]


def padding_mask(
    lengths: Integer[ArrayT, "*batch"], kv_len: int, /
) -> Bool[ArrayT, "*batch 1 1 kv_len"]:
    r"""
    Hide the keys past the end of each sequence.

    .. math:: A_j = [\, j < \mathit{length} \,]

    Parameters
    ----------
    lengths : array, shape (...,), integer
        Number of real keys in each sequence. A sequence of 0 gives rows with nothing to
        attend to, whose output is 0.
    kv_len : int
        Number of keys that every sequence is padded to, 0 or more.

    Returns
    -------
    array, shape (..., 1, 1, kv_len), bool
        True where the key is real; the axes of size 1 are the heads' and the queries'.

    Raises
    ------
    ValueError
        If `kv_len` is negative.
    TypeError
        If `lengths` is not an integer array, or `kv_len` not an int.

    See Also
    --------
    token_padding_mask : From the tokens instead of the lengths.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> af.padding_mask(np.asarray([1, 3]), 3)[:, 0, 0, :]
    array([[ True, False, False],
           [ True,  True,  True]])
    """
    xp = check_one_library(lengths=lengths)
    check_dtype("integral", xp=xp, lengths=lengths)
    check_integer("kv_len", kv_len, least=0)
    ends: Array = lengths
    kv_pos = arange(plain(kv_len), xp, device_of(lengths))
    return kv_pos < xp.astype(ends, kv_pos.dtype)[..., None, None, None]


def token_padding_mask(
    tokens: Integer[ArrayT, "*batch kv_len"], pad_token: int, /
) -> Bool[ArrayT, "*batch 1 1 kv_len"]:
    r"""
    Hide the keys that are padding tokens.

    .. math:: A_j = [\, \mathit{token}_j \ne \mathit{pad\_token} \,]

    Parameters
    ----------
    tokens : array, shape (..., kv_len), integer
        The token at each position.
    pad_token : int
        The token that fills up sequences.

    Returns
    -------
    array, shape (..., 1, 1, kv_len), bool
        True where the key is real; the axes of size 1 are the heads' and the queries'.

    Raises
    ------
    ValueError
        If `tokens` has no axis.
    TypeError
        If `tokens` is not an integer array, or `pad_token` not an int.

    See Also
    --------
    padding_mask : From the lengths instead of the tokens.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> af.token_padding_mask(np.asarray([[7, 0, 0], [8, 9, 7]]), 0)[:, 0, 0, :]
    array([[ True, False, False],
           [ True,  True,  True]])
    """
    xp = check_one_library(tokens=tokens)
    check_dtype("integral", xp=xp, tokens=tokens)
    check_ndim("tokens", tokens, 1, "(..., kv_len)")
    check_integer("pad_token", pad_token)
    ids: Array = tokens
    return (ids != plain(pad_token))[..., None, None, :]


def _window_mask(
    name: str,
    window_size: tuple[int | None, int | None],
    q_len: int,
    kv_len: int | None,
    q_offset: Any,
    xp: Namespace | None,
    device: Any,
) -> Array:
    q_pos, kv_pos = _grid(name, q_len, kv_len, q_offset, xp, device)
    left, right = (plain(bound) for bound in window_size)
    inside = within_window(q_pos, kv_pos, left, right, xp=check_one_library(q_pos=q_pos))
    # A window without bounds is a mask too.
    return (q_pos == q_pos) & (kv_pos == kv_pos) if inside is None else inside


def _grid(
    name: str,
    q_len: int,
    kv_len: int | None,
    q_offset: Any,
    xp: Namespace | None,
    device: Any,
    /,
    **others: Any,
) -> tuple[Array, Array]:
    """Check the arguments that mask makers share, and return the positions."""
    kv_len = q_len if kv_len is None else kv_len
    check_integer("q_len", q_len, least=0)
    check_integer("kv_len", kv_len, least=0)
    if q_offset is None:
        check_unambiguous({name: True}, q_len, kv_len)
        q_offset = 0
    given = {"q_offset": q_offset, **others}
    arrays = {key: x for key, x in given.items() if namespace(x) is not None}
    if arrays:
        own = check_one_library(**arrays)
        check_one_device(**arrays)
        check_one_shape(**{key: x for key, x in arrays.items() if x.ndim})
        device = device_of(next(iter(arrays.values()))) if device is None else device
    if xp is not None:
        check_namespace(xp, **arrays)
    resolved = own if arrays else chosen_namespace(xp)
    offset = _aligned("q_offset", q_offset)
    return positions(plain(q_len), plain(kv_len), offset, xp=resolved, where=device)


def _aligned(name: str, x: Any, /, *, least: int | None = None) -> Any:
    """Give an array with a batch the axes of heads, queries and keys."""
    xp = namespace(x)
    if xp is None:
        check_integer(name, x, also="an integer array", least=least)
        return plain(x)
    check_dtype("integral", xp=xp, **{name: x})
    return x[..., None, None, None] if x.ndim else x
