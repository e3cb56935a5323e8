"""What holds for any attention at all: laws, on shapes and options drawn by Hypothesis."""

import functools
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from problems import OPTIONS, Make, Shapes, arrays_of, assert_agrees, options_of
from support import asarray, library_of, to_numpy

import attnfn as af

# The fixture is a namespace: nothing that one example could leave behind for the next.
many = settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[
        HealthCheck.differing_executors,  # one instance of the class for each library
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
    ],
)
#: JAX compiles every operation of every example, and there is little that it alone does.
few = settings(many, max_examples=10)


def law(test):
    """Draw what a test asks for: `many` examples, and `few` on JAX."""
    by_many, by_few = (by(given(data=st.data())(test)) for by in (many, few))

    @functools.wraps(test)
    def run(self, xp):
        (by_few if library_of(xp) == "jax" else by_many)(self, xp)

    del run.__wrapped__  # pytest would ask for the data, too
    return run


#: JAX compiles every operation at every shape.
FEW_SHAPES = (
    Shapes((2, 4, 3, 5), (2, 2, 4, 5), (2, 2, 4, 6)),
    Shapes((2, 2, 2, 2), (2, 2, 2, 2), (2, 2, 2, 2)),
)

#: Options that say which keys may be attended to, or how much, for each pair of positions.
PAIRWISE = (
    "mask_matrix",
    "mask_full",
    "mask_function",
    "bias_matrix",
    "bias_of_minus_inf",
    "bias_function",
    "causal",
    "window",
    "q_offset_per_batch",
    "segments",
    "score_mod",
    "softcap",
    "sinks_per_head",
)


@st.composite
def shapes_of(draw, xp):
    if library_of(xp) == "jax":
        return draw(st.sampled_from(FEW_SHAPES))
    sizes = st.integers(1, 5)
    batch = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    num_kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    q_len, kv_len, head_dim, value_dim = (draw(sizes) for _ in range(4))
    return Shapes(
        (*batch, num_kv_heads * group, q_len, head_dim),
        (*batch, num_kv_heads, kv_len, head_dim),
        (*batch, num_kv_heads, kv_len, value_dim),
    )


@st.composite
def problems(draw, xp, among=PAIRWISE):
    """Draw (shapes, (query, key, value), options)."""
    shapes = draw(shapes_of(xp))
    names = draw(st.lists(st.sampled_from(among), max_size=4, unique=True))
    used = set()
    chosen = []
    for name in names:
        if not used & set(OPTIONS[name].arguments):
            chosen.append(name)
            used |= set(OPTIONS[name].arguments)
    arrays = arrays_of(xp, shapes, seed=draw(st.integers(0, 1000)))
    return shapes, arrays, options_of(xp, shapes, chosen)


def permuted(xp, x, order, axis):
    return asarray(xp, np.take(to_numpy(x), order, axis=axis))


class TestKeys:
    ORDERLESS = ("softcap", "sinks_per_head", "scale", "q_offset", "sinks_number")

    @law
    def test_have_no_order(self, xp, data):
        """Permuting keys and values together, and what is said about keys, changes nothing."""
        shapes, (query, key, value), options = data.draw(problems(xp, self.ORDERLESS))
        order = data.draw(st.permutations(range(shapes.kv_len)))
        make = Make(xp, shapes, seed=1)
        mask, bias = make.bools(*shapes.scores), make.floats(*shapes.scores)

        out, lse = af.attention_with_lse(query, key, value, mask=mask, bias=bias, **options)

        for_keys = [permuted(xp, x, order, -2) for x in (key, value)]
        for_pairs = {
            "mask": permuted(xp, mask, order, -1),
            "bias": permuted(xp, bias, order, -1),
        }
        permuted_out, permuted_lse = af.attention_with_lse(
            query, *for_keys, **for_pairs, **options
        )
        assert_agrees(permuted_out, to_numpy(out))
        assert_agrees(permuted_lse, to_numpy(lse))

    @law
    def test_that_may_not_be_attended_to_need_not_be_there(self, xp, data):
        shapes, (query, key, value), options = data.draw(problems(xp, self.ORDERLESS))
        keep = data.draw(st.sets(st.integers(0, shapes.kv_len - 1)))
        if library_of(xp) == "jax":
            keep = {0}  # one shape to compile
        kept = sorted(keep)
        mask = np.isin(np.arange(shapes.kv_len), kept)

        actual = af.attention(query, key, value, mask=asarray(xp, mask), **options)

        parts = (asarray(xp, to_numpy(x)[..., kept, :]) for x in (key, value))
        assert_agrees(actual, to_numpy(af.attention(query, *parts, **options)))

    @law
    def test_in_parts_merge_to_the_whole(self, xp, data):
        shapes, (query, key, value), options = data.draw(
            problems(xp, ("mask_full", "bias_full", "softcap", "scale"))
        )
        cut = 2 if library_of(xp) == "jax" else data.draw(st.integers(0, shapes.kv_len))

        out, lse = af.attention_with_lse(query, key, value, **options)

        outs, lses = [], []
        for places in (slice(0, cut), slice(cut, None)):
            own = {
                name: x[..., places] if name in ("mask", "bias") else x
                for name, x in options.items()
            }
            part = af.attention_with_lse(
                query, key[..., places, :], value[..., places, :], **own
            )
            outs.append(part[0])
            lses.append(part[1])
        merged_out, merged_lse = af.merge_attentions(outs, lses)
        assert_agrees(merged_out, to_numpy(out))
        assert_agrees(merged_lse, to_numpy(lse))


