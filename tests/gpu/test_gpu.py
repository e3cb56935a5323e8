"""What only a GPU shows: PyTorch's kernels on CUDA, cuDNN behind JAX, and products of float32."""

import numpy as np
import pytest
import torch
from oracle import oracle, oracle_gradients

import attnfn as af

jax = pytest.importorskip("jax", reason="half of these are JAX's")
jnp = jax.numpy

BATCH, HEADS, KV_HEADS, LENGTH, DIM = 2, 4, 2, 40, 16
ARRAYS = [
    np.random.default_rng(seed).normal(size=(BATCH, heads, LENGTH, DIM)).astype("float32")
    for seed, heads in enumerate((HEADS, KV_HEADS, KV_HEADS))
]
MASK = np.random.default_rng(7).random((BATCH, 1, LENGTH, LENGTH)) < 0.7
MASK[:, :, 3] = False

#: name: (options, whether SDPA can do it on a device)
CASES = {
    "plain": ({}, True),
    "causal": ({"is_causal": True}, True),
    "mask": ({"mask": MASK}, True),
    "mask and causal": ({"mask": MASK, "is_causal": True}, True),
    "window": ({"window_size": (5, 2)}, True),
    "bias": (
        {"bias": np.random.default_rng(8).normal(size=(HEADS, LENGTH, LENGTH)).astype("f4")},
        True,
    ),
    "softcap": ({"softcap": 2.0}, False),
    "sinks": ({"sinks": np.linspace(-1, 1, HEADS, dtype="f4")}, False),
}
ENGINES = ["auto", "dense", "blockwise", "native"]


def on_cuda(x):
    return torch.asarray(x, device="cuda") if isinstance(x, np.ndarray) else x


def on_jax(x):
    return jnp.asarray(x) if isinstance(x, np.ndarray) else x


def moved(options, move):
    return {name: move(x) for name, x in options.items()}


@pytest.fixture(autouse=True, scope="module")
def _there_is_one():
    assert torch.cuda.is_available()
    assert jax.default_backend() == "gpu"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", CASES)
class TestTorch:
    def test_float32_agrees_with_the_oracle(self, case, engine):
        options, is_native = CASES[case]
        if engine == "native" and not is_native:
            pytest.skip("SDPA has no such option")
        query, key, value = (on_cuda(x).requires_grad_() for x in ARRAYS)
        d_out = np.random.default_rng(5).normal(size=(BATCH, HEADS, LENGTH, DIM))

        out = af.attention(query, key, value, **moved(options, on_cuda), engine=engine)
        out.backward(torch.asarray(d_out, device="cuda", dtype=torch.float32))

        wide = [x.astype("float64") for x in ARRAYS]
        np.testing.assert_allclose(
            out.detach().cpu(), oracle(*wide, **options).out, rtol=1e-5, atol=1e-5
        )
        expected = oracle_gradients(*wide, d_out, **options)
        for x, wanted in zip((query, key, value), expected[:3], strict=True):
            np.testing.assert_allclose(x.grad.cpu(), wanted, rtol=1e-4, atol=5e-5)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_halves_are_rounded_once(self, case, engine, dtype):
        options, is_native = CASES[case]
        if engine == "native" and not is_native:
            pytest.skip("SDPA has no such option")
        arrays = [on_cuda(x).to(getattr(torch, dtype)) for x in ARRAYS]

        out = af.attention(*arrays, **moved(options, on_cuda), engine=engine)

        wide = [x.double().cpu().numpy() for x in arrays]
        wanted = oracle(*wide, **options).out
        eps = torch.finfo(getattr(torch, dtype)).eps
        np.testing.assert_allclose(out.double().cpu(), wanted, rtol=eps, atol=eps / 8)


