"""A result of attention beside what it should be, and how far off it may be."""

from typing import Any, NamedTuple

import numpy as np

from ..._checks import check_upstream
from ..._derivatives import AttentionGradients
from .._arrays import dtype_of, is_array, to_float64
from .._reference._call import Call, read
from .._reference._oracle import oracle_vjp, oracle_with_lse
from ._dense import Upstream
from ._plain import plain
from ._precision import PRECISIONS, Precision, precision_of
from ._units import units

__all__ = ["Comparison", "Verdict", "compare"]

#: Results that go through more steps than the output does may lose half as much again.
MORE_STEPS = 1.5
#: Units that any computation may be off, also where the plain formula happens to be exact:
#: where sums have digits to spare, and where they are rounded as everything else.
FLOOR, FLOOR_OF_SUMS = 3.0, 9.0


class Comparison(NamedTuple):
    """One result, element by element, in float64."""

    name: str  # "out", "lse", or the argument that it is the gradient of
    got: np.ndarray
    wanted: np.ndarray
    allowed: np.ndarray  # how far off it may be
    plain: float  # how many units the plain formula is off at most
    wrong: np.ndarray  # bool
    is_lost: bool  # whether it is 0 everywhere and should not be

    @property
    def error(self) -> np.ndarray:
        """Return how far off each element is; NaN where one of the two is."""
        with np.errstate(invalid="ignore"):
            return np.where(self.got == self.wanted, 0.0, abs(self.got - self.wanted))

    @property
    def worst(self) -> tuple[int, ...]:
        """Return where it is farthest off, a NaN first."""
        with np.errstate(all="ignore"):
            ratio = np.where(self.wrong, self.error / self.allowed, -1.0)
        ratio = np.where(self.wrong & np.isnan(ratio), np.inf, ratio)
        return tuple(int(i) for i in np.unravel_index(ratio.argmax(), ratio.shape))


class Verdict(NamedTuple):
    """What is wrong with the results of a call."""

    call: Call
    precision: str
    factor: float
    unfit: list[str]  # sentences about shapes and dtypes
    compared: list[Comparison]

    @property
    def is_right(self) -> bool:
        return not self.unfit and not any(
            found.is_lost or found.wrong.any() for found in self.compared
        )


def compare(
    actual: Any,
    query: Any,
    key: Any,
    value: Any,
    /,
    *,
    lse: Any,
    d_out: Any,
    d_lse: Any,
    gradients: Any,
    dtype: str | None,
    factor: float,
    options: dict[str, Any],
) -> Verdict:
    """Hold the results of an implementation against the oracle."""
    check_upstream(gradients, d_out=d_out, d_lse=d_lse)
    call = read(query, key, value, **options)
    given = {"query": query, "key": key, "value": value}
    given |= {name: options.get(name) for name in ("bias", "sinks")}
    out, exact_lse = oracle_with_lse(query, key, value, **options)
    wanted, results = {"out": out}, {"out": actual}
    if lse is not None:
        wanted["lse"], results["lse"] = exact_lse, lse
    if gradients is not None:
        exact = oracle_vjp(query, key, value, d_out, d_lse=d_lse, **options)
        for name, x, asked in zip(AttentionGradients._fields, exact, gradients, strict=False):
            if not _is_absent(x) and not _is_absent(asked):
                # What NumPy sums to a number is a scalar, not an array.
                wanted[name] = x
                results[name] = np.asarray(asked) if isinstance(asked, np.generic) else asked

    unfit = [
        sentence
        for name, x in results.items()
        for sentence in _unfit(name, x, wanted[name].shape, given)
    ]
    dtype = dtype_of(actual) if dtype is None and is_array(actual) else dtype
    precision = precision_of("dtype", dtype or "float64")
    if unfit:
        return Verdict(call, precision.name, factor, unfit, [])

    outputs = {
        name: _coarser(PRECISIONS[dtype_of(x)], precision.sums if name == "lse" else precision)
        for name, x in results.items()
    }
    upstream = None
    if gradients is not None:
        shapes = {name: x.shape for name, x in wanted.items() if name not in ("out", "lse")}
        upstream = _upstream(call, out, exact_lse, d_out, d_lse, shapes)
    outputs.setdefault("lse", precision.sums)
    with np.errstate(all="ignore"):
        rough = plain(call, precision, outputs, upstream)
        unit = units(call, precision, outputs, upstream)
        compared = [
            _compared(
                name,
                to_float64(x),
                wanted[name],
                unit[name],
                rough[name],
                precision,
                outputs[name],
                factor if name == "out" else MORE_STEPS * factor,
            )
            for name, x in results.items()
        ]
        values = np.where(np.isfinite(call.v), call.v, 0.0)
        compared[0] = _unless_lost(compared[0], precision, abs(values).max(initial=0.0))
    return Verdict(call, precision.name, factor, [], compared)


