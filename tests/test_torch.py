"""What PyTorch's users do around `attention`: transforms, autocast, meta tensors, modules."""

import copy
import io
import math

import numpy as np
import pytest
from problems import OPTIONS, SHAPES, Shapes, arrays_of, options_of
from support import normal

import attnfn as af

torch = pytest.importorskip("torch", reason="these tests are about PyTorch's transforms")
xp = pytest.importorskip("array_api_compat.torch", reason="these tests are about PyTorch")

# PyTorch itself scripts the forward derivatives of some operations when first asked for one.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")

GROUPED = Shapes((2, 4, 3, 4), (2, 2, 5, 4), (2, 2, 5, 3))
UNBATCHED = SHAPES["no_batch"]
TINY = Shapes((2, 2, 2), (1, 3, 2), (1, 3, 2))  # `gradcheck` calls once per number


def agree(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def finite(out, lse):
    """Replace the lse of empty rows, of which no difference can be taken."""
    return out, torch.where(lse == -math.inf, 0.0, lse)


def differentiable(options):
    """Return the options that are arrays of numbers."""
    return {
        name: x
        for name, x in options.items()
        if isinstance(x, torch.Tensor) and x.is_floating_point()
    }


def as_function(shapes, names):
    """Return `f(query, key, value, *arrays of numbers)` and its inputs."""
    options = options_of(xp, shapes, names)
    extra = differentiable(options)

    def f(query, key, value, *rest):
        given = options | dict(zip(extra, rest, strict=True))
        return finite(*af.attention_with_lse(query, key, value, **given))

    return f, (*arrays_of(xp, shapes), *extra.values())


GRADCHECKED = {
    "plain": (),
    "grouped, masked": ("mask_matrix", "bias_per_head"),
    "empty rows": ("mask_rows",),
    "bias with -inf": ("bias_of_minus_inf",),
    "causal window of packed sequences": ("causal", "window", "segments"),
    "one scale": ("scale_0d", "q_offset_0d"),
    "softcap, function of positions": ("softcap", "bias_function", "mask_function"),
    "score_mod": ("score_mod_curved",),
    "score_mod with -inf": ("score_mod_of_minus_inf", "softcap"),
    "sinks": ("sinks_per_head", "mask_rows"),
    "dropout": ("dropout", "sinks_0d"),
}


@pytest.mark.parametrize("case", GRADCHECKED)
class TestFiniteDifferences:
    def test_first_derivatives_pass_gradcheck(self, case):
        f, inputs = as_function(TINY, GRADCHECKED[case])
        inputs = [x.requires_grad_() for x in inputs]

        assert torch.autograd.gradcheck(
            f, inputs, check_forward_ad=True, check_batched_grad=True
        )

    def test_second_derivatives_pass_gradgradcheck(self, case):
        f, inputs = as_function(TINY, GRADCHECKED[case])
        inputs = [x.requires_grad_() for x in inputs]

        assert torch.autograd.gradgradcheck(f, inputs, check_fwd_over_rev=True)


@pytest.mark.parametrize("option", OPTIONS)
class TestEveryOption:
    def test_vmap_is_a_loop(self, option):
        options = options_of(xp, UNBATCHED, (option,))
        inputs = [normal(xp, 3, *shape, seed=i) for i, shape in enumerate(UNBATCHED)]

        def f(query, key, value):
            return af.attention_with_lse(query, key, value, **options)

        out, lse = torch.func.vmap(f)(*inputs)

        expected = [f(*example) for example in zip(*inputs, strict=True)]
        agree(out, torch.stack([e[0] for e in expected]))
        agree(lse, torch.stack([e[1] for e in expected]))

    def test_forward_and_reverse_mode_agree(self, option):
        f, inputs = as_function(GROUPED, (option,))
        tangents = tuple(normal(xp, *x.shape, seed=50 + i) for i, x in enumerate(inputs))
        # Moving along -inf is not a question that has an answer.
        tangents = tuple(
            torch.where(x.isfinite(), t, 0.0) for x, t in zip(inputs, tangents, strict=True)
        )

        outputs, d_outputs = torch.func.jvp(f, inputs, tangents)
        _, pull = torch.func.vjp(f, *inputs)
        cotangents = tuple(normal(xp, *y.shape, seed=60 + i) for i, y in enumerate(outputs))
        pulled = pull(cotangents)

        forward = sum((c * d).sum() for c, d in zip(cotangents, d_outputs, strict=True))
        reverse = sum((p * t).sum() for p, t in zip(pulled, tangents, strict=True))
        assert forward.isfinite()
        agree(forward, reverse, 1e-11)

    def test_autograd_and_torch_func_agree(self, option):
        f, inputs = as_function(GROUPED, (option,))

        def loss(*inputs):
            out, lse = f(*inputs)
            return (out**2).sum() + lse.sum()

        actual = torch.func.grad(loss, argnums=tuple(range(len(inputs))))(*inputs)

        leaves = [x.clone().requires_grad_() for x in inputs]
        loss(*leaves).backward()
        for d, leaf in zip(actual, leaves, strict=True):
            agree(d, leaf.grad)


class TestTransforms:
    def test_jacobians_of_both_modes_agree(self):
        q, k, v = arrays_of(xp, GROUPED)

        def f(key):
            return af.attention(q, key, v, is_causal=True, q_offset=1)

        agree(torch.func.jacrev(f)(k), torch.func.jacfwd(f)(k))

    def test_hessian_is_the_gradient_of_the_gradient(self):
        q, k, v = arrays_of(xp, UNBATCHED)
        mask = torch.arange(6) < torch.asarray([[3], [0], [6]])

        def loss(query):
            return (af.attention(query, k, v, mask=mask, softcap=2.0) ** 3).sum()

        actual = torch.func.hessian(loss)(q)

        agree(actual, torch.autograd.functional.hessian(loss, q))
        assert actual.abs().max() > 1e-3
        assert torch.all(actual[:, 1] == 0)  # the row that may attend to nothing

    def test_third_derivatives_are_those_of_torch(self):
        q, k, v = arrays_of(xp, TINY)

        def plain(query):
            return torch.softmax(query @ k.mT / math.sqrt(2), dim=-1) @ v

        def third(f):
            return torch.func.jacfwd(torch.func.jacfwd(torch.func.jacrev(f)))(q)

        agree(third(lambda query: af.attention(query, k, v)), third(plain), 1e-10)

    def test_gradients_per_example(self):
        inputs = arrays_of(xp, GROUPED)

        def loss(query, key, value):
            return (af.attention(query, key, value, is_causal=True, q_offset=2) ** 2).sum()

        actual = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1, 2)))(*inputs)

        for d, expected in zip(actual, torch.func.grad(loss, (0, 1, 2))(*inputs), strict=True):
            agree(d, expected)  # examples do not meet, so the sum's gradient is theirs

    def test_vmap_over_what_a_mask_function_closes_over(self):
        q, k, v = arrays_of(xp, GROUPED)
        lengths = torch.asarray([2, 5])

        def one(query, key, value, length):
            return af.attention(
                query, key, value, mask=lambda q_pos, kv_pos: kv_pos < length, q_offset=0
            )

        actual = torch.func.vmap(one)(q, k, v, lengths)

        agree(actual, af.attention(q, k, v, mask=af.padding_mask(lengths, 5)))

    def test_vmap_over_offsets(self):
        q, k, v = arrays_of(xp, GROUPED)
        offsets = torch.asarray([-1, 2])

        def one(query, key, value, q_offset):
            return af.attention(query, key, value, is_causal=True, q_offset=q_offset)

        actual = torch.func.vmap(one)(q, k, v, offsets)

        agree(actual, af.attention(q, k, v, is_causal=True, q_offset=offsets))

    def test_vmap_over_options_alone(self):
        q, k, v = arrays_of(xp, UNBATCHED)
        masks = normal(xp, 3, 3, 6) > 0
        sinks = normal(xp, 3, 4, seed=1)
        scales = torch.asarray([0.2, 0.5, 1.0], dtype=torch.float64)
        segments = torch.asarray([[0, 0, 1], [0, 1, 1], [1, 0, 1]])

        def one(mask, sinks, scale, q_segments):
            ids = (q_segments, torch.asarray([0, 1, 0, 1, 0, 1]))
            return af.attention(q, k, v, mask=mask, sinks=sinks, scale=scale, segment_ids=ids)

        actual = torch.func.vmap(one)(masks, sinks, scales, segments)

        expected = [one(*x) for x in zip(masks, sinks, scales, segments, strict=True)]
        agree(actual, torch.stack(expected))

    def test_vmap_twice_with_axes_elsewhere(self):
        q, k, v = (normal(xp, *shape, seed=i) for i, shape in enumerate(GROUPED))
        many = torch.stack([q, 2 * q, 3 * q], dim=-1)

        inner = torch.func.vmap(af.attention, in_dims=(0, 0, 0))
        actual = torch.func.vmap(inner, in_dims=(-1, None, None), out_dims=1)(many, k, v)

        expected = [af.attention(factor * q, k, v) for factor in (1, 2, 3)]
        agree(actual, torch.stack(expected, dim=1))

    def test_activation_checkpointing_changes_nothing(self):
        inputs = [x.requires_grad_() for x in arrays_of(xp, GROUPED)]

        out = torch.utils.checkpoint.checkpoint(af.attention, *inputs, use_reentrant=False)
        actual = torch.autograd.grad(out.sin().sum(), inputs)

        expected = torch.autograd.grad(af.attention(*inputs).sin().sum(), inputs)
        for d, e in zip(actual, expected, strict=True):
            agree(d, e)


