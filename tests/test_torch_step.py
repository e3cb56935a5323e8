"""A step of decoding on PyTorch's CPU: few queries against many keys."""

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
from problems import Shapes, arrays_of
from test_torch_kernel import assert_like_dense

import attnfn as af

torch = pytest.importorskip("torch")

SHAPES = {
    "one_query": Shapes((2, 4, 1, 8), (2, 4, 30, 8), (2, 4, 30, 5)),
    "grouped": Shapes((2, 4, 3, 8), (2, 2, 30, 8), (2, 2, 30, 8)),
    "one_kv_head": Shapes((4, 3, 8), (1, 30, 8), (1, 30, 8)),
    "plain": Shapes((3, 8), (30, 8), (30, 8)),
}


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


OPTIONS = {
    "nothing": {},
    "last": {"is_causal": True, "q_offset": 27},
    "before_all": {"is_causal": True, "q_offset": -2},
    "window": {"window_size": (4, 0), "q_offset": 12},
    "padding": {"mask": torch.arange(30) < 20},
    "nothing_allowed": {"mask": torch.zeros(30, dtype=torch.bool)},
    "bias": {"bias": 3 * drawn(30)},
    "softcap": {"softcap": 2.0, "sinks": torch.tensor(0.5, dtype=torch.float64)},
    "dropout": {"dropout_mask": drawn(30) > 0, "dropout_rate": 0.5},
    "great_scores": {"scale": 300.0},
}

pytestmark = pytest.mark.libraries("torch", reason="the step is PyTorch's")


@pytest.fixture(autouse=True)
def _any_number_of_keys_is_many(monkeypatch):
    monkeypatch.setattr("attnfn._backend._torch_step.FEW_NUMBERS", 0)


class TestStep:
    @pytest.mark.parametrize("name", SHAPES)
    @pytest.mark.parametrize("options", OPTIONS)
    def test_is_that_of_the_definition(self, xp, name, options):
        arrays = arrays_of(xp, SHAPES[name])
        learned = [name for name in ("bias", "sinks") if name in OPTIONS[options]]

        assert af.select_engine(*arrays, **OPTIONS[options]) == "native"
        assert_like_dense(arrays, learned=learned, **OPTIONS[options])

    def test_may_have_an_offset_for_each_sequence(self, xp):
        offsets = torch.tensor([-2, 9])

        assert_like_dense(arrays_of(xp, SHAPES["grouped"]), is_causal=True, q_offset=offsets)

    @pytest.mark.parametrize("name", ["one_query", "grouped"])
    @pytest.mark.parametrize("options", OPTIONS)
    def test_is_the_same_without_the_lse(self, xp, name, options):
        arrays = arrays_of(xp, SHAPES[name])

        out = af.attention(*arrays, **OPTIONS[options], engine="native")

        expected, _ = af.attention_with_lse(*arrays, **OPTIONS[options], engine="native")
        torch.testing.assert_close(out, expected, rtol=0, atol=0)

    @pytest.mark.parametrize("name", ["one_query", "grouped"])
    def test_leaves_the_result_of_the_one_before_alone(self, xp, name):
        query, key, value = arrays_of(xp, SHAPES[name])
        before = af.attention_with_lse(query, key, value, engine="native")
        copies = [x.clone() for x in before]

        af.attention_with_lse(-query, key, 2 * value, engine="native")

        assert all(map(torch.equal, before, copies))

    def test_may_follow_one_in_inference_mode(self, xp):
        arrays = arrays_of(xp, Shapes((2, 4, 2, 8), (2, 2, 37, 8), (2, 2, 37, 8)))

        with torch.inference_mode():
            first = af.attention(*arrays, engine="native")
        out = af.attention(*arrays, engine="native")

        assert torch.equal(out, first)

    def test_may_be_done_by_several_threads_at_once(self, xp):
        query, key, value = arrays_of(xp, SHAPES["grouped"])

        def step(factor):
            return [af.attention(factor * query, key, value, engine="native") for _ in range(9)]

        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(step, range(8)))

        for factor, outs in enumerate(found):
            expected = af.attention(factor * query, key, value, engine="dense")
            for out in outs:
                torch.testing.assert_close(out, expected)

    @pytest.mark.parametrize("which", [0, 1, 2], ids=["query", "key", "value"])
    def test_lets_no_nan_out_of_what_is_hidden(self, xp, which):
        arrays = arrays_of(xp, SHAPES["grouped"])
        arrays[which][0, :, -1] = math.nan
        options = {"is_causal": True, "q_offset": 27}

        found = af.attention(*arrays, **options, engine="native")

        expected = af.attention(*arrays, **options, engine="dense")
        torch.testing.assert_close(found, expected, equal_nan=True)

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("which", [0, 1, 2], ids=["query", "key", "value"])
    @pytest.mark.parametrize("options", ["nothing", "window", "bias"])
    def test_shows_what_is_not_finite_and_seen(self, xp, which, bad, options):
        arrays = arrays_of(xp, SHAPES["grouped"])
        arrays[which][0, 0, ..., 1, 2] = bad
        options = OPTIONS[options]

        found = af.attention(*arrays, **options, engine="native")

        expected = af.attention(*arrays, **options, engine="dense")
        torch.testing.assert_close(found, expected, equal_nan=True)

    def test_is_none_where_keys_would_be_repeated(self, xp):
        query, key, value = arrays_of(xp, SHAPES["one_query"])

        assert af.select_engine(query, key[:1], value[:1]) == "dense"
