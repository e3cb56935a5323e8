"""`attnfn.convert` on every array library; beside the layers themselves it runs in tests/convert."""

import numpy as np
import pytest
from support import normal, to_numpy

import attnfn as af
from attnfn import convert

MODEL_DIM, HEADS, KV_HEADS, HEAD_DIM = 6, 4, 2, 3
Q, KV = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
#: Where heads and the model are of one width, as in most layouts.
D = HEADS * HEAD_DIM


def linear(names, shape, *, weight=".weight", bias=".bias"):
    """Shapes of linear maps of one shape, (out, in) or (in, out), by name."""
    out = shape[-1] if weight == ".kernel" else shape[0]
    return {n + weight: shape for n in names} | (
        {n + bias: (out,) for n in names} if bias else {}
    )


#: name: (the layout, the shapes of a layer's weights by name)
LAYERS = {
    "torch": (
        "torch",
        {
            "in_proj_weight": (3 * D, D),
            "in_proj_bias": (3 * D,),
            "out_proj.weight": (D, D),
            "out_proj.bias": (D,),
        },
    ),
    "torch, no bias": ("torch", {"in_proj_weight": (3 * D, D), "out_proj.weight": (D, D)}),
    "torch, widths": (
        "torch",
        {
            "q_proj_weight": (D, D),
            "k_proj_weight": (D, 5),
            "v_proj_weight": (D, 7),
            "in_proj_bias": (3 * D,),
            "out_proj.weight": (D, D),
            "out_proj.bias": (D,),
        },
    ),
    "flax": (
        "flax",
        {
            "query.kernel": (MODEL_DIM, HEADS, HEAD_DIM),
            "query.bias": (HEADS, HEAD_DIM),
            "key.kernel": (5, KV_HEADS, HEAD_DIM),
            "key.bias": (KV_HEADS, HEAD_DIM),
            "value.kernel": (7, KV_HEADS, 2),
            "value.bias": (KV_HEADS, 2),
            "out.kernel": (HEADS, 2, 8),
            "out.bias": (8,),
        },
    ),
    "keras": (
        "keras",
        {
            "query/kernel": (MODEL_DIM, HEADS, HEAD_DIM),
            "key/kernel": (MODEL_DIM, KV_HEADS, HEAD_DIM),
            "value/kernel": (MODEL_DIM, KV_HEADS, HEAD_DIM),
            "attention_output/kernel": (HEADS, HEAD_DIM, MODEL_DIM),
        },
    ),
    "equinox": (
        "equinox",
        {
            "query_proj.weight": (Q, MODEL_DIM),
            "query_proj.bias": (Q,),
            "key_proj.weight": (Q, 5),
            "value_proj.weight": (HEADS * 2, 7),
            "output_proj.weight": (8, HEADS * 2),
        },
    ),
    "bert": (
        "bert",
        linear(["self.query", "self.key", "self.value", "output.dense"], (D, D)),
    ),
    "gpt2": (
        "gpt2",
        {
            "c_attn.weight": (D, 3 * D),
            "c_attn.bias": (3 * D,),
            "c_proj.weight": (D, D),
            "c_proj.bias": (D,),
        },
    ),
    "gpt2, cross": (
        "gpt2_cross",
        {
            "q_attn.weight": (D, D),
            "q_attn.bias": (D,),
            "c_attn.weight": (D, 2 * D),
            "c_attn.bias": (2 * D,),
            "c_proj.weight": (D, D),
            "c_proj.bias": (D,),
        },
    ),
    "llama": (
        "llama",
        {
            "q_proj.weight": (Q, MODEL_DIM),
            "k_proj.weight": (KV, MODEL_DIM),
            "v_proj.weight": (KV, MODEL_DIM),
            "o_proj.weight": (MODEL_DIM, Q),
        },
    ),
    "whisper": (
        "whisper",
        {
            "k_proj.weight": (D, D),
            **linear(["v_proj", "q_proj", "out_proj"], (D, D)),
        },
    ),
}


