"""The problems that tests are made of: shapes, options, and the two put together.

Every number is a multiple of 1/32 below 8, so float64, float32 and both halves hold it exactly
and the oracle sees what the library sees.
"""

import math
import zlib
from collections.abc import Callable
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pytest
from oracle import num_heads_of
from support import asarray, library_of, to_numpy

__all__ = [
    "ALL_ARRAYS",
    "ALL_FUNCTIONS",
    "ENGINES",
    "NAMED_ENGINES",
    "OPTIONS",
    "PAIRS",
    "SHAPES",
    "Make",
    "Shapes",
    "arrays_of",
    "assert_agrees",
    "gradients_of",
    "options_of",
    "shape_params",
    "under_jit",
]

#: Every engine that computes the definition must pass the tests that ask for `engine`. What
#: "auto" chooses is what the tests run that name no engine. conftest.py leaves "native" to the
#: libraries in NATIVE_LIBRARIES, and skips what it refuses there.
ENGINES = ["dense", "blockwise", "native"]
#: Those that the tests which take long run.
NAMED_ENGINES = ENGINES


class Shapes(NamedTuple):
    """The shapes of query, key and value, and the sizes that follow."""

    query: tuple
    key: tuple
    value: tuple

    @property
    def batch(self):
        return np.broadcast_shapes(self.query[:-3], self.key[:-3], self.value[:-3])

    @property
    def heads(self):
        """Return (num_heads,), or () where no array has an axis of heads."""
        return num_heads_of(*map(np.empty, self))

    @property
    def q_len(self):
        return self.query[-2]

    @property
    def kv_len(self):
        return self.key[-2]

    @property
    def scores(self):
        return (*self.batch, *self.heads, self.q_len, self.kv_len)


#: In "distinct" no two axes are equal; in "equal" any two that can be confused are.
SHAPES = {
    "distinct": Shapes((3, 8, 5, 6), (3, 2, 7, 6), (3, 2, 7, 9)),
    "equal": Shapes((4, 4, 4, 4), (4, 4, 4, 4), (4, 4, 4, 4)),
    "equal_grouped": Shapes((2, 4, 2, 4), (2, 2, 4, 4), (2, 2, 4, 2)),
    "one_head": Shapes((2, 1, 5, 4), (2, 1, 5, 4), (2, 1, 5, 3)),
    "one_kv_head": Shapes((2, 3, 5, 4), (2, 1, 6, 4), (2, 1, 6, 4)),
    "decode": Shapes((2, 4, 1, 6), (2, 2, 9, 6), (2, 2, 9, 5)),
    "longer": Shapes((1, 2, 3, 4), (1, 1, 130, 4), (1, 1, 130, 5)),
    "many_batch_axes": Shapes((2, 1, 3, 2, 4, 5), (2, 1, 3, 1, 6, 5), (2, 1, 3, 1, 6, 3)),
    "no_batch": Shapes((4, 3, 5), (2, 6, 5), (2, 6, 3)),
}
#: Axes left out or broadcast: right, but not what the annotations of the signatures spell.
FREE_SHAPES = {
    "plain": Shapes((5, 4), (6, 4), (6, 3)),
    "headless_key": Shapes((2, 3, 4, 5), (6, 5), (6, 7)),
    "headless_query": Shapes((4, 5), (3, 6, 5), (3, 6, 7)),
    "one_query_head": Shapes((2, 1, 4, 5), (2, 3, 6, 5), (2, 3, 6, 7)),
    "unbatched_query": Shapes((4, 5, 6), (3, 2, 7, 6), (3, 2, 7, 5)),
    "unbatched_key": Shapes((3, 4, 5, 6), (2, 7, 6), (2, 7, 5)),
    "batched_value_only": Shapes((4, 5, 6), (2, 7, 6), (3, 2, 7, 5)),
    "broadcast_batch": Shapes((2, 1, 4, 3, 5), (1, 3, 2, 6, 5), (3, 2, 6, 4)),
}
SHAPES |= FREE_SHAPES


def shape_params(*names):
    """Return the names of shapes to parametrise over (all of them if none is given), marked."""
    marks = dict.fromkeys(FREE_SHAPES, pytest.mark.free_axes)
    return [pytest.param(name, marks=marks.get(name, ())) for name in names or SHAPES]


class Make:
    """Draws arrays of `xp`: the same numbers for one `seed` on every library and device."""

    def __init__(self, xp, shapes, seed, dtype="float64", device=None):
        self.xp, self.shapes, self.dtype, self.device = xp, shapes, dtype, device
        self.int_dtype = "int64" if dtype == "float64" else "int32"
        self.rng = np.random.default_rng(seed)

    def put(self, array, dtype=None):
        array = asarray(self.xp, array, dtype)
        return array if self.device is None else array.to_device(self.device)

    def floats(self, *shape):
        numbers = np.clip(np.round(self.rng.normal(size=shape) * 32) / 32, -7, 7)
        return self.put(numbers, self.dtype)

    def bools(self, *shape, share=0.7):
        return self.put(self.rng.random(size=shape) < share)

    def integers(self, low, high, *shape, dtype=None):
        return self.put(self.rng.integers(low, high, size=shape), dtype or self.int_dtype)


