"""Embeddings look up rows, and refuse positions that there are none for."""

import array_api_strict
import numpy as np
import pytest
from support import asarray, device_of, library_of, normal, to_numpy

import attnfn as af

NUM_TOKENS, MAX_LENGTH, DIM = 7, 6, 3
TOKENS = np.asarray([[1, 0, 6, 6], [2, 2, 3, 0]])


def make_params(xp, dtype="float64"):
    return af.EmbeddingParams(
        tokens=normal(xp, NUM_TOKENS, DIM, seed=1, dtype=dtype),
        positions=normal(xp, MAX_LENGTH, DIM, seed=2, dtype=dtype),
    )


class TestEmbedding:
    def test_adds_meaning_and_place(self, xp):
        params = make_params(xp)

        actual = af.embedding(params, asarray(xp, TOKENS), offset=2)

        words, places = map(to_numpy, params)
        assert np.array_equal(to_numpy(actual), words[TOKENS] + places[2:6])

    @pytest.mark.parametrize("shape", [(4,), (2, 0), (1, 2, 3)], ids=str)
    def test_of_tokens_alone_are_their_rows(self, xp, shape):
        params = make_params(xp)._replace(positions=())
        tokens = np.random.default_rng(0).integers(0, NUM_TOKENS, shape)

        actual = af.embedding(params, asarray(xp, tokens))

        assert np.array_equal(to_numpy(actual), to_numpy(params.tokens)[tokens])

    @pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "int64"])
    def test_takes_integers_of_any_width(self, xp, dtype):
        params = make_params(xp)

        actual = af.embedding(params, asarray(xp, TOKENS, dtype))

        assert np.array_equal(
            to_numpy(actual), to_numpy(af.embedding(params, asarray(xp, TOKENS)))
        )

    @pytest.mark.parametrize("offset", [np.asarray(2), np.asarray([0, 2])], ids=["0d", "batch"])
    def test_takes_an_array_of_offsets(self, xp, offset):
        params = make_params(xp)

        actual = af.embedding(params, asarray(xp, TOKENS), offset=asarray(xp, offset, "int32"))

        words, places = map(to_numpy, params)
        where = offset[..., None] + np.arange(4)
        assert np.array_equal(to_numpy(actual), words[TOKENS] + places[where])

    @pytest.mark.libraries("torch", "jax", reason="the others have no bfloat16")
    def test_keeps_halves(self, xp):
        actual = af.embedding(make_params(xp, "bfloat16"), asarray(xp, TOKENS))

        assert actual.dtype == xp.bfloat16

    @pytest.mark.libraries("array_api_strict", reason="the others have one device here")
    @pytest.mark.parametrize("as_array", [False, True])
    def test_stays_on_the_device(self, xp, as_array):
        device = array_api_strict.Device("device1")
        params = af.EmbeddingParams(*(x.to_device(device) for x in make_params(xp)))
        offset = xp.asarray(1, device=device) if as_array else 1

        actual = af.embedding(params, asarray(xp, TOKENS).to_device(device), offset=offset)

        assert device_of(actual) == device

    @pytest.mark.libraries("torch", "jax", reason="the others do not differentiate")
    def test_has_a_gradient_that_counts(self, xp):
        params, tokens = make_params(xp), asarray(xp, TOKENS)

        def loss(params):
            return xp.sum(af.embedding(params, tokens))

        if library_of(xp) == "jax":
            import jax

            gradient = jax.jit(jax.grad(loss))(params)
        else:
            import torch

            gradient = torch.func.grad(loss)(params)
        assert to_numpy(gradient.tokens)[:, 0].tolist() == [2, 1, 2, 1, 0, 0, 2]
        assert to_numpy(gradient.positions)[:, 0].tolist() == [2, 2, 2, 2, 0, 0]

    @pytest.mark.errors
    def test_says_what_is_wrong(self, xp):
        params, tokens = make_params(xp), asarray(xp, TOKENS)

        def refused(error, message, params=params, tokens=tokens, **options):
            with pytest.raises(error, match=message):
                af.embedding(params, tokens, **options)

        refused(
            ValueError,
            r"`params\.positions` must have a row for each position; got 6 rows for 4 positions "
            r"from position 3 on\. Learned positions have an end",
            offset=3,
        )
        refused(
            ValueError,
            "got 6 rows for 7 positions.",
            tokens=asarray(xp, np.zeros((1, 7), dtype=int)),
            offset=asarray(xp, 0),
        )
        refused(TypeError, "`tokens` must have an integer dtype", tokens=params.tokens)
        refused(ValueError, "`tokens` must have shape", tokens=asarray(xp, 3))
        refused(ValueError, "`params` must hold tokens; missing: tokens", af.EmbeddingParams())
        refused(TypeError, "`params` must be EmbeddingParams; got", params.tokens)
        refused(ValueError, "`offset` must be 0 or more; got -1", offset=-1)
        refused(TypeError, "`offset` must be an int or an integer array", offset=1.0)
        refused(
            ValueError,
            r"`offset` must have shape \(\) or \(\*batch,\), here \(\) or \(2,\)",
            offset=asarray(xp, np.zeros(4, dtype=int)),
        )