def make_weights(xp, layer, dtype="float32"):
    _, shapes = LAYERS[layer]
    return {
        name: normal(xp, *s, seed=i, dtype=dtype) for i, (name, s) in enumerate(shapes.items())
    }


def read(layer, weights, **options):
    return convert.multi_head_attention_from(
        weights, LAYERS[layer][0], num_heads=HEADS, **options
    )


def make_params(**options):
    return af.init_multi_head_attention(12, 4, rng=np.random.default_rng(0), **options)


def assert_same(actual, expected):
    assert set(actual) == set(expected)
    for name, x in expected.items():
        assert actual[name].dtype == x.dtype
        assert np.array_equal(to_numpy(actual[name]), to_numpy(x))


@pytest.mark.parametrize("layer", LAYERS)
class TestRoundTrip:
    def test_there_and_back_changes_no_bit(self, xp, layer):
        weights = make_weights(xp, layer)

        params = read(layer, weights)
        again = convert.multi_head_attention_to(params, LAYERS[layer][0])

        assert_same(again, weights)

    @pytest.mark.libraries("numpy", reason="these are rules of the table of layouts")
    def test_back_and_there_changes_no_bit(self, xp, layer):
        weights = make_weights(xp, layer)
        params = read(layer, weights, prefix="")

        again = read(
            layer, convert.multi_head_attention_to(params, LAYERS[layer][0], prefix="")
        )

        assert type(again) is af.MultiHeadAttentionParams
        assert_same(af.flatten_params(again), af.flatten_params(params))

    @pytest.mark.libraries("numpy", reason="names are those of Python")
    def test_a_prefix_picks_one_layer_out_of_many(self, xp, layer):
        weights = make_weights(xp, layer)
        other = {f"layers.1.{name}": x + 1 for name, x in weights.items()}
        model = {f"layers.0.{name}": x for name, x in weights.items()} | other

        params = read(layer, model, prefix="layers.1.")

        again = convert.multi_head_attention_to(params, LAYERS[layer][0], prefix="layers.1.")
        assert_same(again, other)


class TestFrom:
    def test_is_the_matrix_that_the_layout_multiplies_with(self, xp):
        """PyTorch's linear layers compute x @ weight.T + bias; the heads lie side by side."""
        weights = make_weights(xp, "bert", "float64")
        x = normal(xp, 5, D, seed=9)

        params = read("bert", weights)

        q = af.project_heads(x, params.w_q, params.b_q)
        wide = to_numpy(x) @ to_numpy(weights["self.query.weight"]).T
        wide = wide + to_numpy(weights["self.query.bias"])
        expected = np.stack([wide[:, h * HEAD_DIM : (h + 1) * HEAD_DIM] for h in range(HEADS)])
        np.testing.assert_allclose(to_numpy(q), expected, rtol=1e-12)

    def test_stays_fused_where_it_is_stored_fused(self, xp):
        params = read("torch", make_weights(xp, "torch"))

        assert params.w_qkv.shape == (D, 3 * HEADS, HEAD_DIM)
        assert params.b_qkv.shape == (3 * HEADS, HEAD_DIM)
        assert params.w_q == params.b_q == ()

    @pytest.mark.libraries("torch", reason="a gradient that PyTorch follows")
    def test_gradients_reach_the_weights(self, xp):
        weights = make_weights(xp, "gpt2")
        for x in weights.values():
            x.requires_grad_(True)

        read("gpt2", weights).w_qkv.sum().backward()

        assert bool((weights["c_attn.weight"].grad == 1).all())
        assert weights["c_proj.weight"].grad is None


