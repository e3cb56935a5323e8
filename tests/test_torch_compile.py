"""`torch.compile(fullgraph=True)` and `torch.export` take `attention` whole, without a warning."""

import numpy as np
import pytest
from problems import OPTIONS, Shapes, arrays_of, options_of
from support import normal

import attnfn as af

torch = pytest.importorskip("torch", reason="these tests are about PyTorch's compiler")
xp = pytest.importorskip("array_api_compat.torch", reason="these tests are about PyTorch")
testing = pytest.importorskip("torch._dynamo.testing", reason="it counts the compilations")

# Dynamic shapes take sizes that are equal in the first call for equal in all.
GROUPED = Shapes((3, 4, 5, 8), (3, 2, 7, 8), (3, 2, 7, 6))
LONGER = Shapes((5, 4, 10, 8), (5, 2, 13, 8), (5, 2, 13, 6))
LONGEST = Shapes((7, 4, 11, 8), (7, 2, 3, 8), (7, 2, 3, 6))


def packed(options):
    """Put options together, no two of the same argument: each is compiled, but not alone."""
    packs = []
    for name in options:
        arguments = set(OPTIONS[name].arguments)
        for pack in packs:
            if not any(arguments & set(OPTIONS[other].arguments) for other in pack):
                pack.append(name)
                break
        else:
            packs.append([name])
    return packs


@pytest.fixture(autouse=True)
def _forget_compiled_functions(request):
    if request.config.getoption("--jaxtyping-packages", None):
        pytest.skip("torch.compile does not trace through jaxtyping's decorator")
    yield
    torch.compiler.reset()


