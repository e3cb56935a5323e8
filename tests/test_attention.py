"""`attention` and its siblings: every option, alone and together, on every library, by every engine."""

import warnings
from functools import cache, partial

import array_api_compat.numpy
import numpy as np
import pytest
from oracle import oracle, oracle_scores
from problems import (
    ALL_ARRAYS,
    ALL_FUNCTIONS,
    ENGINES,
    NAMED_ENGINES,
    OPTIONS,
    PAIRS,
    SHAPES,
    arrays_of,
    assert_agrees,
    options_of,
    shape_params,
    under_jit,
)
from support import device_of

import attnfn as af

#: Every axis different, every axis the same: a swap of two axes fails in the one or the other.
WITH_EACH_OPTION = ("distinct", "equal")

by_engine = pytest.mark.parametrize("engine", ENGINES)
by_named_engine = pytest.mark.parametrize("engine", NAMED_ENGINES)
by_option = pytest.mark.parametrize("option", OPTIONS)
by_every_shape = pytest.mark.parametrize("shape", shape_params())
at_two_shapes = pytest.mark.parametrize("shape", WITH_EACH_OPTION)
#: Eager JAX compiles every operation at every new shape.
but_jax = pytest.mark.libraries(
    "array_api_strict",
    "numpy",
    "torch",
    reason="JAX runs all options at these shapes, under jit",
)
with_all_options = pytest.mark.parametrize(
    "names", [ALL_ARRAYS, ALL_FUNCTIONS], ids=["arrays", "functions"]
)


@cache
def expected(shape, names=()):
    """Ask the oracle once for all libraries."""
    shapes = SHAPES[shape]
    numpy = array_api_compat.numpy
    return oracle(*arrays_of(numpy, shapes), **options_of(numpy, shapes, names))


def without_value(shape):
    """Weights and scores have the batch axes of query and key alone."""
    return SHAPES[shape]._replace(value=SHAPES[shape].key)


@cache
def expected_weights(shape, names=()):
    shapes, numpy = without_value(shape), array_api_compat.numpy
    query, key, _ = arrays_of(numpy, shapes)
    return oracle(query, key, None, **options_of(numpy, shapes, names)).weights


@cache
def expected_scores(shape, names=()):
    shapes, numpy = without_value(shape), array_api_compat.numpy
    query, key, _ = arrays_of(numpy, shapes)
    return oracle_scores(query, key, **options_of(numpy, shapes, names))


def has_no(*arguments):
    """Say whether an option is one that a sibling without these arguments has."""
    return lambda name: not set(OPTIONS[name].arguments) & set(arguments)


WEIGHTS_OPTIONS = list(filter(has_no("dropout_mask"), OPTIONS))
SCORES_OPTIONS = list(filter(has_no("dropout_mask", "sinks"), OPTIONS))


