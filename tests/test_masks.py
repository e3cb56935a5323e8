"""Masks against plain loops, and against the options of attention that do the same without them."""

import array_api_strict
import numpy as np
import pytest
from support import asarray, device_of, normal, to_numpy

import attnfn as af

with_devices = pytest.mark.libraries(
    "array_api_strict", reason="the others have one device here"
)

#: The lengths, and where the first query stands.
LENGTHS = {
    "equal": (4, 4, None),
    "equal_by_default": (4, None, None),
    "one": (1, 1, None),
    "queries_last": (2, 5, 3),
    "queries_first": (2, 5, 0),
    "more_queries": (5, 3, 0),
    "more_queries_last": (5, 3, -2),
    "before_all_keys": (3, 4, -10),
    "after_all_keys": (3, 4, 100),
    "far_away": (2, 3, 2**40),
    "equal_with_offset": (4, 4, 2),
    "no_queries": (0, 3, 0),
    "no_keys": (3, 0, 0),
    "nothing": (0, 0, None),
}
by_lengths = pytest.mark.parametrize("lengths", LENGTHS)


def causal(p, j):
    return j <= p


def window(left, right):
    def within(p, j):
        return (left is None or j >= p - left) and (right is None or j <= p + right)

    return within


def chunk(chunk_len):
    return lambda p, j: p // chunk_len == j // chunk_len


def prefix(prefix_len):
    return lambda p, j: j < prefix_len or j <= p


#: Each maker of a structure: its function, its options, and the rule that it stands for.
MAKERS = {
    "causal": (af.causal_mask, {}, causal),
    "window": (af.sliding_window_mask, {"window_size": (2, 1)}, window(2, 1)),
    "window_of_itself": (af.sliding_window_mask, {"window_size": (0, 0)}, window(0, 0)),
    "window_to_the_left": (af.sliding_window_mask, {"window_size": (1, 0)}, window(1, 0)),
    "window_open_left": (af.sliding_window_mask, {"window_size": (None, 1)}, window(None, 1)),
    "window_open_right": (af.sliding_window_mask, {"window_size": (1, None)}, window(1, None)),
    "window_open": (af.sliding_window_mask, {"window_size": (None, None)}, window(None, None)),
    "window_huge": (af.sliding_window_mask, {"window_size": (2**70, 1)}, window(2**70, 1)),
    "chunk": (af.chunk_mask, {"chunk_len": 3}, chunk(3)),
    "chunk_of_one": (af.chunk_mask, {"chunk_len": 1}, chunk(1)),
    "chunk_of_all": (af.chunk_mask, {"chunk_len": 100}, chunk(100)),
    "prefix": (af.prefix_mask, {"prefix_len": 2}, prefix(2)),
    "prefix_of_none": (af.prefix_mask, {"prefix_len": 0}, prefix(0)),
    "prefix_of_all": (af.prefix_mask, {"prefix_len": 100}, prefix(100)),
}
by_maker = pytest.mark.parametrize("maker", MAKERS)


def by_loops(rule, q_len, kv_len, q_offset=0):
    """Ask a rule about each query and each key."""
    rows = [[rule(i + q_offset, j) for j in range(kv_len)] for i in range(q_len)]
    return np.asarray(rows, dtype=bool).reshape(q_len, kv_len)


def numpys(x):
    """Turn Python's integers into NumPy's, where they fit."""
    if isinstance(x, tuple):
        return tuple(map(numpys, x))
    return np.int64(x) if isinstance(x, int) and x < 2**63 else x


def assert_is_mask(actual, expected):
    actual = to_numpy(actual)
    assert actual.dtype == np.bool_
    assert actual.shape == expected.shape
    assert np.array_equal(actual, expected)