class TestTo:
    @pytest.mark.libraries("numpy", reason="these are rules of the table of layouts")
    @pytest.mark.parametrize("layout", ["torch", "gpt2", "bert"])
    def test_joins_and_parts_as_the_layout_does(self, xp, layout):
        rng = np.random.default_rng(0)
        options = {"has_bias": True, "init": "normal"}
        apart = af.init_multi_head_attention(12, 4, rng=np.random.default_rng(0), **options)
        fused = af.init_multi_head_attention(
            12, 4, rng=np.random.default_rng(0), is_fused=True, **options
        )

        weights = convert.multi_head_attention_to(apart, layout)

        assert_same(convert.multi_head_attention_to(fused, layout), weights)
        again = convert.multi_head_attention_from(weights, layout, num_heads=4)
        x = rng.normal(size=(5, 12)).astype("float32")
        expected = af.multi_head_attention(apart, x)
        np.testing.assert_allclose(
            af.multi_head_attention(again, x), expected, rtol=1e-5, atol=1e-7
        )


#: name: (the block's kind, the layout, options of its init function)
BLOCKS = {
    "encoder, torch": ("encoder", "torch", {"has_bias": True}),
    "encoder, torch, no bias": ("encoder", "torch", {"has_bias": False}),
    "encoder, bert": ("encoder", "bert", {"has_bias": True}),
    "encoder, bart": ("encoder", "whisper", {"has_bias": True}),
    "decoder, torch": ("decoder", "torch", {"has_bias": True, "has_cross_attention": True}),
    "decoder, gpt2": ("decoder", "gpt2", {"has_bias": True}),
    "decoder, gpt2, cross": (
        "decoder",
        "gpt2",
        {"has_bias": True, "has_cross_attention": True},
    ),
    "decoder, llama": (
        "decoder",
        "llama",
        {"num_kv_heads": 2, "is_gated": True, "norm": "rms", "has_bias": False},
    ),
    "decoder, bart": ("decoder", "whisper", {"has_bias": True, "has_cross_attention": True}),
}


def drawn(params, seed=0):
    """The same tree with every array drawn: norms and biases begin at 1 and at 0."""
    flat = af.flatten_params(params)
    new = {
        name: normal(np, *x.shape, seed=seed + i) for i, (name, x) in enumerate(flat.items())
    }
    return af.unflatten_params(params, new)


def make_block(case, **more):
    kind, _, options = BLOCKS[case]
    make = af.init_encoder_block if kind == "encoder" else af.init_decoder_block
    return drawn(make(12, 4, rng=np.random.default_rng(0), hidden_dim=10, **options, **more))


def fused(params):
    """A block with the attention of each position to all in one weight."""
    part = params._fields[0]
    attention = getattr(params, part)

    def join(letter):
        parts = [getattr(attention, f"{letter}_{role}") for role in "qkv"]
        return () if isinstance(parts[0], tuple) else np.concat(parts, axis=-2)

    joined = {"w_qkv": join("w"), "b_qkv": join("b")}
    apart = {f"{letter}_{role}": () for letter in "wb" for role in "qkv"}
    return params._replace(**{part: attention._replace(**joined, **apart)})


def block_functions(case):
    """Functions that convert a block from the layout of a case, and to it."""
    kind, layout, _ = BLOCKS[case]
    there = convert.encoder_block_from if kind == "encoder" else convert.decoder_block_from
    back = convert.encoder_block_to if kind == "encoder" else convert.decoder_block_to
    return (
        lambda weights, **options: there(weights, layout, num_heads=4, **options),
        lambda params, **options: back(params, layout, **options),
    )


@pytest.mark.parametrize("case", BLOCKS)
class TestBlocks:
    def test_there_and_back_changes_no_bit(self, case):
        block_from, block_to = block_functions(case)
        weights = block_to(make_block(case))

        again = block_to(block_from(weights))

        assert_same(again, weights)

    def test_back_and_there_is_the_same_block(self, case):
        block_from, block_to = block_functions(case)
        params = make_block(case)

        again = block_from(block_to(params, prefix="a."), prefix="a.")

        assert type(again) is type(params)
        # Fused as the layout has it, or apart: it is the same block.
        x, memory = normal(np, 5, 12, seed=50), normal(np, 7, 12, seed=51)
        block = af.encoder_block if BLOCKS[case][0] == "encoder" else af.decoder_block
        inputs = (x, memory) if getattr(params, "cross_attention", ()) else (x,)
        np.testing.assert_allclose(block(again, *inputs), block(params, *inputs), rtol=1e-11)

    def test_fused_parameters_give_the_same_weights(self, case):
        _, block_to = block_functions(case)
        params = make_block(case)

        weights = block_to(fused(params))

        assert_same(weights, block_to(params))