class Option(NamedTuple):
    """One way to use one or two arguments of attention."""

    arguments: tuple
    build: Callable[[Make], dict[str, Any]]
    uses_positions: bool = False


def _mask_function(make):
    return {"mask": lambda q_pos, kv_pos: (q_pos + 2 * kv_pos) % 3 != 0}


def _mask_function_of_one_side(make):
    return {"mask": lambda q_pos, kv_pos: kv_pos % 3 != 1}


def _mask_function_per_head(make):
    ones = (1,) * len(make.shapes.batch)
    shift = make.integers(0, 4, *ones, *make.shapes.heads, 1, 1)
    return {"mask": lambda q_pos, kv_pos: (q_pos + kv_pos + shift) % 4 != 0}


def _bias_function(make):
    slopes = make.floats(*make.shapes.heads, 1, 1)
    xp = make.xp

    def bias(q_pos, kv_pos):
        return -slopes * xp.astype(xp.abs(q_pos - kv_pos), slopes.dtype)

    return {"bias": bias}


def _bias_of_minus_inf(make):
    shape = make.shapes.scores[-2:]
    bias = to_numpy(make.floats(*shape))
    bias[make.rng.random(size=shape) < 0.3] = -math.inf
    bias[: shape[0] // 3] = -math.inf
    return {"bias": make.put(bias, make.dtype)}


def _score_mod(make):
    temperature = make.floats(*make.shapes.heads, 1, 1)
    xp = make.xp

    def score_mod(scores, q_pos, kv_pos):
        return scores * temperature + xp.astype(kv_pos - q_pos, temperature.dtype) / 4

    return {"score_mod": score_mod}


def _score_mod_curved(make):
    xp = make.xp
    return {"score_mod": lambda scores, q_pos, kv_pos: scores * scores / 4 + xp.tanh(scores)}


def _score_mod_of_minus_inf(make):
    xp = make.xp

    def score_mod(scores, q_pos, kv_pos):
        return xp.where((q_pos + kv_pos) % 3 == 0, -math.inf, scores)

    return {"score_mod": score_mod}


def _dropout(make):
    return {"dropout_mask": make.bools(*make.shapes.scores), "dropout_rate": 0.25}


def _dropout_function(make):
    return {
        "dropout_mask": lambda q_pos, kv_pos: (3 * q_pos + kv_pos) % 4 != 1,
        "dropout_rate": 0.5,
    }


def _segments(make):
    sizes = (make.shapes.q_len, make.shapes.kv_len)
    return {"segment_ids": tuple(make.integers(0, 2, size) for size in sizes)}


def _segments_shared(make):
    ids = make.put(np.arange(make.shapes.kv_len) // 2, "int32")
    # One array serves both only where the lengths are the same.
    return {
        "segment_ids": ids
        if make.shapes.q_len == make.shapes.kv_len
        else (ids[: make.shapes.q_len], ids)
    }


def _segments_per_batch(make):
    sizes = (make.shapes.q_len, make.shapes.kv_len)
    return {
        "segment_ids": tuple(make.integers(0, 2, *make.shapes.batch, size) for size in sizes)
    }


def _plain(argument, build):
    return Option((argument,), lambda make: {argument: build(make)})


def _positional(argument, build):
    return Option((argument,), lambda make: {argument: build(make)}, uses_positions=True)


OPTIONS = {
    "mask_keys": _plain("mask", lambda m: m.bools(m.shapes.kv_len)),
    "mask_matrix": _plain("mask", lambda m: m.bools(*m.shapes.scores[-2:])),
    "mask_rows": _plain("mask", lambda m: m.bools(m.shapes.q_len, 1)),
    "mask_full": _plain("mask", lambda m: m.bools(*m.shapes.scores)),
    "mask_padding": _plain(
        "mask",
        lambda m: m.bools(*m.shapes.batch, *(1,) * len(m.shapes.heads), 1, m.shapes.kv_len),
    ),
    "mask_surplus_axes": _plain("mask", lambda m: m.bools(1, 1, *m.shapes.scores)),
    "mask_function": Option(("mask",), _mask_function, uses_positions=True),
    "mask_function_of_one_side": Option(
        ("mask",), _mask_function_of_one_side, uses_positions=True
    ),
    "mask_function_per_head": Option(("mask",), _mask_function_per_head, uses_positions=True),
    "bias_keys": _plain("bias", lambda m: m.floats(m.shapes.kv_len)),
    "bias_matrix": _plain("bias", lambda m: m.floats(*m.shapes.scores[-2:])),
    "bias_per_head": _plain("bias", lambda m: m.floats(*m.shapes.heads, *m.shapes.scores[-2:])),
    "bias_full": _plain("bias", lambda m: m.floats(*m.shapes.scores)),
    "bias_broadcast": _plain(
        "bias",
        lambda m: m.floats(*(1,) * len(m.shapes.batch), *m.shapes.heads, 1, m.shapes.kv_len),
    ),
    "bias_of_minus_inf": Option(("bias",), _bias_of_minus_inf),
    "bias_function": Option(("bias",), _bias_function, uses_positions=True),
    "causal": _positional("is_causal", lambda m: True),
    "window": _positional("window_size", lambda m: (2, 1)),
    "window_left": _positional("window_size", lambda m: (1, None)),
    "window_right": _positional("window_size", lambda m: (None, 0)),
    "q_offset": _plain("q_offset", lambda m: 1),
    "q_offset_negative": _plain("q_offset", lambda m: -2),
    "q_offset_0d": _plain("q_offset", lambda m: m.integers(1, 4, dtype="int32")),
    "q_offset_per_batch": _plain("q_offset", lambda m: m.integers(-2, 6, *m.shapes.batch)),
    "segments": Option(("segment_ids",), _segments),
    "segments_shared": Option(("segment_ids",), _segments_shared),
    "segments_per_batch": Option(("segment_ids",), _segments_per_batch),
    "scale": _plain("scale", lambda m: 0.75),
    "scale_negative": _plain("scale", lambda m: -0.5),
    "scale_0d": _plain("scale", lambda m: m.put(0.625, m.dtype)),
    "softcap": _plain("softcap", lambda m: 1.5),
    "score_mod": Option(("score_mod",), _score_mod, uses_positions=True),
    "score_mod_curved": Option(("score_mod",), _score_mod_curved, uses_positions=True),
    "score_mod_of_minus_inf": Option(
        ("score_mod",), _score_mod_of_minus_inf, uses_positions=True
    ),
    "sinks_number": _plain("sinks", lambda m: 0.5),
    "sinks_0d": _plain("sinks", lambda m: m.floats()),
    "sinks_per_head": _plain("sinks", lambda m: m.floats(*m.shapes.heads)),
    "sinks_per_batch": _plain("sinks", lambda m: m.floats(*m.shapes.batch, *m.shapes.heads)),
    "dropout": Option(("dropout_mask", "dropout_rate"), _dropout),
    "dropout_function": Option(
        ("dropout_mask", "dropout_rate"), _dropout_function, uses_positions=True
    ),
}

#: The options that change the result together: no two of the same argument.
PAIRS = [
    pair
    for pair in combinations(OPTIONS, 2)
    if not set(OPTIONS[pair[0]].arguments) & set(OPTIONS[pair[1]].arguments)
]

ALL_ARRAYS = (
    "mask_full",
    "bias_per_head",
    "causal",
    "window_left",
    "q_offset_per_batch",
    "segments_per_batch",
    "scale_0d",
    "softcap",
    "score_mod",
    "sinks_per_batch",
    "dropout",
)
ALL_FUNCTIONS = (
    "mask_function_per_head",
    "bias_function",
    "window",
    "q_offset_per_batch",
    "segments",
    "scale",
    "softcap",
    "score_mod",
    "sinks_per_head",
    "dropout_function",
)


def arrays_of(xp, shapes, dtype="float64", seed=0, device=None):
    """Draw query, key and value."""
    make = Make(xp, shapes, seed, dtype, device)
    return tuple(make.floats(*shape) for shape in shapes)


def options_of(xp, shapes, names, dtype="float64", device=None):
    """Build the keyword arguments of the named options; the queries are the last positions, if in doubt."""
    options = {}
    for name in names:
        make = Make(xp, shapes, zlib.crc32(name.encode()), dtype, device)
        options |= OPTIONS[name].build(make)
    needs_offset = any(OPTIONS[name].uses_positions for name in names)
    if needs_offset and "q_offset" not in options and shapes.q_len != shapes.kv_len:
        options["q_offset"] = shapes.kv_len - shapes.q_len
    return options


_RTOL = {"float64": 1e-12, "float32": 2e-5}


def assert_agrees(actual, expected, dtype="float64"):
    """Assert equal shapes and values: to `dtype`'s rounding of the greatest finite value, NaN and inf exactly."""
    actual = to_numpy(actual)
    assert actual.shape == np.shape(expected)
    finite = np.abs(np.where(np.isfinite(expected), expected, 0.0))
    greatest = max(1.0, finite.max(initial=0.0))
    np.testing.assert_allclose(
        actual, expected, rtol=_RTOL[dtype], atol=_RTOL[dtype] * greatest
    )


def gradients_of(xp, loss, *arrays):
    """Differentiate the number `loss(*arrays)` by the library's own means: torch and JAX alone."""
    if library_of(xp) == "jax":
        import jax

        return jax.grad(loss, argnums=tuple(range(len(arrays))))(*arrays)
    import torch

    leaves = [x.detach().clone().requires_grad_() for x in arrays]
    return torch.autograd.grad(loss(*leaves), leaves, materialize_grads=True)


def under_jit(xp, function):
    """Return the function compiled on JAX, where each operation at a new shape compiles otherwise."""
    if library_of(xp) == "jax":
        import jax

        return jax.jit(function)
    return function