class TestWeights:
    @law
    def test_sum_to_one_or_to_zero(self, xp, data):
        among = [name for name in PAIRWISE if "sinks" not in name]
        _, (query, key, _), options = data.draw(problems(xp, among))

        weights = to_numpy(af.attention_weights(query, key, **options))

        total = weights.sum(-1)
        assert (weights >= 0).all()
        np.testing.assert_allclose(total, np.round(total), atol=1e-14)
        assert set(np.round(total).reshape(-1)) <= {0.0, 1.0}

    @law
    def test_sum_to_less_beside_a_sink(self, xp, data):
        among = [name for name in PAIRWISE if "sinks" not in name]
        _, (query, key, value), options = data.draw(problems(xp, among))
        sink = data.draw(st.sampled_from([-5.0, 0.0, 1.5]))

        weights = to_numpy(af.attention_weights(query, key, **options, sinks=sink))

        _, lse = af.attention_with_lse(query, key, value, **options, sinks=sink)
        np.testing.assert_allclose(
            weights.sum(-1), 1 - np.exp(sink - to_numpy(lse)), atol=1e-13
        )

    @law
    def test_times_the_values_are_the_output(self, xp, data):
        shapes, (query, key, value), options = data.draw(problems(xp))

        out = af.attention(query, key, value, **options)

        weights = to_numpy(af.attention_weights(query, key, **options))
        group = shapes.query[-3] // shapes.key[-3]
        assert_agrees(out, weights @ np.repeat(to_numpy(value), group, axis=-3))

    @law
    def test_are_the_exponentials_of_the_scores(self, xp, data):
        _, (query, key, value), options = data.draw(problems(xp))

        weights = to_numpy(af.attention_weights(query, key, **options))

        _, lse = af.attention_with_lse(query, key, value, **options)
        sinks = options.pop("sinks", None)
        scores = to_numpy(af.attention_scores(query, key, **options))
        lse = np.where(to_numpy(lse) == -math.inf, 0.0, to_numpy(lse))
        assert_agrees(weights, np.exp(scores - lse[..., None]))
        total = np.exp(scores).sum(-1)
        total = total if sinks is None else total + np.exp(to_numpy(sinks))[:, None]
        assert_agrees(np.where(total == 0, 1.0, total), np.exp(lse))