class TestArraysAFunctionClosesOver:
    """They get their gradient: of a learned table, of slopes, of a temperature."""

    TABLE = normal(xp, 4, 9, seed=3)

    def test_a_bias_function_passes_gradcheck(self):
        q, k, v = arrays_of(xp, UNBATCHED)

        def f(table):
            def bias(q_pos, kv_pos):
                return table[:, (kv_pos - q_pos).clamp(-4, 4) + 4]

            return af.attention(q, k, v, bias=bias, q_offset=1)

        assert torch.autograd.gradcheck(
            f, self.TABLE.clone().requires_grad_(), check_forward_ad=True
        )

    def test_a_score_mod_passes_gradcheck(self):
        q, k, v = arrays_of(xp, UNBATCHED)

        def f(temperature):
            def score_mod(scores, q_pos, kv_pos):
                return scores * temperature[:, None, None]

            return finite(
                *af.attention_with_lse(
                    q, k, v, score_mod=score_mod, is_causal=True, q_offset=-1
                )
            )

        assert torch.autograd.gradcheck(
            f, self.TABLE[:, 0].clone().requires_grad_(), check_forward_ad=True
        )

    def test_torch_func_finds_them_too(self):
        q, k, v = arrays_of(xp, UNBATCHED)

        def loss(slope):
            def bias(q_pos, kv_pos):
                return slope * (kv_pos - q_pos)

            return (af.attention(q, k, v, bias=bias, q_offset=0) ** 2).sum()

        slope = torch.tensor(0.3, dtype=torch.float64)
        step = 1e-6
        difference = (loss(slope + step) - loss(slope - step)) / (2 * step)

        assert abs(difference) > 1e-2
        agree(torch.func.grad(loss)(slope), difference, 1e-7)
        agree(torch.func.jvp(loss, (slope,), (torch.ones_like(slope),))[1], difference, 1e-7)


