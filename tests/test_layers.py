"""Blocks are the steps of the papers, one after the other; PyTorch's are in tests/peers."""

import array_api_strict
import numpy as np
import pytest
from support import asarray, device_of, library_of, normal, to_numpy

import attnfn as af

BATCH, LENGTH, MEMORY_LEN, DIM, HEADS, HIDDEN = 2, 5, 3, 8, 4, 6
NORMS = {"layer": af.layer_norm, "rms": af.rms_norm}
by_place = pytest.mark.parametrize("is_pre_norm", [False, True], ids=["post_norm", "pre_norm"])
by_norm = pytest.mark.parametrize("norm", NORMS)
differentiable = pytest.mark.libraries("torch", "jax", reason="the others do not differentiate")


def varied(xp, params, dtype="float64"):
    """Give norms and biases numbers that would be seen if they were left out."""
    leaves = af.flatten_params(params)
    return af.unflatten_params(
        params,
        {
            name: x if x.ndim > 1 else x + normal(xp, *x.shape, seed=i, dtype=dtype) / 2
            for i, (name, x) in enumerate(leaves.items())
        },
    )


def make_encoder(xp, dtype="float64", **options):
    options = {"hidden_dim": HIDDEN, "has_bias": True, "dtype": getattr(xp, dtype)} | options
    params = af.init_encoder_block(DIM, HEADS, rng=np.random.default_rng(0), xp=xp, **options)
    return varied(xp, params, dtype) if "device" not in options else params


def make_decoder(xp, dtype="float64", **options):
    options = {
        "hidden_dim": HIDDEN,
        "has_bias": True,
        "has_cross_attention": True,
        "dtype": getattr(xp, dtype),
    } | options
    params = af.init_decoder_block(DIM, HEADS, rng=np.random.default_rng(0), xp=xp, **options)
    return varied(xp, params, dtype)


def features(xp, length=LENGTH, *, dim=DIM, seed=1, dtype="float64"):
    return normal(xp, BATCH, length, dim, seed=seed, dtype=dtype)


def step(x, layer, norm_params, *, norm="layer", is_pre_norm=False, **options):
    """Take one step of a block as its formula says."""

    def normed(y):
        return NORMS[norm](norm_params, y, **options)

    return x + layer(normed(x)) if is_pre_norm else normed(x + layer(x))


def encoder_by_hand(params, x, *, attention=None, feed_forward=None, **options):
    """Compute an encoder block in two steps; the options of each by name."""
    x = step(
        x,
        lambda y: af.multi_head_attention(params.attention, y, **(attention or {})),
        params.attention_norm,
        **options,
    )
    return step(
        x,
        lambda y: af.feed_forward(params.feed_forward, y, **(feed_forward or {})),
        params.feed_forward_norm,
        **options,
    )


def decoder_by_hand(params, x, memory=None, *, self_=None, cross=None, **options):
    """Compute a decoder block in two or three steps."""
    own = {"is_causal": True} | (self_ or {})
    x = step(
        x,
        lambda y: af.multi_head_attention(params.self_attention, y, **own),
        params.self_attention_norm,
        **options,
    )
    if memory is not None:
        x = step(
            x,
            lambda y: af.multi_head_attention(
                params.cross_attention, y, memory, **(cross or {})
            ),
            params.cross_attention_norm,
            **options,
        )
    return step(
        x,
        lambda y: af.feed_forward(params.feed_forward, y),
        params.feed_forward_norm,
        **options,
    )


def drawn(xp, *shape, seed=9):
    """Draw what is kept, half of it."""
    return asarray(xp, np.random.default_rng(seed).random(shape) < 0.5)


def dropped(xp, x, keep):
    return xp.where(keep, 2.0 * x, 0.0)


def assert_close(actual, expected, tolerance=1e-12):
    actual, expected = to_numpy(actual), to_numpy(expected)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def grad_of(xp, loss, *args):
    if library_of(xp) == "jax":
        import jax

        return jax.jit(jax.grad(loss))(*args)
    import torch

    return torch.func.grad(loss)(*args)


