"""An adapter gives any function attnfn's axes and names, and asks for nothing that it has no place for."""

import functools
import math
import os

import numpy as np
import pytest

import attnfn as af
from attnfn import testing

BATCH, HEADS, Q_LEN, KV_LEN, HEAD_DIM, VALUE_DIM = 2, 4, 5, 7, 8, 6


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


MASK = normal(BATCH, HEADS, Q_LEN, KV_LEN, seed=3) > -0.5
MASK[..., 0] = True
BIAS = normal(HEADS, Q_LEN, KV_LEN, seed=4)
LENGTHS = np.asarray([3, 7])


def arrays(*, q_len=Q_LEN, kv_heads=HEADS, value_dim=VALUE_DIM, batch=(BATCH,)):
    return (
        normal(*batch, HEADS, q_len, HEAD_DIM),
        normal(*batch, kv_heads, KV_LEN, HEAD_DIM, seed=1),
        normal(*batch, kv_heads, KV_LEN, value_dim, seed=2),
    )


#: name: (arrays, options); those with positions have as many queries as keys, where nobody differs
CASES = {
    "plain": (arrays(value_dim=HEAD_DIM), {}),
    "values of another width": (arrays(), {}),
    "grouped heads": (arrays(kv_heads=2, value_dim=HEAD_DIM), {}),
    "no batch": (arrays(batch=(), value_dim=HEAD_DIM), {}),
    "two batch axes": (arrays(batch=(2, 1), value_dim=HEAD_DIM), {"mask": MASK[:, None]}),
    "mask of two axes": (arrays(value_dim=HEAD_DIM), {"mask": MASK[0, 0]}),
    "mask of four axes": (arrays(value_dim=HEAD_DIM), {"mask": MASK}),
    "bias": (arrays(value_dim=HEAD_DIM), {"bias": BIAS}),
    "mask and bias": (arrays(value_dim=HEAD_DIM), {"mask": MASK, "bias": BIAS}),
    "scale": (arrays(value_dim=HEAD_DIM), {"scale": 0.3}),
    "softcap": (arrays(value_dim=HEAD_DIM), {"softcap": 1.5}),
    "sinks": (arrays(value_dim=HEAD_DIM), {"sinks": normal(HEADS, seed=5)}),
    "causal": (arrays(q_len=KV_LEN, value_dim=HEAD_DIM), {"is_causal": True}),
    "causal, one window": (
        arrays(q_len=KV_LEN, value_dim=HEAD_DIM),
        {"is_causal": True, "window_size": (2, 0)},
    ),
    "window open on a side": (
        arrays(q_len=KV_LEN, value_dim=HEAD_DIM),
        {"window_size": (2, None)},
    ),
    "offset": (arrays(value_dim=HEAD_DIM), {"is_causal": True, "q_offset": 1}),
    "lengths": (arrays(value_dim=HEAD_DIM), {"lengths": LENGTHS}),
    "segments": (
        arrays(value_dim=HEAD_DIM),
        {"segment_ids": (np.arange(Q_LEN) // 2, np.arange(KV_LEN) // 3)},
    ),
    "score_mod": (
        arrays(value_dim=HEAD_DIM),
        {"score_mod": lambda s, q_pos, kv_pos: s - 0.1 * (q_pos - kv_pos), "q_offset": 2},
    ),
}


def expected(case):
    (query, key, value), options = CASES[case]
    options = dict(options)
    if "lengths" in options:
        options["mask"] = af.padding_mask(options.pop("lengths"), KV_LEN)
    return af.attention_with_lse(query, key, value, **options)


# Functions that do what attnfn does, in the signatures of libraries that need hardware


def heads_first(*xs):
    return [np.moveaxis(x, -2, -3) for x in xs]


def flash_attn_func(
    q, k, v, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0,
    return_attn_probs=False,
):  # fmt: skip
    sides = tuple(None if side < 0 else side for side in window_size)
    out, lse = af.attention_with_lse(
        *heads_first(q, k, v), scale=softmax_scale, softcap=softcap or None, is_causal=causal,
        window_size=sides, q_offset=k.shape[1] - q.shape[1],
    )  # fmt: skip
    out = np.moveaxis(out, -3, -2)
    return (out, lse, None) if return_attn_probs else out


def flash_attn_with_kvcache(
    q, k_cache, v_cache, k=None, v=None, cache_seqlens=None, causal=False,
    window_size=(-1, -1), return_softmax_lse=False,
):  # fmt: skip
    assert cache_seqlens is None or cache_seqlens.dtype == np.int32
    mask = None if cache_seqlens is None else af.padding_mask(cache_seqlens, k_cache.shape[1])
    sides = tuple(None if side < 0 else side for side in window_size)
    out, lse = af.attention_with_lse(
        *heads_first(q, k_cache, v_cache), mask=mask, is_causal=causal, window_size=sides, q_offset=0
    )  # fmt: skip
    out = np.moveaxis(out, -3, -2)
    return (out, lse) if return_softmax_lse else out


def flash_attn_4(q, k, v, causal=False, window_size=(None, None), learnable_sink=None):
    out = af.attention(
        *heads_first(q, k, v), is_causal=causal, window_size=window_size, sinks=learnable_sink,
        q_offset=0,
    )  # fmt: skip
    return np.moveaxis(out, -3, -2), None


def single_prefill_with_kv_cache(
    q, k, v, custom_mask=None, causal=False, sm_scale=None, window_left=-1,
    logits_soft_cap=None, return_lse=False,
):  # fmt: skip
    out, lse = af.attention_with_lse(
        *heads_first(q, k, v), mask=custom_mask, is_causal=causal, scale=sm_scale,
        window_size=(None if window_left < 0 else window_left, None), q_offset=0,
        softcap=logits_soft_cap,
    )  # fmt: skip
    out = np.moveaxis(out, -3, -2)
    return (out, lse.T) if return_lse else out


CAUSAL_BIAS = object()


def memory_efficient_attention(query, key, value, attn_bias=None, scale=None):
    is_causal = attn_bias is CAUSAL_BIAS
    bias = None if is_causal else attn_bias
    if query.ndim == 5:  # (batch, length, groups, heads, dim)
        assert bias is None or bias.ndim == 5
        query, key, value = (np.moveaxis(x, 1, -2) for x in (query, key, value))
        return np.moveaxis(af.attention(query, key, value, bias=bias, scale=scale), -2, 1)
    q, k, v = heads_first(query, key, value)
    out = af.attention(q, k, v, bias=bias, is_causal=is_causal, scale=scale)
    return np.moveaxis(out, -3, -2)


def group_query_attention(
    q, k, v, past_key, past_value, seqlens_k, total, *, attention_bias=None, head_sink=None,
    num_heads, kv_num_heads, scale=None, softcap=None, local_window_size=None,
):  # fmt: skip
    """Puts the new keys behind each sequence's past, as onnxruntime does."""
    k, v = (af.split_heads(x, kv_num_heads) for x in (k, v))
    q_len, counts = q.shape[1], seqlens_k + 1
    keys, values = (np.zeros((*x.shape[:2], int(total), x.shape[3]), "float32") for x in (k, v))
    for b, n in enumerate(counts):
        keys[b, :, : n - q_len], keys[b, :, n - q_len : n] = past_key[b, :, : n - q_len], k[b]
        values[b, :, : n - q_len] = past_value[b, :, : n - q_len]
        values[b, :, n - q_len : n] = v[b]
    out = af.attention(
        af.split_heads(q, num_heads), keys, values, is_causal=True, q_offset=counts - q_len,
        bias=attention_bias, sinks=head_sink, scale=scale, softcap=softcap,
        window_size=None if local_window_size is None else (local_window_size, None),
    )  # fmt: skip
    return af.merge_heads(out), None, None


# Those that run here


#: Keras looks for its backend when it is imported.
os.environ.setdefault("KERAS_BACKEND", "numpy")


def real(package, make):
    """Return what makes a subject of a package, or skips where it is not installed."""

    @functools.cache
    def made():
        pytest.importorskip(package, reason=f"the function is {package}'s")
        return make()

    return made


def onnx(opset):
    return testing.onnx_like(testing.onnx_operator(opset=opset))


def sdpa():
    import torch

    return testing.torch_like(torch.nn.functional.scaled_dot_product_attention)


def flex():
    from torch.nn.attention.flex_attention import flex_attention

    return testing.flex_like(flex_attention)


def multi_head(**options):
    import torch

    return testing.torch_multi_head_like(torch.nn.MultiheadAttention, **options)


def jax_nn():
    import jax

    return testing.jax_like(jax.nn.dot_product_attention)


def flax():
    import flax.nnx

    return testing.flax_like(flax.nnx.dot_product_attention)


def equinox():
    import equinox

    return testing.equinox_like(equinox.nn.MultiheadAttention)


def keras():
    import keras

    if keras.config.backend() != "numpy":
        pytest.skip("Keras was imported with another backend")
    return testing.keras_like(keras.ops.dot_product_attention)


def mlx():
    from mlx.core import fast

    return testing.mlx_like(fast.scaled_dot_product_attention)


def gpt_oss():
    from transformers.models.gpt_oss import modeling_gpt_oss

    return testing.hf_eager_like(modeling_gpt_oss.eager_attention_forward, has_sinks=True)


def gemma2():
    from transformers.models.gemma2 import modeling_gemma2

    return testing.hf_eager_like(modeling_gemma2.eager_attention_forward)


def x_transformers():
    from x_transformers.attend import Attend

    return testing.x_transformers_like(Attend)


def splash():
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel

    def make(mask, *, save_residuals=False, attn_logits_soft_cap=None):
        kernel = splash_attention_kernel.make_attention_reference(mask, is_mqa=False)
        options = {"attn_logits_soft_cap": attn_logits_soft_cap}
        return functools.partial(kernel, save_residuals=save_residuals, **options)

    return testing.splash_like(make)


NUMPY = "numpy"
#: name: (library of its arrays, its subject, the cases that it refuses)
SUBJECTS = {
    "attnfn": (NUMPY, lambda: testing.attnfn_like(af.attention_with_lse, returns_lse=True), ()),
    "flash-attention": (NUMPY, lambda: testing.flash_attention_like(flash_attn_func), ()),
    "with a cache": (NUMPY, lambda: testing.flash_attention_like(flash_attn_with_kvcache), ()),
    "flash-attention 4": (
        NUMPY,
        lambda: testing.flash_attention_like(flash_attn_4, unbounded=None),
        (),
    ),
    "flashinfer": (
        NUMPY,
        lambda: testing.flashinfer_like(single_prefill_with_kv_cache),
        ("mask of four axes", "two batch axes"),
    ),
    "xformers": (
        NUMPY,
        lambda: testing.xformers_like(memory_efficient_attention, causal=CAUSAL_BIAS),
        (),
    ),
    "onnx 24": (NUMPY, real("onnx", functools.partial(onnx, 24)), ()),
    "onnx 25": (NUMPY, real("onnx", functools.partial(onnx, 25)), ()),
    "torch": ("torch", real("torch", sdpa), ()),
    "flex": ("torch", real("torch", flex), ()),
    "multi-head": (
        "torch",
        real("torch", multi_head),
        ("grouped heads", "values of another width"),
    ),
    "multi-head, weights": (
        "torch",
        real("torch", functools.partial(multi_head, need_weights=True)),
        ("grouped heads", "values of another width"),
    ),
    "jax": ("jax", real("jax", jax_nn), ()),
    "splash": ("jax", real("jax", splash), ()),
    "flax": ("jax", real("flax", flax), ()),
    "equinox": ("jax", real("equinox", equinox), ("grouped heads",)),
    "keras": (NUMPY, real("keras", keras), ()),
    "mlx": ("mlx", real("mlx", mlx), ()),
    "gemma 2": ("torch", real("transformers", gemma2), ()),
    "gpt-oss": ("torch", real("transformers", gpt_oss), ()),
    "x-transformers": ("torch", real("x_transformers", x_transformers), ()),
}

#: What a real one does otherwise than attnfn, which a dialect says of it.
OTHERWISE = {("x-transformers", "grouped heads")}
#: What a real one has a place for, and does not do.
REFUSED = {
    ("keras", "grouped heads"),
    ("keras", "softcap"),
    *((name, case) for name, (_, _, cases) in SUBJECTS.items() for case in cases),
}
#: JAX compiles each case: it gets those in which its functions are called differently.
FOR_JAX = ("plain", "two batch axes", "mask and bias", "window open on a side", "lengths")
FOR_SPLASH = ("two batch axes", "sinks", "segments", "offset")
CASES_FOR = {"jax": FOR_JAX, "flax": FOR_JAX, "equinox": FOR_JAX, "splash": FOR_SPLASH}
PAIRS = [
    (name, case)
    for name in SUBJECTS
    for case in CASES_FOR.get(name, CASES)
    if (name, case) not in OTHERWISE
]


def in_library(library, x):
    """Return arrays of NumPy, and pairs of them, as those of a library."""
    if isinstance(x, tuple):
        return tuple(in_library(library, each) for each in x)
    if not isinstance(x, np.ndarray) or library == NUMPY:
        return x
    if library == "mlx":
        import mlx.core

        return mlx.core.array(x)
    module = (
        pytest.importorskip("jax").numpy if library == "jax" else pytest.importorskip("torch")
    )
    return module.asarray(x)


def asked(name, case):
    """Return a subject, and the arrays and options of a case as it understands them."""
    library, make, _ = SUBJECTS[name]
    subject = make()
    (query, key, value), options = CASES[case]
    if name.startswith("multi-head") and "mask" in options:
        options = {**options, "mask": ~options["mask"]}
    if name == "splash":  # it has no scale
        query = query / np.float32(math.sqrt(HEAD_DIM))
    given = {option: in_library(library, x) for option, x in options.items()}
    return subject, in_library(library, (query, key, value)), given


def close(actual, wanted):
    actual = np.asarray(actual)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "case"), PAIRS)
