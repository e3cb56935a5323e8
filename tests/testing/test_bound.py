"""No correct computation is farther off than the bound says: shown on 10,000 random problems."""

import math

import numpy as np
import pytest
from support import asarray, to_numpy

import attnfn as af
from attnfn.testing import error_bound, oracle
from attnfn.testing._reference._call import read
from attnfn.testing._rounding._plain import plain
from attnfn.testing._rounding._precision import PRECISIONS, rounded

HALVES = ("float16", "bfloat16")


def problems(seed, count):
    """Draw one kind of problem, and `count` of it along the batch: logits and values of any size."""
    rng = np.random.default_rng(seed)
    num_heads = int(rng.choice([1, 2, 4]))
    num_kv_heads = int(rng.choice([n for n in (1, 2, 4) if num_heads % n == 0]))
    q_len, kv_len = int(rng.choice([1, 2, 3])), int(rng.choice([1, 2, 3, 8, 33, 100]))
    head_dim, value_dim = int(rng.choice([1, 2, 8, 64])), int(rng.choice([1, 3, 8]))

    def sizes(low, high):
        return 10 ** rng.uniform(low, high, size=(count, 1, 1, 1))

    query = rng.normal(size=(count, num_heads, q_len, head_dim)) * sizes(-1, 1.5)
    key = rng.normal(size=(count, num_kv_heads, kv_len, head_dim))
    value = rng.normal(size=(count, num_kv_heads, kv_len, value_dim)) * sizes(-3, 3)
    options = {}
    if rng.random() < 0.3:
        options |= {"is_causal": True, "q_offset": kv_len - q_len}
    if rng.random() < 0.3:
        options["mask"] = rng.random((count, 1, q_len, kv_len)) < 0.7
    if rng.random() < 0.3:
        options["softcap"] = float(rng.choice([1, 5, 30, 50]))
    if rng.random() < 0.3:
        options["bias"] = rng.normal(size=(num_heads, q_len, kv_len)) * rng.choice([1, 30])
    if rng.random() < 0.3:
        options["sinks"] = rng.normal(size=num_heads) * 3
    if rng.random() < 0.2:
        options["dropout_mask"] = rng.random((count, num_heads, q_len, kv_len)) < 0.7
        options["dropout_rate"] = 0.3
    return (query, key, value), options


def as_dtype(given, options, dtype):
    """Round a problem to a dtype, in arrays of the narrowest that NumPy has for it."""
    name = "float32" if dtype == "bfloat16" else dtype

    def cast(x):
        return rounded(x, PRECISIONS[dtype]).astype(name)

    floats = {name: cast(x) for name, x in options.items() if name in ("bias", "sinks")}
    return [cast(x) for x in given], options | floats


def shares(actual, given, options, **asked):
    """Return errors as parts of the bound."""
    error = abs(to_numpy(actual).astype(float) - oracle(*given, **options))
    bound = error_bound(*given, **options, **asked)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(error == 0, 0.0, error / bound)


class TestErrorBound:
    @pytest.mark.parametrize(
        ("dtype", "kinds", "of_each"), [("float32", 50, 200), ("float16", 50, 30)]
    )
    def test_no_engine_exceeds_it_on_10_000_problems(self, dtype, kinds, of_each):
        greatest, logits = {}, 0.0
        for seed in range(kinds):
            given, options = as_dtype(*problems(seed, of_each), dtype)
            exact, bound = oracle(*given, **options), error_bound(*given, **options)

            for engine in ("dense", "blockwise", "native"):
                out = af.attention(*given, **options, engine=engine).astype(float)
                ratio = abs(out - exact) / np.where(out == exact, 1.0, bound)
                greatest[engine] = max(greatest.get(engine, 0.0), ratio.max())
            logits = max(logits, abs(given[0] @ np.swapaxes(given[1][:, :1], -1, -2)).max())

        assert logits > 100
        assert max(greatest.values()) <= 1
        # Nor is it so large that it says nothing.
        assert min(greatest.values()) > 0.01

    @pytest.mark.parametrize("dtype", ["float32", *HALVES])
    @pytest.mark.parametrize("by", ["dense", "native"])
    @pytest.mark.libraries("torch", reason="it has kernels of its own, for halves too")
    def test_no_kernel_of_pytorch_exceeds_it(self, xp, by, dtype):
        for seed in range(100, 115):
            given, options = as_dtype(*problems(seed, 10), dtype)
            given = [asarray(xp, x, dtype) for x in given]
            kinds = {"bias": dtype, "sinks": dtype}
            options = {
                name: asarray(xp, x, kinds.get(name)) if isinstance(x, np.ndarray) else x
                for name, x in options.items()
            }

            out = af.attention(*given, **options, engine=by)

            assert shares(out, given, options).max() <= 1

    @pytest.mark.parametrize("dtype", HALVES)
    def test_what_rounds_every_step_is_within_that_of_its_compute_dtype(self, dtype):
        worst = 0.0
        for seed in range(10):
            given, options = as_dtype(*problems(seed, 10), dtype)
            precision = PRECISIONS[dtype]
            outputs = {"out": precision, "lse": precision.sums}

            out = plain(read(*given, **options), precision, outputs, None)["out"]

            asked = {"dtype": dtype, "compute_dtype": dtype}
            assert shares(out, given, options, **asked).max() <= 1
            worst = max(worst, shares(out, given, options, dtype=dtype).max())
        assert worst > 1

    def test_float64_is_within_it_beside_40_digits(self):
        for seed in range(8):
            given, options = problems(seed, 2)
            given = [x[..., :20, :8] for x in given]
            options = {name: x for name, x in options.items() if name in ("softcap", "sinks")}
            exact = oracle(*given, **options, digits=40)

            error = abs(af.attention(*given, **options) - exact).astype(float)

            assert (error <= error_bound(*given, **options)).all()

    def test_a_key_of_64_that_is_missed_exceeds_it(self):
        rng = np.random.default_rng(0)
        given = [rng.normal(size=(2, 4, n, 16)).astype(np.float32) for n in (5, 64, 64)]

        out = af.attention(*given, mask=np.arange(64) != 63)

        assert (shares(out, given, {}) > 1).mean() > 0.9

    @pytest.mark.free_axes
    def test_is_0_for_an_empty_row_inf_for_what_is_too_large_and_nan_for_nan(self):
        query, key = np.zeros((3, 1)), np.zeros((2, 1))
        value = np.asarray([[1.0], [65504.0]])
        mask = np.asarray([[False, False], [True, False], [False, True]])

        bound = error_bound(query, key, value, mask=mask, dtype="float16")

        assert bound[0, 0] == 0
        assert 2**-11 <= bound[1, 0] < 2**-8
        assert bound[2, 0] == math.inf
        value[1] = math.nan
        bound = error_bound(query, key, value, mask=mask)
        assert np.isnan(bound[:, 0]).tolist() == [False, False, True]

    @pytest.mark.errors
    def test_of_a_score_mod_nothing_is_known(self):
        x = np.ones((1, 2, 3))

        with pytest.raises(
            NotImplementedError, match=r"^`score_mod` must be None in error_bou"
        ):
            error_bound(x, x, x, score_mod=lambda s, p, j: s)
        with pytest.raises(ValueError, match=r"^`compute_dtype` must be one of 'float16'"):
            error_bound(x, x, x, compute_dtype="float8")