class TestTorchKernel:
    """What PyTorch's kernels do on a device, where values may not be looked at."""

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_great_logits_need_room_after_the_scale_alone(self, dtype):
        great = {"float32": 1e25, "float64": 1e200}[dtype]
        query, key, value = (on_cuda(x).to(getattr(torch, dtype)) for x in ARRAYS)

        out = af.attention(query * great, key * great, value, scale=1 / great, engine="native")

        wanted = oracle(*(x.astype("float64") for x in ARRAYS), scale=great).out
        np.testing.assert_allclose(out.cpu(), wanted, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
    @pytest.mark.parametrize("engine", ["dense", "native"])
    def test_a_bias_of_minus_infinity_does_not_hide_a_nan(self, engine, dtype):
        query, key, value = (on_cuda(x).to(getattr(torch, dtype)) for x in ARRAYS)
        value[0, 1, 5] = torch.nan
        bias = torch.zeros(LENGTH, device="cuda")
        bias[5] = -torch.inf

        out = af.attention(query, key, value, bias=bias, engine=engine)

        is_nan = torch.isnan(out).all(-1).cpu()
        assert is_nan[0, 2:].all()
        assert not is_nan[0, :2].any()
        assert not is_nan[1].any()

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    @pytest.mark.parametrize("case", ["plain", "causal", "mask", "window", "bias"])
    def test_halves_in_halves_are_as_good_as_the_kernel(self, case, dtype):
        options, _ = CASES[case]
        kind = getattr(torch, dtype)
        arrays = [on_cuda(x).to(kind) for x in ARRAYS]
        options = {**moved(options, on_cuda), "compute_dtype": kind}

        out = af.attention(*arrays, **options, engine="native")

        wanted = oracle(*(x.double().cpu().numpy() for x in arrays), **CASES[case][0]).out
        eps = torch.finfo(kind).eps
        np.testing.assert_allclose(out.double().cpu(), wanted, rtol=4 * eps, atol=eps)


@pytest.mark.parametrize("is_jitted", [False, True])
@pytest.mark.parametrize("engine", ["dense", "blockwise"])
@pytest.mark.parametrize("case", CASES)
class TestJax:
    def test_float32_agrees_with_the_oracle(self, case, engine, is_jitted):
        options, _ = CASES[case]
        d_out = np.random.default_rng(5).normal(size=(BATCH, HEADS, LENGTH, DIM))

        def both(*arrays):
            out, pull = jax.vjp(
                lambda *x: af.attention(*x, **moved(options, on_jax), engine=engine), *arrays
            )
            return out, pull(jnp.asarray(d_out, jnp.float32))

        out, found = (jax.jit(both) if is_jitted else both)(*map(jnp.asarray, ARRAYS))

        wide = [x.astype("float64") for x in ARRAYS]
        np.testing.assert_allclose(out, oracle(*wide, **options).out, rtol=1e-5, atol=1e-5)
        expected = oracle_gradients(*wide, d_out, **options)
        for x, wanted in zip(found, expected[:3], strict=True):
            np.testing.assert_allclose(x, wanted, rtol=1e-4, atol=5e-5)


class TestCuDNN:
    """JAX's kernel, for halves that are computed in halves."""

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    @pytest.mark.parametrize("case", ["plain", "causal", "mask", "window", "bias"])
    def test_agrees_with_the_oracle_as_far_as_halves_go(self, case, dtype):
        options, _ = CASES[case]
        arrays = [jnp.asarray(x, dtype) for x in ARRAYS]
        options = {**moved(options, on_jax), "compute_dtype": getattr(jnp, dtype)}

        out = af.attention(*arrays, **options, engine="native")

        wide = [np.asarray(x, "float64") for x in arrays]
        wanted = oracle(*wide, **CASES[case][0]).out
        eps = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(np.asarray(out, "float64"), wanted, rtol=4 * eps, atol=eps)

    def test_gives_gradients(self):
        arrays = [jnp.asarray(x, "bfloat16") for x in ARRAYS]

        def loss(*arrays, **options):
            out = af.attention(*arrays, is_causal=True, **options)
            return jnp.sum(jnp.sin(out.astype("float32")))

        native = {"compute_dtype": jnp.bfloat16, "engine": "native"}
        found = jax.grad(lambda *x: loss(*x, **native), argnums=(0, 1, 2))(*arrays)

        expected = jax.grad(loss, argnums=(0, 1, 2))(*arrays)
        for x, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(
                np.asarray(x, "f4"), np.asarray(wanted, "f4"), rtol=0.05, atol=0.05
            )

    def test_keeps_nan_out_and_empty_rows_zero(self):
        query, key, value = (jnp.asarray(x, "bfloat16") for x in ARRAYS)
        mask = np.ones((LENGTH, LENGTH), dtype=bool)
        mask[2], mask[:, 4] = False, False
        value = value.at[..., 4, :].set(jnp.nan)

        native = {"compute_dtype": jnp.bfloat16, "engine": "native"}
        out = af.attention(query, key, value, mask=jnp.asarray(mask), **native)

        assert not np.asarray(out, "f4")[..., 2, :].any()
        assert np.isfinite(np.asarray(out, "f4")).all()
