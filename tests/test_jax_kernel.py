"""JAX's own kernel behind `engine="native"`, which only a GPU has: here its slower twin stands in."""

import numpy as np
import pytest
from problems import Shapes, arrays_of, options_of
from support import asarray, to_numpy

import attnfn as af

pytestmark = pytest.mark.libraries("jax", reason="the kernel is JAX's")

GROUPED = Shapes((2, 4, 6, 8), (2, 2, 6, 8), (2, 2, 6, 8))
OPTIONS = {
    "plain": (),
    "causal": ("causal",),
    "window": ("window",),
    "mask": ("mask_full", "bias_per_head"),
    "segments": ("segments_per_batch", "scale_0d"),
}


@pytest.fixture
def on_a_gpu(xp, monkeypatch):
    """Let the kernel believe that there is a GPU, and take XLA's operations for cuDNN's."""
    monkeypatch.setattr("attnfn._backend._jax_kernel._is_on_gpu", lambda: True)
    monkeypatch.setattr("attnfn._backend._jax_kernel.IMPLEMENTATION", "xla")


@pytest.mark.usefixtures("on_a_gpu")
class TestOnAGpu:
    @pytest.mark.parametrize("names", OPTIONS.values(), ids=OPTIONS)
    def test_agrees_with_dense(self, xp, names):
        arrays = [xp.astype(x, xp.bfloat16) for x in arrays_of(xp, GROUPED, "float32")]
        options = options_of(xp, GROUPED, names, "float32") | {"compute_dtype": xp.bfloat16}

        out = af.attention(*arrays, **options, engine="native")

        assert af.select_engine(*arrays, **options) == "native"
        assert out.dtype == xp.bfloat16
        expected = af.attention(
            *arrays, **options | {"compute_dtype": xp.float32}, engine="dense"
        )
        np.testing.assert_allclose(to_numpy(out), to_numpy(expected), rtol=0.05, atol=0.05)

    def test_gives_zeros_where_nothing_is_allowed_and_keeps_nan_out(self, xp):
        query, key, value = (
            xp.astype(x, xp.bfloat16) for x in arrays_of(xp, GROUPED, "float32")
        )
        mask = np.ones((6, 6), dtype=bool)
        mask[2], mask[:, 4] = False, False
        value = value.at[..., 4, :].set(xp.nan)

        out = af.attention(
            query,
            key,
            value,
            mask=asarray(xp, mask),
            compute_dtype=xp.bfloat16,
            engine="native",
        )

        assert not to_numpy(out)[..., 2, :].any()
        assert np.isfinite(to_numpy(out)).all()

    def test_keeps_nan_from_the_heads_that_may_not_see_it(self, xp):
        query, key, value = (
            xp.astype(x, xp.bfloat16) for x in arrays_of(xp, GROUPED, "float32")
        )
        mask = np.ones((1, 4, 1, 6), dtype=bool)
        mask[:, 2:, :, 4] = False
        value = value.at[:, 1, 4].set(xp.nan)

        out = af.attention(
            query,
            key,
            value,
            mask=asarray(xp, mask),
            compute_dtype=xp.bfloat16,
            engine="native",
        )

        assert np.isfinite(to_numpy(out)).all()

    @pytest.mark.parametrize(
        ("names", "obstacle"),
        [(("softcap",), "`softcap`"), (("mask_function",), "a function given as `mask`")],
    )
    def test_refuses_by_name(self, xp, names, obstacle):
        arrays = arrays_of(xp, GROUPED, "float32")
        options = options_of(xp, GROUPED, names, "float32") | {"compute_dtype": xp.bfloat16}

        with pytest.raises(NotImplementedError, match=f"'native' cannot do {obstacle}"):
            af.attention(*arrays, **options, engine="native")

    def test_refuses_to_round_the_weights_unasked(self, xp):
        arrays = [xp.astype(x, xp.bfloat16) for x in arrays_of(xp, GROUPED, "float32")]

        with pytest.raises(NotImplementedError, match="the compute dtype float32"):
            af.attention(*arrays, engine="native")


def test_a_cpu_has_none(xp):
    arrays = arrays_of(xp, GROUPED, "float32")

    with pytest.raises(NotImplementedError, match="jax arrays on the device cpu"):
        af.attention(*arrays, engine="native")