class TestEveryStructure:
    @by_lengths
    @by_maker
    def test_is_its_rule_at_every_query_and_key(self, xp, maker, lengths):
        make, options, rule = MAKERS[maker]
        q_len, kv_len, q_offset = LENGTHS[lengths]

        actual = make(q_len, kv_len, q_offset=q_offset, xp=xp, **options)

        assert actual.dtype == xp.bool
        assert_is_mask(
            actual, by_loops(rule, q_len, q_len if kv_len is None else kv_len, q_offset or 0)
        )

    @by_maker
    def test_is_made_by_numpy_where_nothing_else_is_said(self, maker):
        make, options, rule = MAKERS[maker]

        actual = make(3, **options)

        assert type(actual) is np.ndarray
        assert_is_mask(actual, by_loops(rule, 3, 3))

    @by_maker
    def test_takes_the_library_of_an_offset_that_is_an_array(self, xp, maker):
        make, options, rule = MAKERS[maker]
        q_offset = asarray(xp, -1, "int32")

        actual = make(2, 4, q_offset=q_offset, **options)

        assert type(actual) is type(q_offset)
        assert_is_mask(actual, by_loops(rule, 2, 4, -1))

    @pytest.mark.parametrize("dtype", ["int8", "int64", "uint8"])
    @by_maker
    def test_has_batch_axes_where_the_offset_has(self, xp, maker, dtype):
        make, options, rule = MAKERS[maker]
        offsets = np.asarray([[0, 1, 5], [2, 127, 3]])

        actual = make(2, 4, q_offset=asarray(xp, offsets, dtype), **options)

        expected = [[[by_loops(rule, 2, 4, int(p))] for p in row] for row in offsets]
        assert_is_mask(actual, np.asarray(expected))

    @by_maker
    def test_takes_numbers_of_numpys(self, xp, maker):
        make, options, rule = MAKERS[maker]
        options = {name: numpys(x) for name, x in options.items()}

        actual = make(np.int32(2), np.int64(4), q_offset=np.int64(1), xp=xp, **options)

        assert_is_mask(actual, by_loops(rule, 2, 4, 1))

    @with_devices
    @pytest.mark.parametrize("device", ["CPU_DEVICE", "device1", "device2"])
    @by_maker
    def test_is_made_where_it_is_asked_for(self, xp, maker, device):
        make, options, rule = MAKERS[maker]
        device = array_api_strict.Device(device)

        actual = make(3, xp=xp, device=device, **options)

        assert device_of(actual) == device
        assert_is_mask(actual, by_loops(rule, 3, 3))

    @with_devices
    @by_maker
    def test_is_made_where_the_offset_is(self, xp, maker):
        make, options, rule = MAKERS[maker]
        device = array_api_strict.Device("device1")
        q_offset = asarray(xp, [0, 1]).to_device(device)

        actual = make(2, 2, q_offset=q_offset, **options)

        assert device_of(actual) == device
        assert_is_mask(actual, np.asarray([[by_loops(rule, 2, 2, p)] for p in (0, 1)]))

    @by_maker
    def test_combines_by_the_operators_of_the_library(self, xp, maker):
        make, options, rule = MAKERS[maker]
        mask, other = make(4, xp=xp, **options), af.chunk_mask(4, chunk_len=2, xp=xp)

        both, either, neither = mask & other, mask | other, ~(mask | other)

        a, b = by_loops(rule, 4, 4), by_loops(chunk(2), 4, 4)
        assert_is_mask(both, a & b)
        assert_is_mask(either, a | b)
        assert_is_mask(neither, ~(a | b))


class TestPrefixMask:
    def test_has_batch_axes_where_the_prefix_has(self, xp):
        prefix_len = asarray(xp, [0, 2, 5])

        actual = af.prefix_mask(3, 4, prefix_len=prefix_len, q_offset=-1)

        expected = [[by_loops(prefix(n), 3, 4, -1)] for n in (0, 2, 5)]
        assert_is_mask(actual, np.asarray(expected))

    def test_pairs_the_prefixes_with_the_offsets_of_a_batch(self, xp):
        prefix_len, q_offset = asarray(xp, [0, 3]), asarray(xp, [2, 0], "int32")

        actual = af.prefix_mask(2, 4, prefix_len=prefix_len, q_offset=q_offset)

        expected = [[by_loops(prefix(0), 2, 4, 2)], [by_loops(prefix(3), 2, 4, 0)]]
        assert_is_mask(actual, np.asarray(expected))

    @pytest.mark.parametrize("which", ["prefix_len", "q_offset"])
    def test_takes_one_number_for_a_whole_batch(self, xp, which):
        numbers = {"prefix_len": asarray(xp, [1, 3]), "q_offset": asarray(xp, [0, 2])}
        numbers[which] = asarray(xp, 1)

        actual = af.prefix_mask(2, 4, **numbers)

        pairs = [(1, 0), (1, 2)] if which == "prefix_len" else [(1, 1), (3, 1)]
        assert_is_mask(actual, np.asarray([[by_loops(prefix(n), 2, 4, p)] for n, p in pairs]))

    @with_devices
    def test_is_made_where_the_prefix_is(self, xp):
        device = array_api_strict.Device("device1")

        actual = af.prefix_mask(3, prefix_len=asarray(xp, [1, 2]).to_device(device))

        assert device_of(actual) == device