class TestAttention:
    @but_jax
    @by_every_shape
    @by_engine
    def test_agrees_with_the_oracle_at_every_shape(self, xp, engine, shape):
        query, key, value = arrays_of(xp, SHAPES[shape])

        actual = af.attention(query, key, value, engine=engine)

        assert_agrees(actual, expected(shape).out)

    @at_two_shapes
    @by_option
    @by_engine
    def test_agrees_with_the_oracle_for_every_option(self, xp, engine, option, shape):
        query, key, value = arrays_of(xp, SHAPES[shape])
        options = options_of(xp, SHAPES[shape], [option])

        actual = af.attention(query, key, value, **options, engine=engine)

        assert_agrees(actual, expected(shape, (option,)).out)

    @but_jax
    @pytest.mark.parametrize("pair", PAIRS, ids="-".join)
    def test_agrees_with_the_oracle_for_every_pair_of_options(self, xp, pair):
        query, key, value = arrays_of(xp, SHAPES["distinct"])
        options = options_of(xp, SHAPES["distinct"], pair)

        actual = af.attention(query, key, value, **options)

        assert_agrees(actual, expected("distinct", pair).out)

    @but_jax
    @with_all_options
    @by_every_shape
    @by_engine
    def test_agrees_with_the_oracle_for_all_options_at_once(self, xp, engine, shape, names):
        query, key, value = arrays_of(xp, SHAPES[shape])
        options = options_of(xp, SHAPES[shape], names)

        actual = af.attention(query, key, value, **options, engine=engine)

        assert_agrees(actual, expected(shape, names).out)

    @but_jax
    @by_option
    @by_engine
    def test_agrees_with_the_oracle_in_float32(self, xp, engine, option):
        query, key, value = arrays_of(xp, SHAPES["distinct"], "float32")
        options = options_of(xp, SHAPES["distinct"], [option], "float32")

        actual = af.attention(query, key, value, **options, engine=engine)

        assert actual.dtype == xp.float32
        assert_agrees(actual, expected("distinct", (option,)).out, "float32")

    @with_all_options
    @by_engine
    def test_agrees_with_the_oracle_for_all_options_at_once_in_float32(self, xp, engine, names):
        query, key, value = arrays_of(xp, SHAPES["distinct"], "float32")
        options = options_of(xp, SHAPES["distinct"], names, "float32")

        compute = under_jit(xp, partial(af.attention, **options, engine=engine))

        actual = compute(query, key, value)

        assert actual.dtype == xp.float32
        assert_agrees(actual, expected("distinct", names).out, "float32")

    @pytest.mark.free_axes
    @but_jax
    @by_option
    def test_agrees_with_the_oracle_for_every_option_over_broadcast_batch_axes(
        self, xp, option
    ):
        query, key, value = arrays_of(xp, SHAPES["broadcast_batch"])
        options = options_of(xp, SHAPES["broadcast_batch"], [option])

        actual = af.attention(query, key, value, **options)

        assert_agrees(actual, expected("broadcast_batch", (option,)).out)

    @pytest.mark.free_axes
    @but_jax
    @by_option
    def test_agrees_with_the_oracle_for_every_option_without_heads(self, xp, option):
        query, key, value = arrays_of(xp, SHAPES["plain"])
        options = options_of(xp, SHAPES["plain"], [option])

        actual = af.attention(query, key, value, **options)

        assert_agrees(actual, expected("plain", (option,)).out)


class TestAttentionWithLse:
    @but_jax
    @by_every_shape
    @by_engine
    def test_agrees_with_the_oracle_at_every_shape(self, xp, engine, shape):
        query, key, value = arrays_of(xp, SHAPES[shape])

        out, lse = af.attention_with_lse(query, key, value, engine=engine)

        assert_agrees(out, expected(shape).out)
        assert_agrees(lse, expected(shape).lse)

    @at_two_shapes
    @by_option
    @by_engine
    def test_agrees_with_the_oracle_for_every_option(self, xp, engine, option, shape):
        query, key, value = arrays_of(xp, SHAPES[shape])
        options = options_of(xp, SHAPES[shape], [option])

        out, lse = af.attention_with_lse(query, key, value, **options, engine=engine)

        assert_agrees(out, expected(shape, (option,)).out)
        assert_agrees(lse, expected(shape, (option,)).lse)

    @but_jax
    @with_all_options
    @by_every_shape
    @by_engine
    def test_agrees_with_the_oracle_for_all_options_at_once(self, xp, engine, shape, names):
        query, key, value = arrays_of(xp, SHAPES[shape])
        options = options_of(xp, SHAPES[shape], names)

        out, lse = af.attention_with_lse(query, key, value, **options, engine=engine)

        assert_agrees(out, expected(shape, names).out)
        assert_agrees(lse, expected(shape, names).lse)


