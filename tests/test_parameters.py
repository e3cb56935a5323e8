"""Parameters go through files, modules and transforms by their names, and come back."""

import io
from typing import Any, NamedTuple

import numpy as np
import pytest
from support import asarray, normal, to_numpy

import attnfn as af

with_torch = pytest.mark.libraries("torch", reason="these are torch's own")


class Layer(NamedTuple):
    attention: af.MultiHeadAttentionParams
    scale: Any = ()


class Model(NamedTuple):
    embedding: Any
    layers: tuple
    head: Any = ()


def make_attention(xp, seed=0, **options):
    return af.init_multi_head_attention(
        4, 2, rng=np.random.default_rng(seed), xp=xp, dtype=xp.float32, **options
    )


def make_model(xp):
    """Make a model of every kind of node, some of whose parameters are absent."""
    layers = (
        Layer(make_attention(xp, 0), normal(xp, 4, dtype="float32")),
        Layer(make_attention(xp, 1, is_fused=True, has_bias=True)),
    )
    head = {"weight": normal(xp, 4, 2, seed=3), "bias": (), "more": [asarray(xp, 7), {}, []]}
    return Model(normal(xp, 3, 4, seed=2), layers, head)


NAMES = [
    "embedding",
    "layers.0.attention.w_q",
    "layers.0.attention.w_k",
    "layers.0.attention.w_v",
    "layers.0.attention.w_o",
    "layers.0.scale",
    "layers.1.attention.w_o",
    "layers.1.attention.b_o",
    "layers.1.attention.w_qkv",
    "layers.1.attention.b_qkv",
    "head.weight",
    "head.more.0",
]


def assert_same_tree(actual, expected):
    """Assert equal structure, classes, dtypes and numbers."""
    assert type(actual) is type(expected)
    if isinstance(expected, dict):
        assert set(actual) == set(expected)  # JAX puts the keys of a dict in order
        actual, expected = [actual[k] for k in expected], list(expected.values())
    if isinstance(expected, tuple | list):
        assert len(actual) == len(expected)
        for a, b in zip(actual, expected, strict=True):
            assert_same_tree(a, b)
        return
    assert actual.dtype == expected.dtype
    assert np.array_equal(to_numpy(actual), to_numpy(expected))


class TestFlattenParams:
    def test_names_are_paths_in_the_order_of_the_tree(self, xp):
        flat = af.flatten_params(make_model(xp))

        assert list(flat) == NAMES

    def test_copies_nothing(self, xp):
        params = make_attention(xp)

        flat = af.flatten_params(params)

        assert type(flat) is dict
        assert all(flat[name] is getattr(params, name) for name in ("w_q", "w_k", "w_v", "w_o"))

    @pytest.mark.parametrize(
        "empty", [(), [], {}, af.MultiHeadAttentionParams(), ([], {"a": ()})]
    )
    def test_of_nothing_is_empty(self, empty):
        assert af.flatten_params(empty) == {}

    def test_names_items_of_dicts_by_their_keys(self, xp):
        x = normal(xp, 2)

        assert list(af.flatten_params({3: x, "a b": {"/": x}})) == ["3", "a b./"]

    def test_takes_shapes_in_place_of_arrays(self):
        jax = pytest.importorskip("jax")
        make = lambda: {"w": jax.numpy.zeros((2, 3))}  # noqa: E731

        flat = af.flatten_params(jax.eval_shape(make))

        assert flat["w"].shape == (2, 3)