@pytest.mark.errors
@pytest.mark.libraries("numpy", reason="the same words whatever the library")
class TestErrors:
    @pytest.mark.parametrize("layer", LAYERS)
    def test_every_missing_weight_is_named(self, xp, layer):
        """Of each weight in turn; what may be missing is said in the table of layouts."""
        optional = {"equinox": "bias", "llama": "bias"}.get(layer, "no such name")
        for name in LAYERS[layer][1]:
            if name.endswith(optional):
                continue
            weights = make_weights(xp, layer)
            del weights[name]

            with pytest.raises(ValueError, match=f"'{name}' is missing"):
                read(layer, weights)

    @pytest.mark.parametrize("layer", LAYERS)
    def test_surplus_weights_are_named(self, xp, layer):
        weights = make_weights(xp, layer) | {"a.bias_k": np.ones(3), "b": np.ones(3)}

        with pytest.raises(ValueError, match=r"'a\.bias_k' and 'b' are left over"):
            read(layer, weights)

    @pytest.mark.parametrize("layer", LAYERS)
    def test_every_misshapen_weight_is_named(self, xp, layer):
        for name, shape in LAYERS[layer][1].items():
            weights = make_weights(xp, layer) | {name: np.ones((*shape, 2))}

            with pytest.raises(ValueError, match=rf"`weights\['{name}'\]` must have the shape"):
                read(layer, weights)

    def test_shapes_are_told_by_their_sizes(self, xp):
        weights = make_weights(xp, "bert") | {"self.key.weight": np.ones((10, 12))}

        with pytest.raises(ValueError, match="`weights") as caught:
            read("bert", weights)

        assert str(caught.value) == (
            "`weights['self.key.weight']` must have the shape (num_heads * head_dim, model_dim), "
            "where num_heads=4, head_dim=3 and model_dim=12; got (10, 12)."
        )

    def test_names_are_told_whole_with_their_prefix(self, xp):
        weights = {f"h.0.{name}": x for name, x in make_weights(xp, "gpt2").items()}
        del weights["h.0.c_proj.bias"]

        with pytest.raises(ValueError, match="`weights`") as caught:
            read("gpt2", weights, prefix="h.0.")

        assert str(caught.value) == (
            "`weights` must hold what the layout 'gpt2' has names for; "
            "'h.0.c_proj.bias' is missing."
        )

    def test_number_of_heads_must_divide(self, xp):
        weights = make_weights(xp, "bert")

        with pytest.raises(ValueError, match=r"where num_heads=5; got \(12, 12\)\."):
            convert.multi_head_attention_from(weights, "bert", num_heads=5)

    def test_number_of_heads_must_be_that_of_the_weights(self, xp):
        weights = make_weights(xp, "keras")

        with pytest.raises(
            ValueError, match=r"'query/kernel'\].*where num_heads=2; got \(6, 4, 3\)"
        ):
            convert.multi_head_attention_from(weights, "keras", num_heads=2)

    def test_number_of_heads_is_asked_for_where_weights_do_not_tell(self, xp):
        weights = make_weights(xp, "bert")

        with pytest.raises(ValueError, match="`num_heads` must be given for the layout 'bert'"):
            convert.multi_head_attention_from(weights, "bert")

    @pytest.mark.parametrize("num_heads", [0, 2.0, True])
    def test_number_of_heads_is_an_integer(self, xp, num_heads):
        with pytest.raises((TypeError, ValueError), match="`num_heads` must be"):
            convert.multi_head_attention_from(
                make_weights(xp, "bert"), "bert", num_heads=num_heads
            )

    def test_nested_weights_are_told_how_to_become_flat(self, xp):
        weights = {"query": {"kernel": np.ones((2, 1, 2))}}

        with pytest.raises(
            TypeError,
            match=r"`weights\['query'\]` must be an array; got .*dict.*flatten_params",
        ):
            convert.multi_head_attention_from(weights, "flax")

    @pytest.mark.parametrize("weights", [None, [np.ones(3)], np.ones(3)])
    def test_weights_have_names(self, xp, weights):
        with pytest.raises(TypeError, match="`weights` must be a dict of arrays by name; got"):
            convert.multi_head_attention_from(weights, "flax")

    def test_weights_are_arrays_of_one_library(self, xp):
        strict = pytest.importorskip("array_api_strict")
        weights = make_weights(xp, "gpt2")

        with pytest.raises(
            TypeError, match=r"`weights\['c_proj.bias'\]` must be an array; got list"
        ):
            read("gpt2", weights | {"c_proj.bias": [1.0]})
        with pytest.raises(TypeError, match="must come from one Array API library"):
            read("gpt2", weights | {"c_proj.bias": strict.ones(D)})

    def test_layout_is_one_of_those_there_are(self, xp):
        with pytest.raises(
            ValueError, match=r"`layout` must be one of 'torch', 'flax', .*; got 'jax'"
        ):
            convert.multi_head_attention_from({}, "jax")
        with pytest.raises(
            ValueError, match="`layout` must be one of 'torch', 'bert', 'whisper'; got"
        ):
            convert.encoder_block_from({}, "gpt2", num_heads=2)

    def test_prefix_is_text(self, xp):
        with pytest.raises(TypeError, match="`prefix` must be a str; got 3"):
            convert.multi_head_attention_from({}, "flax", prefix=3)
        with pytest.raises(TypeError, match="`prefix` must be a str; got None"):
            convert.multi_head_attention_to(make_params(), "flax", prefix=None)

    def test_parameters_without_a_place_are_named(self, xp):
        params = make_params(has_bias=True)._replace(b_k=())

        with pytest.raises(
            ValueError, match=r"`params` must hold .* 'bert' .*; 'b_k' is missing"
        ):
            convert.multi_head_attention_to(params, "bert")
        with pytest.raises(ValueError, match="'b_o' is left over"):
            convert.multi_head_attention_to(params._replace(b_q=(), b_v=()), "flax")

    @pytest.mark.parametrize("layout", ["torch", "equinox", "bert", "gpt2", "whisper"])
    @pytest.mark.parametrize("is_fused", [False, True])
    def test_layouts_without_grouped_heads_refuse_them(self, xp, layout, is_fused):
        params = make_params(num_kv_heads=2, has_bias=True, is_fused=is_fused)

        with pytest.raises(
            ValueError, match=r"`params.w_k` must have the shape \(.*num_heads, head_dim\)"
        ):
            convert.multi_head_attention_to(params, layout)

    def test_parameters_of_a_block_are_named_by_their_path(self, xp):
        params = make_block("encoder, bert")
        norm = params.feed_forward_norm._replace(weight=np.ones(11))

        with pytest.raises(
            ValueError,
            match=r"`params.feed_forward_norm.weight` must have the shape \(model_dim,\)",
        ):
            convert.encoder_block_to(params._replace(feed_forward_norm=norm), "bert")
        with pytest.raises(ValueError, match=r"'feed_forward\.w_gate' .*left over"):
            convert.encoder_block_to(make_block("encoder, bert", is_gated=True), "bert")

    def test_parameters_are_of_their_kind(self, xp):
        with pytest.raises(
            TypeError, match="`params` must be MultiHeadAttentionParams; got dict"
        ):
            convert.multi_head_attention_to({}, "torch")
        with pytest.raises(TypeError, match="`params` must be EncoderBlockParams; got"):
            convert.encoder_block_to(make_params(), "torch")
