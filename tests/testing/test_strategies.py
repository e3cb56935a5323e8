"""What the strategies draw: everything they promise, of any library, and small where it fails."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings

import attnfn as af
from attnfn.testing import assert_attention_close
from attnfn.testing.strategies import (
    FEATURES,
    NUMBERS,
    attention_problems,
    attention_shapes,
    float_arrays,
    masks,
)

# Some lack axes, or have other axes than the signatures spell.
pytestmark = pytest.mark.free_axes

many = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
searching = settings(many, max_examples=300)
CLOSED = [name for name in FEATURES if name != "score_mod"]


def parts(problem):
    *arrays, options = problem
    return arrays, options


def found(predicate, **asked):
    """Return the simplest problem for which a predicate holds; without one, an error."""
    return find(attention_problems(**asked), predicate, settings=searching)


class TestOurAttention:
    @many
    @given(attention_problems())
    def test_in_float32_is_close_to_the_oracle_on_all_that_is_drawn(self, problem):
        arrays, options = parts(problem)

        out, lse = af.attention_with_lse(*arrays, **options)

        assert_attention_close(out, *arrays, lse=lse, **options)

    @many
    @given(attention_problems(dtype="float64", features=CLOSED))
    def test_has_gradients_close_to_the_closed_form(self, problem):
        arrays, options = parts(problem)
        out = af.attention(*arrays, **options)
        d_out = np.cos(np.arange(out.size, dtype=float)).reshape(out.shape)

        gradients = af.attention_vjp(*arrays, d_out, **options)

        assert_attention_close(out, *arrays, d_out=d_out, gradients=gradients, **options)

    @pytest.mark.libraries("array_api_strict", "torch", reason="JAX compiles every shape")
    def test_is_close_to_it_on_other_libraries(self, xp):
        @settings(many, max_examples=40)
        @given(attention_problems(xp=xp))
        def is_close(problem):
            arrays, options = parts(problem)
            assert_attention_close(af.attention(*arrays, **options), *arrays, **options)

        is_close()

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    @pytest.mark.libraries("torch", reason="it has kernels for halves")
    def test_is_close_to_it_in_halves(self, xp, dtype):
        @settings(many, max_examples=40)
        @given(attention_problems(xp=xp, dtype=dtype))
        def is_close(problem):
            arrays, options = parts(problem)
            assert_attention_close(af.attention(*arrays, **options), *arrays, **options)

        is_close()


def has(name, kind=object):
    return lambda problem: name in problem.options and isinstance(problem.options[name], kind)


def array_of(name, ndim):
    def holds(problem):
        x = problem.options.get(name)
        return isinstance(x, np.ndarray) and x.ndim == ndim

    return holds


def any_array(predicate):
    return lambda problem: any(predicate(x) for x in problem[:3])


def heads(x):
    return x.shape[-3] if x.ndim > 2 else None


def has_empty_row(problem):
    arrays, options = parts(problem)
    return (af.attention_with_lse(*arrays, **options)[1] == -math.inf).any()


def hides_what_is_not_finite(problem):
    arrays, options = parts(problem)
    is_bad = not np.isfinite(arrays[1]).all()
    return is_bad and not np.isnan(af.attention(*arrays, **options)).any()


def logits(problem):
    with np.errstate(invalid="ignore"):
        return abs(problem.query).max(initial=0) * abs(problem.key).max(initial=0)


def least_of(x):
    return abs(x[x != 0]).min(initial=1.0)


KINDS = {
    "no option": lambda p: not p.options,
    "several options": lambda p: len(p.options) > 3,
    "no batch": lambda p: p.query.ndim == 3,
    "two batch axes": lambda p: p.query.ndim == 5,
    "no heads": lambda p: {x.ndim for x in p[:3]} == {2},
    "a key without heads": lambda p: p.key.ndim == 2 < p.query.ndim,
    "a batch that broadcasts": lambda p: (
        p.query.ndim == p.key.ndim > 3 and p.query.shape[:-3] != p.key.shape[:-3]
    ),
    "grouped heads": lambda p: 1 < (heads(p.key) or 1) < (heads(p.query) or 1),
    "one key head": lambda p: heads(p.key) == 1 < (heads(p.query) or 1),
    "no queries": lambda p: p.query.shape[-2] == 0,
    "no keys": lambda p: p.key.shape[-2] == 0,
    "no heads at all": lambda p: heads(p.query) == 0,
    "an empty batch": lambda p: p.query.ndim > 3 and p.query.shape[0] == 0,
    "no width": lambda p: p.query.shape[-1] == 0,
    "no width of values": lambda p: p.value.shape[-1] == 0,
    "lengths of 1": lambda p: p.query.shape[-2] == p.key.shape[-2] == 1,
    "other widths of values": lambda p: p.query.shape[-1] != p.value.shape[-1],
    "arrays that are not contiguous": any_array(lambda x: not x.flags.c_contiguous),
    "arrays with a stride of 0": any_array(lambda x: 0 in x.strides),
    "logits above 1000": lambda p: logits(p) > 1000,
    "denormal numbers": any_array(lambda x: least_of(x) < np.finfo(np.float32).tiny),
    "a NaN": any_array(lambda x: np.isnan(x).any()),
    "an inf": any_array(lambda x: np.isinf(x).any()),
    "hidden keys that are not finite": hides_what_is_not_finite,
    "an empty row": has_empty_row,
    "causal": has("is_causal"),
    "a window": lambda p: None not in p.options.get("window_size", [None]),
    "a window of one side": lambda p: p.options.get("window_size", (0,))[0] is None,
    "an offset": has("q_offset", int),
    "an offset from far away": lambda p: (
        np.max(abs(p.options.get("q_offset", 0)), initial=0) > 99
    ),
    "an offset for each of a batch": array_of("q_offset", 1),
    "segments": has("segment_ids", tuple),
    "segments of both": has("segment_ids", np.ndarray),
    "segments for each of a batch": lambda p: (
        np.ndim(p.options.get("segment_ids", [0])[0]) == 2
    ),
    "a mask of keys": array_of("mask", 1),
    "a mask of a matrix": array_of("mask", 2),
    "a mask with axes of 1": lambda p: array_of("mask", 4)(p) and 1 in p.options["mask"].shape,
    "a mask as a function": lambda p: callable(p.options.get("mask")),
    "a bias per head": lambda p: array_of("bias", 3)(p) and p.query.ndim > 3,
    "a bias of -inf": lambda p: (
        has("bias", np.ndarray)(p) and np.isinf(p.options["bias"]).any()
    ),
    "a bias as a function": lambda p: callable(p.options.get("bias")),
    "a scale": has("scale", float),
    "a scale as an array": has("scale", np.ndarray),
    "a softcap": has("softcap"),
    "a sink": has("sinks", float),
    "sinks per head": array_of("sinks", 1),
    "dropout": has("dropout_rate"),
    "a score_mod": has("score_mod"),
}


class TestAttentionProblems:
    def test_are_of_every_kind_that_is_promised(self):
        missing = dict(KINDS)

        def look(problem):
            seen = [kind for kind, is_there in missing.items() if is_there(problem)]
            for kind in seen:
                del missing[kind]

        # Where everything is drawn, two that are rare seldom meet.
        parts_of_it = (
            FEATURES,
            {"free_axes", "grouped_heads", "no_length", "layouts"},
            {"q_offset", "causal", "window", "segments", "score_mod"},
            {"mask", "bias", "functions", "sinks", "scale", "lengths"},
            {"not_finite", "mask", "large_logits", "denormals"},
        )
        generating = settings(many, max_examples=250, phases=[Phase.generate])
        for features in parts_of_it:
            generating(given(attention_problems(features=features))(look))()

        assert list(missing) == []

    def test_shrink_to_one_number_each_and_no_option(self):
        problems = attention_problems(max_len=4, max_heads=2, max_dim=3)

        query, key, value, options = find(
            problems, lambda problem: True, settings=settings(many, max_examples=2000)
        )

        assert (query.shape, key.shape, value.shape) == ((1, 1, 1),) * 3
        assert query == key == value == 0
        assert options == {}

    def test_shrink_to_what_a_fault_needs(self):
        def is_off_by_one(problem):
            arrays, options = parts(problem)
            wrong = options | {"is_causal": False}
            if options.get("is_causal"):
                wrong["window_size"] = (None, 1)
            return not np.array_equal(
                af.attention(*arrays, **options), af.attention(*arrays, **wrong), equal_nan=True
            )

        query, key, value, options = found(
            is_off_by_one, features={"causal", "softcap", "bias"}
        )

        assert query.shape[-2] + key.shape[-2] <= 4
        assert set(options) <= {"is_causal", "q_offset"}
        assert math.prod(value.shape) <= 4

    def test_stay_within_what_is_asked_for(self):
        @many
        @given(
            attention_problems(
                features={"mask", "bias"}, max_features=1, max_len=3, max_heads=2, max_dim=4
            )
        )
        def are_narrow(problem):
            assert len(problem.options) <= 1
            assert problem.options.keys() <= {"mask", "bias"}
            assert max(problem.query.shape[-2], problem.key.shape[-2]) <= 3
            assert problem.query.shape[-3] <= 2
            assert problem.query.shape[-1] <= 4
            assert all(np.isfinite(x).all() for x in problem[:3])

        are_narrow()

    def test_are_arrays_of_the_library_and_dtype(self, xp):
        problem = find(
            attention_problems(
                xp=xp, dtype="float32", features=["bias", "layouts", "segments"]
            ),
            lambda problem: {"bias", "segment_ids"} <= problem.options.keys(),
            settings=searching,
        )

        arrays = [*problem[:3], problem.options["bias"]]
        assert [x.dtype for x in arrays] == [xp.float32] * 4
        out = af.attention(*arrays[:3], **problem.options)
        assert out.dtype == xp.float32

    @pytest.mark.parametrize(
        ("asked", "error", "words"),
        [
            ({"features": ["colour"]}, ValueError, "`features` must be one of 'scale', 'mask'"),
            ({"dtype": "int8"}, ValueError, "`dtype` must be one of 'float16'"),
            (
                {"dtype": "bfloat16"},
                TypeError,
                "`dtype` must be a dtype of numpy; got 'bfloat16'",
            ),
            ({"max_len": 0}, ValueError, "`max_len` must be 1 or more; got 0"),
            ({"max_features": -1}, ValueError, "`max_features` must be 0 or more; got -1"),
        ],
    )
    def test_of_what_is_not_known_are_refused(self, asked, error, words):
        with pytest.raises(error, match=words):
            attention_problems(**asked)


class TestParts:
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
    @pytest.mark.parametrize("numbers", NUMBERS)
    def test_numbers_are_those_of_the_dtype(self, numbers, dtype):
        x = find(
            float_arrays((3, 4), dtype=dtype, numbers=[numbers]),
            lambda x: numbers == "zeros" or x.any(),
            settings=searching,
        )

        assert x.dtype == {"bfloat16": "float32"}.get(dtype, dtype)
        tiny = {"bfloat16": 2.0**-126}.get(dtype) or np.finfo(x.dtype).tiny
        assert (least_of(x) < tiny) == (numbers == "denormal")
        assert (abs(x).max() > 7) == (numbers == "large")

    def test_masks_broadcast_to_the_scores(self):
        @many
        @given(masks((2, 1, 3, 4)))
        def broadcast(mask):
            assert np.broadcast_to(mask, (2, 1, 3, 4)).dtype == bool

        broadcast()

    def test_shapes_fit_together(self):
        @many
        @given(attention_shapes(no_length=True))
        def fit(shapes):
            arrays = [np.zeros(shape) for shape in shapes]
            out = af.attention_scores(*arrays[:2], scale=1.0)
            assert out.shape == shapes.scores or arrays[2].ndim > out.ndim - 1

        fit()
