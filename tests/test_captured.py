"""What a given function closes over is differentiated and mapped over like an argument.

Every engine, under every transform, gives what a softmax written out here gives, or it raises.
Zeros where the gradient is not zero would fail.
"""

import math
from functools import cache

import numpy as np
import pytest
from support import x64

import attnfn as af

#: Five rows are two tiles of two and one for the rest.
HEADS, Q_LEN, KV_LEN, DIM, OFFSET = 2, 5, 6, 3, 1
#: What is learned, in one row: a bias for each head and distance, a cap, a factor.
TABLE = HEADS * (Q_LEN + KV_LEN)


def numbers(*shape, seed):
    return np.random.default_rng(seed).normal(size=shape)


ARRAYS = (
    numbers(HEADS, Q_LEN, DIM, seed=0),
    numbers(1, KV_LEN, DIM, seed=1),
    numbers(1, KV_LEN, DIM, seed=2),
)
LEARNED = np.append(numbers(TABLE, seed=3), [0.7, 1.3])
EXAMPLES = np.stack([LEARNED, 1.1 * LEARNED, 0.9 * LEARNED])
DIRECTION = numbers(*LEARNED.shape, seed=4)
#: How many keys there are is closed over as well: one number for each example.
LENGTH, LENGTHS = 4, np.asarray([1, 4, 6])
#: Ways to a derivative in forward mode.
FORWARD = ["jvp", "dual numbers", "hessian"]
#: The options that may be functions.
ALL = ("score_mod", "bias", "mask", "dropout_mask")


@pytest.fixture(autouse=True)
def _even_a_short_problem_is_long(monkeypatch):
    """Let "auto" take "blockwise" here, as it does where there are many scores."""
    monkeypatch.setattr("attnfn._engines.MANY_SCORES", 1)
    monkeypatch.setattr("attnfn._engines.FEW_ROWS", 0)


def split(x):
    return x[:TABLE].reshape(HEADS, Q_LEN + KV_LEN), x[TABLE], x[TABLE + 1]


def functions(x, length):
    """Return options that are functions, with what they close over."""
    table, cap, _ = split(x)
    return {
        "score_mod": lambda s, q_pos, kv_pos: s / (1 + abs(s) / cap),
        "bias": lambda q_pos, kv_pos: table[:, kv_pos - q_pos + Q_LEN],
        "mask": lambda q_pos, kv_pos: kv_pos < length,
        "dropout_mask": lambda q_pos, kv_pos: (q_pos + kv_pos) % 7 < length,
    }


def by_engine(engine, names=ALL):
    """Return the loss by an engine, as a function of (arrays, learned, length)."""

    def loss(arrays, x, length):
        query, key, value = arrays
        factor = split(x)[2]
        options = {name: f for name, f in functions(x, length).items() if name in names}
        if "dropout_mask" in names:
            options["dropout_rate"] = 0.5
        out, lse = af.attention_with_lse(
            query, key * factor, value, q_offset=OFFSET, engine=engine, **options
        )
        return (out**2).sum() + lse.sum()

    return loss


def by_formula(xp, names=ALL):
    """Return the same loss by the formula alone, without a line of what is tested."""

    def loss(arrays, x, length):
        table, cap, factor = split(x)
        query, key, value = arrays
        q_pos, kv_pos = xp.arange(Q_LEN)[:, None] + OFFSET, xp.arange(KV_LEN)[None, :]
        s = query @ (factor * key.mT) / math.sqrt(DIM)
        if "score_mod" in names:
            s = s / (1 + abs(s) / cap)
        if "bias" in names:
            s = s + table[:, kv_pos - q_pos + Q_LEN]
        if "mask" in names:
            s = xp.where(kv_pos < length, s, -math.inf)
        e = xp.exp(s)
        total = e.sum(-1)
        weights = e / total[..., None]
        if "dropout_mask" in names:
            weights = xp.where((q_pos + kv_pos) % 7 < length, weights / 0.5, 0.0)
        return ((weights @ value) ** 2).sum() + xp.log(total).sum()

    return loss


