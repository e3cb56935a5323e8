"""What passes as attention, what does not, and what is then said."""

import math

import numpy as np
import pytest
from problems import (
    ALL_ARRAYS,
    ALL_FUNCTIONS,
    SHAPES,
    Shapes,
    arrays_of,
    options_of,
    shape_params,
)
from support import asarray

import attnfn as af
from attnfn.testing import assert_attention_close, oracle
from attnfn.testing._rounding._compare import compare
from attnfn.testing._rounding._precision import PRECISIONS, rounded

#: Long enough that one key of 64 is a small part of every row.
FAULTY = Shapes((2, 4, 5, 16), (2, 2, 64, 16), (2, 2, 64, 8))
CLOSED = [name for name in ALL_ARRAYS if name != "score_mod"]
HALVES = ("float16", "bfloat16")


def arrays(dtype="float32", shapes=FAULTY, size=1.0, seed=0):
    """Standard normal numbers, as exactly as `dtype` holds them."""
    rng = np.random.default_rng(seed)
    drawn = (rng.normal(size=shape) * size for shape in shapes)
    return tuple(to_dtype(x, dtype) for x in drawn)


def to_dtype(x, dtype):
    return rounded(x, PRECISIONS[dtype]) if dtype in HALVES else x.astype(dtype)


def verdict(actual, *given, dtype=None, factor=2.0, **options):
    """Return what the assertion goes by."""
    asked = {"lse": None, "d_out": None, "d_lse": None, "gradients": None}
    asked |= {name: options.pop(name) for name in asked if name in options}
    return compare(actual, *given, dtype=dtype, factor=factor, options=options, **asked)


def message(actual, *given, **options):
    with pytest.raises(AssertionError) as error:
        assert_attention_close(actual, *given, **options)
    return str(error.value).splitlines()


class TestPasses:
    @pytest.mark.parametrize("names", [ALL_ARRAYS, ALL_FUNCTIONS], ids=["arrays", "functions"])
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_every_library_in_full_precision(self, xp, dtype, names):
        shapes = SHAPES["equal_grouped"]
        given, options = arrays_of(xp, shapes, dtype), options_of(xp, shapes, names, dtype)

        out, lse = af.attention_with_lse(*given, **options)

        assert_attention_close(out, *given, lse=lse, **options)

    @pytest.mark.parametrize("dtype", HALVES)
    @pytest.mark.libraries("torch", "jax", reason="the others have no bfloat16")
    def test_every_library_in_half_precision(self, xp, dtype):
        shapes = SHAPES["equal_grouped"]
        given = [asarray(xp, x, dtype) for x in arrays(shapes=shapes)]

        out, lse = af.attention_with_lse(*given, is_causal=True, q_offset=2)

        assert_attention_close(out, *given, lse=lse, is_causal=True, q_offset=2)

    @pytest.mark.parametrize("shapes", shape_params())
    def test_gradients_of_every_shape(self, shapes):
        shapes = SHAPES[shapes]
        given, options = arrays_of(np, shapes), options_of(np, shapes, CLOSED)
        out, lse = af.attention_with_lse(*given, **options)
        rng = np.random.default_rng(0)
        above = {"d_out": rng.normal(size=out.shape), "d_lse": rng.normal(size=lse.shape)}

        gradients = af.attention_vjp(*given, above["d_out"], d_lse=above["d_lse"], **options)

        assert_attention_close(out, *given, lse=lse, gradients=gradients, **above, **options)

    @pytest.mark.parametrize("size", [0.0, 1e-30, 1.0, 30.0, 1e4])
    @pytest.mark.parametrize("by", ["dense", "blockwise", "native"])
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_numbers_of_any_size(self, dtype, by, size):
        given = arrays(dtype, size=size)

        out, lse = af.attention_with_lse(*given, engine=by)

        assert_attention_close(out, *given, lse=lse)

    @pytest.mark.parametrize("axis", ["batch", "heads", "q_len", "kv_len", "value_dim"])
    def test_a_length_of_0(self, axis):
        sizes = {"batch": 2, "heads": 3, "q_len": 4, "kv_len": 5, "value_dim": 6} | {axis: 0}
        batch, heads, q_len, kv_len, value_dim = sizes.values()
        shapes = ((q_len, 2), (kv_len, 2), (kv_len, value_dim))
        given = [np.ones((batch, heads, *shape)) for shape in shapes]
        out, lse = af.attention_with_lse(*given)

        gradients = af.attention_vjp(*given, out)

        assert_attention_close(out, *given, lse=lse, d_out=out, gradients=gradients)

    @pytest.mark.parametrize("which", range(3), ids=["query", "key", "value"])
    def test_rows_that_see_a_nan_and_rows_that_see_nothing(self, which):
        given = list(arrays_of(np, FAULTY))
        given[which][:, :, 1, 0] = math.nan
        options = {"mask": np.tri(5, 64, -1, bool), "sinks": np.zeros(4)}
        out, lse = af.attention_with_lse(*given, **options)
        above = {"d_out": np.ones(out.shape), "d_lse": np.ones(lse.shape)}

        gradients = af.attention_vjp(*given, above["d_out"], d_lse=above["d_lse"], **options)

        assert np.isnan(out).any()
        assert_attention_close(out, *given, lse=lse, gradients=gradients, **above, **options)

    @pytest.mark.free_axes
    def test_what_is_too_large_for_the_dtype(self):
        query = key = np.zeros((2, 1), np.float16)
        value = np.asarray([[65504.0, 1.0], [65504.0, 1.0]], np.float16)

        assert_attention_close(np.asarray([[math.inf, 1.0]] * 2, np.float16), query, key, value)

    @pytest.mark.free_axes
    def test_what_adds_up_in_another_order(self):
        given = arrays(shapes=Shapes((1, 1, 3, 64), (1, 1, 1000, 64), (1, 1, 1000, 4)))
        query, key, value = (x[0, 0] for x in given)
        weights = np.exp((query / 8) @ key.T)

        out = np.zeros((3, 4), np.float32)
        for weight, row in zip(weights.T[::-1], value[::-1], strict=True):
            out = out + weight[:, None] * row

        assert_attention_close(out / weights.sum(1, keepdims=True), query, key, value)

    @pytest.mark.parametrize("dtype", HALVES)
    def test_what_computes_in_half_precision_throughout(self, dtype):
        torch = pytest.importorskip("torch")
        for seed, size in enumerate((0.3, 1.0, 3.0, 10.0)):
            given = [
                torch.from_numpy(x).to(getattr(torch, dtype)).requires_grad_()
                for x in arrays(size=size, seed=seed, shapes=SHAPES["equal"])
            ]
            out = torch.softmax(given[0] @ given[1].mT / 2, -1) @ given[2]
            d_out = torch.ones_like(out)

            gradients = torch.autograd.grad(out, given, d_out)

            assert_attention_close(out, *given, d_out=d_out, gradients=gradients)