def assert_gradient_of_finite_differences(xp, loss, params):
    gradient = af.flatten_params(grad_of(xp, loss, params))
    leaves = af.flatten_params(params)
    steps = {name: normal(xp, *x.shape, seed=i) for i, (name, x) in enumerate(leaves.items())}

    def moved(h):
        return af.unflatten_params(params, {n: x + h * steps[n] for n, x in leaves.items()})

    expected = float((loss(moved(1e-6)) - loss(moved(-1e-6))) / 2e-6)
    actual = sum(float(xp.sum(gradient[name] * x)) for name, x in steps.items())
    assert list(gradient) == list(leaves)
    assert actual == pytest.approx(expected, rel=1e-6)


class TestEncoderBlock:
    @by_place
    @by_norm
    def test_is_its_formula(self, xp, is_pre_norm, norm):
        params, x = make_encoder(xp, norm=norm), features(xp)

        actual = af.encoder_block(params, x, is_pre_norm=is_pre_norm, norm=norm)

        assert_close(actual, encoder_by_hand(params, x, is_pre_norm=is_pre_norm, norm=norm))

    def test_passes_its_options_on(self, xp):
        params = make_encoder(xp, is_gated=True, num_kv_heads=2, is_fused=True)
        x = features(xp)
        mask = af.padding_mask(asarray(xp, np.asarray([3, 5])), LENGTH)
        bias = normal(xp, HEADS, LENGTH, LENGTH)
        attention = {"window_size": (2, 1), "bias": bias, "softcap": 3.0, "sinks": 0.5}

        actual = af.encoder_block(
            params, x, mask=mask, activation="silu", epsilon=0.1, **attention
        )

        expected = encoder_by_hand(
            params,
            x,
            attention={"mask": mask, **attention},
            feed_forward={"activation": "silu"},
            epsilon=0.1,
        )
        assert_close(actual, expected)

    def test_may_be_causal(self, xp):
        params, x = make_encoder(xp), features(xp)

        actual = af.encoder_block(params, x, is_causal=True)

        assert_close(actual, encoder_by_hand(params, x, attention={"is_causal": True}))

    @by_place
    def test_keeps_nan_in_the_padding(self, xp, is_pre_norm):
        params = make_encoder(xp)
        x = to_numpy(features(xp))
        bad = x.copy()
        bad[0, 3:] = np.nan
        mask = af.padding_mask(asarray(xp, np.asarray([3, 5])), LENGTH)

        actual, expected = (
            to_numpy(
                af.encoder_block(params, asarray(xp, a), mask=mask, is_pre_norm=is_pre_norm)
            )
            for a in (bad, x)
        )

        assert np.isnan(actual[0, 3:]).all()
        assert_close(actual[0, :3], expected[0, :3])
        assert_close(actual[1], expected[1])

    @pytest.mark.parametrize("place", af.EncoderDropoutMasks._fields)
    def test_drops_at_every_place(self, xp, place):
        params, x = make_encoder(xp), features(xp)
        shapes = {
            "attention_weights": (BATCH, HEADS, LENGTH, LENGTH),
            "attention": (BATCH, LENGTH, DIM),
            "hidden": (1, LENGTH, HIDDEN),
            "feed_forward": (BATCH, 1, DIM),
        }
        keep = drawn(xp, *shapes[place])
        masks = af.EncoderDropoutMasks(**{place: keep})

        actual = af.encoder_block(params, x, dropout_masks=masks, dropout_rate=0.5)

        dropout = {"dropout_mask": keep, "dropout_rate": 0.5}
        attended = af.multi_head_attention(
            params.attention, x, **(dropout if place == "attention_weights" else {})
        )
        attended = dropped(xp, attended, keep) if place == "attention" else attended
        y = af.layer_norm(params.attention_norm, x + attended)
        thought = af.feed_forward(
            params.feed_forward, y, **(dropout if place == "hidden" else {})
        )
        thought = dropped(xp, thought, keep) if place == "feed_forward" else thought
        assert_close(actual, af.layer_norm(params.feed_forward_norm, y + thought))
        assert not np.allclose(to_numpy(actual), to_numpy(af.encoder_block(params, x)))

    @pytest.mark.libraries("torch", "jax", reason="the others have no bfloat16")
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_keeps_halves(self, xp, dtype):
        params, x = make_encoder(xp, dtype), features(xp, dtype=dtype)
        wide = af.unflatten_params(
            params,
            {n: xp.astype(p, xp.float32) for n, p in af.flatten_params(params).items()},
        )

        actual = af.encoder_block(params, x, is_pre_norm=True, activation="gelu")

        expected = af.encoder_block(
            wide, xp.astype(x, xp.float32), is_pre_norm=True, activation="gelu"
        )
        assert actual.dtype == getattr(xp, dtype)
        assert_close(actual, expected, 0.01 if dtype == "float16" else 0.08)

    @pytest.mark.libraries("array_api_strict", reason="the others have one device here")
    def test_stays_on_the_device(self, xp):
        device = array_api_strict.Device("device1")
        params = make_encoder(xp, device=device, is_gated=True)

        actual = af.encoder_block(params, features(xp).to_device(device), activation="gelu")

        assert device_of(actual) == device

    @differentiable
    @by_place
    def test_has_the_gradient_of_finite_differences(self, xp, is_pre_norm):
        """Also where one sequence is padding from end to end."""
        params, x = make_encoder(xp, is_gated=True), features(xp)
        mask = af.padding_mask(asarray(xp, np.asarray([0, 4])), LENGTH)
        weight = normal(xp, BATCH, LENGTH, DIM, seed=5)

        def loss(params):
            out = af.encoder_block(
                params, x, mask=mask, is_pre_norm=is_pre_norm, activation="gelu"
            )
            return xp.sum(weight * out)

        assert_gradient_of_finite_differences(xp, loss, params)

    @pytest.mark.libraries("torch", reason="the compiler is torch's")
    def test_is_one_graph_for_torch_compile(self, xp):
        import torch

        params, x = make_encoder(xp, norm="rms", is_gated=True), features(xp)
        mask = af.padding_mask(asarray(xp, np.asarray([3, 5])), LENGTH)

        def block(params, x, mask):
            return af.encoder_block(params, x, mask=mask, norm="rms", activation="gelu")

        actual = torch.compile(block, fullgraph=True, backend="aot_eager")(params, x, mask)

        assert_close(actual, block(params, x, mask))

    @pytest.mark.errors
    def test_says_what_is_wrong(self, xp):
        params, x = make_encoder(xp), features(xp)

        def refused(error, message, params=params, x=x, **options):
            with pytest.raises(error, match=message):
                af.encoder_block(params, x, **options)

        refused(TypeError, "`params` must be EncoderBlockParams; got tuple", (1, 2, 3, 4))
        refused(
            TypeError,
            r"`params\.attention` must be MultiHeadAttentionParams; got attnfn NormParams",
            params._replace(attention=params.attention_norm),
        )
        refused(
            TypeError,
            r"`params\.feed_forward_norm` must be NormParams; got tuple",
            params._replace(feed_forward_norm=()),
        )
        refused(
            ValueError,
            r"model_dim must be the same in axis -1 of `x` and axis -1 of `params\.attention\.w_o`",
            x=features(xp, dim=1),
        )
        refused(
            ValueError,
            r"axis -1 of `params\.feed_forward\.w_out`: 8 and 1",
            params._replace(
                feed_forward=params.feed_forward._replace(w_out=normal(xp, HIDDEN, 1))
            ),
        )
        refused(ValueError, r"`x` must have shape \(\.\.\., length, model_dim\)", x=x[0, 0, :])
        refused(ValueError, "`norm` must be one of 'layer', 'rms'; got 'batch'", norm="batch")
        refused(TypeError, "`is_pre_norm` must be True or False; got 'yes'", is_pre_norm="yes")
        refused(TypeError, r"encoder_block\(\) has no option `dropout_mask`", dropout_mask=x)
        refused(
            ValueError,
            "`dropout_rate` needs `dropout_masks`; got dropout_rate=0.5 alone",
            dropout_rate=0.5,
        )
        refused(
            ValueError,
            "`dropout_masks` need a `dropout_rate`",
            dropout_masks=af.EncoderDropoutMasks(),
        )
        refused(
            TypeError,
            "`dropout_masks` must be EncoderDropoutMasks; got attnfn DecoderDropoutMasks",
            dropout_masks=af.DecoderDropoutMasks(),
            dropout_rate=0.5,
        )
        refused(
            ValueError,
            r"`dropout_masks\.hidden` must have the shape of what is dropped, \(2, 5, 6\)",
            dropout_masks=af.EncoderDropoutMasks(hidden=drawn(xp, 2, 5, 7)),
            dropout_rate=0.5,
        )


