"""One call, with its arrays in one form, whatever axes the caller left out or had in number."""

import math
from typing import Any, NamedTuple

from ..._backend import arange, chosen_namespace, device, namespace
from ..._typing import Array, Namespace

__all__ = ["Call", "added", "added_least", "described", "folded", "on", "unfolded"]

#: What has the axes of the scores.
OF_SCORES = ("mask", "bias", "dropout_mask")


class Call(NamedTuple):
    """
    Query, key, value and the options that were given.

    A folded call has one batch axis and one of heads: ``(batch, num_heads, length, dim)``; what
    has the axes of scores has four, each the scores' or 1.
    """

    query: Array
    key: Array
    value: Array
    options: dict[str, Any]
    #: The batch axes before they were folded.
    batch: tuple[int, ...] = ()
    #: Whether query, key and value came with an axis of heads.
    has_heads: bool = True

    @property
    def xp(self) -> Namespace:
        """The namespace of the query."""
        return namespace(self.query) or chosen_namespace(None)

    @property
    def q_len(self) -> int:
        """How many queries there are."""
        return self.query.shape[-2]

    @property
    def kv_len(self) -> int:
        """How many keys there are."""
        return self.key.shape[-2]

    @property
    def is_grouped(self) -> bool:
        """Whether some heads of queries share one of keys."""
        return self.query.ndim > 2 and self.query.shape[-3] != self.key.shape[-3]

    def positions(self) -> tuple[Array, Array]:
        """Return where queries (q_len, 1) and keys (1, kv_len) stand."""
        q_pos = arange(self.q_len, self.xp, device(self.query))[:, None]
        offset = self.options.get("q_offset", 0)
        if getattr(offset, "ndim", 0):
            offset = offset[..., None, None, None]
        return q_pos + offset, arange(self.kv_len, self.xp, device(self.query))[None, :]


def described(query: Array, key: Array, value: Array, options: dict[str, Any]) -> Call:
    """Return a call as it came, without the options that say nothing."""
    given = {name: x for name, x in options.items() if x is not None and x is not False}
    call = Call(query, key, value, given)
    for name in OF_SCORES:
        if callable(given.get(name)):
            given[name] = given[name](*call.positions())
    return call


def folded(call: Call) -> Call:
    """Return the same call with one batch axis and one of heads."""
    arrays = (call.query, call.key, call.value)
    batch = _broadcast([x.shape[:-3] for x in arrays])
    size = math.prod(batch)

    def fold(x: Array) -> Array:
        x = x if x.ndim > 2 else x[None, ...]
        own = x.shape[-3:]
        return call.xp.reshape(_spread(call.xp, x, (*batch, *own)), (size, *own))

    folds = {
        "lengths": lambda x: call.xp.reshape(x, (-1,)) if x.ndim != 1 else x,
        "q_offset": lambda x: call.xp.reshape(x, (-1,)) if getattr(x, "ndim", 0) > 1 else x,
    }
    folds |= {name: lambda x: _four_axes(call.xp, x, batch) for name in OF_SCORES}
    options = {name: folds.get(name, _same)(x) for name, x in call.options.items()}
    has_heads = any(x.ndim > 2 for x in arrays)
    query, key, value = map(fold, arrays)
    return Call(query, key, value, options, batch, has_heads)


def unfolded(call: Call, x: Array, axes: int = 3) -> Array:
    """Give a result of a folded call the batch axes that it had before; `axes` are behind them.

    What has a wrong shape keeps it: that it is wrong is not for an adapter to say.
    """
    if x.ndim != axes + 1 or x.shape[0] != math.prod(call.batch):
        return x
    rest = x.shape[1:] if call.has_heads or x.shape[1] != 1 else x.shape[2:]
    return call.xp.reshape(x, (*call.batch, *rest))


def added(mask: Array, call: Call, *, hidden: float = -math.inf) -> Array:
    """Return a mask as what to add to the scores: 0, or `hidden` where it is not True."""
    zeros = call.xp.zeros(mask.shape, dtype=call.query.dtype, **on(call.query))
    return call.xp.where(mask, zeros, hidden)


def added_least(mask: Array, call: Call) -> Array:
    """Return a mask as what to add: 0, or the least number that the queries' dtype has."""
    return added(mask, call, hidden=float(call.xp.finfo(call.query.dtype).min))


def on(x: Array) -> dict[str, Any]:
    """Return the keywords that make a new array where `x` is."""
    where = device(x)
    return {} if where is None else {"device": where}


def _same(x: Any) -> Any:
    return x


def _four_axes(xp: Namespace, x: Array, batch: tuple[int, ...]) -> Array:
    own = x.shape[-3:]
    own = (1,) * (3 - len(own)) + own
    before = x.shape[:-3]
    if len(before) <= 1 == len(batch) or not before:
        return xp.reshape(x, (*(before or (1,)), *own))
    return xp.reshape(_spread(xp, x, (*batch, *own)), (math.prod(batch), *own))


def _spread(xp: Namespace, x: Array, shape: tuple[int, ...]) -> Array:
    return x if x.shape == shape else xp.broadcast_to(x, shape)


def _broadcast(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the shape that all broadcast to."""
    rank = max(len(shape) for shape in shapes)
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(next((n for n in sizes if n != 1), 1) for sizes in zip(*padded, strict=True))