class TestAutocast:
    def test_float32_is_not_lowered(self):
        inputs = [x.requires_grad_() for x in arrays_of(xp, GROUPED, "float32")]

        with torch.autocast("cpu", dtype=torch.bfloat16):
            out, lse = af.attention_with_lse(*inputs, is_causal=True, q_offset=2)
        d_inputs = torch.autograd.grad(out.sin().sum() + lse.sum(), inputs)

        expected, expected_lse = af.attention_with_lse(*inputs, is_causal=True, q_offset=2)
        d_expected = torch.autograd.grad(expected.sin().sum() + expected_lse.sum(), inputs)
        for actual, e in zip(
            (out, lse, *d_inputs), (expected, expected_lse, *d_expected), strict=True
        ):
            assert actual.dtype == torch.float32
            agree(actual, e, 1e-6)

    @pytest.mark.parametrize("f", [af.attention_weights, af.attention_scores])
    def test_neither_are_scores_and_weights(self, f):
        q, k, _ = arrays_of(xp, GROUPED, "float32")

        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = f(q, k)

        assert actual.dtype == torch.float32
        agree(actual, f(q, k), 1e-6)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_halves_are_computed_in_float32(self, dtype):
        halves = [normal(xp, *shape, seed=i, dtype=dtype) for i, shape in enumerate(GROUPED)]

        with torch.autocast("cpu", dtype=torch.bfloat16):
            out, lse = af.attention_with_lse(*halves)

        expected, expected_lse = af.attention_with_lse(*(x.float() for x in halves))
        assert out.dtype == halves[0].dtype
        assert lse.dtype == torch.float32
        agree(lse, expected_lse, 1e-6)
        resolution = torch.finfo(out.dtype).eps
        agree(out.float(), expected, resolution)

    def test_nested_in_a_layer_that_is_lowered(self):
        params = af.init_multi_head_attention(8, 2, rng=rng(), xp=xp, has_bias=True)
        x = normal(xp, 2, 3, 8, dtype="float32")

        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = af.multi_head_attention(params, x)

        expected = af.multi_head_attention(params, x)
        agree(actual.float(), expected, 0.05)


