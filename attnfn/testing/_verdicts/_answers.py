"""What a function answers to a case, and how it behaves while it does."""

import warnings
from textwrap import shorten
from typing import Any, NamedTuple

import numpy as np

from ..._checks import dtype_name
from ..._typing import Array
from .._arrays import to_numpy
from .._questions._case import Case
from .._subject import Subject
from ._libraries import Library

__all__ = ["Answer", "absent_from", "answer"]

#: Characters of what an exception says.
MOST_SAID = 160


class Answer(NamedTuple):
    """An answer in float64, or why there is none."""

    out: np.ndarray | None = None
    lse: np.ndarray | None = None
    gradients: dict[str, np.ndarray | None] = {}  # noqa: RUF012 - never written to
    #: The exception, if one was raised.
    refusal: str = ""
    #: What is wrong whatever the numbers are: names of FAULTS.
    faults: tuple[str, ...] = ()
    out_dtype: str = ""
    lse_dtype: str = ""


def absent_from(subject: Subject, library: Library, case: Case) -> str:
    """Say what a function has no place for; "" is nothing."""
    missing = sorted(set(case.options) - subject.options - {"dropout_rate"})
    if missing:
        return f"no {' and '.join(missing)}"
    wants_lse = "lse" in case.asks or case.d_lse is not None
    if wants_lse and subject.attention_with_lse is None:
        return "no log-sum-exp"
    if "gradients" in case.asks:
        if case.d_lse is not None and not library.has_gradients:
            return f"{library.name} does not differentiate"
        if subject.vjp is None and not library.has_gradients:
            return f"{library.name} does not differentiate, and there is no vjp"
    if case.memory and not library.has_strides:
        return f"arrays of {library.name} have no strides"
    return ""


def answer(subject: Subject, library: Library, case: Case, dtype: str) -> Answer:
    """Ask a function."""
    with warnings.catch_warnings(), np.errstate(all="ignore"), library.wide_enough_for(dtype):
        warnings.simplefilter("ignore")
        arrays = [
            library.put(x, dtype, case.memory) for x in (case.query, case.key, case.value)
        ]
        options = {name: library.put_option(x, dtype) for name, x in case.options.items()}
        given = [to_numpy(x) for x in (*arrays, *_arrays_in(options))]
        try:
            if "gradients" in case.asks:
                found = _with_gradients(subject, library, case, arrays, options, dtype)
            elif "lse" in case.asks:
                assert subject.attention_with_lse is not None
                out, lse = subject.attention_with_lse(*arrays, **options)
                found = _read(case, out, lse, dtype)
            else:
                found = _read(case, subject.attention(*arrays, **options), None, dtype)
        except Exception as error:  # whatever it is, the function refuses
            return Answer(refusal=_first_line(error))
        kept = [to_numpy(x) for x in (*arrays, *_arrays_in(options))]
    is_same = all(
        np.array_equal(a, b, equal_nan=True) for a, b in zip(given, kept, strict=True)
    )
    return found if is_same else found._replace(faults=(*found.faults, "inputs_overwritten"))


def _arrays_in(options: dict[str, Any]) -> list[Array]:
    """Return the arrays among options, those of pairs too."""
    found = []
    for x in options.values():
        found += [
            part for part in (x if isinstance(x, tuple) else (x,)) if hasattr(part, "dtype")
        ]
    return found


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    said = [type(error).__name__, *(shorten(line, MOST_SAID) for line in lines[:1])]
    return ": ".join(said)


def _read(case: Case, out: Any, lse: Any, dtype: str) -> Answer:
    """Take an answer to NumPy, and see whether its form is right."""
    faults = []
    shape = (*case.query.shape[:-1], case.value.shape[-1])
    if not hasattr(out, "dtype"):
        error = f"an array must be returned; got {type(out).__name__}"
        raise TypeError(error)
    if tuple(out.shape) != shape:
        faults.append("output_shape")
    if dtype_name(out.dtype) != dtype:
        faults.append("output_dtype")
    read, out_dtype = to_numpy(out).astype(np.float64), dtype_name(out.dtype)
    if read.ndim > 2 and np.swapaxes(read, -2, -3).shape == shape != read.shape:
        read = np.swapaxes(read, -2, -3)  # its numbers may still be right
    if lse is None:
        return Answer(read, faults=tuple(faults), out_dtype=out_dtype)
    numbers = to_numpy(lse).astype(np.float64)
    if numbers.shape != shape[:-1]:
        faults.append("output_shape")
    return Answer(
        read,
        numbers,
        faults=tuple(faults),
        out_dtype=out_dtype,
        lse_dtype=dtype_name(lse.dtype),
    )


def _with_gradients(
    subject: Subject,
    library: Library,
    case: Case,
    arrays: list[Array],
    options: dict[str, Any],
    dtype: str,
) -> Answer:
    assert case.d_out is not None
    names = ["query", "key", "value", *case.array_options()]
    if subject.vjp is not None and case.d_lse is None:
        found = [
            _number_or_none(x)
            for x in subject.vjp(*arrays, library.put(case.d_out, dtype), **options)
        ]
        if len(found) > len(names):  # what was not given has its place, too
            found = [*found[:3], *(x for x in found[3:] if x is not None)]
        found += [None] * (len(names) - len(found))
        return Answer(gradients=dict(zip(names, found, strict=True)))

    def function(*given: Array) -> list[Array]:
        own = dict(zip(names[3:], given[3:], strict=True))
        if case.d_lse is None:
            return [subject.attention(*given[:3], **{**options, **own})]
        assert subject.attention_with_lse is not None
        return list(subject.attention_with_lse(*given[:3], **{**options, **own}))

    outs, back = library.vjp(function, [*arrays, *(options[name] for name in names[3:])])
    given = [case.d_out] if case.d_lse is None else [case.d_out, case.d_lse]
    shapes = [tuple(out.shape) for out in outs]
    if shapes != [x.shape for x in given]:
        return Answer(faults=("output_shape",))
    d_outs = [library.put(x, dtype_name(out.dtype)) for x, out in zip(given, outs, strict=True)]
    gradients = map(_number_or_none, back(d_outs))
    return Answer(gradients=dict(zip(names, gradients, strict=True)))


def _number_or_none(x: Any) -> np.ndarray | None:
    is_none = x is None or (isinstance(x, tuple) and not x)
    return None if is_none else to_numpy(x).astype(np.float64)