class TestAttentionWeights:
    @but_jax
    @by_every_shape
    def test_agree_with_the_oracle_at_every_shape(self, xp, shape):
        query, key, _ = arrays_of(xp, without_value(shape))

        actual = af.attention_weights(query, key)

        assert_agrees(actual, expected_weights(shape))

    @at_two_shapes
    @pytest.mark.parametrize("option", WEIGHTS_OPTIONS)
    def test_agree_with_the_oracle_for_every_option(self, xp, option, shape):
        query, key, _ = arrays_of(xp, without_value(shape))
        options = options_of(xp, without_value(shape), [option])

        actual = af.attention_weights(query, key, **options)

        assert_agrees(actual, expected_weights(shape, (option,)))

    @but_jax
    @with_all_options
    @by_every_shape
    def test_agree_with_the_oracle_for_all_options_at_once(self, xp, shape, names):
        names = tuple(filter(has_no("dropout_mask"), names))
        query, key, _ = arrays_of(xp, without_value(shape))
        options = options_of(xp, without_value(shape), names)

        actual = af.attention_weights(query, key, **options)

        assert_agrees(actual, expected_weights(shape, names))

    @pytest.mark.errors
    @pytest.mark.parametrize(
        "option", [{"engine": "dense"}, {"dropout_rate": 0.5}, {"dropout_mask": None}]
    )
    def test_have_no_option_that_needs_the_values(self, xp, option):
        query, key, _ = arrays_of(xp, SHAPES["one_head"])

        with pytest.raises(TypeError, match=next(iter(option))):
            af.attention_weights(query, key, **option)


class TestAttentionScores:
    @but_jax
    @by_every_shape
    def test_agree_with_the_oracle_at_every_shape(self, xp, shape):
        query, key, _ = arrays_of(xp, without_value(shape))

        actual = af.attention_scores(query, key)

        assert_agrees(actual, expected_scores(shape))

    @at_two_shapes
    @pytest.mark.parametrize("option", SCORES_OPTIONS)
    def test_agree_with_the_oracle_for_every_option(self, xp, option, shape):
        query, key, _ = arrays_of(xp, without_value(shape))
        options = options_of(xp, without_value(shape), [option])

        actual = af.attention_scores(query, key, **options)

        assert_agrees(actual, expected_scores(shape, (option,)))

    @but_jax
    @with_all_options
    @by_every_shape
    def test_agree_with_the_oracle_for_all_options_at_once(self, xp, shape, names):
        names = tuple(filter(has_no("dropout_mask", "sinks"), names))
        query, key, _ = arrays_of(xp, without_value(shape))
        options = options_of(xp, without_value(shape), names)

        actual = af.attention_scores(query, key, **options)

        assert_agrees(actual, expected_scores(shape, names))

    @pytest.mark.errors
    @pytest.mark.parametrize(
        "option", [{"sinks": 0.0}, {"engine": "dense"}, {"dropout_rate": 0.5}]
    )
    def test_have_no_option_of_the_softmax_or_the_values(self, xp, option):
        query, key, _ = arrays_of(xp, SHAPES["one_head"])

        with pytest.raises(TypeError, match=next(iter(option))):
            af.attention_scores(query, key, **option)


def run_everything(xp, shape, names, dtype, device=None):
    """Return (output, lse, weights, scores) with the named options."""
    shapes = SHAPES[shape]
    query, key, value = arrays_of(xp, shapes, dtype, device=device)
    options = options_of(xp, shapes, names, dtype, device)
    for_weights = {name: x for name, x in options.items() if "dropout" not in name}
    for_scores = {name: x for name, x in for_weights.items() if name != "sinks"}
    return (
        *af.attention_with_lse(query, key, value, **options),
        af.attention_weights(query, key, **for_weights),
        af.attention_scores(query, key, **for_scores),
    )


def assert_everything_agrees(results, shape, names, dtype):
    out, lse, weights, scores = results
    assert_agrees(out, expected(shape, names).out, dtype)
    assert_agrees(lse, expected(shape, names).lse, dtype)
    assert_agrees(weights, expected(shape, names).weights, dtype)
    for_scores = tuple(filter(has_no("dropout_mask", "sinks"), names))
    assert_agrees(scores, expected_scores(shape, for_scores), dtype)


