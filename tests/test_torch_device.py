"""PyTorch's kernel where values may not be looked at, as on a GPU: here a CPU that is told not to."""

import pytest
from problems import Shapes, arrays_of

import attnfn as af

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.libraries("torch", reason="the kernel is PyTorch's")

SHAPES = {
    "equal": Shapes((2, 3, 50, 4), (2, 3, 50, 4), (2, 3, 50, 4)),
    "grouped": Shapes((2, 6, 50, 4), (2, 2, 50, 4), (2, 2, 50, 4)),
    "wider_values": Shapes((4, 50, 4), (1, 50, 4), (1, 50, 7)),
    "plain": Shapes((50, 4), (50, 4), (50, 3)),
    "broadcast": Shapes((3, 1, 2, 50, 4), (2, 2, 50, 4), (2, 50, 4)),
    "more_keys": Shapes((2, 3, 40, 4), (2, 3, 50, 4), (2, 3, 50, 4)),
    "more_queries": Shapes((2, 3, 50, 4), (2, 3, 41, 4), (2, 3, 41, 4)),
}


@pytest.fixture(autouse=True)
def _unseen(monkeypatch):
    monkeypatch.setattr("attnfn._backend._torch_kernel._forward", None)
    monkeypatch.setattr("attnfn._backend._torch_windows.LEAST_ROWS", 4)


def results(arrays, engine, **options):
    leaves = [x.detach().clone().requires_grad_() for x in arrays]
    out = af.attention(*leaves, **options, engine=engine)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
    return [out, *torch.autograd.grad((out * weight).sum(), leaves)]


@pytest.mark.parametrize("window", [(3, 0), (0, 0), (2, 5), (0, 4), (9, 9), (30, 2), (3, None)])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_a_window_is_the_window(xp, shapes, window):
    arrays = arrays_of(xp, shapes)
    options = {"window_size": window, "q_offset": 0}

    found = results(arrays, "native", **options)

    for actual, expected in zip(found, results(arrays, "dense", **options), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def test_most_of_a_window_is_one_call(xp, monkeypatch):
    calls = []
    kernel = torch.nn.functional.scaled_dot_product_attention

    def counted(*args, **kwargs):
        calls.append(args[0].shape)
        return kernel(*args, **kwargs)

    for module in ("_torch_windows", "_torch_kernel"):
        monkeypatch.setattr(f"attnfn._backend.{module}.scaled_dot_product_attention", counted)

    monkeypatch.setattr("attnfn._backend._torch_kernel.ROWS", 50)
    af.attention(*arrays_of(xp, SHAPES["equal"]), window_size=(3, 0), engine="native")

    assert calls == [(6, 11, 4, 4), (2, 3, 4, 4), (2, 3, 2, 4)]  # the middle, then both ends


def test_great_logits_need_room_after_the_scale_alone(xp, monkeypatch):
    kernel = torch.nn.functional.scaled_dot_product_attention

    def scaling_products(query, key, value, *, scale, **options):
        """As the kernels of a GPU do."""
        return kernel(
            query @ key.mT * scale, torch.eye(key.shape[-2]), value, scale=1.0, **options
        )

    monkeypatch.setattr(
        "attnfn._backend._torch_kernel.scaled_dot_product_attention", scaling_products
    )
    query, key, value = arrays_of(xp, Shapes((3, 4), (3, 4), (3, 3)), "float32")

    out = af.attention(query * 1e25, key * 1e25, value, scale=1e-25, engine="native")

    expected = af.attention(query, key, value, scale=1e25, engine="dense")
    torch.testing.assert_close(out, expected)


class TestRowWithNothingAllowed:
    """PyTorch 2.11 gives cuDNN masks of -65504: such a row then sees everything."""

    @pytest.fixture(autouse=True)
    def _cudnn(self, monkeypatch):
        kernel = torch.nn.functional.scaled_dot_product_attention

        def adding(query, key, value, *, attn_mask, **options):
            return kernel(query, key, value, attn_mask=attn_mask.clamp(min=-65504.0), **options)

        monkeypatch.setattr(
            "attnfn._backend._torch_kernel.scaled_dot_product_attention", adding
        )

    @pytest.mark.parametrize("option", ["mask", "bias"])
    @pytest.mark.parametrize("heads", [(), (1, 3)], ids=["for_all", "per_head"])
    def test_has_output_and_gradients_zero(self, xp, option, heads):
        arrays = arrays_of(xp, SHAPES["equal"])
        allowed = torch.ones((*heads, 50, 50), dtype=torch.bool)
        allowed[..., 7, :] = False
        hidden = allowed if option == "mask" else torch.where(allowed, 0.5, -torch.inf)

        found = results(arrays, "native", **{option: hidden})

        assert not found[0][..., 7, :].any()
        for actual, expected in zip(
            found, results(arrays, "dense", **{option: hidden}), strict=True
        ):
            torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)

    def test_keeps_its_query_to_itself(self, xp):
        query, key, value = arrays_of(xp, SHAPES["equal"])
        query[..., 7, :] = torch.nan
        mask = torch.ones((50, 50), dtype=torch.bool)
        mask[7] = False

        found = results((query, key, value), "native", mask=mask)

        assert all(torch.isfinite(x).all() for x in found)