class TestDecoderBlock:
    @by_place
    @by_norm
    def test_is_its_formula(self, xp, is_pre_norm, norm):
        params = make_decoder(xp, norm=norm, memory_dim=3)
        x, memory = features(xp), features(xp, MEMORY_LEN, dim=3, seed=2)
        options = {"is_pre_norm": is_pre_norm, "norm": norm}

        actual = af.decoder_block(params, x, memory, **options)

        assert_close(actual, decoder_by_hand(params, x, memory, **options))

    def test_needs_no_memory(self, xp):
        params, x = make_decoder(xp, has_cross_attention=False), features(xp)

        actual = af.decoder_block(params, x)

        assert_close(actual, decoder_by_hand(params, x))

    def test_need_not_be_causal(self, xp):
        params, x = make_decoder(xp, has_cross_attention=False), features(xp)

        actual = af.decoder_block(params, x, is_causal=False)

        assert_close(actual, decoder_by_hand(params, x, self_={"is_causal": False}))

    def test_keeps_order_windows_and_biases_from_the_memory(self, xp):
        params = make_decoder(xp, num_kv_heads=2)
        x, memory = features(xp), features(xp, LENGTH, seed=2)
        self_ = {
            "window_size": (2, 0),
            "bias": normal(xp, HEADS, LENGTH, LENGTH),
            "segment_ids": asarray(xp, np.asarray([0, 0, 1, 1, 1])),
            "sinks": normal(xp, HEADS),
            "score_mod": lambda s, i, j: s * xp.astype(1 + i % 2, s.dtype),
            "mask": af.causal_mask(LENGTH, xp=xp),
        }
        shared = {"scale": 0.3, "softcap": 2.0, "engine": "dense"}
        memory_mask = af.padding_mask(asarray(xp, np.asarray([3, 5])), LENGTH)

        actual = af.decoder_block(params, x, memory, memory_mask=memory_mask, **self_, **shared)

        expected = decoder_by_hand(
            params, x, memory, self_=self_ | shared, cross={"mask": memory_mask, **shared}
        )
        assert_close(actual, expected)

    @pytest.mark.parametrize("length", [MEMORY_LEN, LENGTH])
    def test_tells_the_mask_of_the_memory_where_its_queries_stand(self, xp, length):
        params = make_decoder(xp)
        x, memory = features(xp), features(xp, length, seed=2)

        def nearby(q_pos, kv_pos):
            return abs(q_pos - kv_pos) <= 2

        actual = af.decoder_block(params, x, memory, memory_mask=nearby, q_offset=1)

        expected = decoder_by_hand(
            params, x, memory, self_={"q_offset": 1}, cross={"mask": nearby, "q_offset": 1}
        )
        assert_close(actual, expected)

    def test_keeps_nan_in_the_padding_of_the_memory(self, xp):
        params, x = make_decoder(xp), features(xp)
        memory = to_numpy(features(xp, MEMORY_LEN, seed=2))
        bad = memory.copy()
        bad[0, 1:] = np.nan
        mask = af.padding_mask(asarray(xp, np.asarray([1, 3])), MEMORY_LEN)

        actual, expected = (
            af.decoder_block(params, x, asarray(xp, m), memory_mask=mask) for m in (bad, memory)
        )

        assert_close(actual, expected)

    @pytest.mark.parametrize("place", ["cross_attention_weights", "cross_attention", "hidden"])
    def test_drops_at_its_own_places_too(self, xp, place):
        params = make_decoder(xp)
        x, memory = features(xp), features(xp, MEMORY_LEN, seed=2)
        shapes = {
            "cross_attention_weights": (BATCH, HEADS, LENGTH, MEMORY_LEN),
            "cross_attention": (BATCH, LENGTH, DIM),
            "hidden": (BATCH, LENGTH, HIDDEN),
        }
        keep = drawn(xp, *shapes[place])
        masks = af.DecoderDropoutMasks(**{place: keep})

        actual = af.decoder_block(params, x, memory, dropout_masks=masks, dropout_rate=0.5)

        dropout = {"dropout_mask": keep, "dropout_rate": 0.5}
        seen = af.multi_head_attention(params.self_attention, x, is_causal=True)
        y = af.layer_norm(params.self_attention_norm, x + seen)
        seen = af.multi_head_attention(
            params.cross_attention,
            y,
            memory,
            **(dropout if place == "cross_attention_weights" else {}),
        )
        seen = dropped(xp, seen, keep) if place == "cross_attention" else seen
        y = af.layer_norm(params.cross_attention_norm, y + seen)
        thought = af.feed_forward(
            params.feed_forward, y, **(dropout if place == "hidden" else {})
        )
        assert_close(actual, af.layer_norm(params.feed_forward_norm, y + thought))

    @differentiable
    def test_has_the_gradient_of_finite_differences(self, xp):
        params = make_decoder(xp)
        x, memory = features(xp), features(xp, MEMORY_LEN, seed=2)
        weight = normal(xp, BATCH, LENGTH, DIM, seed=5)

        def loss(params):
            return xp.sum(weight * af.decoder_block(params, x, memory, is_pre_norm=True))

        assert_gradient_of_finite_differences(xp, loss, params)

    @pytest.mark.errors
    def test_says_what_is_wrong(self, xp):
        params, x = make_decoder(xp), features(xp)
        plain = make_decoder(xp, has_cross_attention=False)

        def refused(error, message, *arguments, **options):
            with pytest.raises(error, match=message):
                af.decoder_block(*arguments, **options)

        refused(
            ValueError,
            "`memory` must be given where `params` has a cross_attention; got None",
            params,
            x,
        )
        refused(
            ValueError,
            "`params` must have a cross_attention to attend to a `memory`; got none",
            plain,
            x,
            x,
        )
        refused(
            ValueError,
            "`memory_mask` needs a `memory`; got None",
            plain,
            x,
            memory_mask=drawn(xp, 5),
        )
        refused(TypeError, r"decoder_block\(\) has no option `q_off`", plain, x, q_off=1)
        refused(
            TypeError,
            r"`params\.cross_attention_norm` must be NormParams; got tuple",
            params._replace(cross_attention_norm=()),
            x,
            x,
        )