@pytest.mark.libraries("jax", reason="jit is JAX's")
class TestJit:
    SHAPES = (
        "distinct",
        "equal",
        "plain",
        "headless_key",
        "unbatched_query",
        "broadcast_batch",
    )

    @with_all_options
    @pytest.mark.parametrize("shape", shape_params(*SHAPES))
    @by_named_engine
    def test_agrees_with_the_oracle_for_all_options_at_once(self, xp, engine, shape, names):
        arrays = arrays_of(xp, SHAPES[shape])
        options = options_of(xp, SHAPES[shape], names)
        compute = under_jit(xp, partial(af.attention_with_lse, **options, engine=engine))

        out, lse = compute(*arrays)

        assert_agrees(out, expected(shape, names).out)
        assert_agrees(lse, expected(shape, names).lse)

    @with_all_options
    def test_agrees_with_the_oracle_for_weights_and_scores(self, xp, names):
        for_weights = tuple(filter(has_no("dropout_mask"), names))
        for_scores = tuple(filter(has_no("dropout_mask", "sinks"), names))
        shapes = without_value("distinct")
        query, key, _ = arrays_of(xp, shapes)
        weigh = partial(af.attention_weights, **options_of(xp, shapes, for_weights))
        score = partial(af.attention_scores, **options_of(xp, shapes, for_scores))

        weights, scores = under_jit(xp, weigh)(query, key), under_jit(xp, score)(query, key)

        assert_agrees(weights, expected_weights("distinct", for_weights))
        assert_agrees(scores, expected_scores("distinct", for_scores))

    def test_takes_options_as_arguments_too(self, xp):
        """Traced: their values are not there to look at."""
        arrays = arrays_of(xp, SHAPES["distinct"])
        options = options_of(xp, SHAPES["distinct"], ALL_ARRAYS)
        traced = {name: x for name, x in options.items() if hasattr(x, "shape")}
        traced["segment_ids"] = options["segment_ids"]
        static = {name: x for name, x in options.items() if name not in traced}

        @partial(under_jit, xp)
        def compute(query, key, value, traced):
            return af.attention_with_lse(query, key, value, **traced, **static)

        out, lse = compute(*arrays, traced)

        assert set(traced) >= {"mask", "bias", "q_offset", "scale", "sinks", "dropout_mask"}
        assert_agrees(out, expected("distinct", ALL_ARRAYS).out)
        assert_agrees(lse, expected("distinct", ALL_ARRAYS).lse)


@pytest.mark.libraries(
    "array_api_strict", reason="the others have one device and one version here"
)
class TestTheStandard:
    @with_all_options
    @pytest.mark.parametrize(
        ("device", "dtype"),
        [
            ("CPU_DEVICE", "float64"),
            ("device1", "float64"),
            ("device2", "float64"),
            ("no_float64", "float32"),
            ("no_x64", "float32"),
        ],
    )
    def test_every_device_is_kept_to(self, xp, device, dtype, names):
        device = xp.Device(device)

        results = run_everything(xp, "distinct", names, dtype, device)

        assert [device_of(x) for x in results] == [device] * 4
        assert_everything_agrees(results, "distinct", names, dtype)

    @with_all_options
    @pytest.mark.parametrize("version", ["2024.12", "2025.12"])
    def test_every_version_since_2024_suffices(self, xp, version, names):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            flags = xp.ArrayAPIStrictFlags(api_version=version)

        with flags:
            results = run_everything(xp, "distinct", names, "float64")

        assert_everything_agrees(results, "distinct", names, "float64")

    @with_all_options
    def test_no_optional_part_of_the_standard_is_needed(self, xp, names):
        flags = xp.ArrayAPIStrictFlags(
            boolean_indexing=False, data_dependent_shapes=False, enabled_extensions=()
        )

        with flags:
            results = run_everything(xp, "distinct", names, "float64")

        assert_everything_agrees(results, "distinct", names, "float64")


class TestMatrixOfOptions:
    """The tests above prove nothing if an option of the matrix changes nothing."""

    @at_two_shapes
    @by_option
    def test_every_option_changes_the_result(self, option, shape):
        if OPTIONS[option].arguments == ("q_offset",):
            names = ("causal", option)
            plain = expected(shape, ("causal",))
        else:
            names, plain = (option,), expected(shape)

        result = expected(shape, names)

        assert not np.allclose(result.out, plain.out)

    @with_all_options
    @by_every_shape
    def test_all_options_at_once_leave_some_rows_alive(self, shape, names):
        weights = expected(shape, names).weights

        assert ((weights > 0).sum(-1) > 0).any()
        assert (weights == 0).any()