class TestOutput:
    @law
    def test_ignores_what_may_not_be_attended_to_even_if_nan(self, xp, data):
        among = [name for name in PAIRWISE if name != "bias_of_minus_inf"]
        shapes, (query, key, value), options = data.draw(problems(xp, among))
        weights = to_numpy(af.attention_weights(query, key, **options))
        place = data.draw(st.integers(0, shapes.kv_len - 1))
        bad_key, bad_value = to_numpy(key), to_numpy(value)
        bad_key[..., place, :] = data.draw(st.sampled_from([math.nan, math.inf, 7e7]))
        bad_value[..., place, :] = data.draw(st.sampled_from([math.nan, -math.inf, 7e7]))

        actual = af.attention(query, asarray(xp, bad_key), asarray(xp, bad_value), **options)

        expected = to_numpy(af.attention(query, key, value, **options))
        blind = weights[..., place] == 0
        assert_agrees(to_numpy(actual)[blind], expected[blind])
        assert not np.allclose(to_numpy(actual)[~blind], expected[~blind]) or blind.all()

    @law
    def test_lies_between_the_values(self, xp, data):
        among = [name for name in PAIRWISE if "sinks" not in name]
        shapes, (query, key, value), options = data.draw(problems(xp, among))

        out = to_numpy(af.attention(query, key, value, **options))

        _, lse = af.attention_with_lse(query, key, value, **options)
        alive = to_numpy(lse) > -math.inf
        group = shapes.query[-3] // shapes.key[-3]
        values = np.repeat(to_numpy(value), group, axis=-3)
        least, greatest = (
            np.broadcast_to(f(values, axis=-2, keepdims=True), out.shape)
            for f in (np.min, np.max)
        )
        assert (out[alive] >= least[alive] - 1e-12).all()
        assert (out[alive] <= greatest[alive] + 1e-12).all()

    @law
    def test_is_linear_in_the_values(self, xp, data):
        shapes, (query, key, value), options = data.draw(problems(xp, (*PAIRWISE, "dropout")))
        other = Make(xp, shapes, seed=3).floats(*shapes.value)

        actual = af.attention(query, key, 2 * value - other, **options)

        parts = [to_numpy(af.attention(query, key, x, **options)) for x in (value, other)]
        assert_agrees(actual, 2 * parts[0] - parts[1])

    @law
    def test_of_a_query_depends_on_no_other_query(self, xp, data):
        """Rows of queries, and of what is said about them, are rows of the output."""
        shapes, (query, key, value), options = data.draw(
            problems(
                xp,
                ("causal", "window", "mask_function", "bias_function", "score_mod", "softcap"),
            )
        )
        start = 1 if library_of(xp) == "jax" else data.draw(st.integers(0, shapes.q_len - 1))
        offset = data.draw(st.integers(-2, 6))
        options.pop("q_offset", None)

        actual = af.attention(
            query[..., start:, :], key, value, **options, q_offset=offset + start
        )

        expected = to_numpy(af.attention(query, key, value, **options, q_offset=offset))
        assert_agrees(actual, expected[..., start:, :])

    @law
    def test_of_grouped_heads_is_that_of_repeated_keys(self, xp, data):
        shapes, (query, key, value), options = data.draw(problems(xp, (*PAIRWISE, "dropout")))
        group = shapes.query[-3] // shapes.key[-3]

        actual = af.attention(query, key, value, **options)

        repeated = (asarray(xp, np.repeat(to_numpy(x), group, axis=-3)) for x in (key, value))
        assert_agrees(actual, to_numpy(af.attention(query, *repeated, **options)))


class TestShifts:
    @law
    def test_of_a_whole_row_move_the_lse_alone(self, xp, data):
        among = [name for name in PAIRWISE if "bias" not in name and "sinks" not in name]
        shapes, (query, key, value), options = data.draw(problems(xp, among))
        shift = Make(xp, shapes, seed=4).floats(*shapes.scores[:-1], 1)

        out, lse = af.attention_with_lse(query, key, value, **options, bias=shift)

        plain_out, plain_lse = af.attention_with_lse(query, key, value, **options)
        assert_agrees(out, to_numpy(plain_out))
        assert_agrees(lse, to_numpy(plain_lse) + to_numpy(shift)[..., 0])

    @law
    def test_of_all_positions_change_nothing_in_a_relative_function(self, xp, data):
        """Queries and keys moved together: the same window, in a cache with unseen keys in front."""
        _, (query, key, value), options = data.draw(problems(xp, ("softcap", "scale")))
        padding = 2
        front = (asarray(xp, np.pad(to_numpy(x), _before(x, padding))) for x in (key, value))
        options |= {"window_size": (2, 1)}
        relative = lambda q_pos, kv_pos: xp.astype(xp.abs(q_pos - kv_pos), xp.float64)  # noqa: E731

        actual = af.attention(
            query,
            *front,
            **options,
            bias=relative,
            mask=lambda q_pos, kv_pos: kv_pos >= padding,
            q_offset=padding + 1,
        )

        expected = af.attention(query, key, value, **options, bias=relative, q_offset=1)
        assert_agrees(actual, to_numpy(expected))


def _before(x, length):
    return [(0, 0)] * (x.ndim - 2) + [(length, 0), (0, 0)]