class TestLearnedPositions:
    def test_are_rows_of_the_table(self, xp):
        table = make_params(xp).positions

        assert np.array_equal(
            to_numpy(af.learned_positions(table, 3, offset=2)), to_numpy(table)[2:5]
        )
        assert np.array_equal(to_numpy(af.learned_positions(table, 6)), to_numpy(table))
        assert tuple(af.learned_positions(table, 0, offset=6).shape) == (0, DIM)

    def test_may_begin_elsewhere_in_each_sequence(self, xp):
        table = make_params(xp).positions
        offset = np.asarray([[0, 3], [1, 2]])

        actual = af.learned_positions(table, 3, offset=asarray(xp, offset))

        assert np.array_equal(
            to_numpy(actual), to_numpy(table)[offset[..., None] + np.arange(3)]
        )

    @pytest.mark.libraries("jax", reason="only JAX traces")
    def test_beyond_the_table_are_nan_where_the_offset_is_traced(self, xp):
        """JAX would hand out the last rows again, in silence."""
        import jax

        table = make_params(xp).positions

        actual = to_numpy(
            jax.jit(lambda offset: af.learned_positions(table, 2, offset=offset))(5)
        )

        assert np.array_equal(actual[0], to_numpy(table)[5])
        assert np.isnan(actual[1]).all()

    @pytest.mark.errors
    def test_refuse_a_length_beyond_the_table(self, xp):
        table = make_params(xp).positions

        with pytest.raises(ValueError, match="`table` must have a row for each position"):
            af.learned_positions(table, 7)
        with pytest.raises(ValueError, match="got 6 rows for 1 positions from position 6 on"):
            af.learned_positions(table, 1, offset=6)
        with pytest.raises(ValueError, match=r"`table` must have shape \(rows, model_dim\)"):
            af.learned_positions(table[0, :], 1)
        with pytest.raises(ValueError, match="`length` must be 0 or more"):
            af.learned_positions(table, -1)


class TestInitEmbedding:
    @pytest.mark.parametrize("init", ["normal", "xavier", "orthogonal"])
    def test_gives_the_same_tables_on_every_library(self, xp, init):
        options = {"num_tokens": 7, "max_length": 4, "init": init}
        expected = af.init_embedding(3, rng=np.random.default_rng(1), **options)

        actual = af.init_embedding(3, rng=np.random.default_rng(1), xp=xp, **options)

        for mine, its in zip(actual, expected, strict=True):
            assert mine.dtype == xp.float32
            assert np.array_equal(to_numpy(mine), its)

    def test_makes_what_it_is_asked_for(self):
        rng = np.random.default_rng(1)

        words = af.init_embedding(3, rng=rng, num_tokens=5000)
        places = af.init_embedding(3, rng=rng, max_length=4)

        assert words.positions == places.tokens == ()
        assert words.tokens.std() == pytest.approx(0.02, rel=0.03)
        assert places.positions.shape == (4, 3)

    @pytest.mark.errors
    def test_says_what_is_wrong(self):
        rng = np.random.default_rng(1)

        with pytest.raises(ValueError, match="`num_tokens` or `max_length` must be given"):
            af.init_embedding(3, rng=rng)
        with pytest.raises(ValueError, match="`max_length` must be 1 or more; got 0"):
            af.init_embedding(3, rng=rng, max_length=0)
