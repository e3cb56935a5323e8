"""`merge_attentions`: attention over a union of disjoint sets of keys, from the parts."""

import math
from functools import partial

import numpy as np
import pytest
from oracle import oracle
from problems import Shapes, arrays_of, assert_agrees, gradients_of, under_jit
from support import asarray, device_of, normal, to_numpy

import attnfn as af

differentiable = pytest.mark.libraries("torch", "jax", reason="the others do not differentiate")

SHAPES = Shapes((2, 4, 5, 6), (2, 2, 9, 6), (2, 2, 9, 3))
#: Where the nine keys are cut into parts.
CUTS = {
    "two": [slice(0, 4), slice(4, 9)],
    "one": [slice(0, 9)],
    "three": [slice(0, 1), slice(1, 7), slice(7, 9)],
    "with_an_empty_one": [slice(0, 4), slice(4, 4), slice(4, 9)],
    "out_of_order": [slice(6, 9), slice(0, 2), slice(2, 6)],
}
FORMS = {
    "lists": lambda xp, parts: parts,
    "tuples": lambda xp, parts: tuple(map(tuple, parts)),
    "stacked": lambda xp, parts: [xp.stack(list(part), axis=0) for part in parts],
}
by_form = pytest.mark.parametrize("form", FORMS)


def parts_of(xp, arrays, cuts):
    """Return (outs, lses): attention over each slice of the keys."""
    query, key, value = arrays
    compute = under_jit(xp, af.attention_with_lse)
    parts = [compute(query, key[..., cut, :], value[..., cut, :]) for cut in cuts]
    return [out for out, _ in parts], [lse for _, lse in parts]


def dead_part(xp, out, lse, filling=0.0):
    """Return the identity of the merge, with anything at all as its output."""
    return xp.zeros_like(out) + filling, xp.zeros_like(lse) - math.inf