class TestCatches:
    """Small faults, each of a correct computation in float32 but for one thing."""

    def test_weights_of_bfloat16_in_a_float32_kernel(self):
        query, key, value = given = arrays()
        weights = rounded(af.attention_weights(query, key), PRECISIONS["bfloat16"])

        out = weights @ np.repeat(value, 2, axis=1)

        assert verdict(out, *given).compared[0].wrong.mean() > 0.9

    @pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
    def test_one_key_of_64_that_is_missed(self, dtype):
        given = arrays(dtype)

        out = to_dtype(oracle(*given, mask=np.arange(64) != 63), dtype)

        assert verdict(out, *given, dtype=dtype).compared[0].wrong.mean() > 0.3

    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    def test_a_scale_that_is_off_by_a_hundredth(self, dtype):
        given = arrays(dtype)

        out = to_dtype(oracle(*given, scale=1.01 / 4), dtype)

        assert verdict(out, *given, dtype=dtype).compared[0].wrong.mean() > 0.3

    @pytest.mark.parametrize("size", [1e-3, 1e3])
    def test_an_error_in_the_one_row_that_is_small(self, size):
        query, key, value = arrays()
        value = value * np.asarray([1, size], np.float32).reshape(2, 1, 1, 1)
        out = af.attention(query, key, value)

        out[0 if size > 1 else 1, 0, 0] *= 1.001

        assert verdict(out, query, key, value).compared[0].wrong.sum() == 8

    @pytest.mark.parametrize("name", ["query", "key", "value", "bias", "sinks"])
    def test_a_gradient_that_is_off_by_a_thousandth(self, name):
        given = arrays()
        options = {"bias": np.ones((5, 64), np.float32), "sinks": np.ones(4, np.float32)}
        out = af.attention(*given, **options)
        exact = af.attention_vjp(*given, out, **options)

        gradients = exact._replace(**{name: getattr(exact, name) * np.float32(1.001)})

        found = verdict(out, *given, d_out=out, gradients=gradients, **options)
        assert [x.name for x in found.compared if x.wrong.any()] == [name]

    def test_an_lse_of_base_2(self):
        given = arrays()
        out, lse = af.attention_with_lse(*given)

        found = verdict(out, *given, lse=lse / np.float32(math.log(2)))

        assert [x.name for x in found.compared if x.wrong.any()] == ["lse"]

    def test_float32_that_a_half_can_be_held_to(self):
        given = arrays("bfloat16")
        weights = rounded(af.attention_weights(*given[:2]), PRECISIONS["bfloat16"])
        right = to_dtype(af.attention(*given), "bfloat16")
        wrong = weights @ np.repeat(given[2], 2, axis=1)
        torch = pytest.importorskip("torch")
        given = [torch.from_numpy(x).bfloat16() for x in given]

        exact, rough = (torch.from_numpy(x).bfloat16() for x in (right, wrong))

        assert_attention_close(rough, *given)
        assert_attention_close(exact, *given, dtype="float32")
        with pytest.raises(AssertionError):
            assert_attention_close(rough, *given, dtype="float32")