class TestEveryAdapter:
    def test_asks_for_what_the_options_say_or_refuses(self, name, case):
        subject, inputs, options = asked(name, case)
        if not set(options) <= subject.options:
            with pytest.raises(TypeError, match="must have a place in the signature"):
                subject.attention(*inputs, **options)
            return
        if (name, case) in REFUSED:
            with pytest.raises((NotImplementedError, ValueError)):
                subject.attention(*inputs, **options)
            return

        out = subject.attention(*inputs, **options)

        wanted, wanted_lse = expected(case)
        close(out, wanted)
        if subject.attention_with_lse is not None:
            out, lse = subject.attention_with_lse(*inputs, **options)
            close(out, wanted)
            close(lse, wanted_lse)


class TestGroupQueryAttention:
    def asked(self, *, q_len, **options):
        subject = testing.ort_group_query_like(group_query_attention)
        inputs = arrays(q_len=q_len, kv_heads=2, value_dim=HEAD_DIM)
        return inputs, subject.attention(*inputs, **options)

    @pytest.mark.parametrize("q_len", [1, 3, KV_LEN])
    @pytest.mark.parametrize(
        "options", [{}, {"softcap": 1.5, "scale": 0.3}, {"window_size": (2, None)}]
    )
    def test_puts_the_queries_last(self, q_len, options):
        inputs, out = self.asked(q_len=q_len, is_causal=True, **options)

        offset = {"q_offset": KV_LEN - q_len}
        close(out, af.attention(*inputs, is_causal=True, **offset, **options))

    def test_gives_lengths_as_they_come_and_each_sequence_its_past(self):
        inputs, out = self.asked(q_len=2, is_causal=True, lengths=LENGTHS - 1)

        close(out, af.attention(*inputs, is_causal=True, q_offset=LENGTHS - 2))

    def test_refuses_what_is_not_causal(self):
        with pytest.raises(NotImplementedError, match="always causal"):
            self.asked(q_len=2)