class TestSegmentMask:
    def test_keeps_segments_apart(self, xp):
        q_segments, kv_segments = np.asarray([7, 0, -1, 7]), np.asarray([0, 7, 7])

        actual = af.segment_mask(asarray(xp, q_segments), asarray(xp, kv_segments))

        same = by_loops(lambda i, j: q_segments[i] == kv_segments[j], 4, 3)
        assert_is_mask(actual, same)

    def test_takes_one_array_for_both_sides(self, xp):
        segments = np.asarray([1, 1, 2, 1, 3])

        actual = af.segment_mask(asarray(xp, segments))

        assert_is_mask(actual, by_loops(lambda i, j: segments[i] == segments[j], 5, 5))

    def test_has_batch_axes_where_the_segments_have(self, xp):
        rng = np.random.default_rng(0)
        q_segments, kv_segments = (
            rng.integers(3, size=(2, 3, 4)),
            rng.integers(3, size=(2, 3, 5)),
        )

        actual = af.segment_mask(asarray(xp, q_segments), asarray(xp, kv_segments))

        assert_is_mask(
            actual, (q_segments[..., :, None] == kv_segments[..., None, :])[:, :, None]
        )

    @pytest.mark.parametrize("shape", [(0,), (2, 0)])
    def test_may_be_empty(self, xp, shape):
        actual = af.segment_mask(asarray(xp, np.zeros(shape), "int64"))

        assert_is_mask(
            actual, np.zeros((0, 0) if len(shape) == 1 else (2, 1, 0, 0), dtype=bool)
        )

    @with_devices
    def test_stays_where_the_segments_are(self, xp):
        device = array_api_strict.Device("device1")

        actual = af.segment_mask(asarray(xp, [0, 1]).to_device(device))

        assert device_of(actual) == device


class TestPaddingMask:
    @pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
    def test_hides_the_keys_past_the_end(self, xp, dtype):
        lengths = np.asarray([[0, 1], [4, 9]])

        actual = af.padding_mask(asarray(xp, lengths, dtype), 4)

        expected = [[[[[j < n for j in range(4)]]] for n in row] for row in lengths]
        assert_is_mask(actual, np.asarray(expected))

    def test_of_one_length_has_the_axes_of_heads_and_queries_too(self, xp):
        actual = af.padding_mask(asarray(xp, 2), 3)

        assert_is_mask(actual, np.asarray([[[True, True, False]]]))

    @pytest.mark.parametrize(("shape", "kv_len"), [((0,), 3), ((2,), 0), ((), 0)])
    def test_may_be_empty(self, xp, shape, kv_len):
        actual = af.padding_mask(asarray(xp, np.zeros(shape), "int64"), kv_len)

        assert_is_mask(actual, np.zeros((*shape, 1, 1, kv_len), dtype=bool))

    @with_devices
    def test_stays_where_the_lengths_are(self, xp):
        device = array_api_strict.Device("device1")

        actual = af.padding_mask(asarray(xp, [1, 2]).to_device(device), 3)

        assert device_of(actual) == device


