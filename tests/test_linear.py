"""Linear attention against plain loops, however it is cut into chunks and pieces."""

import itertools

import array_api_strict
import numpy as np
import pytest
from support import asarray, device_of, library_of, normal, to_numpy

import attnfn as af

#: name: the shapes of query, key and value
SHAPES = {
    "plain": ((2, 3, 5, 4), (2, 3, 5, 4), (2, 3, 5, 2)),
    "grouped": ((2, 6, 5, 4), (2, 3, 5, 4), (2, 3, 5, 2)),
    "one_key_head": ((2, 3, 5, 4), (2, 1, 5, 4), (2, 1, 5, 2)),
    "no_heads": ((5, 4), (5, 4), (5, 2)),
    "one_query_head": ((1, 5, 4), (2, 3, 5, 4), (3, 5, 2)),
    "no_batch_of_keys": ((2, 4, 5, 4), (2, 5, 4), (5, 2)),
}


def by_shapes(*names):
    """Parametrise over shapes; those with axes left out are marked as such."""
    full = ("plain", "grouped", "one_key_head")
    return pytest.mark.parametrize(
        "shapes",
        [
            pytest.param(n, marks=() if n in full else pytest.mark.free_axes)
            for n in names or SHAPES
        ],
    )


by_order = pytest.mark.parametrize("is_causal", [False, True], ids=["all", "causal"])
differentiable = pytest.mark.libraries("torch", "jax", reason="the others do not differentiate")


def elu_plus_one(x):
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