class TestUnflattenParams:
    def test_undoes_the_flattening(self, xp):
        model = make_model(xp)

        again = af.unflatten_params(model, af.flatten_params(model))

        assert_same_tree(again, model)
        assert list(again.head) == list(model.head)

    def test_is_undone_by_the_flattening(self, xp):
        model = make_model(xp)
        flat = af.flatten_params(model)

        again = af.flatten_params(af.unflatten_params(model, flat))

        assert list(again) == list(flat)
        assert all(again[name] is flat[name] for name in flat)

    def test_takes_the_arrays_in_any_order(self, xp):
        model = make_model(xp)
        flat = af.flatten_params(model)

        again = af.unflatten_params(model, dict(reversed(flat.items())))

        assert_same_tree(again, model)

    def test_takes_the_form_from_one_library_and_the_arrays_from_another(self, xp):
        params = make_attention(xp, 5)
        like = af.init_multi_head_attention(4, 2, rng=np.random.default_rng(0))

        again = af.unflatten_params(like, af.flatten_params(params))

        assert_same_tree(again, params)

    def test_takes_shapes_in_place_of_arrays(self):
        jax = pytest.importorskip("jax")
        params = make_attention(jax.numpy)
        like = jax.eval_shape(lambda: params)

        again = af.unflatten_params(like, af.flatten_params(params))

        assert_same_tree(again, params)

    @pytest.mark.errors
    def test_names_every_missing_and_every_surplus_name(self, xp):
        model = make_model(xp)
        flat = af.flatten_params(model)
        del flat["embedding"], flat["layers.1.attention.b_o"], flat["head.weight"]
        flat |= {
            "layers.2.attention.w_q": flat["head.more.0"],
            "Head.weight": flat["head.more.0"],
        }

        with pytest.raises(ValueError, match="`flat` must hold the names of `like`") as caught:
            af.unflatten_params(model, flat)

        missing, _, surplus = str(caught.value).partition("missing")
        assert all(
            name in missing
            for name in ("'embedding'", "'layers.1.attention.b_o'", "'head.weight'")
        )
        assert all(name in surplus for name in ("'layers.2.attention.w_q'", "'Head.weight'"))
        assert "layers.0" not in str(caught.value)

    @pytest.mark.errors
    def test_names_the_array_whose_shape_differs(self, xp):
        model = make_model(xp)
        flat = af.flatten_params(model)
        flat["layers.0.attention.w_k"] = flat["layers.0.attention.w_k"][:, :1, :]

        with pytest.raises(
            ValueError, match=r"`layers\.0\.attention\.w_k` .* \(4, 2, 2\); .* \(4, 1, 2\)"
        ):
            af.unflatten_params(model, flat)


class TestFiles:
    @pytest.mark.libraries("numpy", "torch", reason="safetensors has a door for these")
    def test_safetensors_bring_them_back(self, xp, tmp_path):
        from support import library_of

        files = pytest.importorskip(f"safetensors.{library_of(xp)}")
        model, path = make_model(xp), tmp_path / "model.safetensors"

        files.save_file(af.flatten_params(model), path)

        assert_same_tree(af.unflatten_params(model, files.load_file(path)), model)

    def test_npz_brings_them_back(self, xp, tmp_path):
        model, path = make_model(xp), tmp_path / "model.npz"

        np.savez(path, **{name: to_numpy(x) for name, x in af.flatten_params(model).items()})

        with np.load(path) as file:
            flat = {name: asarray(xp, file[name]) for name in file}
        assert_same_tree(af.unflatten_params(model, flat), model)

    def test_an_open_npz_is_as_good_as_a_dict(self, tmp_path):
        params, path = make_attention(np), tmp_path / "params.npz"
        np.savez(path, **af.flatten_params(params))

        with np.load(path) as file:
            again = af.unflatten_params(params, file)

        assert_same_tree(again, params)

    @with_torch
    def test_torch_loads_them_without_trusting_the_file(self, xp):
        import torch

        model, file = make_model(xp), io.BytesIO()
        torch.save(af.flatten_params(model), file)
        file.seek(0)

        flat = torch.load(file, weights_only=True)

        assert_same_tree(af.unflatten_params(model, flat), model)