class TestTokenPaddingMask:
    @pytest.mark.parametrize("pad_token", [0, -100, 7, np.int64(0)])
    def test_hides_the_padding_wherever_it_is(self, xp, pad_token):
        tokens = np.asarray([[7, 0, 9], [0, 0, -100]])

        actual = af.token_padding_mask(asarray(xp, tokens), pad_token)

        assert_is_mask(actual, (tokens != pad_token)[:, None, None, :])

    def test_of_one_sequence_has_the_axes_of_heads_and_queries_too(self, xp):
        actual = af.token_padding_mask(asarray(xp, [5, 1, 1]), 1)

        assert_is_mask(actual, np.asarray([[[True, False, False]]]))

    def test_is_the_padding_mask_of_the_lengths(self, xp):
        tokens = np.asarray([[3, 4, 0, 0], [5, 0, 0, 0], [0, 0, 0, 0]])

        actual = af.token_padding_mask(asarray(xp, tokens), 0)

        assert_is_mask(actual, to_numpy(af.padding_mask(asarray(xp, [2, 1, 0]), 4)))

    @with_devices
    def test_stays_where_the_tokens_are(self, xp):
        device = array_api_strict.Device("device1")

        actual = af.token_padding_mask(asarray(xp, [1, 2]).to_device(device), 0)

        assert device_of(actual) == device


def _batched_offset(xp):
    return {"q_offset": asarray(xp, [3, -1])}


#: What a mask does, and the option that does the same without one.
SAME = {
    "causal": lambda xp: (
        af.causal_mask(4, 6, q_offset=2, xp=xp),
        {"is_causal": True, "q_offset": 2},
    ),
    "causal_per_batch": lambda xp: (
        af.causal_mask(4, 6, **_batched_offset(xp)),
        {"is_causal": True, **_batched_offset(xp)},
    ),
    "window": lambda xp: (
        af.sliding_window_mask(4, 6, window_size=(1, 2), q_offset=1, xp=xp),
        {"window_size": (1, 2), "q_offset": 1},
    ),
    "window_per_batch": lambda xp: (
        af.sliding_window_mask(4, 6, window_size=(None, 0), **_batched_offset(xp)),
        {"window_size": (None, 0), **_batched_offset(xp)},
    ),
    "causal_window": lambda xp: (
        af.causal_mask(4, 6, q_offset=2, xp=xp)
        & af.sliding_window_mask(4, 6, window_size=(2, 2), q_offset=2, xp=xp),
        {"is_causal": True, "window_size": (2, 2), "q_offset": 2},
    ),
    "chunk": lambda xp: (
        af.chunk_mask(4, 6, chunk_len=2, q_offset=2, xp=xp),
        {"mask": lambda q_pos, kv_pos: q_pos // 2 == kv_pos // 2, "q_offset": 2},
    ),
    "prefix": lambda xp: (
        af.prefix_mask(4, 6, prefix_len=3, q_offset=0, xp=xp),
        {"mask": lambda q_pos, kv_pos: (kv_pos <= q_pos) | (kv_pos < 3), "q_offset": 0},
    ),
    "segments": lambda xp: (
        af.segment_mask(asarray(xp, [0, 0, 1, 3]), asarray(xp, [0, 1, 1, 0, 2, 2])),
        {"segment_ids": (asarray(xp, [0, 0, 1, 3]), asarray(xp, [0, 1, 1, 0, 2, 2]))},
    ),
    "segments_per_batch": lambda xp: (
        af.segment_mask(
            asarray(xp, [[0, 0, 1, 1], [1, 2, 3, 4]]), asarray(xp, [[0, 1, 1, 0, 2, 2]] * 2)
        ),
        {
            "segment_ids": (
                asarray(xp, [[0, 0, 1, 1], [1, 2, 3, 4]]),
                asarray(xp, [[0, 1, 1, 0, 2, 2]] * 2),
            )
        },
    ),
    "padding": lambda xp: (
        af.padding_mask(asarray(xp, [2, 0]), 6),
        {"segment_ids": (asarray(xp, [1] * 4), asarray(xp, [[1, 1, 0, 0, 0, 0], [0] * 6]))},
    ),
}


class TestMaskBesideOption:
    @pytest.mark.parametrize("case", SAME)
    def test_gives_the_same_weights(self, xp, case):
        query, key = normal(xp, 2, 4, 4, 3), normal(xp, 2, 2, 6, 3, seed=1)
        mask, options = SAME[case](xp)

        actual = af.attention_weights(query, key, mask=mask)

        expected = to_numpy(af.attention_weights(query, key, **options))
        assert not np.array_equal(expected, to_numpy(af.attention_weights(query, key)))
        assert np.array_equal(to_numpy(actual), expected)