class TestEquivalences:
    @law
    def test_scale_is_a_factor_of_the_query(self, xp, data):
        _, (query, key, value), options = data.draw(problems(xp))
        factor = data.draw(st.sampled_from([-2.0, 0.0, 0.25, 3.0]))

        actual = af.attention(query, key, value, **options, scale=factor)

        expected = af.attention(query * factor, key, value, **options, scale=1.0)
        assert_agrees(actual, to_numpy(expected))

    @law
    def test_great_softcap_is_none(self, xp, data):
        among = [name for name in PAIRWISE if name != "softcap"]
        _, (query, key, value), options = data.draw(problems(xp, among))

        actual = af.attention(query, key, value, **options, softcap=1e9)

        expected = af.attention(query, key, value, **options)
        np.testing.assert_allclose(to_numpy(actual), to_numpy(expected), atol=1e-12)

    @law
    def test_great_negative_sink_is_none(self, xp, data):
        among = [name for name in PAIRWISE if "sinks" not in name]
        _, (query, key, value), options = data.draw(problems(xp, among))

        out, lse = af.attention_with_lse(query, key, value, **options, sinks=-math.inf)

        plain_out, plain_lse = af.attention_with_lse(query, key, value, **options)
        assert_agrees(out, to_numpy(plain_out))
        assert_agrees(lse, to_numpy(plain_lse))

    @law
    def test_sink_is_one_more_key_with_value_zero(self, xp, data):
        shapes, (query, key, value), options = data.draw(problems(xp, ("softcap", "scale")))
        sink = data.draw(st.sampled_from([-2.0, 0.5, 3.0]))

        out, lse = af.attention_with_lse(query, key, value, **options, sinks=sink)

        behind = [(0, 0)] * (key.ndim - 2) + [(0, 1), (0, 0)]
        longer = (asarray(xp, np.pad(to_numpy(x), behind)) for x in (key, value))
        bias = np.zeros((shapes.q_len, shapes.kv_len + 1))
        bias[:, -1] = sink  # the key 0 has the product 0 with every query
        expected = af.attention_with_lse(query, *longer, **options, bias=asarray(xp, bias))
        assert_agrees(out, to_numpy(expected[0]))
        assert_agrees(lse, to_numpy(expected[1]))

    @law
    def test_functions_are_the_arrays_they_would_fill(self, xp, data):
        shapes, arrays, options = data.draw(
            problems(xp, ("mask_function", "bias_function", "dropout_function", "softcap"))
        )
        offset = data.draw(st.integers(-2, 4))
        options |= {"q_offset": offset}
        q_pos = asarray(xp, np.arange(shapes.q_len)[:, None] + offset)
        kv_pos = asarray(xp, np.arange(shapes.kv_len)[None])

        actual = af.attention(*arrays, **options)

        filled = {n: x(q_pos, kv_pos) if callable(x) else x for n, x in options.items()}
        assert_agrees(actual, to_numpy(af.attention(*arrays, **filled)))

    @law
    def test_bias_of_minus_infinity_is_a_mask(self, xp, data):
        among = [name for name in PAIRWISE if "bias" not in name and "mask" not in name]
        shapes, arrays, options = data.draw(problems(xp, among))
        mask = Make(xp, shapes, seed=5).bools(*shapes.scores)

        out, lse = af.attention_with_lse(
            *arrays, **options, bias=asarray(xp, np.where(to_numpy(mask), 0.0, -math.inf))
        )

        masked_out, masked_lse = af.attention_with_lse(*arrays, **options, mask=mask)
        assert_agrees(out, to_numpy(masked_out))
        assert_agrees(lse, to_numpy(masked_lse))

    @law
    def test_batch_entries_are_attended_to_one_by_one(self, xp, data):
        shapes, arrays, options = data.draw(problems(xp, ("softcap", "causal", "scale")))
        if not shapes.batch:
            shapes = Shapes(*((1, *shape) for shape in shapes))
            arrays = tuple(x[None, ...] for x in arrays)

        actual = to_numpy(af.attention(*arrays, **options))

        alone = [
            to_numpy(af.attention(*(x[entry, ...] for x in arrays), **options))
            for entry in range(shapes.batch[0])
        ]
        assert_agrees(actual, np.stack(alone))


class TestTheseLaws:
    @pytest.mark.libraries("numpy", reason="no library takes part")
    def test_are_asked_of_options_that_exist(self, xp):
        named = {*PAIRWISE, *TestKeys.ORDERLESS}

        assert named <= set(OPTIONS)