class TestOptions:
    def test_are_those_of_the_functions_own_signature(self):
        def attention(q, k, v, causal=False): ...

        assert testing.attnfn_like(attention).options == {"is_causal"}
        assert testing.flash_attention_like(attention).options == {"is_causal"}
        assert testing.onnx_like(attention).options == set()

    def test_are_all_where_a_function_takes_any(self):
        def attention(q, k, v, **options): ...

        assert testing.jax_like(attention).options == {
            "mask", "bias", "is_causal", "window_size", "lengths", "scale", "softcap"
        }  # fmt: skip

    def test_can_be_named_by_the_user(self):
        def attention(q, k, v, autoregressive=False):
            return af.attention(q, k, v, is_causal=autoregressive)

        subject = testing.attnfn_like(attention, names={"is_causal": "autoregressive"})

        inputs, options = CASES["causal"]
        close(subject.attention(*inputs, **options), expected("causal")[0])

    def test_as_functions_of_positions_are_given_as_arrays(self):
        subject = testing.jax_like(sixth := Recorder())
        inputs = arrays(value_dim=HEAD_DIM)

        subject.attention(*inputs, mask=lambda q_pos, kv_pos: kv_pos <= q_pos)

        assert sixth.keywords["mask"].shape == (1, 1, Q_LEN, KV_LEN)

    def test_that_have_one_place_cannot_be_given_together(self):
        subject = testing.mlx_like(Recorder())

        with pytest.raises(NotImplementedError, match="one place for them, `mask`"):
            subject.attention(*arrays(), is_causal=True, mask=MASK)


