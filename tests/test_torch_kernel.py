"""PyTorch's own kernel behind `engine="native"`: everything it is told in another form."""

import math

import numpy as np
import pytest
from problems import Shapes, arrays_of, options_of
from support import normal

import attnfn as af

torch = pytest.importorskip("torch")

SHAPES = {
    "equal": Shapes((2, 3, 11, 4), (2, 3, 11, 4), (2, 3, 11, 4)),
    "grouped": Shapes((2, 6, 11, 4), (2, 2, 11, 4), (2, 2, 11, 4)),
    "one_kv_head": Shapes((2, 4, 11, 4), (2, 1, 11, 4), (2, 1, 11, 4)),
    "wider_values": Shapes((1, 2, 11, 4), (1, 2, 11, 4), (1, 2, 11, 7)),
    "narrower_values": Shapes((1, 2, 11, 6), (1, 2, 11, 6), (1, 2, 11, 3)),
    "plain": Shapes((11, 4), (11, 4), (11, 4)),
    "broadcast": Shapes((3, 1, 2, 11, 4), (2, 2, 11, 4), (2, 11, 4)),
}
by_shape = pytest.mark.parametrize("name", SHAPES)


# conftest.py makes slices so short that all lengths here have several. PyTorch itself scripts
# the forward derivatives of some operations when first asked for one.
pytestmark = [
    pytest.mark.libraries("torch", reason="the kernel is PyTorch's"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning"),
]


def assert_like_dense(arrays, learned=(), **options):
    """Compare output, lse, and the gradients of arrays and of learned options, with dense."""
    rng = torch.Generator().manual_seed(0)
    found = {}
    for engine in ("native", "dense"):
        leaves = [x.detach().clone().requires_grad_() for x in arrays]
        own = {name: options[name].detach().clone().requires_grad_() for name in learned}
        out, lse = af.attention_with_lse(*leaves, **(options | own), engine=engine)
        rng.manual_seed(0)
        d_out = torch.randn(out.shape, generator=rng, dtype=out.dtype)
        d_lse = torch.randn(lse.shape, generator=rng, dtype=lse.dtype)
        loss = (out * d_out).sum() + torch.where(lse > -math.inf, lse * d_lse, 0.0).sum()
        gradients = torch.autograd.grad(loss, [*leaves, *own.values()])
        alone = torch.autograd.grad(
            (af.attention(*leaves, **options, engine=engine) * d_out).sum(), leaves
        )
        found[engine] = [out, lse, *gradients, *alone]
    for actual, expected in zip(*found.values(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@by_shape
class TestSlices:
    @pytest.mark.parametrize("window", [(2, 0), (0, 0), (4, 3), (1, None), (None, 2), (20, 20)])
    def test_of_a_window_are_the_window(self, xp, name, window):
        assert_like_dense(arrays_of(xp, SHAPES[name]), window_size=window)

    @pytest.mark.parametrize("offset", [0, 3, -4, 30, -30])
    @pytest.mark.parametrize("options", [{"is_causal": True}, {"window_size": (3, 1)}], ids=str)
    def test_lie_where_the_offset_puts_them(self, xp, name, offset, options):
        assert_like_dense(arrays_of(xp, SHAPES[name]), q_offset=offset, **options)

    @pytest.mark.parametrize(
        "options", [{}, {"is_causal": True}, {"window_size": (1, 1)}], ids=str
    )
    @pytest.mark.parametrize(
        "ids",
        [[0, 0, 0, 1, 1, 2, 2, 2, 2, 5, 5], [3] * 11, [0, 0, 1, 1, 0, 0, 2, 2, 2, 2, 1]],
        ids=["packed", "one", "in_several_places"],
    )
    def test_of_packed_segments_see_their_own(self, xp, name, ids, options):
        assert_like_dense(
            arrays_of(xp, SHAPES[name]), segment_ids=torch.asarray(ids), **options
        )

    def test_of_segments_that_have_no_keys_are_empty(self, xp, name):
        ids = torch.arange(11) // 4
        assert_like_dense(arrays_of(xp, SHAPES[name]), segment_ids=(ids, ids + 1))


@by_shape
class TestBlocks:
    """A window alone is blocks of rows, of which many are one product of batches."""

    @pytest.mark.parametrize("most", [1.0, 1e3], ids=["bounded", "far"])
    @pytest.mark.parametrize("offset", [-3, 0, 2])
    @pytest.mark.parametrize("window", [(2, 0), (0, 0), (1, 2)])
    def test_are_the_window(self, xp, blocks, name, window, offset, most):
        query, *rest = arrays_of(xp, SHAPES[name])

        assert_like_dense((query * most, *rest), window_size=window, q_offset=offset)

        assert blocks

    def test_have_their_share_of_sinks(self, xp, blocks, name):
        sinks = torch.tensor(0.3, dtype=torch.float64)

        assert_like_dense(
            arrays_of(xp, SHAPES[name]), learned=("sinks",), window_size=(2, 1), sinks=sinks
        )

        assert blocks

    def test_take_views_with_any_strides(self, xp, blocks, name):
        arrays = arrays_of(xp, SHAPES[name])
        turned = [x.mT.contiguous().mT for x in arrays]

        out = af.attention(*turned, window_size=(2, 0), engine="native")

        assert blocks
        expected = af.attention(*arrays, window_size=(2, 0), engine="dense")
        torch.testing.assert_close(out, expected)

    @pytest.mark.parametrize("bad", [math.nan, math.inf, 1e308])
    def test_of_what_is_not_finite_are_left_to_the_definition(self, xp, blocks, name, bad):
        query, key, value = (x.clone() for x in arrays_of(xp, SHAPES[name]))
        key[..., 5, 0] = value[..., 3, 0] = bad
        query[..., 8, 0] = bad

        out = af.attention(query, key, value, window_size=(1, 0), engine="native")

        expected = af.attention(query, key, value, window_size=(1, 0), engine="dense")
        torch.testing.assert_close(out, expected, equal_nan=True)


@pytest.fixture
def blocks(monkeypatch):
    """The blocks of all windows that were computed as such."""
    from attnfn._backend import _torch_windows as windows

    computed, attend = [], windows.attend_in_place

    def seen(problem, blocks, *rest):
        computed.append(blocks)
        return attend(problem, blocks, *rest)

    monkeypatch.setattr(windows, "attend_in_place", seen)
    monkeypatch.setattr(windows, "LEAST_BLOCKS", 1)
    return computed


class TestSegments:
    def test_may_have_other_lengths_on_either_side(self, xp):
        arrays = arrays_of(xp, Shapes((2, 7, 4), (2, 12, 4), (2, 12, 4)))
        q_ids = torch.asarray([0, 0, 2, 2, 2, 3, 3])
        kv_ids = torch.asarray([0, 0, 0, 1, 1, 2, 2, 2, 2, 4, 4, 4])

        assert_like_dense(arrays, segment_ids=(q_ids, kv_ids))

    def test_may_differ_over_the_batch(self, xp):
        arrays = arrays_of(xp, SHAPES["equal"])
        ids = torch.stack([torch.arange(11) // 3, torch.arange(11) // 5])

        assert_like_dense(arrays, segment_ids=ids, is_causal=True)


MASKS = {
    "keys": (11,),
    "matrix": (11, 11),
    "padding": (2, 1, 1, 11),
    "per_head": (1, 6, 11, 11),
    "full": (2, 6, 11, 11),
    "per_batch": (2, 1, 11, 11),
}


@pytest.mark.parametrize("shape", MASKS)
class TestMask:
    GROUPED = SHAPES["grouped"]

    def mask(self, shape):
        return torch.rand(MASKS[shape], generator=torch.Generator().manual_seed(1)) < 0.6

    def test_is_added_where_it_belongs(self, xp, shape):
        assert_like_dense(arrays_of(xp, self.GROUPED), mask=self.mask(shape))

    def test_goes_with_everything_else(self, xp, shape):
        options = {
            "mask": self.mask(shape),
            "bias": normal(xp, 6, 11, 11, seed=3),
            "sinks": normal(xp, 6, seed=4),
            "window_size": (3, 2),
            "scale": torch.tensor(0.7, dtype=torch.float64),
        }

        assert_like_dense(arrays_of(xp, self.GROUPED), ["bias", "sinks", "scale"], **options)

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_keeps_out_what_is_not_finite(self, xp, shape, bad):
        mask = self.mask(shape)
        mask[..., 4] = False
        query, key, value = arrays_of(xp, self.GROUPED)
        options = {"mask": mask, "engine": "native"}
        expected = af.attention(query, key, value, **options)

        key[..., 4, 1] = bad
        value[..., 4, 2] = bad
        out = af.attention(query, key, value, **options)

        torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)

    def test_of_a_function_is_refused(self, xp, shape):
        mask = self.mask(shape)

        with pytest.raises(NotImplementedError, match=r"a function given as `mask`"):
            af.attention(*arrays_of(xp, self.GROUPED), mask=lambda p, j: mask, engine="native")


class TestSinks:
    @pytest.mark.parametrize("sinks", [(), (3,), (2, 3)])
    @pytest.mark.parametrize("mask", [None, "some", "none"])
    def test_have_their_share_and_their_gradient(self, xp, sinks, mask):
        options = {"sinks": normal(xp, *sinks, seed=5)}
        if mask is not None:
            options["mask"] = torch.full((11, 11), mask == "some")
            options["mask"][4] = False

        assert_like_dense(arrays_of(xp, SHAPES["equal"]), ["sinks"], **options)


class TestBadNumbers:
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("which", [0, 1, 2])
    def test_spoil_the_rows_that_see_them_alone(self, xp, which, bad):
        arrays = arrays_of(xp, SHAPES["equal"])
        arrays[which][..., 7, 1] = bad

        for options in ({}, {"is_causal": True}, {"window_size": (2, 2)}):
            found, expected = (
                af.attention_with_lse(*arrays, **options, engine=engine)
                for engine in ("native", "dense")
            )
            for actual, right in zip(found, expected, strict=True):
                torch.testing.assert_close(actual, right, equal_nan=True)


class TestPrecision:
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_of_halves_is_that_of_float32(self, xp, dtype):
        arrays = arrays_of(xp, SHAPES["grouped"], dtype="float32")
        halves = [x.to(getattr(torch, dtype)) for x in arrays]

        out = af.attention(*halves, is_causal=True, engine="native")

        expected = af.attention(*(x.float() for x in halves), is_causal=True)
        assert out.dtype == halves[0].dtype
        torch.testing.assert_close(out, expected.to(out.dtype), rtol=0, atol=0)

    def test_is_not_lost_to_autocast_in_either_direction(self, xp):
        arrays = arrays_of(xp, SHAPES["equal"], dtype="float32")

        def gradients():
            leaves = [x.clone().requires_grad_() for x in arrays]
            af.attention(*leaves, engine="native").square().sum().backward()
            return [x.grad for x in leaves]

        expected = gradients()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = gradients()

        for a, e in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, e, rtol=1e-6, atol=1e-6)


class TestTransforms:
    OPTIONS = ({}, {"is_causal": True}, {"window_size": (2, 1)})

    @pytest.mark.parametrize("options", OPTIONS, ids=str)
    def test_compile_keeps_it_in_one_graph(self, xp, options):
        arrays = [x.requires_grad_() for x in arrays_of(xp, SHAPES["grouped"])]

        def gradients(f):
            out = f(*arrays)
            return [out, *torch.autograd.grad(out.square().sum(), arrays)]

        def call(*arrays):
            return af.attention(*arrays, **options, engine="native")

        found = gradients(torch.compile(call, backend="aot_eager", fullgraph=True))

        for actual, expected in zip(found, gradients(call), strict=True):
            torch.testing.assert_close(actual, expected)

    def test_compile_hides_what_no_query_may_see(self, xp):
        query, key, value = arrays_of(xp, SHAPES["equal"])
        mask = torch.arange(11) < 8
        value[..., 9, :] = key[..., 9, :] = math.nan

        def call(*arrays):
            return af.attention(*arrays, mask=mask, engine="native")

        out = torch.compile(call, backend="aot_eager", fullgraph=True)(query, key, value)

        torch.testing.assert_close(out, call(query, key, value))
        assert out.isfinite().all()

    def test_compile_hides_a_key_from_the_head_that_may_not_see_it(self, xp):
        query, key, value = arrays_of(xp, SHAPES["equal"])
        mask = torch.ones(1, 3, 1, 11, dtype=torch.bool)
        mask[:, 1, :, 9] = False
        value[:, 1, 9, :] = key[:, 1, 9, :] = math.nan

        def call(*arrays):
            return af.attention(*arrays, mask=mask, engine="native")

        out = torch.compile(call, backend="aot_eager", fullgraph=True)(query, key, value)

        torch.testing.assert_close(out, call(query, key, value))
        assert out.isfinite().all()

    def test_compile_leaves_keys_after_all_queries_alone(self, xp):
        query, key, value = arrays_of(xp, SHAPES["equal"])
        value[..., 9, :] = key[..., 9, :] = math.nan

        def call(*arrays):
            return af.attention(*arrays, is_causal=True, q_offset=0, engine="native")

        graph = torch.compile(call, backend="aot_eager", fullgraph=True)
        out = graph(query[..., :6, :], key, value)

        expected = af.attention(
            query[..., :6, :],
            key[..., :6, :],
            value[..., :6, :],
            is_causal=True,
            engine="dense",
        )
        torch.testing.assert_close(out, expected)

    def test_compile_shows_a_bad_key_that_a_bias_hides(self, xp):
        query, key, value = arrays_of(xp, SHAPES["equal"])
        key[..., 4, :] = math.nan
        bias = torch.zeros(11, dtype=torch.float64)
        bias[4] = -math.inf

        def call(*arrays):
            return af.attention(*arrays, bias=bias, engine="native")

        out = torch.compile(call, backend="aot_eager", fullgraph=True)(query, key, value)

        assert out.isnan().all()
        assert call(query, key, value).isnan().all()

    @pytest.mark.parametrize("transform", ["vmap", "grad"])
    def test_of_torch_func_are_refused_by_name(self, xp, transform):
        arrays = arrays_of(xp, SHAPES["equal"])

        def loss(*arrays):
            return af.attention(*arrays, engine="native").sum()

        with pytest.raises(NotImplementedError, match=r"the transforms of torch\.func"):
            getattr(torch.func, transform)(loss)(*arrays)

    def test_in_forward_mode_say_what_to_use(self, xp):
        arrays = arrays_of(xp, SHAPES["equal"])

        with pytest.raises(NotImplementedError, match=r"forward-mode derivatives.*'dense'"):
            torch.func.jvp(lambda *x: af.attention(*x, engine="native"), arrays, arrays)
        with pytest.raises(NotImplementedError, match=r"engine='dense'.*attention_jvp"):
            torch.func.jvp(lambda *x: af.attention(*x, engine="blockwise"), arrays, arrays)

    def test_twice_in_reverse_agree_with_dense(self, xp):
        def second(engine):
            leaves = [x.requires_grad_() for x in arrays_of(xp, SHAPES["grouped"])]
            out = af.attention(*leaves, is_causal=True, engine=engine)
            first = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
            return torch.autograd.grad(sum(x.sin().sum() for x in first), leaves)

        for actual, expected in zip(second("native"), second("dense"), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


class TestNotFinite:
    @pytest.mark.parametrize(
        "options", [{}, {"is_causal": True}, {"window_size": (2, 0)}], ids=str
    )
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("which", [0, 1, 2], ids=["query", "key", "value"])
    def test_numbers_show_where_they_are_seen(self, xp, which, bad, options):
        arrays = arrays_of(xp, SHAPES["equal"], dtype="float32")
        arrays[which][0, 0, 5, 2] = bad

        found = af.attention_with_lse(*arrays, **options, engine="native")

        expected = af.attention_with_lse(*arrays, **options, engine="dense")
        for actual, right in zip(found, expected, strict=True):
            torch.testing.assert_close(actual, right, equal_nan=True)

    def test_products_of_finite_numbers_are_those_of_the_definition(self, xp):
        # inf - inf, which the exponential of a kernel may well take for a number.
        query = torch.tensor([[[[1e30, 1e30], [1.0, 2.0]]]])
        key = torch.tensor([[[[1e30, -1e30], [1.0, 1.0]]]])
        value = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])

        found = af.attention(query, key, value, engine="native")

        expected = af.attention(query, key, value, engine="dense")
        torch.testing.assert_close(found, expected, equal_nan=True)

    def test_sums_of_values_near_the_greatest_number_do_not_become_it(self, xp):
        query, key, _ = arrays_of(xp, SHAPES["equal"], dtype="float32")
        value = torch.full((2, 3, 11, 4), 3e38)

        found = af.attention(query, key, value, engine="native")

        torch.testing.assert_close(found, value)


class TestSelectEngine:
    def test_takes_the_kernel_where_it_can(self, xp):
        x = normal(xp, 2, 64, 8)

        assert af.select_engine(x, x, x, is_causal=True) == "native"
        assert af.select_engine(x, x, x, softcap=2.0) == "dense"
        assert af.select_engine(x[:, :1], x, x) == "dense"

    def test_takes_rows_where_there_are_many_scores(self, xp):
        x = normal(xp, 1, 300, 4)

        assert af.select_engine(x, x, x, softcap=2.0) == "native"
        assert af.select_engine(x, x, x, score_mod=lambda s, _i, _j: s) == "blockwise"
        assert torch.func.vmap(lambda x: _engine_as_number(x))(x[None]).item() == 1

    def test_takes_dense_in_forward_mode(self, xp):
        x = normal(xp, 1, 300, 4)
        expected = torch.func.jvp(lambda x: af.attention(x, x, x, engine="dense"), (x,), (x,))

        found = torch.func.jvp(lambda x: af.attention(x, x, x), (x,), (x,))

        for actual, right in zip(found, expected, strict=True):
            torch.testing.assert_close(actual, right)

    def test_agrees_for_every_option_with_many_rows(self, xp, monkeypatch):
        monkeypatch.setattr("attnfn._engines.MANY_SCORES", 1)
        shapes = SHAPES["grouped"]
        arrays = arrays_of(xp, shapes)
        names = ("mask_function", "bias_function", "softcap", "sinks_per_head")
        options = options_of(xp, shapes, names)

        out = af.attention(*arrays, **options)

        assert af.select_engine(*arrays, **options) == "blockwise"
        torch.testing.assert_close(out, af.attention(*arrays, **options, engine="dense"))


def _engine_as_number(x):
    names = ("dense", "blockwise", "native")
    return x.sum() * 0 + names.index(af.select_engine(x, x, x))


def test_the_bits_of_a_mask_are_those_of_selection():
    from attnfn._backend._torch_tiles import as_term

    allowed = torch.from_numpy(np.random.default_rng(0).random((5, 7)) < 0.5)

    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        expected = torch.where(allowed, 0.0, -math.inf).to(dtype)
        assert torch.equal(as_term(allowed, dtype), expected)