def small():
    """Three queries, four keys, and what is right."""
    query = np.asarray([[[1, 0], [0, 1], [1, 1]]], np.float32)
    key = np.asarray([[[1, 0], [0, 1], [1, 1], [2, 0]]], np.float32)
    value = np.arange(4, dtype=np.float32).reshape(1, 4, 1)
    options = {"is_causal": True, "q_offset": 1, "mask": np.arange(4) != 0}
    return (query, key, value), options, af.attention(query, key, value, **options)


class TestMessage:
    def test_shows_where_how_much_and_what_the_row_could_attend_to(self):
        given, options, out = small()
        out[0, 1, 0] += 0.5

        assert message(out, *given, **options) == [
            "This is not attention, to float32 and a factor of 2.",
            "`actual`: 1 of 3 elements is wrong, in 1 of 3 rows.",
            "    at (0, 1, 0): got 2, wanted 1.5; off by 0.5, where 2.93e-06 is allowed",
            "    row (0, 1), at position 2, may attend to keys 1-2 of 4",
            "        mask hides 0",
            "        is_causal hides 3",
        ]

    def test_shows_every_result_that_is_wrong(self):
        given, options, out = small()
        _, lse = af.attention_with_lse(*given, **options)
        exact = af.attention_vjp(*given, out, **options)
        gradients = exact._replace(
            query=exact.query + 1, key=exact.key + 1, value=exact.value + 1
        )

        found = message(out, *given, lse=lse + 1, d_out=out, gradients=gradients, **options)

        heads = [line for line in found if line.startswith("`")]
        rows = [line for line in found if line.startswith("    row")]
        assert heads == [
            "`lse`: 3 of 3 elements are wrong.",
            "`gradients.query`: 6 of 6 elements are wrong, in 3 of 3 rows.",
            "`gradients.key`: 8 of 8 elements are wrong, in 4 of 4 rows.",
            "`gradients.value`: 4 of 4 elements are wrong, in 4 of 4 rows.",
        ]
        assert rows[0] == "    row (0, 0), at position 1, may attend to key 1 of 4"
        assert rows[2] == "    row (0, 0), key 0, may be attended to by no query of 3"

    def test_shows_a_nan_first(self):
        given, options, out = small()
        out[0, 0] = 100.0
        out[0, 2] = math.nan

        assert message(out, *given, **options)[1:3] == [
            "`actual`: 2 of 3 elements are wrong, in 2 of 3 rows; 1 is NaN.",
            "    at (0, 2, 0): got nan, wanted 2.2",
        ]

    def test_shows_what_is_not_finite_where_a_nan_is_missing(self):
        (query, key, value), options, out = small()
        value[0, 2] = math.inf

        assert message(out, query, key, value, **options)[1:] == [
            "`actual`: 2 of 3 elements are wrong, in 2 of 3 rows.",
            "    at (0, 1, 0): got 1.5, wanted nan",
            "    row (0, 1), at position 2, may attend to keys 1-2 of 4",
            "        mask hides 0",
            "        is_causal hides 3",
            "        there is a NaN or an inf in value 2",
        ]

    def test_shows_what_a_bias_hides_and_an_empty_row(self):
        given, _, _ = small()
        bias = np.zeros((3, 4), np.float32)
        bias[0] = -math.inf
        bias[1, :2] = -math.inf
        out = af.attention(*given, bias=bias)

        out[0, :2] += 1

        assert message(out, *given, bias=bias)[2:] == [
            "    at (0, 0, 0): got 1, wanted 0; off by 1, where 1.11e-37 is allowed",
            "    row (0, 0), at position 0, may attend to keys 0-3 of 4",
            "        bias is -inf at 0-3",
        ]
        mask = np.zeros((3, 4), bool)
        assert message(out, *given, mask=mask)[3:] == [
            "    row (0, 1), at position 1, may attend to no key of 4",
            "        mask hides 0-3",
        ]

    @pytest.mark.free_axes
    def test_cuts_long_lists_short(self):
        query, key = np.zeros((1, 2)), np.zeros((40, 2))
        mask = np.arange(40) % 2 == 0

        found = message(np.ones((1, 1)), query, key, np.zeros((40, 1)), mask=mask)

        assert found[-2:] == [
            "    row (0), at position 0, may attend to keys "
            "0, 2, 4, 6, 8, 10, 12, 14 and 12 more runs of 40",
            "        mask hides 1, 3, 5, 7, 9, 11, 13, 15 and 12 more runs",
        ]

    def test_says_that_all_is_zero(self):
        given, options, out = small()

        assert message(out * 0, *given, **options)[1:] == [
            "`actual` is 0 everywhere; wanted up to 2.2."
        ]

    def test_says_so_even_where_the_precision_allows_anything(self):
        given = [rounded(x, PRECISIONS["bfloat16"]) for x in arrays(size=100.0)]
        out = np.zeros((2, 4, 5, 8), np.float32)

        assert "is 0 everywhere" in message(out, *given, dtype="bfloat16")[1]

    @pytest.mark.errors
    def test_says_which_shapes_and_dtypes_are_wrong(self):
        given, options, out = small()
        _, lse = af.attention_with_lse(*given, **options)
        gradients = [x.astype(np.float64) for x in given]

        found = message(
            out[0],
            *given,
            lse=lse.astype(np.float16),
            d_out=out,
            gradients=gradients,
            **options,
        )

        assert found[1:] == [
            "`actual` must have shape (1, 3, 1); got (3, 1).",
            "`lse` must have dtype float32, in which float32 is computed; got float16.",
            "`gradients.query` must have the dtype of `query`, float32; got float64.",
            "`gradients.key` must have the dtype of `key`, float32; got float64.",
            "`gradients.value` must have the dtype of `value`, float32; got float64.",
        ]

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_comes_for_whatever_is_not_finite(self, bad):
        given, options, out = small()
        out[0, 1, 0] = bad

        assert message(out, *given, **options)[2] == f"    at (0, 1, 0): got {bad}, wanted 1.5"