class Recorder:
    """Remembers what it was called with, and returns its query."""

    def __call__(self, query, key, value, **keywords):
        self.inputs, self.keywords = (query, key, value), keywords
        return query


class TestArrays:
    def test_are_views_so_that_writing_to_one_is_seen(self):
        recorder = Recorder()
        query, key, value = arrays()

        testing.flash_attention_like(recorder).attention(query, key, value)

        assert np.shares_memory(recorder.inputs[0], query)
        assert recorder.inputs[0].shape == (BATCH, Q_LEN, HEADS, HEAD_DIM)

    def test_of_a_wrong_shape_are_returned_as_they_are(self):
        subject = testing.jax_like(lambda q, k, v: q[0, 0])

        assert subject.attention(*arrays()).shape == (HEADS, HEAD_DIM)

    def test_pass_gradients_of_torch(self):
        torch = pytest.importorskip("torch")
        query, key, value = (torch.asarray(x).requires_grad_() for x in arrays())
        subject = testing.flash_attention_like(
            lambda q, k, v: af.attention(*(x.movedim(1, 2) for x in (q, k, v))).movedim(2, 1)
        )

        subject.attention(query, key, value).sum().backward()

        assert query.grad.shape == query.shape
        assert query.grad.abs().sum() > 0

    def test_may_be_traced_by_jax(self):
        jax = pytest.importorskip("jax")
        subject = testing.jax_like(jax.nn.dot_product_attention)
        inputs = [jax.numpy.asarray(x) for x in arrays(value_dim=HEAD_DIM)]

        found = jax.jit(lambda *x: subject.attention(*x, scale=0.3))(*inputs)

        close(found, expected("scale")[0])