def on_jax(loss, names, *, jit=True, knows_arrays=False):
    """Return what transforms make of a loss; its graph may know the arrays, or be given them."""
    import jax
    import jax.numpy as jnp

    known = tuple(map(jnp.asarray, ARRAYS))

    def compute(arrays, *inputs):
        def f(x, n=LENGTH):
            return loss(known if knows_arrays else arrays, x, n)

        return {name: ON_JAX[name](jax, f, *inputs) for name in names}

    inputs = map(jnp.asarray, (LEARNED, EXAMPLES, DIRECTION, LENGTHS))
    return (jax.jit(compute) if jit else compute)(known, *inputs)


@cache
def expected_on_jax():
    import jax.numpy as jnp

    return on_jax(by_formula(jnp), ON_JAX)


#: What is done to the loss f, given (x, some of it, a direction, lengths).
ON_JAX = {
    "gradient": lambda jax, f, x, xs, t, ns: jax.grad(f)(x),
    "vmap": lambda jax, f, x, xs, t, ns: jax.vmap(jax.grad(f))(xs, ns),
    "gradient of vmap": lambda jax, f, x, xs, t, ns: jax.grad(
        lambda x: jax.vmap(f, (None, 0))(x, ns).prod()
    )(x),
    "scan": lambda jax, f, x, xs, t, ns: jax.grad(
        lambda x: jax.lax.scan(lambda c, n: (f(x + c / 9, n), None), 0.0, ns)[0]
    )(x),
    "jvp": lambda jax, f, x, xs, t, ns: jax.jvp(f, (x,), (t,))[1],
    "hessian": lambda jax, f, x, xs, t, ns: jax.hessian(f)(x),
    "gradient of gradient": lambda jax, f, x, xs, t, ns: jax.grad(
        lambda x: (jax.grad(f)(x) * t).sum()
    )(x),
}


def on_torch(loss, names):
    """Return what transforms make of a loss."""
    import torch

    arrays = tuple(map(torch.asarray, ARRAYS))
    inputs = tuple(map(torch.asarray, (LEARNED, EXAMPLES, DIRECTION, LENGTHS)))

    def f(x, n=LENGTH):
        return loss(arrays, x, n)

    return {name: ON_TORCH[name](torch, f, *inputs).detach() for name in names}


@cache
def expected_on_torch():
    import torch

    return on_torch(by_formula(torch), ON_TORCH)


def by_autograd(torch, f, x, xs, t, ns):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(f(x), x)[0]


def twice_by_autograd(torch, f, x, xs, t, ns):
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(f(x), x, create_graph=True)
    return torch.autograd.grad((gradient * t).sum(), x)[0]


def forward_by_autograd(torch, f, x, xs, t, ns):
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, t)
        return torch.autograd.forward_ad.unpack_dual(f(dual)).tangent


def compiled(torch, f, x, xs, t, ns):
    torch.compiler.reset()
    return by_autograd(
        torch, torch.compile(f, backend="aot_eager", fullgraph=True), x, xs, t, ns
    )


ON_TORCH = {
    "autograd": by_autograd,
    "autograd, twice": twice_by_autograd,
    "autograd, forward": forward_by_autograd,
    "gradient": lambda torch, f, x, xs, t, ns: torch.func.grad(f)(x),
    "vmap": lambda torch, f, x, xs, t, ns: torch.func.vmap(f)(xs, ns),
    "vmap of gradient": lambda torch, f, x, xs, t, ns: torch.func.vmap(torch.func.grad(f))(
        xs, ns
    ),
    "gradient of vmap": lambda torch, f, x, xs, t, ns: torch.func.grad(
        lambda x: torch.func.vmap(f, (None, 0))(x, ns).prod()
    )(x),
    "autograd of vmap": lambda torch, f, x, xs, t, ns: by_autograd(
        torch, lambda x: torch.func.vmap(f, (None, 0))(x, ns).prod(), x, xs, t, ns
    ),
    "jvp": lambda torch, f, x, xs, t, ns: torch.func.jvp(f, (x,), (t,))[1],
    "hessian": lambda torch, f, x, xs, t, ns: torch.func.hessian(f)(x),
    "gradient of gradient": lambda torch, f, x, xs, t, ns: torch.func.grad(
        lambda x: (torch.func.grad(f)(x) * t).sum()
    )(x),
    "compile": compiled,
}