def to_meta(x):
    return x.to("meta") if isinstance(x, torch.Tensor) else x


#: What functions close over would stay on the CPU.
ARRAYS_AND_NUMBERS = [
    name
    for name in OPTIONS
    if not any(map(callable, options_of(xp, GROUPED, (name,)).values()))
]


class TestWithoutData:
    @pytest.mark.parametrize("option", ARRAYS_AND_NUMBERS)
    def test_meta_tensors_have_the_shape_of_the_result(self, option):
        options = {
            name: tuple(map(to_meta, x)) if isinstance(x, tuple) else to_meta(x)
            for name, x in options_of(xp, GROUPED, (option,)).items()
        }

        out, lse = af.attention_with_lse(*map(to_meta, arrays_of(xp, GROUPED)), **options)

        assert (out.device.type, out.shape, out.dtype) == ("meta", (2, 4, 3, 3), torch.float64)
        assert (lse.device.type, lse.shape, lse.dtype) == ("meta", (2, 4, 3), torch.float64)

    def test_meta_tensors_and_functions_of_positions(self):
        q, k, v = (x.to("meta") for x in arrays_of(xp, GROUPED, "float32"))

        out = af.attention(
            q,
            k,
            v,
            mask=lambda q_pos, kv_pos: kv_pos <= q_pos + 1,
            bias=lambda q_pos, kv_pos: 0.1 * (kv_pos - q_pos),
            q_offset=0,
        )

        assert (out.device.type, out.shape, out.dtype) == ("meta", (2, 4, 3, 3), torch.float32)

    def test_meta_mask_on_the_cpu_is_refused(self):
        q, k, v = (x.to("meta") for x in arrays_of(xp, GROUPED))

        with pytest.raises(ValueError, match=r"device.*meta.*cpu|device.*cpu.*meta"):
            af.attention(q, k, v, mask=torch.ones(3, 5, dtype=torch.bool))

    @pytest.mark.parametrize("option", OPTIONS)
    def test_fake_tensors_have_the_shape_of_the_result(self, option):
        options = options_of(xp, GROUPED, (option,))
        inputs = arrays_of(xp, GROUPED)

        with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
            out, lse = af.attention_with_lse(*map(mode.from_tensor, inputs), **options)

        assert isinstance(out, torch._subclasses.FakeTensor)
        assert (out.shape, out.dtype) == ((2, 4, 3, 3), torch.float64)
        assert (lse.shape, lse.dtype) == ((2, 4, 3), torch.float64)

    def test_a_layer_of_meta_tensors(self):
        params = af.init_multi_head_attention(8, 2, rng=rng(), xp=xp, device="meta")

        out = af.multi_head_attention(params, torch.empty(2, 3, 8, device="meta"))

        assert params.w_q.device.type == "meta"
        assert (out.device.type, out.shape) == ("meta", (2, 3, 8))