class TestVjp:
    def test_is_called_as_the_function_is(self):
        def vjp(q, k, v, d_out, causal=False):
            arrays = heads_first(q, k, v, d_out)
            return heads_first(*af.attention_vjp(*arrays, is_causal=causal)[:3])

        subject = testing.flash_attention_like(flash_attn_func, vjp=vjp)
        inputs = arrays(q_len=KV_LEN, batch=(2, 1))
        d_out = normal(2, 1, HEADS, KV_LEN, VALUE_DIM, seed=9)

        found = subject.vjp(*inputs, d_out, is_causal=True)

        wanted = af.attention_vjp(*inputs, d_out, is_causal=True)
        for ours, theirs in zip(found, wanted[:3], strict=True):
            close(ours, theirs)


class TestOnnxOperator:
    def test_asks_any_runtime(self):
        pytest.importorskip("onnx")
        asked = {}

        def run(model, inputs):
            asked.update(inputs, opset=model.opset_import[0].version)
            return [inputs["Q"]]

        operator = testing.onnx_operator(opset=23, run=run)
        testing.onnx_like(operator).attention(*arrays(), mask=MASK)

        assert asked["opset"] == 23
        assert asked["attn_mask"].dtype == bool


ADAPTERS = sorted(name for name in testing.__all__ if name.endswith("_like"))


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_adapter_refuses_what_cannot_be_called(name):
    with pytest.raises(TypeError, match=r"^`function` must be something to call; got int\."):
        getattr(testing, name)(5)
