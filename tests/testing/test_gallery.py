"""The gallery: each mutant is right but for its bug, which is found and named."""

import importlib

import numpy as np
import pytest
from oracle import oracle, oracle_gradients
from support import asarray, to_numpy
from testing.gallery import GALLERY

from attnfn.testing._diagnosis._faults import FAULTS
from attnfn.testing._dialects._translate import translated

BATCH, NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, VALUE_DIM = 2, 4, 2, 5, 3

TOLERANCE = {"float64": 1e-12, "float32": 3e-6, "float16": 2e-3, "bfloat16": 2e-2}

mutants = pytest.mark.parametrize("mutant", GALLERY.values(), ids=GALLERY)


def namespace_of(library):
    if library == "numpy":
        return np
    if library == "torch":
        pytest.importorskip("torch")
        return importlib.import_module("array_api_compat.torch")
    return pytest.importorskip("jax.numpy")


def problem(mutant, q_len, kv_len, seed):
    """Draw query, key, value, and every option that a mutant has."""
    rng = np.random.default_rng(seed)
    shape = (BATCH, NUM_HEADS, q_len, kv_len)
    query = rng.normal(size=(BATCH, NUM_HEADS, q_len, HEAD_DIM))
    key = rng.normal(size=(BATCH, NUM_KV_HEADS, kv_len, HEAD_DIM))
    value = rng.normal(size=(BATCH, NUM_KV_HEADS, kv_len, VALUE_DIM))
    options = {
        "mask": rng.random(shape) < 0.7,
        "bias": rng.normal(size=shape),
        "is_causal": True,
        "window_size": (2, 1),
        "q_offset": np.asarray([1, kv_len - q_len]),
        "segment_ids": (
            np.sort(rng.integers(3, size=(BATCH, q_len))),
            np.sort(rng.integers(3, size=(BATCH, kv_len))),
        ),
        "lengths": np.asarray([kv_len - 2, 0]),
        "scale": 0.7,
        "softcap": 1.5,
        "sinks": rng.normal(size=NUM_HEADS),
        "dropout_mask": rng.random(shape) < 0.75,
        "dropout_rate": 0.25,
    }
    options["mask"][0, 0, 0] = False  # a row without anything
    return query, key, value, {n: x for n, x in options.items() if n in mutant.options}


def choices(mutant, options):
    """Return what to ask for: nothing, each option, all of them."""
    belong = {"dropout_mask": "dropout_rate", "dropout_rate": "dropout_mask"}
    placed = {"is_causal", "window_size"} & set(options)
    yield {}
    for name in options:
        names = {name, belong.get(name, name)}
        if name in placed and "q_offset" in options:
            names.add("q_offset")
        yield {n: options[n] for n in names}
    if len(options) > 1:
        yield options


def given(mutant, dtype, arrays, options):
    xp = namespace_of(mutant.library)

    def one(x):
        if isinstance(x, tuple):
            return x if isinstance(x[0], int) else tuple(map(one, x))
        if not isinstance(x, np.ndarray):
            return x
        return asarray(xp, x, dtype if x.dtype.kind == "f" else None)

    return [one(x) for x in arrays], {name: one(x) for name, x in options.items()}


def rounded(x, dtype):
    return to_numpy(asarray(namespace_of("torch"), x, dtype)).astype("float64")


def exact(mutant, arrays, options):
    """Return the output and the log-sum-exp that are meant."""

    def core(query, key, value, **options):
        return oracle(query, key, value, **options)[:2]

    return translated(core, mutant.conventions)(*arrays, **options)


def draws(mutant, dtype):
    for seed, (q_len, kv_len) in enumerate([(9, 9), (3, 18)]):
        *arrays, options = problem(mutant, q_len, kv_len, seed)
        if dtype in ("float16", "bfloat16"):
            arrays = [rounded(x, dtype) for x in arrays]
        for chosen in choices(mutant, options):
            placed = {"is_causal", "window_size"} & set(chosen)
            explicit = mutant.conventions.alignment == "explicit"
            if placed and "q_offset" not in chosen and explicit and q_len != kv_len:
                continue
            yield arrays, chosen


class TestWithoutItsBug:
    @mutants
    def test_it_is_what_it_means_to_be(self, mutant):
        subject = mutant.subject(bug=False)
        for dtype in mutant.dtypes:
            for arrays, options in draws(mutant, dtype):
                out, lse = exact(mutant, arrays, options)
                inputs, chosen = given(mutant, dtype, arrays, options)

                close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
                found = subject.attention(*inputs, **chosen)
                np.testing.assert_allclose(to_numpy(found), out, **close)
                if subject.attention_with_lse is not None:
                    _, found_lse = subject.attention_with_lse(*inputs, **chosen)
                    np.testing.assert_allclose(to_numpy(found_lse), lse, **close)

    @pytest.mark.parametrize("mutant", [m for m in GALLERY.values() if m.vjp is not None])
    def test_so_are_its_gradients(self, mutant):
        for arrays, options in draws(mutant, "float64"):
            d_out = np.random.default_rng(7).normal(
                size=(*arrays[0].shape[:-1], arrays[2].shape[-1])
            )
            right = oracle_gradients(*arrays, d_out, **options)

            found = mutant.subject(bug=False).vjp(*arrays, d_out, **options)

            wanted = [right.query, right.key, right.value, right.bias, right.sinks]
            wanted = [x for x in wanted if x is not None]
            for one, other in zip(found, wanted, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)

    @mutants
    def test_nothing_hidden_reaches_it_unless_it_says_so(self, mutant):
        names = {"mask", "lengths", "is_causal"} & mutant.options
        if not names:
            return
        subject = mutant.subject(bug=False)
        query, key, value, options = problem(mutant, 9, 9, 0)
        options = {n: x for n, x in options.items() if n in names}
        if "mask" in options:
            options["mask"] = np.broadcast_to(np.arange(9) < 7, (BATCH, NUM_HEADS, 9, 9))
        if "lengths" in options:
            options["lengths"] = np.asarray([7, 5])
        hides = [
            f
            for f in ("hidden_key", "hidden_value")
            if getattr(mutant.conventions, f) == "kept_out"
        ]
        if set(options) <= {"is_causal"}:
            return

        arrays, chosen = given(mutant, mutant.dtypes[0], (query, key, value), options)
        clean = to_numpy(subject.attention(*arrays, **chosen))
        for place in hides:
            spoilt = [key.copy(), value.copy()]
            spoilt[place == "hidden_value"][:, :, 8] = np.nan
            arrays, chosen = given(mutant, mutant.dtypes[0], (query, *spoilt), options)
            np.testing.assert_array_equal(to_numpy(subject.attention(*arrays, **chosen)), clean)


class TestNames:
    @mutants
    def test_every_mutant_says_what_it_is(self, mutant):
        for name in mutant.expected + mutant.also:
            for one in name.split("|"):
                field, colon, _ = one.partition(": ")
                assert one in {*FAULTS, "unexplained"} or (
                    colon and field in mutant.conventions._fields
                ), one
        assert len(mutant.why) > 20

    def test_every_fault_has_a_mutant(self):
        named = {x for m in GALLERY.values() for n in m.expected for x in n.split("|")}

        assert set(FAULTS) - named == set()