class TestKindsOfTensor:
    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_modes_without_gradients(self, mode):
        inputs = [x.requires_grad_() for x in arrays_of(xp, GROUPED)]

        with mode():
            out, lse = af.attention_with_lse(*inputs, is_causal=True, q_offset=2)

        assert not out.requires_grad
        assert not lse.requires_grad
        agree(out, af.attention(*inputs, is_causal=True, q_offset=2).detach())

    def test_tensors_made_in_inference_mode(self):
        with torch.inference_mode():
            inputs = arrays_of(xp, GROUPED)

            actual = af.attention(*inputs)

        agree(actual, af.attention(*arrays_of(xp, GROUPED)))

    def test_parameters_are_tensors(self):
        inputs = [torch.nn.Parameter(x) for x in arrays_of(xp, GROUPED)]
        bias = torch.nn.Parameter(normal(xp, 4, 3, 5))
        sinks = torch.nn.Parameter(normal(xp, 4))

        out = af.attention(*inputs, bias=bias, sinks=sinks)
        out.sin().sum().backward()

        assert type(out) is torch.Tensor
        assert all(p.grad.abs().max() > 0 for p in (*inputs, bias, sinks))

    def test_only_what_asks_gets_a_gradient(self):
        q, k, v = arrays_of(xp, GROUPED)
        k.requires_grad_()

        af.attention(q, k, v).sin().sum().backward()

        assert k.grad is not None
        assert q.grad is None
        assert v.grad is None

    def test_tensors_out_of_order_in_memory(self):
        q, k, v = arrays_of(xp, GROUPED)
        expected = af.attention(q, k, v)
        strided = [x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0) for x in (q, k, v)]
        assert not any(x.is_contiguous() for x in strided)

        agree(af.attention(*strided), expected)

    def test_tensors_of_stride_zero(self):
        q, k, v = (x[:1] for x in arrays_of(xp, GROUPED))

        actual = af.attention(*(x.expand(3, -1, -1, -1) for x in (q, k, v)))

        agree(actual, af.attention(q, k, v).expand(3, -1, -1, -1))

    def test_inputs_stay_as_they_were(self):
        inputs = [x.requires_grad_() for x in arrays_of(xp, GROUPED)]
        options = options_of(
            xp, GROUPED, ("mask_full", "bias_full", "sinks_per_head", "dropout")
        )
        before = copy.deepcopy((inputs, options))
        versions = [x._version for x in inputs]

        af.attention(*inputs, **options).sum().backward()

        assert [x._version for x in inputs] == versions
        for name, x in options.items():
            if isinstance(x, torch.Tensor):
                assert torch.equal(x, before[1][name])

    def test_deterministic_algorithms_suffice(self):
        inputs = [x.requires_grad_() for x in arrays_of(xp, GROUPED)]
        torch.use_deterministic_algorithms(True)
        try:
            out = af.attention(*inputs, window_size=(1, 1), q_offset=0)
            actual = torch.autograd.grad(out.sum(), inputs)
        finally:
            torch.use_deterministic_algorithms(False)

        assert all(d.isfinite().all() for d in actual)

    def test_anomaly_detection_finds_nothing(self):
        inputs = [x.requires_grad_() for x in arrays_of(xp, GROUPED)]
        bias = torch.full((3, 5), -math.inf, dtype=torch.float64)
        bias[0, 0] = 0.0

        with pytest.warns(UserWarning, match="Anomaly"):
            anomalies = torch.autograd.detect_anomaly()
        with anomalies:
            out = af.attention(*inputs, bias=bias.requires_grad_(), softcap=3.0)
            actual = torch.autograd.grad(out.sum(), [*inputs, bias])

        assert all(d.isfinite().all() for d in actual)

    def test_another_default_dtype_and_device_change_nothing(self):
        inputs = arrays_of(xp, GROUPED, "float32")
        expected = af.attention(*inputs, is_causal=True, q_offset=1, sinks=0.5)
        torch.set_default_dtype(torch.float64)
        try:
            with torch.device("meta"):
                actual = af.attention(*inputs, is_causal=True, q_offset=1, sinks=0.5)
        finally:
            torch.set_default_dtype(torch.float32)

        assert (actual.dtype, actual.device.type) == (torch.float32, "cpu")
        agree(actual, expected, 1e-6)


def rng():
    return np.random.default_rng(0)


def layer(**options):
    return af.init_multi_head_attention(
        8, 4, rng=rng(), num_kv_heads=2, dtype=torch.float64, xp=xp, **options
    )


