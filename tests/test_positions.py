"""Where queries and keys stand: rotary angles, sinusoids, and biases that know the distance."""

import math

import numpy as np
import pytest
from support import asarray, library_of, normal, to_numpy, x64

import attnfn as af

#: float32 of a cosine.
SINGLE = 1e-7
SCALINGS = {
    "none": None,
    "linear": af.LinearScaling(4.0),
    "dynamic": af.DynamicNTKScaling(4.0, 16),
    "yarn": af.YaRNScaling(4.0, 64),
    "llama3": af.Llama3Scaling(8.0, 64),
    "long": af.LongRoPEScaling([1.0, 1.5, 2.0, 3.0], [2.0, 4.0, 6.0, 8.0], 16, factor=4.0),
}


def integers(xp, values, dtype="int64"):
    return asarray(xp, np.asarray(values), dtype)


def assert_close(actual, expected, tolerance=1e-12):
    actual = to_numpy(actual)
    assert actual.shape == np.shape(expected)
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def plain_rotary(x, positions, dim, base, interleaved):
    """Turn one pair after the other, as complex numbers."""
    out = np.array(x)
    for p, row in zip(positions, out, strict=True):
        for i in range(dim // 2):
            a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + dim // 2)
            turned = (row[a] + 1j * row[b]) * np.exp(1j * p * base ** (-2 * i / dim))
            row[a], row[b] = turned.real, turned.imag
    return out


def grid(xp, q_len, kv_len, q_offset=0):
    return integers(xp, np.arange(q_len)[:, None] + q_offset), integers(xp, [range(kv_len)])


class TestRotaryAngles:
    def test_are_position_times_frequency(self, xp):
        cos, sin = af.rotary_angles(integers(xp, [3, -2]), 4, base=100.0, dtype=xp.float64)

        angles = [[p * 1.0, p * 0.1] for p in (3, -2)]
        assert_close(cos, np.cos(angles))
        assert_close(sin, np.sin(angles))

    def test_of_a_batch_are_ready_for_heads(self, xp):
        positions = integers(xp, [[0, 1, 2], [5, 6, 7]])

        cos, sin = af.rotary_angles(positions, 4)

        assert tuple(cos.shape) == tuple(sin.shape) == (2, 1, 3, 2)
        for one, row in zip(to_numpy(cos), to_numpy(positions), strict=True):
            assert_close(af.rotary_angles(integers(xp, row), 4)[0], one[0])

    @pytest.mark.parametrize("kind", ["int32", "float32"])
    def test_are_single_unless_said(self, xp, kind):
        cos, sin = af.rotary_angles(integers(xp, [0, 1], kind), 4)

        assert cos.dtype == sin.dtype == xp.float32

    def test_keep_their_digits_far_out(self, xp):
        cos, _ = af.rotary_angles(integers(xp, [1_000_003]), 8)

        exact = [[math.cos(1_000_003 * 10000.0 ** (-i / 4)) for i in range(4)]]
        assert_close(cos, exact, SINGLE)

    @pytest.mark.libraries("jax", reason="the others always have 64 bits")
    def test_need_no_64_bits(self, xp):
        with x64(False):
            cos, _ = af.rotary_angles(integers(xp, [0, 7], "int32"), 8)

            assert cos.dtype == xp.float32
            assert_close(
                cos, np.cos(np.outer([0, 7], 10000.0 ** -np.linspace(0, 0.75, 4))), 1e-6
            )

    def test_of_no_positions_are_empty(self, xp):
        for scaling in SCALINGS.values():
            cos, _ = af.rotary_angles(integers(xp, np.zeros((2, 0))), 8, scaling=scaling)

            assert tuple(cos.shape) == (2, 1, 0, 4)


class TestScalings:
    @pytest.mark.parametrize("name", SCALINGS)
    def test_replace_the_frequencies(self, xp, name):
        scaling = SCALINGS[name]
        frequencies, factor = tuple(10000.0 ** (-i / 4) for i in range(4)), 1.0
        if scaling is not None:
            frequencies, factor = scaling(frequencies, 40)

        cos, sin = af.rotary_angles(integers(xp, [0, 39]), 8, scaling=scaling, dtype=xp.float64)

        assert_close(cos, factor * np.cos(np.outer([0, 39], frequencies)))
        assert_close(sin, factor * np.sin(np.outer([0, 39], frequencies)))

    @pytest.mark.parametrize("name", ["dynamic", "long"])
    @pytest.mark.parametrize("lengths", [(16, 17), (9, 40)])
    def test_know_the_length_of_each_sequence(self, xp, name, lengths):
        options = {"scaling": SCALINGS[name], "dtype": xp.float64}
        positions = integers(xp, [[n - 2, n - 1] for n in lengths])

        cos, _ = af.rotary_angles(positions, 8, **options)
        told, _ = af.rotary_angles(positions, 8, length=integers(xp, lengths), **options)

        assert_close(told, to_numpy(cos))
        for one, n in zip(to_numpy(cos), lengths, strict=True):
            alone = integers(xp, [n - 2, n - 1])
            assert_close(af.rotary_angles(alone, 8, length=n, **options)[0], one[0])

    @pytest.mark.parametrize("name", ["dynamic", "long"])
    def test_change_nothing_up_to_the_length_trained_on(self, name):
        scaling = SCALINGS[name]
        frequencies = (1.0, 0.1, 0.01, 0.001)

        short = scaling(frequencies, 3)
        assert scaling(frequencies, 16) == short
        assert scaling(frequencies, 17) != short

    def test_may_be_any_function(self, xp):
        def half(frequencies, length):
            return [f / 2 for f in frequencies], 3.0

        cos, _ = af.rotary_angles(integers(xp, [2]), 4, scaling=half, dtype=xp.float64)

        assert_close(cos, 3 * np.cos([[1.0, 0.01]]))

    def test_of_one_frequency_are_defined(self):
        for scaling in SCALINGS.values():
            if scaling is not None and not isinstance(scaling, af.LongRoPEScaling):
                (f,), factor = scaling((1.0,), 5)

                assert 0 < f <= 1.0 <= factor


class TestApplyRotary:
    @pytest.mark.parametrize("interleaved", [False, True])
    @pytest.mark.parametrize("dim", [6, 4])
    def test_turns_pairs_and_leaves_the_rest(self, xp, dim, interleaved):
        x = normal(xp, 2, 3, 5, 6)
        positions = [4, 0, -1, 7, 2]
        cos, sin = af.rotary_angles(integers(xp, positions), dim, base=9.0, dtype=xp.float64)

        actual = af.apply_rotary(x, cos, sin, interleaved=interleaved)

        rows = to_numpy(x).reshape(6, 5, 6)
        expected = [plain_rotary(r, positions, dim, 9.0, interleaved) for r in rows]
        assert_close(actual, np.reshape(expected, (2, 3, 5, 6)))

    def test_takes_positions_of_each_sequence(self, xp):
        x = normal(xp, 2, 3, 2, 4)
        positions = [[0, 1], [7, 8]]
        angles = af.rotary_angles(integers(xp, positions), 4, dtype=xp.float64)

        actual = af.apply_rotary(x, *angles)

        for one, turned, p in zip(to_numpy(x), to_numpy(actual), positions, strict=True):
            assert_close(turned, [plain_rotary(h, p, 4, 10000.0, False) for h in one])

    def test_takes_one_angle_for_all_positions(self, xp):
        x = normal(xp, 5, 4)
        cos, sin = af.rotary_angles(integers(xp, [3]), 4, dtype=xp.float64)

        assert_close(
            af.apply_rotary(x, cos, sin), plain_rotary(to_numpy(x), [3] * 5, 4, 1e4, False)
        )

    @pytest.mark.parametrize("interleaved", [False, True])
    def test_makes_scores_depend_on_the_distance_alone(self, xp, interleaved):
        query, key = normal(xp, 1, 8), normal(xp, 1, 8, seed=1)

        def score(p, j):
            q, k = (
                af.apply_rotary(
                    x,
                    *af.rotary_angles(integers(xp, [at]), 8, dtype=xp.float64),
                    interleaved=interleaved,
                )
                for x, at in ((query, p), (key, j))
            )
            return float(xp.sum(q * k))

        assert score(5, 2) == pytest.approx(score(105, 102), rel=1e-10)
        assert score(5, 2) != pytest.approx(score(5, 3), rel=1e-3)

    @pytest.mark.libraries("torch", "jax", reason="the others have no bfloat16")
    def test_of_halves_is_rounded_once(self, xp):
        x = normal(xp, 3, 5, 8, dtype="bfloat16")
        cos, sin = af.rotary_angles(integers(xp, range(100, 105)), 8)

        actual = af.apply_rotary(x, cos, sin)

        exact = af.apply_rotary(xp.astype(x, xp.float32), cos, sin)
        assert actual.dtype == xp.bfloat16
        assert np.array_equal(to_numpy(actual), to_numpy(xp.astype(exact, xp.bfloat16)))

    def test_does_not_widen(self, xp):
        x = normal(xp, 5, 4, dtype="float32")
        angles = af.rotary_angles(integers(xp, range(5)), 4, dtype=xp.float64)

        assert af.apply_rotary(x, *angles).dtype == xp.float32

    @pytest.mark.libraries("jax", reason="only JAX has jax.jit")
    @pytest.mark.parametrize("name", SCALINGS)
    def test_is_traced_with_its_positions(self, xp, name):
        import jax

        x = normal(xp, 2, 3, 2, 8)

        def turned(x, start):
            positions = xp.arange(2) + start[:, None]
            return af.apply_rotary(x, *af.rotary_angles(positions, 8, scaling=SCALINGS[name]))

        start = integers(xp, [3, 40])
        assert_close(jax.jit(turned)(x, start), to_numpy(turned(x, start)), 1e-6)

    @pytest.mark.libraries("torch", reason="only PyTorch has torch.compile")
    def test_compiles_to_one_graph_and_passes_the_transforms(self, xp):
        import torch

        def turned(x, start):
            positions = torch.arange(2) + start
            for scaling in SCALINGS.values():
                x = af.apply_rotary(x, *af.rotary_angles(positions, 8, scaling=scaling))
            return x + af.sinusoidal_positions(positions, 8)

        x, start = normal(xp, 2, 3, 2, 8), torch.asarray([3, 40])
        compiled = torch.compile(turned, backend="eager", fullgraph=True)
        assert_close(compiled(x, start[1]), to_numpy(turned(x, start[1])), 1e-6)
        mapped = torch.func.vmap(turned)(x, start)
        assert_close(mapped[1], to_numpy(turned(x[1], start[1])), 1e-6)
        assert torch.autograd.gradcheck(lambda x: turned(x, start[0]), x.requires_grad_())


class TestSinusoidalPositions:
    @pytest.mark.parametrize("interleaved", [True, False])
    def test_are_sines_and_cosines(self, xp, interleaved):
        actual = af.sinusoidal_positions(
            integers(xp, [[0, 3], [1, 9]]), 6, interleaved=interleaved, dtype=xp.float64
        )

        expected = np.zeros((2, 2, 6))
        for at, p in np.ndenumerate([[0, 3], [1, 9]]):
            for i in range(3):
                angle = p / 10000 ** (2 * i / 6)
                places = (2 * i, 2 * i + 1) if interleaved else (i, i + 3)
                expected[at][list(places)] = math.sin(angle), math.cos(angle)
        assert_close(actual, expected)

    def test_can_space_the_frequencies_as_whisper_does(self, xp):
        actual = af.sinusoidal_positions(
            integers(xp, range(5)),
            8,
            base=10000 ** (4 / 3),
            interleaved=False,
            dtype=xp.float64,
        )

        # From 1 to 1 / 10000, both included.
        angles = np.outer(range(5), np.exp(-math.log(10000) / 3 * np.arange(4)))
        assert_close(actual, np.concat([np.sin(angles), np.cos(angles)], axis=-1))


class TestAlibiSlopes:
    #: Press et al. 2022, section 3: for 8 heads from 1/2 to 1/256, for 16 from 2 ** -0.5.
    def test_are_those_of_the_paper(self, xp):
        assert_close(af.alibi_slopes(8, xp=xp), [2.0**-i for i in range(1, 9)])
        assert_close(
            af.alibi_slopes(16, xp=xp, dtype=xp.float64),
            [2.0 ** (-i / 2) for i in range(1, 17)],
        )

    @pytest.mark.parametrize("num_heads", [1, 2, 3, 6, 12, 20, np.int64(5)])
    def test_of_other_numbers_are_filled_up_from_the_next_power_of_2(self, xp, num_heads):
        actual = af.alibi_slopes(num_heads, xp=xp, dtype=xp.float64)

        n = 2 ** int(math.log2(num_heads))
        fewer = to_numpy(af.alibi_slopes(n, xp=xp, dtype=xp.float64))
        more = to_numpy(af.alibi_slopes(2 * n, xp=xp, dtype=xp.float64))
        assert_close(actual, [*fewer, *more[::2][: num_heads - n]])


#: Of 3 heads, 2 sequences: positions of 4 queries, and of 6 keys.
OFFSETS = [[3], [0]]


def batched_grid(xp):
    q_pos, kv_pos = grid(xp, 4, 6)
    return q_pos + integers(xp, OFFSETS)[..., None, None], kv_pos


class TestAlibiBias:
    def test_falls_with_the_distance(self, xp):
        actual = af.alibi_bias(asarray(xp, np.asarray([0.5, 0.25])), *grid(xp, 3, 5, 1))

        expected = [
            [[-m * abs(i + 1 - j) for j in range(5)] for i in range(3)] for m in (0.5, 0.25)
        ]
        assert_close(actual, expected)

    def test_knows_the_positions_of_each_sequence(self, xp):
        slopes = af.alibi_slopes(3, xp=xp)

        actual = af.alibi_bias(slopes, *batched_grid(xp))

        for one, (offset,) in zip(to_numpy(actual), OFFSETS, strict=True):
            assert_close(af.alibi_bias(slopes, *grid(xp, 4, 6, offset)), one)

    @pytest.mark.libraries("torch", "jax", reason="the others have no bfloat16")
    def test_of_halves_is_single(self, xp):
        slopes = asarray(xp, np.asarray([1.0]), "bfloat16")

        bias = af.alibi_bias(slopes, *grid(xp, 1, 1000, 999))

        # 257 is no number of bfloat16.
        assert bias.dtype == xp.float32
        assert float(bias[0, 0, 999 - 257]) == -257.0

    @pytest.mark.parametrize("engine", ["dense", "blockwise", "native"])
    def test_is_the_bias_of_an_attention(self, xp, engine):
        q, k, v = normal(xp, 4, 5, 8), normal(xp, 2, 5, 8, seed=1), normal(xp, 2, 5, 3, seed=2)
        slopes = af.alibi_slopes(4, xp=xp, dtype=xp.float64)
        whole = af.alibi_bias(slopes, *grid(xp, 5, 5))

        actual = af.attention(
            q,
            k,
            v,
            bias=lambda i, j: af.alibi_bias(slopes, i, j),
            is_causal=True,
            engine=engine,
        )

        assert_close(actual, to_numpy(af.attention(q, k, v, bias=whole, is_causal=True)))


def plain_bucket(d, num_buckets, max_distance, is_bidirectional):
    """Follow the text of the paper: half of the buckets exact, half by the logarithm."""
    first = 0
    if is_bidirectional:
        num_buckets //= 2
        first = num_buckets if d > 0 else 0
    elif d > 0:
        return 0
    d, exact = abs(d), num_buckets // 2
    if d < exact:
        return first + d
    # In whole numbers: the k-th boundary is exact * (max_distance / exact) ** (k / rest).
    rest = num_buckets - exact
    k = sum(d**rest * exact**k >= exact**rest * max_distance**k for k in range(1, rest))
    return first + exact + k


class TestRelativePositionBucket:
    @pytest.mark.parametrize("is_bidirectional", [True, False])
    @pytest.mark.parametrize("num_buckets, max_distance", [(32, 128), (8, 20), (10, 300)])
    def test_is_that_of_the_paper(self, xp, num_buckets, max_distance, is_bidirectional):
        far = integers(xp, np.arange(-400, 400).reshape(2, 400), "int32")

        actual = af.relative_position_bucket(
            far,
            num_buckets=num_buckets,
            max_distance=max_distance,
            is_bidirectional=is_bidirectional,
        )

        assert actual.dtype == xp.int32
        expected = [
            plain_bucket(int(d), num_buckets, max_distance, is_bidirectional)
            for d in to_numpy(far).flat
        ]
        assert to_numpy(actual).ravel().tolist() == expected


class TestRelativePositionBias:
    @pytest.mark.parametrize("is_bidirectional", [True, False])
    def test_looks_a_number_up_for_each_distance(self, xp, is_bidirectional):
        table = normal(xp, 8, 3)
        options = {"max_distance": 20, "is_bidirectional": is_bidirectional}
        q_pos, kv_pos = grid(xp, 4, 50, 25)

        actual = af.relative_position_bias(table, q_pos, kv_pos, **options)

        buckets = to_numpy(
            af.relative_position_bucket(kv_pos - q_pos, num_buckets=8, **options)
        )
        assert_close(actual, np.moveaxis(to_numpy(table)[buckets], -1, 0))

    def test_knows_the_positions_of_each_sequence(self, xp):
        table = normal(xp, 8, 3)

        actual = af.relative_position_bias(table, *batched_grid(xp))

        for one, (offset,) in zip(to_numpy(actual), OFFSETS, strict=True):
            assert_close(af.relative_position_bias(table, *grid(xp, 4, 6, offset)), one)

    @pytest.mark.libraries("torch", "jax", reason="the others do not differentiate")
    @pytest.mark.parametrize("engine", ["dense", "blockwise"])
    def test_is_learned_by_every_engine(self, xp, engine):
        q, table = normal(xp, 2, 5, 4), normal(xp, 8, 2, seed=3)

        def loss(table, engine=engine):
            out = af.attention(
                q,
                q,
                q,
                bias=lambda i, j: af.relative_position_bias(table, i, j),
                engine=engine,
            )
            return xp.sum(out**2)

        if library_of(xp) == "jax":
            import jax

            grad = jax.jit(jax.grad(loss))
        else:
            import torch

            grad = torch.func.grad(loss)
        step = 1e-6 * normal(xp, 8, 2, seed=4)
        slope = float(xp.sum(grad(table) * step))
        rise = float(loss(table + step, "dense") - loss(table - step, "dense")) / 2
        assert slope == pytest.approx(rise, rel=1e-6)
        assert slope != 0