class TestInit:
    @pytest.mark.parametrize("has_bias", [False, True], ids=["no_bias", "bias"])
    @by_norm
    def test_gives_the_same_parameters_on_every_library(self, xp, norm, has_bias):
        options = {
            "norm": norm,
            "has_bias": has_bias,
            "num_kv_heads": 2,
            "is_gated": True,
            "has_cross_attention": True,
        }
        expected = af.init_decoder_block(DIM, HEADS, rng=np.random.default_rng(3), **options)

        actual = af.init_decoder_block(
            DIM, HEADS, rng=np.random.default_rng(3), xp=xp, **options
        )

        leaves = af.flatten_params(expected)
        assert ("self_attention_norm.bias" in leaves) == (has_bias and norm == "layer")
        assert ("feed_forward.b_gate" in leaves) == has_bias
        assert leaves["feed_forward.w_in"].shape == (DIM, 4 * DIM)
        assert list(af.flatten_params(actual)) == list(leaves)
        for name, x in af.flatten_params(actual).items():
            assert x.dtype == xp.float32
            assert np.array_equal(to_numpy(x), leaves[name])

    def test_gives_a_decoder_the_weights_of_an_encoder(self):
        options = {"is_fused": True, "has_bias": True, "is_gated": True}
        encoder = af.init_encoder_block(DIM, HEADS, rng=np.random.default_rng(3), **options)

        decoder = af.init_decoder_block(
            DIM, HEADS, rng=np.random.default_rng(3), has_cross_attention=True, **options
        )

        for mine, its in zip(decoder[:4], encoder, strict=True):
            for x, y in zip(mine, its, strict=True):
                assert np.array_equal(x, y)

    @pytest.mark.errors
    def test_says_what_is_wrong(self):
        rng = np.random.default_rng(0)

        with pytest.raises(ValueError, match="`norm` must be one of 'layer', 'rms'"):
            af.init_encoder_block(8, 2, rng=rng, norm="batch")
        with pytest.raises(TypeError, match="`has_bias` must be True or False; got 1"):
            af.init_encoder_block(8, 2, rng=rng, has_bias=1)
        with pytest.raises(TypeError, match="`has_cross_attention` must be True or False"):
            af.init_decoder_block(8, 2, rng=rng, has_cross_attention=8)
        with pytest.raises(ValueError, match="`hidden_dim` must be 1 or more; got 0"):
            af.init_decoder_block(8, 2, rng=rng, hidden_dim=0)