class Layer(torch.nn.Module):
    """The way to make a module of the functions."""

    def __init__(self, params):
        super().__init__()
        self.like = params
        self.params = torch.nn.ParameterDict(af.flatten_params(params))

    def forward(self, x):
        params = af.unflatten_params(self.like, dict(self.params.items()))
        return af.multi_head_attention(params, x, is_causal=True)


@pytest.mark.parametrize("options", [{}, {"has_bias": True}, {"is_fused": True}], ids=str)
class TestParameters:
    """A NamedTuple with `()` for what is absent is a pytree that torch walks."""

    X = normal(xp, 2, 3, 8)

    def test_gradient_has_the_form_of_the_parameters(self, options):
        params = layer(**options)

        def loss(params):
            return (af.multi_head_attention(params, self.X) ** 2).sum()

        actual = torch.func.grad(loss)(params)

        leaves = {name: x.requires_grad_() for name, x in af.flatten_params(params).items()}
        loss(af.unflatten_params(params, leaves)).backward()
        assert type(actual) is af.MultiHeadAttentionParams
        for name, d in zip(params._fields, actual, strict=True):
            if name in leaves:
                agree(d, leaves[name].grad)
            else:
                assert isinstance(d, tuple)
                assert not d

    def test_vmap_over_an_ensemble(self, options):
        members = [layer(**options), layer(**options)]
        members[1] = torch.utils._pytree.tree_map(lambda x: x * 1.5, members[1])
        ensemble = torch.utils._pytree.tree_map(lambda *x: torch.stack(x), *members)

        actual = torch.func.vmap(af.multi_head_attention, in_dims=(0, None))(ensemble, self.X)

        expected = [af.multi_head_attention(params, self.X) for params in members]
        agree(actual, torch.stack(expected))

    def test_functional_call_and_state_dict(self, options):
        params = layer(**options)
        module = Layer(params)
        doubled = {name: 2 * x for name, x in module.state_dict().items()}

        actual = torch.func.functional_call(module, doubled, (self.X,))

        twice = torch.utils._pytree.tree_map(lambda x: 2 * x, params)
        agree(actual, af.multi_head_attention(twice, self.X, is_causal=True))
        assert sorted(doubled) == sorted(f"params.{name}" for name in af.flatten_params(params))

    def test_functional_call_under_grad(self, options):
        module = Layer(layer(**options))
        state = dict(module.named_parameters())

        actual = torch.func.grad(
            lambda s: torch.func.functional_call(module, s, (self.X,)).sin().sum()
        )(state)

        module(self.X).sin().sum().backward()
        for name, parameter in module.named_parameters():
            agree(actual[name], parameter.grad)

    def test_an_optimiser_step_lowers_the_loss(self, options):
        module = Layer(layer(**options))
        optimiser = torch.optim.SGD(module.parameters(), lr=1e-2)
        before = (module(self.X) ** 2).sum()
        before.backward()

        optimiser.step()

        assert (module(self.X) ** 2).sum() < before

    def test_saved_and_loaded_with_weights_only(self, options):
        params = layer(**options)
        file = io.BytesIO()

        torch.save(af.flatten_params(params), file)
        file.seek(0)
        loaded = af.unflatten_params(params, torch.load(file, weights_only=True))

        assert type(loaded) is type(params)
        for x, y in zip(loaded, params, strict=True):
            assert (x is y) if isinstance(y, tuple) else torch.equal(x, y)


class TestOwnNamespace:
    @pytest.mark.parametrize(
        "make",
        [
            lambda xp: af.init_multi_head_attention(4, 2, rng=np.random.default_rng(0), xp=xp),
            lambda xp: af.init_norm(2, xp=xp, dtype=torch.bfloat16),
            lambda xp: af.init_kv_cache(1, 2, 3, xp=xp),
            lambda xp: af.alibi_slopes(2, xp=xp),
            lambda xp: af.causal_mask(2, xp=xp),
        ],
        ids=["attention", "norm", "cache", "slopes", "mask"],
    )
    def test_is_as_good_as_that_of_the_standard(self, make):
        actual, expected = (af.flatten_params({"x": make(own)}) for own in (torch, xp))

        assert actual.keys() == expected.keys()
        for name, x in actual.items():
            assert isinstance(x, torch.Tensor)
            torch.testing.assert_close(x, expected[name])
