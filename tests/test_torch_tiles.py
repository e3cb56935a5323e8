"""Our own tiles on PyTorch's CPU: what its kernel cannot do, in place."""

import math

import pytest
from problems import Shapes, arrays_of
from test_torch_kernel import SHAPES, assert_like_dense, by_shape

import attnfn as af

torch = pytest.importorskip("torch")

GROUPED = SHAPES["grouped"]

# conftest.py makes tiles of three rows.
pytestmark = pytest.mark.libraries("torch", reason="the tiles are PyTorch's")


def drawn(*shape):
    rng = torch.Generator().manual_seed(2)
    return torch.randn(shape, generator=rng, dtype=torch.float64)


OPTIONS = {
    "nothing": {},
    "causal": {"is_causal": True},
    "narrow_window": {"window_size": (1, 1)},
    "wide_window": {"window_size": (6, 2)},
    "left_bound": {"window_size": (2, None)},
    "offset": {"is_causal": True, "q_offset": -4},
    "offsets": {"is_causal": True, "q_offset": torch.tensor([-12, 3])},
    "segments": {"segment_ids": torch.arange(11) // 4, "window_size": (3, None)},
    "mask_of_keys": {"mask": drawn(11) > 0},
    "mask_of_all": {"mask": drawn(2, 1, 11, 11) > 1, "is_causal": True},
    "mask_by_head": {"mask": drawn(1, 6, 11, 11) > 1},
    "dropout": {"dropout_mask": drawn(2, 6, 11, 11) > 0, "dropout_rate": 0.5},
}


class TestSoftcap:
    # Far below the greatest scores, near them, and far above: each is bent in its own way.
    @pytest.mark.parametrize("cap", [0.3, 4.0, 500.0])
    @pytest.mark.parametrize("options", OPTIONS)
    def test_goes_with_everything_else(self, xp, options, cap):
        assert_like_dense(arrays_of(xp, GROUPED), softcap=cap, **OPTIONS[options])

    @by_shape
    @pytest.mark.parametrize("scale", [None, 0.0, 300.0])
    def test_is_for_any_shape_and_scale(self, xp, name, scale):
        assert_like_dense(
            arrays_of(xp, SHAPES[name]), softcap=200.0, scale=scale, is_causal=True
        )

    @pytest.mark.parametrize(
        "shape", [(11,), (6, 11, 11), (2, 1, 11, 1), (1, 6, 1, 11)], ids=str
    )
    def test_comes_before_a_bias_which_has_a_gradient(self, xp, shape):
        options = {"bias": 3 * drawn(*shape), "sinks": drawn(6), "window_size": (5, 0)}

        assert_like_dense(
            arrays_of(xp, GROUPED), learned=("bias", "sinks"), softcap=2.0, **options
        )

    def test_keeps_a_key_hidden_that_a_bias_hides(self, xp):
        bias = torch.where(drawn(11, 11) > 0.5, 0.0, -math.inf)

        assert_like_dense(arrays_of(xp, GROUPED), softcap=2.0, bias=bias)

    @pytest.mark.parametrize("lengths", [(0, 5), (5, 0), (7, 12)], ids=str)
    def test_is_for_any_lengths(self, xp, lengths):
        (q, k), dim = lengths, 4
        arrays = arrays_of(xp, Shapes((2, q, dim), (2, k, dim), (2, k, dim)))

        assert_like_dense(arrays, softcap=2.0, sinks=drawn(2), is_causal=True, q_offset=-2)

    @pytest.mark.parametrize("which", [0, 1, 2], ids=["query", "key", "value"])
    def test_lets_no_nan_out_of_what_is_hidden(self, xp, which):
        arrays = arrays_of(xp, GROUPED)
        arrays[which][..., 5, :] = math.nan
        options = {"softcap": 2.0, "window_size": (2, 0)}

        found = af.attention(*arrays, **options, engine="native")

        expected = af.attention(*arrays, **options, engine="dense")
        torch.testing.assert_close(found, expected, equal_nan=True)

    @pytest.mark.parametrize("cap", [3.0, 20.0, 50.0, 1000.0])
    @pytest.mark.parametrize("size", [0.1, 1.0, 30.0])
    def test_keeps_the_digits_of_float32(self, xp, cap, size):
        exact = [size * x for x in arrays_of(xp, Shapes((2, 60, 32), (2, 60, 32), (2, 60, 32)))]
        rounded = [x.to(torch.float32) for x in exact]
        expected = af.attention(*(x.double() for x in rounded), softcap=cap, engine="dense")
        dense = af.attention(*rounded, softcap=cap, engine="dense")

        found = af.attention(*rounded, softcap=cap, engine="native")

        # The digits of a score are those of the greatest one, or of the cap.
        scores = af.attention_scores(*rounded[:2], softcap=cap)
        digits = 2**-22 * max(1.0, scores.abs().max().item()) * expected.abs().max()
        assert (found - expected).abs().max() <= 2 * (dense - expected).abs().max() + digits


class TestDropout:
    @pytest.mark.parametrize("options", OPTIONS)
    def test_goes_with_everything_else(self, xp, options):
        dropout = {"dropout_mask": drawn(2, 1, 11, 11) > -0.5, "dropout_rate": 0.3}

        assert_like_dense(arrays_of(xp, GROUPED), **(OPTIONS[options] | dropout))


class TestGradients:
    @pytest.mark.parametrize("options", OPTIONS)
    def test_of_weights_that_may_be_denormal_agree_with_dense(self, xp, options):
        query, key, value = arrays_of(xp, GROUPED)

        assert_like_dense((200.0 * query, key, value), **OPTIONS[options])

    def test_of_halves_are_halves(self, xp):
        arrays = [x.to(torch.bfloat16).requires_grad_() for x in arrays_of(xp, GROUPED)]

        out = af.attention(*arrays, softcap=2.0, engine="native")
        gradients = torch.autograd.grad(out.sum(), arrays)

        assert {x.dtype for x in (out, *gradients)} == {torch.bfloat16}

    def test_in_reverse_twice_agree_with_dense(self, xp):
        def second(engine):
            leaves = [x.requires_grad_() for x in arrays_of(xp, GROUPED)]
            out = af.attention(*leaves, softcap=2.0, engine=engine)
            first = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
            return torch.autograd.grad(sum(x.sin().sum() for x in first), leaves)

        for actual, expected in zip(second("native"), second("dense"), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_what_needs_eager_tiles_is_named_in_a_transform(xp):
    arrays = arrays_of(xp, GROUPED)

    with pytest.raises(NotImplementedError, match=r"transforms of torch\.func"):
        torch.func.vmap(lambda *x: af.attention(*x, softcap=2.0, engine="native"))(*arrays)