class TestMergeAttentions:
    @by_form
    @pytest.mark.parametrize("cuts", CUTS)
    def test_of_the_parts_is_the_whole(self, xp, cuts, form):
        arrays = arrays_of(xp, SHAPES)
        outs, lses = FORMS[form](xp, parts_of(xp, arrays, CUTS[cuts]))

        out, lse = af.merge_attentions(outs, lses)

        expected = oracle(*map(to_numpy, arrays))
        assert_agrees(out, expected.out)
        assert_agrees(lse, expected.lse)

    def test_of_masked_parts_is_the_masked_whole(self, xp):
        arrays = arrays_of(xp, SHAPES)
        parts = []
        for cut in CUTS["three"]:
            query, key, value = arrays[0], *(x[..., cut, :] for x in arrays[1:])
            options = {"is_causal": True, "q_offset": 2 - cut.start}
            compute = under_jit(xp, partial(af.attention_with_lse, **options))
            parts.append(compute(query, key, value))
        outs, lses = zip(*parts, strict=True)

        out, lse = af.merge_attentions(outs, lses)

        expected = oracle(*map(to_numpy, arrays), is_causal=True, q_offset=2)
        assert (to_numpy(lses[2]) == -math.inf).any()
        assert_agrees(out, expected.out)
        assert_agrees(lse, expected.lse)

    @by_form
    @pytest.mark.parametrize("filling", [0.0, math.nan, math.inf], ids=str)
    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_ignores_a_part_whose_lse_is_minus_infinity(self, xp, form, filling, place):
        outs, lses = parts_of(xp, arrays_of(xp, SHAPES), CUTS["two"])
        expected_out, expected_lse = map(to_numpy, af.merge_attentions(outs, lses))
        dead_out, dead_lse = dead_part(xp, outs[0], lses[0], filling)
        outs.insert(place, dead_out)
        lses.insert(place, dead_lse)

        out, lse = af.merge_attentions(*FORMS[form](xp, (outs, lses)))

        assert_agrees(out, expected_out)
        assert_agrees(lse, expected_lse)

    @pytest.mark.parametrize("filling", [0.0, math.nan, math.inf], ids=str)
    def test_of_dead_parts_alone_is_dead(self, xp, filling):
        outs, lses = parts_of(xp, arrays_of(xp, SHAPES), CUTS["one"])
        dead_out, dead_lse = dead_part(xp, outs[0], lses[0], filling)

        out, lse = af.merge_attentions([dead_out] * 2, [dead_lse] * 2)

        assert np.array_equal(to_numpy(out), np.zeros((2, 4, 5, 3)))
        assert np.array_equal(to_numpy(lse), np.full((2, 4, 5), -math.inf))

    def test_of_rows_dead_in_some_parts_keeps_the_others(self, xp):
        """Row by row: one part may be dead in a row where the other is alive."""
        outs = [asarray(xp, np.asarray([[1.0], [math.nan], [3.0]])) for _ in range(2)]
        first = asarray(xp, np.asarray([0.0, -math.inf, -math.inf]))
        second = asarray(xp, np.asarray([-math.inf, -math.inf, 2.0]))

        out, lse = af.merge_attentions(outs, [first, second])

        assert np.array_equal(to_numpy(out), [[1.0], [0.0], [3.0]])
        assert np.array_equal(to_numpy(lse), [0.0, -math.inf, 2.0])

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_of_no_parts_in_a_stack_is_dead(self, xp, dtype):
        outs = asarray(xp, np.zeros((0, 2, 5, 3)), dtype)
        lses = asarray(xp, np.zeros((0, 2, 5)), dtype)

        out, lse = af.merge_attentions(outs, lses)

        assert np.array_equal(to_numpy(out), np.zeros((2, 5, 3)))
        assert np.array_equal(to_numpy(lse), np.full((2, 5), -math.inf))
        assert out.dtype == lse.dtype == getattr(xp, dtype)

    @pytest.mark.parametrize("sink", [0.5, -3.0, 40.0])
    def test_of_a_sink_as_a_part_is_attention_with_the_sink(self, xp, sink):
        arrays = arrays_of(xp, SHAPES)
        outs, lses = parts_of(xp, arrays, CUTS["two"])
        outs.append(xp.zeros_like(outs[0]))
        lses.append(xp.zeros_like(lses[0]) + sink)

        out, lse = af.merge_attentions(outs, lses)

        expected = oracle(*map(to_numpy, arrays), sinks=sink)
        assert_agrees(out, expected.out)
        assert_agrees(lse, expected.lse)

    def test_is_associative_and_commutative(self, xp):
        (a, b, c), (la, lb, lc) = parts_of(xp, arrays_of(xp, SHAPES), CUTS["three"])

        left_out, left_lse = af.merge_attentions([a, b], [la, lb])
        left = af.merge_attentions([left_out, c], [left_lse, lc])
        right_out, right_lse = af.merge_attentions([c, b], [lc, lb])
        right = af.merge_attentions([a, right_out], [la, right_lse])

        for x, y in zip(left, right, strict=True):
            assert_agrees(x, to_numpy(y))

    @pytest.mark.parametrize("shift", [-1e4, 1e4, 1e300])
    def test_of_great_lses_does_not_overflow(self, xp, shift):
        outs = [normal(xp, 2, 3, seed=seed) for seed in range(2)]
        lses = [
            asarray(xp, np.asarray([0.0, 1.0]) + shift),
            asarray(xp, np.asarray([1.0, -1.0]) + shift),
        ]

        out, lse = af.merge_attentions(outs, lses)

        a, b = map(to_numpy, lses)
        share = (1 / (1 + np.exp(b - a)))[:, None]
        expected = share * to_numpy(outs[0]) + (1 - share) * to_numpy(outs[1])
        assert_agrees(out, expected)
        assert_agrees(lse, np.logaddexp(a, b))

    def test_is_computed_in_the_dtype_of_the_lse(self, xp):
        outs, lses = parts_of(xp, arrays_of(xp, SHAPES, "float32"), CUTS["three"])
        wide_lses = [xp.astype(lse, xp.float64) for lse in lses]

        out, lse = af.merge_attentions(outs, wide_lses)

        wide_out, _ = af.merge_attentions([xp.astype(x, xp.float64) for x in outs], wide_lses)
        assert out.dtype == xp.float32
        assert lse.dtype == xp.float64
        assert np.array_equal(to_numpy(out), to_numpy(xp.astype(wide_out, xp.float32)))

    @pytest.mark.libraries("numpy", "torch", "jax", reason="strict has no halves")
    def test_of_halves_keeps_their_dtype(self, xp):
        outs, lses = parts_of(xp, arrays_of(xp, SHAPES, "float16"), CUTS["two"])

        out, lse = af.merge_attentions(outs, lses)

        expected, _ = af.merge_attentions([xp.astype(x, xp.float32) for x in outs], lses)
        assert (out.dtype, lse.dtype) == (xp.float16, xp.float32)
        assert np.array_equal(to_numpy(out), to_numpy(xp.astype(expected, xp.float16)))

    @pytest.mark.parametrize("batch", [(), (3,), (2, 1, 3)], ids=str)
    def test_has_any_leading_axes(self, xp, batch):
        outs = [normal(xp, *batch, 4, 5, seed=seed) for seed in range(2)]
        lses = [normal(xp, *batch, 4, seed=seed) for seed in (2, 3)]

        out, lse = af.merge_attentions(outs, lses)

        assert tuple(out.shape) == (*batch, 4, 5)
        assert_agrees(lse, np.logaddexp(*map(to_numpy, lses)))

    def test_leaves_its_arguments_as_they_were(self, xp):
        outs, lses = parts_of(xp, arrays_of(xp, SHAPES), CUTS["two"])
        before = [to_numpy(x) for x in (*outs, *lses)]

        af.merge_attentions(outs, lses)

        assert len(outs) == len(lses) == 2
        for x, copy in zip((*outs, *lses), before, strict=True):
            assert np.array_equal(to_numpy(x), copy)

    @pytest.mark.libraries("array_api_strict", reason="the others have one device here")
    def test_stays_on_the_device(self, xp):
        device = xp.Device("device1")
        outs, lses = parts_of(xp, arrays_of(xp, SHAPES, device=device), CUTS["two"])

        results = af.merge_attentions(outs, lses)

        assert [device_of(x) for x in results] == [device] * 2

    @pytest.mark.libraries("numpy", reason="errstate is NumPy's")
    def test_makes_no_warning(self, xp):
        outs = [np.ones((3, 2)) * np.nan, np.ones((3, 2))]
        lses = [np.full(3, -np.inf), np.asarray([-np.inf, 0.0, 1e300])]

        with np.errstate(divide="raise", invalid="raise", over="raise"):
            out, _ = af.merge_attentions(outs, lses)

        assert np.array_equal(out, [[0, 0], [1, 1], [1, 1]])