class TestModules:
    """A module holds parameters by name; what it computes is a function of them."""

    @staticmethod
    def module_of(params):
        import torch

        class Module(torch.nn.Module):
            def __init__(self):
                super().__init__()
                # A module's own names have dots between them, so those within have none.
                flat = af.flatten_params(params)
                self.params = torch.nn.ParameterDict(
                    {k.replace(".", "/"): x for k, x in flat.items()}
                )

            def forward(self, x):
                flat = {name.replace("/", "."): p for name, p in self.params.items()}
                for layer in af.unflatten_params(params, flat):
                    x = x + af.multi_head_attention(layer, x)
                return x

        return Module()

    @with_torch
    def test_parameter_dict_takes_flat_parameters_as_they_are(self, xp):
        import torch

        params = make_attention(xp, has_bias=True)

        module = torch.nn.ParameterDict(af.flatten_params(params))

        assert {name for name, _ in module.named_parameters()} == set(af.flatten_params(params))
        again = af.unflatten_params(params, dict(module))
        assert all(p.requires_grad for p in af.flatten_params(again).values())
        assert type(again) is af.MultiHeadAttentionParams

    @with_torch
    def test_parameter_dict_takes_nested_names_with_another_sign_for_the_dot(self, xp):
        params = [make_attention(xp, 0), make_attention(xp, 1)]
        x = normal(xp, 2, 3, 4, dtype="float32")
        module = self.module_of(params)

        out = module(x)
        xp.sum(out**2).backward()

        expected = x
        for layer in params:
            expected = expected + af.multi_head_attention(layer, expected)
        np.testing.assert_allclose(to_numpy(out), to_numpy(expected), rtol=1e-6, atol=1e-6)
        assert "params.1/w_o" in dict(module.named_parameters())
        assert all(float(xp.max(xp.abs(p.grad))) > 0 for p in module.parameters())

    @with_torch
    def test_functional_call_computes_with_other_parameters(self, xp):
        import torch

        params, others = ([make_attention(xp, i), make_attention(xp, i + 1)] for i in (0, 2))
        x = normal(xp, 2, 3, 4, dtype="float32")
        flat = {
            f"params.{k.replace('.', '/')}": p for k, p in af.flatten_params(others).items()
        }

        actual = torch.func.functional_call(self.module_of(params), flat, (x,))

        # Not bit for bit: what is not to be differentiated may be computed in another order.
        expected = to_numpy(self.module_of(others)(x))
        np.testing.assert_allclose(to_numpy(actual), expected, rtol=1e-6, atol=1e-6)
        assert np.abs(to_numpy(self.module_of(params)(x)) - expected).max() > 0.1

    @with_torch
    def test_a_state_dict_goes_through_a_file(self, xp):
        import torch

        params, others = ([make_attention(xp, i)] for i in (0, 1))
        module, file = self.module_of(params), io.BytesIO()
        torch.save(self.module_of(others).state_dict(), file)
        file.seek(0)

        module.load_state_dict(torch.load(file, weights_only=True))

        x = normal(xp, 2, 3, 4, dtype="float32")
        assert np.array_equal(to_numpy(module(x)), to_numpy(self.module_of(others)(x)))


class TestTransforms:
    """Parameters are trees of JAX and torch as they stand: nothing is registered."""

    @pytest.mark.libraries("jax", reason="the trees are JAX's")
    def test_jax_maps_over_the_leaves_and_leaves_out_what_is_absent(self, xp):
        import jax

        model = make_model(xp)

        doubled = jax.tree_util.tree_map(lambda x: 2 * x, model)

        assert len(jax.tree_util.tree_leaves(model)) == len(NAMES)
        assert_same_tree(
            doubled,
            af.unflatten_params(model, {k: 2 * x for k, x in af.flatten_params(model).items()}),
        )

    @pytest.mark.libraries("jax", reason="the trees are JAX's")
    def test_jax_knows_the_leaves_by_the_same_paths(self, xp):
        import jax

        model = make_model(xp)

        paths, _ = jax.tree_util.tree_flatten_with_path(model)

        names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths]
        assert sorted(names) == sorted(NAMES)

    @pytest.mark.libraries("jax", reason="jax.jit is JAX's")
    def test_flattening_works_within_jit(self, xp):
        import jax

        model = make_model(xp)

        again = jax.jit(lambda p: af.unflatten_params(p, af.flatten_params(p)))(model)

        assert_same_tree(again, model)

    @with_torch
    def test_torch_maps_over_the_leaves_and_leaves_out_what_is_absent(self, xp):
        import torch

        model = make_model(xp)

        leaves = torch.utils._pytree.tree_leaves(model)

        assert len(leaves) == len(NAMES)
        assert {id(x) for x in leaves} == {id(x) for x in af.flatten_params(model).values()}
