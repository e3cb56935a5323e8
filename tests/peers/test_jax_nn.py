"""`attention` agrees with `jax.nn.dot_product_attention`, whose softmax is always float32."""

import functools
import inspect

import numpy as np
import pytest

import attnfn as af

jax = pytest.importorskip("jax", reason="the peer is JAX")
jnp = jax.numpy

BATCH, HEADS, Q_LEN, KV_LEN, HEAD_DIM = 2, 4, 5, 7, 8


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def random_mask(*shape, seed):
    """About half True, the first key always: JAX averages all values in an empty row."""
    mask = normal(*shape, seed=seed) > 0
    mask[..., 0] = True
    return mask


def arrays(num_kv_heads=HEADS):
    return (
        jnp.asarray(normal(BATCH, HEADS, Q_LEN, HEAD_DIM)),
        jnp.asarray(normal(BATCH, num_kv_heads, KV_LEN, HEAD_DIM, seed=1)),
        jnp.asarray(normal(BATCH, num_kv_heads, KV_LEN, HEAD_DIM, seed=2)),
    )


def peer(query, key, value, **options):
    """JAX's function, which has heads behind the length, in our layout."""
    swapped = (jnp.moveaxis(x, -3, -2) for x in (query, key, value))
    return jnp.moveaxis(jax.nn.dot_product_attention(*swapped, **options), -2, -3)


MASK = random_mask(BATCH, HEADS, Q_LEN, KV_LEN, seed=3)
BIAS = normal(BATCH, HEADS, Q_LEN, KV_LEN, seed=4)
Q_LENGTHS, KV_LENGTHS = np.asarray([2, 5], "int32"), np.asarray([3, 7], "int32")

# JAX 0.5 forgets a window beside which nothing else hides a key.
NOTHING_HIDDEN = np.ones((1, 1, 1, KV_LEN), bool)

#: name: (JAX's keywords, ours); arrays in NumPy, so that importing this starts no device
CASES = {
    "plain": ({}, {}),
    "scale": ({"scale": 0.3}, {"scale": 0.3}),
    "mask": ({"mask": MASK}, {"mask": MASK}),
    "mask of query and key": ({"mask": MASK[:1, :1]}, {"mask": MASK[0, 0]}),
    "bias": ({"bias": BIAS}, {"bias": BIAS}),
    "bias per head": ({"bias": BIAS[:1]}, {"bias": BIAS[0]}),
    "mask and bias": ({"mask": MASK, "bias": BIAS}, {"mask": MASK, "bias": BIAS}),
    "causal from the first key": ({"is_causal": True}, {"is_causal": True, "q_offset": 0}),
    "mask and causal": (
        {"mask": MASK, "is_causal": True},
        {"mask": MASK, "is_causal": True, "q_offset": 0},
    ),
    "window": (
        {"local_window_size": (2, 1), "mask": NOTHING_HIDDEN},
        {"window_size": (2, 1), "q_offset": 0},
    ),
    "window of one number": (
        {"local_window_size": 2, "mask": NOTHING_HIDDEN},
        {"window_size": (2, 2), "q_offset": 0},
    ),
    "causal window": (
        {"local_window_size": (2, 0), "is_causal": True},
        {"window_size": (2, None), "is_causal": True, "q_offset": 0},
    ),
    "lengths of keys": (
        {"key_value_seq_lengths": KV_LENGTHS},
        {"mask": np.arange(KV_LEN) < KV_LENGTHS[:, None, None, None]},
    ),
    # JAX writes zeros behind the end of the queries: here such a row is an empty one.
    "lengths of both": (
        {"query_seq_lengths": Q_LENGTHS, "key_value_seq_lengths": KV_LENGTHS},
        {
            "mask": (np.arange(KV_LEN) < KV_LENGTHS[:, None, None, None])
            & (np.arange(Q_LEN)[:, None] < Q_LENGTHS[:, None, None, None])
        },
    ),
}


def on_device(options):
    return {k: jnp.asarray(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}


def agree(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("case", CASES)
class TestDotProductAttention:
    def test_outputs_and_gradients_agree(self, case):
        theirs, ours = map(on_device, CASES[case])
        d_out = jnp.asarray(normal(BATCH, HEADS, Q_LEN, HEAD_DIM, seed=5))

        out, pull = jax.vjp(functools.partial(af.attention, **ours), *arrays(num_kv_heads=2))
        actual = pull(d_out)

        expected, pull = jax.vjp(functools.partial(peer, **theirs), *arrays(num_kv_heads=2))
        agree(out, expected)
        for ours_d, theirs_d in zip(actual, pull(d_out), strict=True):
            agree(ours_d, theirs_d)


class TestElsewhere:
    @pytest.mark.parametrize("num_kv_heads", [1, HEADS])
    def test_other_groups_of_heads_agree(self, num_kv_heads):
        q, k, v = arrays(num_kv_heads)

        actual = af.attention(q, k, v, mask=jnp.asarray(MASK))

        agree(actual, peer(q, k, v, mask=jnp.asarray(MASK)))

    def test_without_a_batch_axis_agrees(self):
        q, k, v = (x[0] for x in arrays())

        actual = af.attention(q, k, v)

        agree(actual, peer(q, k, v))

    def test_gradient_of_bias_agrees(self):
        q, k, v = arrays()

        actual = jax.grad(lambda bias: (af.attention(q, k, v, bias=bias) ** 2).sum())(
            jnp.asarray(BIAS)
        )

        expected = jax.grad(lambda bias: (peer(q, k, v, bias=bias) ** 2).sum())(
            jnp.asarray(BIAS)
        )
        agree(actual, expected)

    def test_second_derivatives_agree(self):
        q, k, v = arrays()

        def curvature(f):
            return jax.jvp(
                jax.grad(lambda q: (f(q, k, v) ** 2).sum()), (q,), (k[:, :, :Q_LEN],)
            )

        actual = curvature(functools.partial(af.attention, mask=jnp.asarray(MASK)))

        agree(actual[1], curvature(functools.partial(peer, mask=jnp.asarray(MASK)))[1])

    @pytest.mark.skipif(
        "return_residual" not in inspect.signature(jax.nn.dot_product_attention).parameters,
        reason="this JAX does not return the lse",
    )
    def test_lse_agrees(self):
        q, k, v = arrays()

        _, actual = af.attention_with_lse(q, k, v, is_causal=True, q_offset=0)

        _, expected = jax.nn.dot_product_attention(
            *(jnp.moveaxis(x, -3, -2) for x in (q, k, v)), is_causal=True, return_residual=True
        )
        agree(actual, jnp.moveaxis(expected, -1, -2))

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_halves_are_at_most_twice_as_far_from_float32(self, dtype):
        halves = [x.astype(dtype) for x in arrays()]
        exact = peer(*(x.astype("float32") for x in halves))

        actual = af.attention(*halves)

        expected = peer(*halves)
        assert actual.dtype == expected.dtype
        ours, theirs = (jnp.abs(x.astype("float32") - exact).max() for x in (actual, expected))
        assert 0 < ours <= 2 * theirs