def _compared(
    name: str,
    got: np.ndarray,
    wanted: np.ndarray,
    unit: np.ndarray,
    rough: np.ndarray,
    precision: Precision,
    to: Precision,
    factor: float,
) -> Comparison:
    is_finite = np.isfinite(wanted)
    unit = np.hypot(unit, np.where(is_finite, to.unit * wanted, 0.0))
    ratio = np.where(is_finite, abs(rough - wanted) / unit, 0.0)
    plain = float(ratio[np.isfinite(ratio)].max(initial=0.0))
    floor = FLOOR if precision.sums is not precision else FLOOR_OF_SUMS
    allowed = (factor * plain + floor) * unit

    is_same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
    # What is too large for the dtype may be inf there.
    is_too_large = (abs(wanted) + allowed > to.greatest) & (got == np.sign(wanted) * np.inf)
    is_near = np.isfinite(got) & is_finite & (abs(got - wanted) <= allowed)
    wrong = ~(is_same | is_near | is_too_large)
    return Comparison(name, got, wanted, allowed, plain, wrong, is_lost=False)


def _unless_lost(found: Comparison, precision: Precision, greatest: float, /) -> Comparison:
    """Say so if an output is 0 everywhere, which rounding does not do, whatever is allowed."""
    is_zero = found.got.size > 0 and not found.got.any()
    least = 16 * precision.unit * greatest + 2 * precision.least
    return found._replace(is_lost=bool(is_zero and (abs(found.wanted) > least).any()))


def _unfit(name: str, x: Any, shape: tuple[int, ...], given: dict[str, Any], /) -> list[str]:
    """Return what is wrong with the shape and the dtype of a result."""
    called = {"out": "actual", "lse": "lse"}.get(name, f"gradients.{name}")
    if not is_array(x):
        return [f"`{called}` must be an array; got {type(x).__name__}."]
    sentences = []
    if tuple(x.shape) != shape:
        sentences.append(f"`{called}` must have shape {shape}; got {tuple(x.shape)}.")
    dtype, like = dtype_of(x), given["query" if name in ("out", "lse") else name]
    if dtype not in PRECISIONS:
        sentences.append(f"`{called}` must have a floating dtype; got {dtype}.")
    elif is_array(like) and dtype_of(like) in PRECISIONS:
        own = PRECISIONS[dtype_of(like)]
        if name == "lse" and PRECISIONS[dtype].unit > own.sums.unit:
            words = f"`lse` must have dtype {own.sums.name}, in which {own.name} is computed"
            sentences.append(f"{words}; got {dtype}.")
        elif name != "lse" and dtype != own.name:
            argument = "query" if name == "out" else name
            sentences.append(
                f"`{called}` must have the dtype of `{argument}`, {own.name}; got {dtype}."
            )
    return sentences


def _coarser(own: Precision, precision: Precision, /) -> Precision:
    """Return what a result is rounded to: its dtype, or less if it is held to less."""
    return max(own, precision, key=lambda p: p.unit)


def _upstream(
    call: Call,
    out: np.ndarray,
    lse: np.ndarray,
    d_out: Any,
    d_lse: Any,
    shapes: dict[str, tuple[int, ...]],
    /,
) -> Upstream:
    """Return what comes from above, with nothing for rows that are NaN."""
    rows = call.shape[:-1]
    above = to_float64(d_out).reshape((*rows, call.v.shape[-1]))
    is_live = np.isfinite(out).all(axis=-1).reshape(rows)[..., None]
    above_lse = np.zeros(rows) if d_lse is None else to_float64(d_lse).reshape(rows)
    return Upstream(
        np.where(is_live, above, 0.0),
        np.where(np.isfinite(lse).reshape(rows), above_lse, 0.0),
        shapes,
    )


def _is_absent(x: Any, /) -> bool:
    return x is None or (isinstance(x, tuple) and not x)