def agree(actual, expected):
    """Compare by name, and make sure that zeros would have been a difference."""
    for name, got in actual.items():
        right = np.asarray(expected[name])
        assert np.abs(right).max() > 1e-2, name
        np.testing.assert_allclose(np.asarray(got), right, rtol=1e-9, atol=1e-9, err_msg=name)


def refused():
    """Expect what kernels say that take no functions, or not these."""
    return pytest.raises(NotImplementedError, match="'native' cannot do")


class TestJax:
    @pytest.fixture(autouse=True)
    def _with_float64(self):
        pytest.importorskip("jax", reason="JAX differentiates")
        with x64(enabled=True):
            yield

    @pytest.mark.parametrize("transform", ON_JAX)
    def test_blockwise_is_right_in_a_graph(self, transform):
        agree(on_jax(by_engine("blockwise"), [transform]), expected_on_jax())

    @pytest.mark.parametrize("transform", ["scan", "hessian"])
    def test_dense_is_right_in_a_graph(self, transform):
        agree(on_jax(by_engine("dense"), [transform]), expected_on_jax())

    def test_what_auto_takes_is_right_in_a_graph(self):
        agree(on_jax(by_engine("auto"), ["vmap"]), expected_on_jax())

    @pytest.mark.parametrize("named", ["blockwise", "auto"])
    def test_only_what_is_captured_may_be_traced(self, named):
        found = on_jax(by_engine(named), ["gradient"], knows_arrays=True)

        agree(found, expected_on_jax())

    def test_blockwise_is_right_in_an_eager_call(self):
        import jax.numpy as jnp

        # One option: each operation is compiled by itself, at each shape of a tile.
        found = on_jax(by_engine("blockwise", ["bias"]), ["gradient"], jit=False)

        agree(found, on_jax(by_formula(jnp, ["bias"]), ["gradient"]))

    def test_auto_takes_blockwise_in_a_graph_and_dense_in_an_eager_call(self):
        import jax

        chosen, x = [], jax.numpy.asarray(ARRAYS[0])

        def choose(x):
            given = {"q_offset": 0, "bias": lambda q_pos, kv_pos: 1.0 * kv_pos}
            chosen.append(af.select_engine(x, x, x, **given))
            return x

        jax.jit(choose)(x)
        choose(x)

        assert chosen == ["blockwise", "dense"]

    @pytest.mark.parametrize("jit", [True, False])
    def test_native_raises(self, jit):
        with refused():
            on_jax(by_engine("native"), ["gradient"], jit=jit)


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
class TestTorch:
    """The warning is PyTorch's own: it scripts some derivatives when first asked for one."""

    @pytest.fixture(autouse=True)
    def _is_there(self):
        pytest.importorskip("torch", reason="PyTorch differentiates")

    @pytest.mark.parametrize("transform", ON_TORCH)
    @pytest.mark.parametrize("named", ["dense", "blockwise", "auto"])
    def test_is_right(self, named, transform):
        agree(on_torch(by_engine(named), [transform]), expected_on_torch())

    @pytest.mark.parametrize("option", ALL)
    @pytest.mark.parametrize("named", ["dense", "blockwise", "auto"])
    def test_each_option_by_itself_is_right(self, named, option):
        import torch

        transforms = ["autograd", "vmap of gradient", "gradient of vmap", "jvp"]

        found = on_torch(by_engine(named, [option]), transforms)

        agree(found, on_torch(by_formula(torch, [option]), transforms))

    @pytest.mark.parametrize("option", ALL)
    @pytest.mark.parametrize("transform", [name for name in ON_TORCH if name != "compile"])
    def test_native_raises(self, transform, option):
        with refused():
            on_torch(by_engine("native", [option]), [transform])

    def test_native_raises_when_it_is_compiled(self):
        from torch._dynamo.exc import Unsupported  # says what was raised in the graph

        with pytest.raises(Unsupported, match="NotImplementedError"):
            on_torch(by_engine("native"), ["compile"])

    def test_auto_takes_blockwise_and_dense_in_forward_mode(self):
        import torch

        chosen, x = [], torch.zeros(1, 6, 2)

        def choose(x):
            for f in (None, lambda q_pos, kv_pos: 1.0 * kv_pos):
                chosen.append(af.select_engine(x, x, x, softcap=1.0, bias=f, q_offset=0))
            return x

        choose(x)
        torch.func.jvp(choose, (x,), (x,))

        # A function is computed by ordinary operations, which have every derivative.
        assert chosen == ["blockwise", "blockwise", "dense", "blockwise"]


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
class TestTorchWithoutFunctions:
    """What is an array has its gradient in closed form there, and no forward mode."""

    @pytest.fixture(autouse=True)
    def _is_there(self):
        pytest.importorskip("torch", reason="PyTorch differentiates")

    @staticmethod
    def loss(engine, **options):
        import torch

        query, key, value = map(torch.asarray, ARRAYS)

        def f(x):
            out = af.attention(x * query, key, value * x, q_offset=0, engine=engine, **options)
            return (out**2).sum()

        return f

    @staticmethod
    def forward(how, f):
        import torch

        x, t = torch.asarray(ARRAYS[0][0, :1]), torch.ones(1, DIM, dtype=torch.float64)
        if how == "jvp":
            return torch.func.jvp(f, (x,), (t,))[1]
        if how == "dual numbers":
            return forward_by_autograd(torch, f, x, None, t, None)
        return torch.func.hessian(f)(x)

    @staticmethod
    def backward_twice(f):
        import torch

        x = torch.asarray(ARRAYS[0][0, :1])
        return twice_by_autograd(torch, f, x, None, torch.ones_like(x), None)

    @pytest.mark.parametrize("how", FORWARD)
    def test_forward_mode_of_blockwise_raises_and_says_what_works(self, how):
        with pytest.raises(NotImplementedError, match=r"engine='dense'.* attention_jvp"):
            self.forward(how, self.loss("blockwise"))

    @pytest.mark.parametrize("how", FORWARD)
    def test_forward_mode_of_native_raises_and_says_what_works(self, how):
        with pytest.raises(NotImplementedError, match=r"'native'.* Use .*'dense'"):
            self.forward(how, self.loss("native"))

    @pytest.mark.parametrize("softcap", [None, 2.0])
    @pytest.mark.parametrize("how", FORWARD)
    def test_forward_mode_of_auto_is_that_of_dense(self, how, softcap):
        found = self.forward(how, self.loss("auto", softcap=softcap))

        agree({how: found}, {how: self.forward(how, self.loss("dense", softcap=softcap))})

    @pytest.mark.parametrize("named", ["blockwise", "native", "auto"])
    def test_backward_twice_is_that_of_dense(self, named):
        found = self.backward_twice(self.loss(named, is_causal=True))

        agree({named: found}, {named: self.backward_twice(self.loss("dense", is_causal=True))})

    @pytest.mark.parametrize("option", ["bias", "sinks", "scale"])
    @pytest.mark.parametrize("how", FORWARD)
    @pytest.mark.parametrize("softcap", [None, 2.0])
    def test_forward_mode_of_auto_for_an_option_alone(self, how, option, softcap):
        import torch

        def of(engine):
            def f(x):
                given = {option: x.sum() if option in ("scale", "sinks") else x.sum() * bias}
                out = af.attention(*arrays, engine=engine, softcap=softcap, **given)
                return (out**2).sum()

            return f

        arrays = tuple(map(torch.asarray, ARRAYS))
        bias = torch.asarray(numbers(Q_LEN, KV_LEN, seed=6))
        found = self.forward(how, of("auto"))

        agree({how: found}, {how: self.forward(how, of("dense"))})