def oracle(query, key, value, *, allowed=None, is_causal=False, phi=elu_plus_one):
    """Compute linear attention one query at a time; `allowed` has one axis for each of the keys'."""
    query, key, value = (to_numpy(x).astype("float64") for x in (query, key, value))
    ndim = max(x.ndim for x in (query, key, value))
    query, key, value = (
        x.reshape((1,) * (max(3, ndim) - x.ndim) + x.shape) for x in (query, key, value)
    )
    batch = np.broadcast_shapes(*(x.shape[:-3] for x in (query, key, value)))
    kv_heads = max(key.shape[-3], value.shape[-3])
    heads = max(query.shape[-3], kv_heads)
    q_len, kv_len = query.shape[-2], key.shape[-2]
    allowed = np.broadcast_to(True if allowed is None else allowed, (*batch, kv_heads, kv_len))
    query = np.broadcast_to(query, (*batch, heads, *query.shape[-2:]))
    key, value = (np.broadcast_to(x, (*batch, kv_heads, *x.shape[-2:])) for x in (key, value))
    out = np.zeros((*batch, heads, q_len, value.shape[-1]))
    for *b, h, i in itertools.product(*map(range, (*batch, heads, q_len))):
        where = (*b, h // (heads // kv_heads))
        top, bottom = 0.0, 0.0
        for j in range(kv_len):
            if allowed[(*where, j)] and (j <= i or not is_causal):
                weight = phi(query[(*b, h, i)]) @ phi(key[(*where, j)])
                top = top + weight * value[(*where, j)]
                bottom += weight
        if bottom:
            out[(*b, h, i)] = top / bottom
    return out if ndim > 2 else out[0]


def arrays(xp, name, dtype="float64"):
    return [normal(xp, *s, seed=i, dtype=dtype) for i, s in enumerate(SHAPES[name])]


def piece(arrays, *bounds):
    return [x[..., slice(*bounds), :] for x in arrays]


def assert_close(actual, expected, tolerance=1e-12):
    actual, expected = to_numpy(actual), to_numpy(expected)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


class TestLinearAttention:
    @by_shapes()
    @by_order
    def test_is_its_formula(self, xp, shapes, is_causal):
        q, k, v = arrays(xp, shapes)

        actual = af.linear_attention(q, k, v, is_causal=is_causal, chunk_len=2)

        assert_close(actual, oracle(q, k, v, is_causal=is_causal))

    @pytest.mark.parametrize("chunk_len", [1, 3, 64])
    def test_does_not_depend_on_the_chunks(self, xp, chunk_len):
        q, k, v = arrays(xp, "grouped")

        actual = af.linear_attention(q, k, v, is_causal=True, chunk_len=chunk_len)

        assert_close(actual, oracle(q, k, v, is_causal=True))

    def test_may_have_other_numbers_of_queries_than_of_keys(self, xp):
        q, k, v = arrays(xp, "plain")

        actual = af.linear_attention(q[..., :2, :], k, v)

        assert_close(actual, oracle(q, k, v)[..., :2, :])

    @by_order
    @pytest.mark.parametrize("shape", [(5,), (2, 1, 1, 5), (2, 3, 1, 5)], ids=str)
    def test_hides_keys_whatever_they_hold(self, xp, shape, is_causal):
        q, k, v = arrays(xp, "grouped")
        mask = np.random.default_rng(3).random(shape) < 0.5
        allowed = mask if mask.ndim == 1 else mask[..., 0, :]
        hidden = ~np.broadcast_to(allowed, (2, 3, 5))[..., None]
        bad_k, bad_v = (
            asarray(xp, np.where(hidden, bad, to_numpy(x)))
            for x, bad in ((k, np.nan), (v, np.inf))
        )

        actual = af.linear_attention(
            q, bad_k, bad_v, mask=asarray(xp, mask), is_causal=is_causal, chunk_len=2
        )

        assert_close(actual, oracle(q, k, v, allowed=allowed, is_causal=is_causal))

    def test_gives_zeros_where_there_is_nothing_to_attend_to(self, xp):
        q, k, v = arrays(xp, "plain")
        bad = asarray(xp, np.full(q.shape, np.nan))
        nothing = asarray(xp, np.zeros(5, dtype=bool))

        for actual in (
            af.linear_attention(bad, k, v, mask=nothing),
            af.linear_attention(bad, k, v, mask=nothing, is_causal=True),
            af.linear_attention(q, k[..., :0, :], v[..., :0, :]),
        ):
            assert_close(actual, np.zeros((2, 3, 5, 2)))

    @by_shapes("grouped", "no_heads")
    def test_may_be_empty(self, xp, shapes):
        q, k, v = piece(arrays(xp, shapes), 0)

        actual, state = af.linear_attention_with_state(q, k, v, is_causal=True)

        assert tuple(actual.shape) == (*q.shape[:-1], 2)
        assert tuple(state.s.shape) == (*k.shape[:-2], 4, 2)

    @pytest.mark.parametrize("where", ["query", "key", "value"])
    def test_keeps_nan_to_the_rows_that_see_it(self, xp, where):
        given = dict(zip(("query", "key", "value"), arrays(xp, "grouped"), strict=True))
        expected = to_numpy(af.linear_attention(*given.values(), is_causal=True, chunk_len=4))
        bad = to_numpy(given[where]).copy()
        bad[0, 1, 2, 0] = np.nan

        actual = to_numpy(
            af.linear_attention(
                *(given | {where: asarray(xp, bad)}).values(), is_causal=True, chunk_len=4
            )
        )

        is_bad = np.zeros((2, 6, 5), dtype=bool)
        if where == "query":
            is_bad[0, 1, 2] = True
        else:
            is_bad[0, 2:4, 2:] = True
        assert np.isnan(actual[is_bad]).all()
        assert np.array_equal(actual[~is_bad], expected[~is_bad])

    def test_takes_another_feature_map(self, xp):
        q, k, v = arrays(xp, "grouped")

        actual = af.linear_attention(
            q,
            k,
            v,
            is_causal=True,
            chunk_len=2,
            feature_map=lambda x: xp.concat([x * x, xp.exp(x)], axis=-1),
        )

        expected = oracle(
            q, k, v, is_causal=True, phi=lambda x: np.concatenate([x * x, np.exp(x)])
        )
        assert_close(actual, expected)

    @by_order
    def test_does_not_overflow_in_features(self, xp, is_causal):
        q, k, v = arrays(xp, "plain", "float32")

        with np.errstate(all="raise", under="ignore"):
            actual = af.linear_attention(200 * q, -200 * k, v, is_causal=is_causal)

        assert np.isfinite(to_numpy(actual)).all()

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @by_order
    def test_keeps_the_dtype(self, xp, dtype, is_causal):
        q, k, v = arrays(xp, "grouped", dtype)

        actual, state = af.linear_attention_with_state(q, k, v, is_causal=is_causal)

        assert actual.dtype == state.s.dtype == state.z.dtype == getattr(xp, dtype)

    @pytest.mark.libraries("torch", "jax", reason="the others have no bfloat16")
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_rounds_halves_once(self, xp, dtype):
        q, k, v = arrays(xp, "plain", dtype)

        actual, state = af.linear_attention_with_state(q, k, v, is_causal=True)

        wide = (xp.astype(x, xp.float32) for x in (q, k, v))
        expected = xp.astype(af.linear_attention(*wide, is_causal=True), getattr(xp, dtype))
        assert state.s.dtype == xp.float32
        assert np.array_equal(to_numpy(actual), to_numpy(expected))

    @pytest.mark.libraries("array_api_strict", reason="the others have one device here")
    @by_order
    def test_stays_on_the_device(self, xp, is_causal):
        device = array_api_strict.Device("device1")
        q, k, v = (x.to_device(device) for x in arrays(xp, "grouped"))
        mask = xp.ones(5, dtype=xp.bool, device=device)

        actual, state = af.linear_attention_with_state(q, k, v, is_causal=is_causal, mask=mask)

        assert device_of(actual) == device_of(state.s) == device

    @differentiable
    @by_order
    def test_has_the_gradient_of_finite_differences(self, xp, is_causal):
        """Also past a hidden key, and one of the first positions that cannot see, both NaN."""
        q, k, v = arrays(xp, "grouped")
        mask = asarray(xp, np.asarray([True, False, True, True, True]))
        spoiled = to_numpy(k).copy()
        spoiled[..., 1, :] = np.nan
        k = asarray(xp, spoiled)
        weight = normal(xp, 2, 6, 5, 2, seed=9)

        def loss(q, k, v):
            out = af.linear_attention(q, k, v, mask=mask, is_causal=is_causal, chunk_len=2)
            return xp.sum(weight * out)

        if library_of(xp) == "jax":
            import jax

            gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(q, k, v)
        else:
            import torch

            gradients = torch.func.grad(loss, argnums=(0, 1, 2))(q, k, v)
        steps = [normal(xp, *x.shape, seed=i + 5) for i, x in enumerate((q, k, v))]
        ends = [
            loss(*(x + h * d for x, d in zip((q, k, v), steps, strict=True)))
            for h in (1e-6, -1e-6)
        ]
        actual = sum(float(xp.sum(g * d)) for g, d in zip(gradients, steps, strict=True))
        assert actual == pytest.approx(float((ends[0] - ends[1]) / 2e-6), rel=1e-6)

    @differentiable
    def test_passes_no_gradient_by_way_of_nan(self, xp):
        q, k, v = arrays(xp, "plain")
        spoiled = to_numpy(v).copy()
        spoiled[..., 3, 0] = np.nan
        v = asarray(xp, spoiled)

        def loss(q, k, v):
            out = af.linear_attention(q, k, v, is_causal=True, chunk_len=4)
            return xp.sum(out[..., :3, :])

        if library_of(xp) == "jax":
            import jax

            gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(q, k, v)
        else:
            import torch

            gradients = torch.func.grad(loss, argnums=(0, 1, 2))(q, k, v)
        assert all(np.isfinite(to_numpy(g)).all() for g in gradients)
        assert float(xp.max(xp.abs(gradients[1][..., :3, :]))) > 0

    @pytest.mark.libraries("torch", reason="the transforms are torch's")
    @pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
    def test_compiles_and_goes_through_the_transforms_of_torch(self, xp):
        import torch

        q, k, v = arrays(xp, "grouped")

        def causal(q, k, v):
            return af.linear_attention(q, k, v, is_causal=True, chunk_len=2)

        expected = causal(q, k, v)
        assert_close(torch.func.vmap(causal)(q, k, v), expected)
        compiled = torch.compile(causal, fullgraph=True, backend="aot_eager")
        assert_close(compiled(q, k, v), expected)
        _, tangent = torch.func.jvp(causal, (q, k, v), (0 * q, 0 * k, v))
        assert_close(tangent, expected)  # it is linear in the values

    @pytest.mark.libraries("jax", reason="what is compiled can be looked at")
    def test_is_compiled_to_as_much_and_to_arrays_linear_in_the_length(self, xp):
        import jax

        def program(length):
            x = jax.ShapeDtypeStruct((1, 2, length, 8), xp.float32)
            causal = jax.grad(lambda x: xp.sum(af.linear_attention(x, x, x, is_causal=True)))
            return jax.make_jaxpr(causal)(x)

        def most(jaxpr):
            return max(v.aval.size for eqn in jaxpr.eqns for v in eqn.outvars)

        short, long = program(64 * 16), program(64 * 256)

        assert most(long.jaxpr) <= 16 * 1.1 * most(short.jaxpr)
        # A running sum takes the logarithm of the number of chunks in steps.
        assert len(str(long)) < 1.5 * len(str(short))

    @pytest.mark.errors
    def test_says_what_is_wrong(self, xp):
        q, k, v = arrays(xp, "grouped")

        def refused(error, message, *arrays, **options):
            with pytest.raises(error, match=message):
                af.linear_attention_with_state(*(arrays or (q, k, v)), **options)

        refused(
            ValueError,
            "`is_causal` needs as many queries as keys; got q_len=2, kv_len=5",
            q[..., :2, :],
            k,
            v,
            is_causal=True,
        )
        refused(TypeError, "`mask` must be an array that says of each key", mask=max)
        refused(TypeError, "`mask` must have a bool dtype", mask=q)
        for shape in ((5, 5), (2, 6, 1, 5), (2, 5), (4,)):
            refused(
                ValueError,
                r"`mask` must have shape \(kv_len,\) or \(\.\.\., num_kv_heads, 1, kv_len\)",
                mask=asarray(xp, np.ones(shape, dtype=bool)),
            )
        refused(ValueError, "`chunk_len` must be 1 or more; got 0", chunk_len=0)
        refused(TypeError, "`is_causal` must be True or False; got 1", is_causal=1)
        refused(TypeError, r"linear_attention_with_state\(\) has no option `bias`", bias=1)
        refused(TypeError, "`feature_map` must be a function of one array", feature_map="elu")
        refused(
            ValueError,
            r"`feature_map\(query\)` must keep all axes but the last",
            feature_map=lambda x: xp.sum(x, axis=-1),
        )
        refused(ValueError, "must have the same head_dim", q, k[..., :3], v)
        refused(TypeError, "`state` must be LinearAttentionState; got tuple", q, k, v, (q, k))
        refused(
            ValueError,
            r"`state\.s` must have shape .*, here \(2, 3, 4, 2\)",
            q,
            k,
            v,
            af.LinearAttentionState(k, k),
        )


class TestLinearAttentionWithState:
    @by_shapes("grouped", "no_heads", "no_batch_of_keys")
    def test_of_pieces_is_that_of_the_whole(self, xp, shapes):
        given = arrays(xp, shapes)
        expected, last = af.linear_attention_with_state(*given, is_causal=True)

        outs, state = [], None
        for bounds in itertools.pairwise((0, 1, 5)):
            out, state = af.linear_attention_with_state(
                *piece(given, *bounds), state, is_causal=True, chunk_len=2
            )
            outs.append(out)

        assert_close(xp.concat(outs, axis=-2), expected)
        for mine, its in zip(state, last, strict=True):
            assert_close(mine, its)

    def test_is_an_encoder_s_memory(self, xp):
        """All keys once, then queries in any number, one after the other."""
        q, k, v = arrays(xp, "grouped")

        _, memory = af.linear_attention_with_state(q[..., :0, :], k, v)
        out, same = af.linear_attention_with_state(q, k[..., :0, :], v[..., :0, :], memory)

        assert_close(out, oracle(q, k, v))
        assert_close(same.s, memory.s)

    def test_of_disjoint_keys_adds_up(self, xp):
        given = arrays(xp, "grouped")
        q = given[0]
        _, whole = af.linear_attention_with_state(*given)

        parts = [
            af.linear_attention_with_state(q, *piece(given, *bounds)[1:])[1]
            for bounds in ((0, 2), (2, 5))
        ]

        assert_close(parts[0].s + parts[1].s, whole.s)
        assert_close(parts[0].z + parts[1].z, whole.z)

    def test_remembers_nan(self, xp):
        q, k, v = arrays(xp, "plain")
        bad = to_numpy(v).copy()
        bad[0, 1, 4, 0] = np.nan

        _, state = af.linear_attention_with_state(q, k, asarray(xp, bad), is_causal=True)
        out, _ = af.linear_attention_with_state(q, k, v, state, is_causal=True)

        is_bad = np.isnan(to_numpy(out)).all((-2, -1))
        assert is_bad[0, 1]
        assert is_bad.sum() == 1

    @pytest.mark.libraries("jax", reason="only JAX scans")
    def test_is_the_carry_of_a_scan(self, xp):
        import jax

        given = arrays(xp, "grouped")
        _, start = af.linear_attention_with_state(*piece(given, 0, 0))

        def step(state, at):
            out, state = af.linear_attention_with_state(
                *(jax.lax.dynamic_slice_in_dim(x, at, 1, axis=-2) for x in given),
                state,
                is_causal=True,
            )
            return state, out[..., 0, :]

        _, outs = jax.jit(lambda: jax.lax.scan(step, start, xp.arange(5)))()

        assert_close(xp.moveaxis(outs, 0, -2), af.linear_attention(*given, is_causal=True))