@pytest.mark.errors
class TestRefusals:
    @pytest.mark.parametrize(
        ("asked", "error", "words"),
        [
            ({"gradients": ()}, ValueError, "`gradients` must come with `d_out`"),
            ({"d_out": np.ones((1, 3, 1))}, ValueError, "`d_out` must be None without `grad"),
            (
                {"gradients": 3, "d_out": np.ones((1, 3, 1))},
                TypeError,
                r"`gradients` must be a tuple \(query, key, value, bias, sinks\), or the first",
            ),
            ({"dtype": "int8"}, ValueError, "`dtype` must be one of 'float16', 'bfloat16', "),
            ({"factor": 0}, ValueError, "`factor` must be finite and greater than 0; got 0"),
            ({"engine": "dense"}, TypeError, r"assert_attention_close\(\) has no option `eng"),
        ],
    )
    def test_are_of_wrong_calls_not_of_wrong_results(self, asked, error, words):
        given, options, out = small()

        with pytest.raises(error, match=words):
            assert_attention_close(out, *given, **asked, **options)


class TestRounded:
    def test_float16_is_that_of_numpy_and_bfloat16_that_of_torch(self):
        torch = pytest.importorskip("torch")
        rng = np.random.default_rng(0)
        x = (rng.normal(size=4000) * 10.0 ** rng.integers(-40, 39, 4000)).astype(np.float32)
        x = np.concatenate([x, np.float32([0, -0.0, math.inf, -math.inf, math.nan, 3.4e38])])

        with np.errstate(over="ignore"):
            half = x.astype(np.float16)

        np.testing.assert_array_equal(rounded(x, PRECISIONS["float16"]), half)
        brain = torch.from_numpy(x).bfloat16().float().numpy()
        np.testing.assert_array_equal(rounded(x, PRECISIONS["bfloat16"]), brain)

    @pytest.mark.parametrize("name", PRECISIONS)
    def test_unit_is_the_most_that_rounding_loses(self, name):
        x = np.random.default_rng(0).uniform(1, 2, 10000)

        lost = abs(rounded(x, PRECISIONS[name]) - x).max()

        assert lost == 0 if name == "float64" else 0.9 < lost / PRECISIONS[name].unit < 1.001