def agree(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


class TestCompile:
    @pytest.mark.parametrize("names", packed(OPTIONS), ids=" ".join)
    def test_every_option_is_one_graph(self, names):
        inputs = arrays_of(xp, GROUPED)
        options = options_of(xp, GROUPED, names)
        counter = testing.CompileCounter()

        @torch.compile(backend=counter, fullgraph=True, dynamic=False)
        def f(query, key, value):
            return af.attention_with_lse(query, key, value, **options)

        out, lse = f(*inputs)

        expected, expected_lse = af.attention_with_lse(*inputs, **options)
        agree(out, expected)
        agree(lse, expected_lse)
        assert counter.frame_count == 1

    @pytest.mark.parametrize("f", [af.attention, af.attention_weights, af.attention_scores])
    def test_every_function_is_one_graph(self, f):
        inputs = arrays_of(xp, GROUPED)[: 3 if f is af.attention else 2]
        compiled = torch.compile(f, backend="eager", fullgraph=True, dynamic=False)

        actual = compiled(*inputs, is_causal=True, q_offset=2)

        agree(actual, f(*inputs, is_causal=True, q_offset=2))

    def test_merging_is_one_graph(self):
        q, k, v = arrays_of(xp, GROUPED)

        @torch.compile(backend="eager", fullgraph=True)
        def in_two_parts(query, key, value):
            parts = [
                af.attention_with_lse(query, key[..., part, :], value[..., part, :])
                for part in (slice(0, 2), slice(2, 7))
            ]
            return af.merge_attentions(*zip(*parts, strict=True))

        out, lse = in_two_parts(q, k, v)

        expected, expected_lse = af.attention_with_lse(q, k, v)
        agree(out, expected)
        agree(lse, expected_lse)

    @pytest.mark.parametrize(
        "make",
        [
            lambda: af.causal_mask(5, 7, q_offset=2, xp=xp),
            lambda: af.sliding_window_mask(5, 7, window_size=(1, 1), q_offset=2, xp=xp),
            lambda: af.padding_mask(torch.asarray([2, 5]), 5),
            lambda: af.segment_mask(torch.asarray([0, 0, 1]), torch.asarray([0, 1, 0, 1, 1])),
        ],
        ids=["causal", "window", "padding", "segments"],
    )
    def test_mask_makers_are_one_graph(self, make):
        compiled = torch.compile(make, backend="eager", fullgraph=True)

        assert torch.equal(compiled(), make())

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {
                "mask": lambda q_pos, kv_pos: kv_pos != 2 * q_pos,
                "bias": lambda q_pos, kv_pos: 0.1 * (kv_pos - q_pos),
                "is_causal": True,
                "window_size": (4, 1),
                "q_offset": 1,
                "scale": 0.3,
                "softcap": 2.0,
                "sinks": 0.5,
            },
        ],
        ids=["plain", "numbers and functions"],
    )
    def test_one_dynamic_graph_serves_all_sizes(self, options):
        counter = testing.CompileCounter()

        @torch.compile(backend=counter, fullgraph=True, dynamic=True)
        def f(query, key, value):
            return af.attention_with_lse(query, key, value, **options)

        for shapes in (GROUPED, LONGER, LONGEST):
            inputs = arrays_of(xp, shapes)
            out, lse = f(*inputs)

            expected, expected_lse = af.attention_with_lse(*inputs, **options)
            agree(out, expected)
            agree(lse, expected_lse)
        assert counter.frame_count == 1

    def test_one_dynamic_graph_serves_arrays_of_all_sizes(self):
        counter = testing.CompileCounter()
        names = ("mask_full", "bias_full", "segments_per_batch", "sinks_per_head", "dropout")

        @torch.compile(backend=counter, fullgraph=True, dynamic=True)
        def f(query, key, value, options):
            return af.attention(query, key, value, **options)

        for shapes in (GROUPED, LONGER, LONGEST):
            inputs, options = arrays_of(xp, shapes), options_of(xp, shapes, names)

            agree(f(*inputs, options), af.attention(*inputs, **options))
        assert counter.frame_count == 1

    @pytest.mark.parametrize("kind", ["tensor", "int"])
    def test_one_graph_decodes_at_every_position(self, kind):
        q, k, v = arrays_of(xp, Shapes((2, 1, 4), (2, 16, 4), (2, 16, 4)))
        counter = testing.CompileCounter()

        @torch.compile(backend=counter, fullgraph=True, dynamic=True)
        def f(q_offset):
            return af.attention(q, k, v, is_causal=True, q_offset=q_offset)

        for position in range(2, 16):
            offset = torch.tensor(position) if kind == "tensor" else position
            expected = af.attention(q, k[:, : position + 1], v[:, : position + 1])
            agree(f(offset), expected)
        assert counter.frame_count == 1

    def test_functions_see_what_they_close_over_now(self):
        q, k, v = arrays_of(xp, GROUPED)
        counter = testing.CompileCounter()

        def f(lengths, slopes):
            return af.attention(
                q,
                k,
                v,
                mask=lambda q_pos, kv_pos: kv_pos < lengths[:, None, None, None],
                bias=lambda q_pos, kv_pos: slopes[:, None, None] * (kv_pos - q_pos),
                score_mod=lambda scores, q_pos, kv_pos: scores * slopes[:, None, None],
                q_offset=0,
            )

        compiled = torch.compile(f, backend=counter, fullgraph=True)

        for seed, lengths in enumerate(([2, 5, 7], [0, 3, 1])):
            given = torch.asarray(lengths), normal(xp, 4, seed=seed)
            agree(compiled(*given), f(*given))
        assert counter.frame_count == 1

    @pytest.mark.parametrize(
        "names",
        [
            ("mask_rows", "bias_full", "causal", "segments", "sinks_per_head"),
            ("score_mod_of_minus_inf", "softcap", "dropout"),
        ],
        ids=["selected", "modified"],
    )
    def test_gradients_through_the_compiler(self, names):
        inputs = [x.requires_grad_() for x in arrays_of(xp, GROUPED)]
        options = options_of(xp, GROUPED, names)
        d_out = normal(xp, 3, 4, 5, 6, seed=9)

        @torch.compile(backend="aot_eager", fullgraph=True)
        def f(query, key, value):
            return af.attention(query, key, value, **options)

        actual = torch.autograd.grad(f(*inputs), inputs, d_out)

        expected = torch.autograd.grad(af.attention(*inputs, **options), inputs, d_out)
        for d, e in zip(actual, expected, strict=True):
            agree(d, e)

    def test_closed_over_arrays_get_their_gradient(self):
        q, k, v = arrays_of(xp, GROUPED)

        def f(table):
            return af.attention(
                q, k, v, bias=lambda q_pos, kv_pos: table[:, kv_pos - q_pos], q_offset=-2
            )

        table = normal(xp, 4, 12).requires_grad_()
        compiled = torch.compile(f, backend="aot_eager", fullgraph=True)
        (actual,) = torch.autograd.grad(compiled(table).sin().sum(), table)

        (expected,) = torch.autograd.grad(f(table).sin().sum(), table)
        assert expected.abs().max() > 1e-3
        agree(actual, expected)

    def test_torch_func_inside_the_compiler(self):
        q, k, v = arrays_of(xp, GROUPED)

        def per_example(query, key, value):
            def loss(query, key, value):
                return af.attention(query, key, value, is_causal=True, q_offset=1).sin().sum()

            return torch.func.vmap(torch.func.grad(loss))(query, key, value)

        actual = torch.compile(per_example, backend="eager", fullgraph=True)(q, k, v)

        agree(actual, per_example(q, k, v))

    def test_autocast_inside_the_compiler(self):
        inputs = arrays_of(xp, GROUPED, "float32")

        @torch.compile(backend="aot_eager", fullgraph=True)
        def f(query, key, value):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return af.attention(query, key, value)

        actual = f(*inputs)

        assert actual.dtype == torch.float32
        agree(actual, af.attention(*inputs), 1e-6)

    @pytest.mark.parametrize("options", [{}, {"is_fused": True, "has_bias": True}], ids=str)
    def test_a_layer_is_one_graph(self, options):
        params = af.init_multi_head_attention(
            8, 4, rng=np.random.default_rng(0), dtype=torch.float64, xp=xp, **options
        )
        x = normal(xp, 2, 3, 8)

        @torch.compile(backend="eager", fullgraph=True)
        def step(params, x):
            gradient = torch.func.grad(lambda p: af.multi_head_attention(p, x).sin().sum())(
                params
            )
            return af.multi_head_attention(params, x, is_causal=True), gradient

        out, gradient = step(params, x)

        agree(out, af.multi_head_attention(params, x, is_causal=True))
        expected = torch.func.grad(lambda p: af.multi_head_attention(p, x).sin().sum())(params)
        assert type(gradient) is af.MultiHeadAttentionParams
        for d, e in zip(gradient, expected, strict=True):
            assert not d if isinstance(e, tuple) else torch.allclose(d, e, rtol=1e-12)

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            ({"mask": torch.ones(5, 7)}, "`mask` must have a bool dtype"),
            ({"is_causal": True}, "`is_causal` needs `q_offset`"),
        ],
        ids=["float mask", "ambiguous offset"],
    )
    @pytest.mark.errors
    def test_a_wrong_call_says_the_same(self, wrong, words):
        inputs = arrays_of(xp, GROUPED)
        compiled = torch.compile(af.attention, backend="eager", fullgraph=True)

        with pytest.raises(Exception, match=words):
            compiled(*inputs, **wrong)

    # PyTorch's code generator imports modules that PyTorch has deprecated.
    @pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
    def test_generated_code_agrees(self):
        inputs = arrays_of(xp, GROUPED, "float32")
        options = {"is_causal": True, "q_offset": -1, "softcap": 2.0, "sinks": 0.1}
        cpp_builder = pytest.importorskip("torch._inductor.cpp_builder")
        try:
            cpp_builder.get_cpp_compiler()
        except (
            Exception
        ) as error:  # PyTorch has a class of its own for it in some releases only
            pytest.skip(f"no C++ compiler to generate code for: {error}")

        @torch.compile(fullgraph=True)
        def f(query, key, value):
            return af.attention(query, key, value, **options)

        agree(f(*inputs), af.attention(*inputs, **options), 1e-5)


