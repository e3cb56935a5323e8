"""Keys and values that are kept: step by step they give what the whole sequence gives."""

import numpy as np
import pytest
from oracle import oracle
from support import asarray, library_of, normal, to_numpy

import attnfn as af

BATCH, HEADS, KV_HEADS, LENGTH, HEAD_DIM, VALUE_DIM = 2, 4, 2, 9, 4, 3
CAPACITY = 12
DOUBLE = 1e-12


def sequence(xp, dtype="float64", batch=(BATCH,)):
    """Query, key and value of a whole sequence."""
    shapes = (HEADS, HEAD_DIM), (KV_HEADS, HEAD_DIM), (KV_HEADS, VALUE_DIM)
    return [
        normal(xp, *batch, heads, LENGTH, dim, seed=i, dtype=dtype)
        for i, (heads, dim) in enumerate(shapes)
    ]


def empty(xp, capacity=CAPACITY, dtype="float64", batch=(BATCH,), **options):
    options = {"value_dim": VALUE_DIM, "batch": batch, **options}
    return af.init_kv_cache(
        KV_HEADS, capacity, HEAD_DIM, dtype=getattr(xp, dtype), xp=xp, **options
    )


def spoiled(xp, cache):
    """Return an empty cache with NaN in every slot."""
    return cache._replace(key=cache.key + np.nan, value=cache.value + np.nan)


def part(arrays, start, end):
    return [x[..., start:end, :] for x in arrays]


def compiled(xp, step):
    """Compile with JAX: op by op, each of which is compiled by itself, takes ten times as long."""
    if library_of(xp) != "jax":
        return step
    import jax

    return jax.jit(step)


def in_chunks(xp, arrays, cache, sizes, **options):
    """Return the outputs of chunks of a sequence, side by side, and the last cache."""
    outs, start = [], 0
    step = compiled(xp, lambda *args: af.cached_attention(*args, **options))
    for n in sizes:
        out, cache = step(*part(arrays, start, start + n), cache)
        outs.append(out)
        start += n
    return xp.concat(outs, axis=-2), cache