@differentiable
class TestGradients:
    @pytest.mark.parametrize("form", ["lists", "stacked"])
    def test_through_the_parts_are_those_of_the_whole(self, xp, form):
        arrays = arrays_of(xp, SHAPES)

        def loss(attend):
            def number(query, key, value):
                out, lse = attend(query, key, value)
                return xp.sum(out * out) + xp.sum(xp.sin(lse))

            return number

        def merged(*x):
            return af.merge_attentions(
                *FORMS[form](xp, parts_of(xp, x, CUTS["with_an_empty_one"]))
            )

        actual = gradients_of(xp, under_jit(xp, loss(merged)), *arrays)

        expected = gradients_of(xp, under_jit(xp, loss(af.attention_with_lse)), *arrays)
        for a, e in zip(actual, expected, strict=True):
            assert_agrees(a, to_numpy(e))

    @pytest.mark.parametrize("filling", [0.0, math.nan, math.inf], ids=str)
    def test_are_not_spoilt_by_a_dead_part(self, xp, filling):
        live = normal(xp, 3, 4), normal(xp, 3, seed=1)
        dead = dead_part(xp, *live, filling)

        def loss(out, lse, dead_out, dead_lse):
            merged, merged_lse = af.merge_attentions([out, dead_out], [lse, dead_lse])
            return xp.sum(merged * merged) + xp.sum(xp.sin(merged_lse))

        d_out, d_lse, d_dead_out, d_dead_lse = map(
            to_numpy, gradients_of(xp, loss, *live, *dead)
        )

        assert_agrees(d_out, 2 * to_numpy(live[0]))
        assert_agrees(d_lse, np.cos(to_numpy(live[1])))
        assert not d_dead_out.any()
        assert not d_dead_lse.any()

    @pytest.mark.parametrize("filling", [0.0, math.nan], ids=str)
    def test_are_zero_where_all_parts_are_dead(self, xp, filling):
        dead = dead_part(xp, normal(xp, 3, 4), normal(xp, 3), filling)

        def loss(out, lse):
            merged, merged_lse = af.merge_attentions([out, out], [lse, lse])
            return xp.sum(merged * merged) + xp.sum(merged_lse)

        gradients = gradients_of(xp, loss, *dead)

        assert not any(to_numpy(d).any() for d in gradients)

    def test_agree_with_finite_differences(self, xp):
        outs, lses = normal(xp, 3, 2, 4), normal(xp, 3, 2, seed=1)
        weights = normal(xp, 2, 4, seed=2), normal(xp, 2, seed=3)

        def loss(outs, lses):
            out, lse = af.merge_attentions(outs, lses)
            return xp.sum(out * weights[0]) + xp.sum(lse * weights[1])

        loss = under_jit(xp, loss)
        d_outs, d_lses = map(to_numpy, gradients_of(xp, loss, outs, lses))

        assert_agrees(
            d_outs, _difference(partial(_numbers, xp, loss, lses=lses), outs), "float32"
        )
        assert_agrees(
            d_lses, _difference(partial(_numbers, xp, loss, outs=outs), lses), "float32"
        )


def _numbers(xp, loss, x, outs=None, lses=None):
    x = asarray(xp, x)
    return float(loss(x if outs is None else outs, x if lses is None else lses))


def _difference(function, x, step=1e-5):
    """Return the central differences of a number, element by element."""
    x = to_numpy(x)
    difference = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        there, back = x.copy(), x.copy()
        there[index] += step
        back[index] -= step
        difference[index] = (function(there) - function(back)) / (2 * step)
    return difference