class Module(torch.nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, *inputs):
        return self.f(*inputs)


B, Q, K = (torch.export.Dim(name, min=2, max=64) for name in ("batch", "q_len", "kv_len"))
QKV = ({0: B, 2: Q}, {0: B, 2: K}, {0: B, 2: K})


def exported(f, inputs, dynamic, *, strict=False):
    program = torch.export.export(Module(f), inputs, dynamic_shapes=(dynamic,), strict=strict)
    return program.module()


class TestExport:
    @pytest.mark.parametrize(
        ("options", "strict"),
        [
            ({}, False),
            ({}, True),
            (
                {
                    "mask": lambda q_pos, kv_pos: kv_pos != 2 * q_pos,
                    "bias": lambda q_pos, kv_pos: 0.1 * (kv_pos - q_pos),
                    "is_causal": True,
                    "window_size": (4, None),
                    "q_offset": 1,
                    "softcap": 2.0,
                    "sinks": 0.2,
                },
                False,
            ),
        ],
        ids=["plain", "plain, strict", "numbers and functions"],
    )
    def test_one_program_serves_all_sizes(self, options, strict):
        def f(query, key, value):
            return af.attention_with_lse(query, key, value, **options)

        program = exported(f, arrays_of(xp, GROUPED), QKV, strict=strict)

        for shapes in (GROUPED, LONGER):
            inputs = arrays_of(xp, shapes)
            for actual, expected in zip(program(*inputs), f(*inputs), strict=True):
                agree(actual, expected)

    def test_arrays_are_inputs_of_the_program(self):
        def f(query, key, value, mask, bias, q_offset):
            return af.attention(
                query, key, value, mask=mask, bias=bias, is_causal=True, q_offset=q_offset
            )

        def inputs(shapes):
            options = options_of(
                xp, shapes, ("mask_padding", "bias_full", "q_offset_per_batch")
            )
            return (*arrays_of(xp, shapes), *options.values())

        dynamic = (*QKV, {0: B, 3: K}, {0: B, 2: Q, 3: K}, {0: B})
        program = exported(f, inputs(GROUPED), dynamic)

        for shapes in (GROUPED, LONGER):
            agree(program(*inputs(shapes)), f(*inputs(shapes)))

    # Grouped self-attention needs `strict`: without, PyTorch 2.13 cannot prove min(L, L * L) == L.
    @pytest.mark.parametrize(("num_kv_heads", "strict"), [(4, False), (2, True)])
    def test_a_layer_with_its_parameters(self, num_kv_heads, strict):
        rng = np.random.default_rng(0)
        params = af.init_multi_head_attention(
            8, 4, rng=rng, num_kv_heads=num_kv_heads, dtype=torch.float64, xp=xp
        )

        def f(x):
            return af.multi_head_attention(params, x, is_causal=True)

        program = exported(f, (normal(xp, 2, 3, 8),), ({0: B, 1: Q},), strict=strict)

        x = normal(xp, 3, 7, 8, seed=1)
        agree(program(x), f(x))
