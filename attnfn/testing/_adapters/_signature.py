"""A signature as data: where each option has its place, and which way the axes are."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..._typing import Array
from .._subject import Subject
from ._call import Call, added, described, folded, unfolded
from ._checks import check_function, check_is_free, check_options
from ._parameters import Parameters

__all__ = ["Place", "Signature", "Vjp", "name_of", "subject"]

#: ``vjp(query, key, value, d_out, **options)``, axes and options those of its function.
Vjp = Callable[..., tuple[Any, ...]]


class Place(NamedTuple):
    """Which parameter an option is given as: the first of some names that a function takes."""

    names: tuple[str, ...]
    #: ``(what the option is, call)`` -> what the parameter is.
    convert: Callable[[Any, Call], Any] = lambda x, _: x


@dataclass(frozen=True, kw_only=True)
class Signature:
    """How functions of one kind are called, beside query, key and value."""

    places: Mapping[str, Place]
    #: Whether the axes are (batch, length, num_heads, dim).
    is_length_first: bool = False
    #: Whether there is exactly one batch axis.
    is_folded: bool = True
    #: What asks for the log-sum-exp: the first that a function takes.
    lse: Mapping[str, Any] = field(default_factory=dict)
    #: Whether the log-sum-exp has the axes (batch, length, num_heads).
    is_lse_length_first: bool = False
    #: Whether ``**kwargs`` in a signature takes what we give; some only swallow it.
    takes_any: bool = True
    #: A mask as what is added to scores, where it shares the place of the bias.
    added: Callable[[Array, Call], Array] = added
    #: Keywords that a call needs besides.
    more: Callable[[Call, Parameters], dict[str, Any]] = lambda _, __: {}


def subject(
    function: Callable[..., Any],
    signature: Signature,
    *,
    returns_lse: bool = False,
    vjp: Vjp | None = None,
    names: Mapping[str, str] | None = None,
) -> Subject:
    """Return a function of a signature as a `Subject`; `names` are where its own are others."""
    parameters = Parameters(function, takes_any=signature.takes_any)
    renamed = {option: Place((own,)) for option, own in (names or {}).items()}
    places = {
        option: place._replace(names=(found,))
        for option, place in {**signature.places, **renamed}.items()
        if (found := parameters.first(*place.names)) is not None
    }
    asks = parameters.first(*signature.lse) if signature.lse else None
    name = name_of(function)

    def prepared(
        query: Array, key: Array, value: Array, options: dict[str, Any]
    ) -> tuple[Call, dict[str, Any]]:
        check_options(options, places, name)
        call = described(query, key, value, options)
        call = folded(call) if signature.is_folded else call
        keywords = _keywords(call, places, signature, name)
        return call, {
            **_scale(call, places, parameters),
            **signature.more(call, parameters),
            **keywords,
        }

    def inward(call: Call, x: Array) -> Array:
        return call.xp.moveaxis(x, -3, -2) if signature.is_length_first else x

    def outward(call: Call, x: Array) -> Array:
        if signature.is_length_first and x.ndim >= 3:
            x = call.xp.moveaxis(x, -2, -3)
        return unfolded(call, x) if signature.is_folded else x

    def result(
        arrays: tuple[Array, Array, Array], options: dict[str, Any], *, lse: bool
    ) -> Any:
        call, keywords = prepared(*arrays, options)
        if lse and asks is not None:
            keywords[asks] = signature.lse[asks]
        found = function(*(inward(call, x) for x in call[:3]), **keywords)
        out, found_lse = found[:2] if isinstance(found, tuple | list) else (found, None)
        if not lse:
            return outward(call, out)
        return outward(call, out), _lse(call, found_lse, signature)

    def attention(query: Array, key: Array, value: Array, /, **options: Any) -> Array:
        return result((query, key, value), options, lse=False)

    def attention_with_lse(
        query: Array, key: Array, value: Array, /, **options: Any
    ) -> tuple[Array, Array]:
        return result((query, key, value), options, lse=True)

    def gradients(
        query: Array, key: Array, value: Array, d_out: Array, /, **options: Any
    ) -> tuple[Any, ...]:
        assert vjp is not None
        call, keywords = prepared(query, key, value, options)
        d_call = (
            folded(Call(d_out, key, value, {}))
            if signature.is_folded
            else Call(d_out, key, value, {})
        )
        found = vjp(*(inward(call, x) for x in (*call[:3], d_call.query)), **keywords)
        return (*(outward(call, x) for x in found[:3]), *found[3:])

    return Subject(
        attention,
        frozenset(places),
        attention_with_lse if returns_lse or asks is not None else None,
        gradients if vjp is not None else None,
        name,
    )


def name_of(function: Callable[..., Any]) -> str:
    """Return what a function calls itself; every adapter asks, of something to call."""
    check_function(function)
    inner = getattr(function, "func", function)  # of a partial
    return getattr(inner, "__name__", type(inner).__name__)


def _keywords(
    call: Call, places: Mapping[str, Place], signature: Signature, name: str
) -> dict[str, Any]:
    """Return what each option is in the function's own words."""
    keywords: dict[str, Any] = {}
    taken: dict[str, str] = {}
    for option, x in call.options.items():
        place = places[option]
        (parameter,) = place.names
        both = {option, taken.get(parameter, option)}
        if both == {"mask", "bias"}:
            keywords[parameter] = (
                signature.added(call.options["mask"], call) + call.options["bias"]
            )
            continue
        check_is_free(option, parameter, taken, name)
        taken[parameter] = option
        found = place.convert(x, call)
        keywords.update(found if isinstance(found, dict) else {parameter: found})
    return keywords


def _scale(call: Call, places: Mapping[str, Place], parameters: Parameters) -> dict[str, Any]:
    """Return the usual scale, for a function that has no default."""
    name = places["scale"].names[0] if "scale" in places else None
    if name is None or not parameters.needs(name):
        return {}
    return {name: 1 / math.sqrt(call.query.shape[-1])}


def _lse(call: Call, lse: Array, signature: Signature) -> Array:
    if signature.is_lse_length_first and lse.ndim >= 2:
        lse = call.xp.moveaxis(lse, -1, -2)
    return unfolded(call, lse, axes=2) if signature.is_folded else lse