def assert_close(actual, expected, tolerance=DOUBLE):
    actual, expected = to_numpy(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


by_raggedness = pytest.mark.parametrize("is_ragged", [False, True], ids=["even", "ragged"])
by_donation = pytest.mark.parametrize("is_donated", [False, True], ids=["kept", "donated"])
#: One token at a time, a prompt first, chunks, everything at once, and none now and then.
SIZES = [(1,) * 9, (5, 1, 1, 1, 1), (4, 0, 4, 1), (9,)]
by_sizes = pytest.mark.parametrize("sizes", SIZES, ids=str)

by_name = pytest.mark.parametrize("name", ["functions", "everything"])


def options_of(xp, name):
    """Return some options, for the arrays of a library."""

    def apart(q_pos, kv_pos):
        return xp.astype(q_pos - kv_pos, xp.float64)

    functions = {
        "mask": lambda q_pos, kv_pos: (q_pos - kv_pos) % 3 != 1,
        "bias": lambda q_pos, kv_pos: -0.3 * apart(q_pos, kv_pos),
    }
    if name == "functions":
        return functions
    return {
        **functions,
        "score_mod": lambda s, q_pos, kv_pos: s - 0.1 * apart(q_pos, kv_pos),
        "window_size": (2, 0),
        "sinks": 0.5,
        "softcap": 2.0,
        "scale": 0.7,
    }


class TestCachedAttention:
    @by_raggedness
    @by_sizes
    def test_gives_what_the_whole_sequence_gives(self, xp, sizes, is_ragged):
        arrays = sequence(xp)
        cache = spoiled(xp, empty(xp, is_ragged=is_ragged))

        out, cache = in_chunks(xp, arrays, cache, sizes)

        assert_close(out, oracle(*map(to_numpy, arrays), is_causal=True).out)
        assert_close(cache.key[..., :LENGTH, :], to_numpy(arrays[1]))
        assert_close(cache.value[..., :LENGTH, :], to_numpy(arrays[2]))

    @by_raggedness
    def test_gives_it_step_by_step_in_every_library(self, xp, is_ragged):
        arrays, outs = sequence(xp), []
        cache = spoiled(xp, empty(xp, is_ragged=is_ragged))

        for i in range(3):
            out, cache = af.cached_attention(*part(arrays, i, i + 1), cache)
            outs.append(out)

        q, k, v = (to_numpy(x)[..., :3, :] for x in arrays)
        assert_close(xp.concat(outs, axis=-2), oracle(q, k, v, is_causal=True).out)

    @by_name
    @by_raggedness
    def test_gives_it_with_every_option(self, xp, is_ragged, name):
        arrays = sequence(xp)
        cache = spoiled(xp, empty(xp, is_ragged=is_ragged))

        out, _ = in_chunks(xp, arrays, cache, (5, 1, 3), **options_of(xp, name))

        options = options_of(np, name)
        assert_close(out, oracle(*map(to_numpy, arrays), is_causal=True, **options).out)

    @pytest.mark.parametrize("engine", ["dense", "blockwise", "native"])
    def test_gives_it_on_every_engine(self, xp, engine):
        arrays = sequence(xp)

        out, _ = in_chunks(xp, arrays, spoiled(xp, empty(xp)), (5, 1, 3), engine=engine)

        assert_close(out, oracle(*map(to_numpy, arrays), is_causal=True).out)

    @by_raggedness
    def test_lets_new_tokens_see_one_another_if_told(self, xp, is_ragged):
        arrays = sequence(xp)
        cache = spoiled(xp, empty(xp, is_ragged=is_ragged))

        out, _ = in_chunks(xp, arrays, cache, (4, 5), is_causal=False)

        q, k, v = map(to_numpy, arrays)
        first = oracle(q[..., :4, :], k[..., :4, :], v[..., :4, :]).out
        assert_close(out, np.concat([first, oracle(q[..., 4:, :], k, v).out], axis=-2))

    @by_sizes
    def test_knows_the_length_of_each_sequence(self, xp, sizes):
        arrays = sequence(xp)
        before = [3, 0]
        first = [normal(xp, *x.shape[:-2], 3, x.shape[-1], seed=7) for x in arrays[1:]]
        cache = af.append_kv_cache(spoiled(xp, empty(xp, is_ragged=True)), *first)
        cache = cache._replace(length=asarray(xp, np.asarray(before), "int32"))

        out, cache = in_chunks(xp, arrays, cache, sizes)

        assert to_numpy(cache.length).tolist() == [12, 9]
        for i, n in enumerate(before):
            q = to_numpy(arrays[0][i, ...])
            k, v = (
                np.concat([to_numpy(x[i, :, :n, :]), to_numpy(y[i, ...])], axis=-2)
                for x, y in zip(first, arrays[1:], strict=True)
            )
            assert_close(out[i, ...], oracle(q, k, v, is_causal=True, q_offset=n).out)

    @pytest.mark.parametrize("is_causal", [True, False])
    @by_raggedness
    def test_of_arrays_has_a_key_for_each_slot(self, xp, is_ragged, is_causal):
        arrays = sequence(xp)
        mask = np.random.default_rng(5).random((BATCH, HEADS, LENGTH, CAPACITY)) < 0.7
        bias = np.random.default_rng(6).normal(size=(HEADS, LENGTH, CAPACITY))
        _, cache = in_chunks(xp, arrays, empty(xp, is_ragged=is_ragged), (4,))

        out, _ = af.cached_attention(
            *part(arrays, 4, LENGTH),
            cache,
            mask=asarray(xp, mask[..., 4:, :]),
            bias=asarray(xp, bias[..., 4:, :]),
            is_causal=is_causal,
        )

        q, k, v = map(to_numpy, arrays)
        expected = oracle(
            q[..., 4:, :],
            k,
            v,
            mask=mask[..., 4:, :LENGTH],
            bias=bias[..., 4:, :LENGTH],
            is_causal=is_causal,
            q_offset=4,
        )
        assert_close(out, expected.out)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    @pytest.mark.libraries("torch", "jax", reason="the others have no halves")
    def test_of_halves_keeps_halves(self, xp, dtype):
        arrays = sequence(xp, dtype)

        out, cache = in_chunks(xp, arrays, empty(xp, dtype=dtype), (5, 4))

        assert out.dtype == cache.key.dtype == getattr(xp, dtype)
        assert_close(out, oracle(*map(to_numpy, arrays), is_causal=True).out, 0.02)

    def test_needs_no_batch(self, xp):
        arrays = sequence(xp, batch=())

        out, _ = in_chunks(xp, arrays, empty(xp, batch=()), (5, 4))

        assert_close(out, oracle(*map(to_numpy, arrays), is_causal=True).out)


class TestAppendKvCache:
    @by_donation
    @by_raggedness
    @pytest.mark.parametrize("sizes", [(3, 3), (7,), (4, 0, 2), (1, 5, 1)], ids=str)
    def test_drops_what_is_past_the_capacity_and_counts_on(
        self, xp, sizes, is_ragged, is_donated
    ):
        _, key, value = sequence(xp)
        cache = empty(xp, 5, is_ragged=is_ragged)
        start = 0
        for n in sizes:
            new = part([key, value], start, start + n)
            cache = af.append_kv_cache(cache, *new, is_donated=is_donated)
            start += n

        assert_close(cache.key, to_numpy(key)[..., :5, :])
        assert_close(cache.value, to_numpy(value)[..., :5, :])
        assert cache.length.dtype == xp.int32
        assert to_numpy(cache.length).tolist() == ([start] * BATCH if is_ragged else start)

    @by_raggedness
    def test_changes_nothing_that_is_not_given_up(self, xp, is_ragged):
        _, key, value = sequence(xp)
        cache = empty(xp, is_ragged=is_ragged, is_rolling=True)

        af.append_kv_cache(cache, key, value)

        assert float(xp.max(xp.abs(cache.key))) == float(xp.max(xp.abs(cache.value))) == 0
        assert to_numpy(cache.length).max() == 0
        assert to_numpy(cache.positions).max() == -1

    @pytest.mark.libraries("numpy", "torch", reason="the others never write into an array")
    def test_copies_nothing_that_is_given_up(self, xp):
        _, key, value = sequence(xp)
        cache = empty(xp)

        after = af.append_kv_cache(cache, key, value, is_donated=True)

        assert after.key is cache.key
        assert after.value is cache.value

    def test_takes_a_length_that_was_computed(self, xp):
        _, key, value = sequence(xp)
        cache = af.append_kv_cache(empty(xp), key, value)
        # NumPy makes a number of this.
        cache = cache._replace(length=cache.length - 2)

        cache = af.append_kv_cache(cache, *part([key, value], 0, 1))

        assert int(cache.length) == LENGTH - 1
        assert cache.length.dtype == xp.int32
        assert_close(cache.key[..., LENGTH - 2, :], to_numpy(key)[..., 0, :])


class TestRollingCache:
    @by_raggedness
    @pytest.mark.parametrize(
        "sizes, capacity", [(SIZES[0], 4), (SIZES[2], 4), (SIZES[3], 4), (SIZES[1], 20)]
    )
    def test_gives_what_a_window_over_the_whole_sequence_gives(
        self, xp, sizes, capacity, is_ragged
    ):
        arrays = sequence(xp)
        cache = spoiled(xp, empty(xp, capacity, is_ragged=is_ragged, is_rolling=True))

        out, cache = in_chunks(xp, arrays, cache, sizes, is_donated=is_ragged)

        window = (capacity - 1, 0)
        assert_close(out, oracle(*map(to_numpy, arrays), window_size=window).out)
        slots = [p % capacity for p in range(LENGTH)][-capacity:]
        expected = np.full(capacity, -1)
        expected[slots] = np.arange(LENGTH)[-capacity:]
        assert np.all(to_numpy(cache.positions) == expected)
        assert_close(cache.key[..., slots[-1], :], to_numpy(arrays[1])[..., -1, :])

    @by_raggedness
    @by_name
    def test_shows_true_positions_to_every_option(self, xp, name, is_ragged):
        arrays = sequence(xp)
        cache = spoiled(xp, empty(xp, 4, is_ragged=is_ragged, is_rolling=True))

        out, _ = in_chunks(xp, arrays, cache, (5, 1, 3), **options_of(xp, name))

        window = {"window_size": (3, 0), **options_of(np, name)}
        assert_close(out, oracle(*map(to_numpy, arrays), **window).out)

    def test_takes_a_mask_of_slots(self, xp):
        arrays = sequence(xp)
        cache = spoiled(xp, empty(xp, 4, is_rolling=True))
        _, cache = in_chunks(xp, arrays, cache, (8,))

        # The last token goes where the fifth was, 8 % 4 = 0.
        mask = asarray(xp, np.asarray([True, False, True, True]))
        out, _ = af.cached_attention(*part(arrays, 8, 9), cache, mask=mask)

        q, k, v = map(to_numpy, arrays)
        seen = [6, 7, 8]
        assert_close(out, oracle(q[..., 8:, :], k[..., seen, :], v[..., seen, :]).out)


class TestReorderKvCache:
    @by_raggedness
    @pytest.mark.parametrize("is_rolling", [False, True])
    def test_goes_on_with_the_sequences_chosen(self, xp, is_ragged, is_rolling):
        _, key, value = sequence(xp)
        cache = empty(xp, is_ragged=is_ragged, is_rolling=is_rolling)
        cache = af.append_kv_cache(cache, key, value)

        actual = af.reorder_kv_cache(cache, asarray(xp, np.asarray([1, 1, 0]), "int64"))

        assert_close(actual.key, to_numpy(cache.key)[[1, 1, 0]])
        assert_close(actual.value, to_numpy(cache.value)[[1, 1, 0]])
        lengths = [LENGTH] * 3 if is_ragged else LENGTH
        assert to_numpy(actual.length).tolist() == lengths
        if is_rolling:
            assert np.shape(to_numpy(actual.positions)) == (*np.shape(lengths), CAPACITY)

    def test_needs_no_batch_axis_of_the_length(self, xp):
        cache = empty(xp)

        actual = af.reorder_kv_cache(cache, asarray(xp, np.asarray([0]), "int64"))

        assert actual.length is cache.length


class TestGatherPages:
    def test_lines_the_pages_of_each_sequence_up(self, xp):
        pool, pages = normal(xp, 7, KV_HEADS, 3, HEAD_DIM), [[[4, 0], [1, 6]], [[2, 2], [5, 3]]]

        actual = af.gather_pages(pool, asarray(xp, np.asarray(pages), "int64"))

        known = to_numpy(pool)
        expected = [
            [np.concat([known[i] for i in of_one], axis=-2) for of_one in row] for row in pages
        ]
        assert_close(actual, expected)

    def test_feeds_an_attention_that_hides_the_rest(self, xp):
        q, k, v = sequence(xp)
        pool = [normal(xp, 5, KV_HEADS, 4, x.shape[-1], seed=9) + np.nan for x in (k, v)]
        lengths, pages = [9, 5], np.asarray([[3, 0, 4], [1, 2, 2]])
        filled = [np.array(to_numpy(x)) for x in pool]
        for whole, x in zip(filled, (k, v), strict=True):
            for b, n in enumerate(lengths):
                for j in range(n):
                    whole[pages[b, j // 4], :, j % 4] = to_numpy(x)[b, :, j]
        key, value = (
            af.gather_pages(asarray(xp, x), asarray(xp, pages, "int64")) for x in filled
        )

        out = af.attention(
            q[..., :1, :],
            key,
            value,
            is_causal=True,
            q_offset=asarray(xp, np.asarray(lengths) - 1, "int64"),
        )

        for b, n in enumerate(lengths):
            one = [to_numpy(x)[b] for x in (q[..., :1, :], k[..., :n, :], v[..., :n, :])]
            assert_close(out[b, ...], oracle(*one).out)


class TestInitKvCache:
    @pytest.mark.parametrize("batch", [(), 3, (2, 3)])
    def test_has_the_shapes_asked_for(self, xp, batch):
        cache = af.init_kv_cache(
            2, 5, 4, value_dim=3, batch=batch, is_ragged=True, is_rolling=True, xp=xp
        )

        axes = batch if isinstance(batch, tuple) else (batch,)
        assert [tuple(x.shape) for x in cache] == [
            (*axes, 2, 5, 4),
            (*axes, 2, 5, 3),
            axes,
            (*axes, 5),
        ]
        assert cache.key.dtype == cache.value.dtype == xp.float32
        assert cache.length.dtype == cache.positions.dtype == xp.int32


@pytest.mark.libraries("jax", reason="these are the transforms of JAX")
class TestJax:
    @by_raggedness
    @pytest.mark.parametrize("is_rolling", [False, True], ids=["fixed", "rolling"])
    def test_one_compilation_serves_every_step(self, xp, is_rolling, is_ragged):
        import jax

        arrays, traces = sequence(xp), []
        cache = spoiled(xp, empty(xp, 4, is_ragged=is_ragged, is_rolling=is_rolling))

        @jax.jit
        def step(*args):
            traces.append(1)
            return af.cached_attention(*args)

        outs = []
        for i in range(LENGTH):
            out, cache = step(*part(arrays, i, i + 1), cache)
            outs.append(out)

        assert len(traces) == 1
        n = LENGTH if is_rolling else 4  # what comes after does not fit
        whole = oracle(*map(to_numpy, arrays), window_size=(3, 0)).out
        assert_close(xp.concat(outs, axis=-2)[..., :n, :], whole[..., :n, :])

    def test_is_the_carry_of_a_scan_and_of_a_while_loop(self, xp):
        import jax

        arrays = sequence(xp)
        tokens = [xp.moveaxis(x, -2, 0)[..., None, :] for x in arrays]
        start = spoiled(xp, empty(xp))
        whole = oracle(*map(to_numpy, arrays), is_causal=True).out

        @jax.jit
        def scanned(cache, tokens):
            def step(cache, token):
                out, cache = af.cached_attention(*token, cache)
                return cache, out

            return jax.lax.scan(step, cache, tokens)

        cache, outs = scanned(start, tokens)
        assert int(cache.length) == LENGTH
        assert_close(xp.moveaxis(outs[..., 0, :], 0, -2), whole)

        @jax.jit
        def looped(cache, tokens):
            def step(carry):
                cache, _ = carry
                out, cache = af.cached_attention(*[x[cache.length] for x in tokens], cache)
                return cache, out

            def has_more(carry):
                return carry[0].length < LENGTH

            return jax.lax.while_loop(has_more, step, (cache, outs[0]))

        _, last = looped(start, tokens)
        assert_close(last, whole[..., -1:, :])

    def test_chunks_go_through_jit_vmap_and_grad(self, xp):
        import jax

        arrays = sequence(xp)

        def of_one(q, k, v, cache):
            return in_chunks(xp, [q, k, v], cache, (5, 4))

        caches = empty(xp, is_ragged=True)
        mapped, cache = jax.jit(jax.vmap(of_one))(*arrays, caches)
        assert_close(mapped, oracle(*map(to_numpy, arrays), is_causal=True).out)
        assert to_numpy(cache.length).tolist() == [LENGTH] * BATCH

        def loss(f):
            return lambda key: xp.sum(f(key) ** 2)

        q, k, v = (x[0] for x in arrays)
        actual = jax.jit(jax.grad(loss(lambda k: of_one(q, k, v, empty(xp, batch=()))[0])))(k)
        expected = jax.grad(loss(lambda k: af.attention(q, k, v, is_causal=True)))(k)
        assert_close(actual, to_numpy(expected))


@pytest.mark.libraries("torch", reason="these are the transforms of PyTorch")
class TestTorch:
    @by_donation
    @by_raggedness
    @pytest.mark.parametrize("is_rolling", [False, True], ids=["fixed", "rolling"])
    def test_is_compiled_once_for_every_step(self, xp, is_rolling, is_ragged, is_donated):
        import torch
        from torch._dynamo import testing

        torch._dynamo.reset()
        counter, arrays = testing.CompileCounter(), sequence(xp)
        cache = spoiled(xp, empty(xp, 4, is_ragged=is_ragged, is_rolling=is_rolling))

        @torch.compile(backend=counter, fullgraph=True, dynamic=False)
        def step(*args):
            return af.cached_attention(*args, is_donated=is_donated)

        outs = []
        for i in range(LENGTH):
            out, cache = step(*part(arrays, i, i + 1), cache)
            outs.append(out)

        assert counter.frame_count == 1
        n = LENGTH if is_rolling else 4
        whole = oracle(*map(to_numpy, arrays), window_size=(3, 0)).out
        assert_close(torch.cat(outs, dim=-2)[..., :n, :], whole[..., :n, :])

    @pytest.mark.parametrize("is_rolling", [False, True], ids=["fixed", "rolling"])
    def test_chunks_go_through_vmap_and_grad(self, xp, is_rolling):
        import torch

        arrays = sequence(xp)
        caches = empty(xp, is_ragged=True, is_rolling=is_rolling)

        def of_one(q, k, v, *cache):
            out, _ = in_chunks(xp, [q, k, v], af.KVCache(*cache), (5, 1, 3), is_donated=True)
            return out

        given = caches if is_rolling else caches[:3]
        mapped = torch.func.vmap(of_one)(*arrays, *given)
        assert_close(mapped, oracle(*map(to_numpy, arrays), is_causal=True).out)

        q, k, v = (x[0] for x in arrays)
        alone = empty(xp, batch=(), is_rolling=is_rolling)
        given = alone if is_rolling else alone[:3]
        expected = torch.func.grad(
            lambda k: af.attention(q, k, v, is_causal=True).square().sum()
        )(k)
        actual = torch.func.grad(lambda k: of_one(q, k, v, *given).square().sum())(k)
        assert_close(actual, to_numpy(expected))
        leaf = k.clone().requires_grad_()
        of_one(q, leaf, v, *given).square().sum().backward()
        assert_close(leaf.grad, to_numpy(expected))


def test_a_cache_is_a_tree_of_arrays(xp):
    if library_of(xp) == "jax":
        import jax

        leaves = jax.tree.leaves(empty(xp))
    else:
        leaves = list(af.flatten_params(empty(xp)).values())

    assert len(leaves) == 3
