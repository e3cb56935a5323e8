"""Make the tables of engines.md by running what they speak of."""

import math
import re
import sys
from functools import partial
from pathlib import Path

import numpy as np

import attnfn as af
from attnfn import _engines, _tiles

PAGE = Path(__file__).with_name("engines.md")

# ------------------------------------------------------- what "auto" takes

#: (batch, num_heads, length, head_dim)
LONG, SHORT = (1, 2, 1024, 16), (1, 2, 16, 16)


def options_of(xp, shape):
    """Return what is asked for in each row of the table, by the name of the row."""
    length = shape[-2]
    yes = xp.ones((length, length), dtype=xp.bool)
    far = {"bias": lambda q_pos, kv_pos: -0.1 * abs(q_pos - kv_pos)}
    dropout = {"dropout_rate": 0.5}
    return {
        "nothing": {},
        "`is_causal`": {"is_causal": True},
        "`window_size`": {"window_size": (8, 8)},
        "`q_offset`, a number": {"is_causal": True, "q_offset": 3},
        "`q_offset`, an array": {"is_causal": True, "q_offset": xp.asarray([3])},
        "`segment_ids`": {"segment_ids": xp.arange(length) // 4},
        "`mask`, an array": {"mask": yes},
        "`mask`, a function": {"mask": lambda q_pos, kv_pos: kv_pos >= q_pos},
        "`bias`, an array": {"bias": xp.zeros((length, length), dtype=xp.float32)},
        "`bias`, a function": far,
        "`scale`, an array": {"scale": xp.asarray(0.5, dtype=xp.float32)},
        "`softcap`": {"softcap": 30.0},
        "`score_mod`": {"score_mod": lambda scores, *_: 2.0 * scores},
        "`sinks`": {"sinks": xp.zeros((2,), dtype=xp.float32)},
        "`dropout_mask`, an array": {"dropout_mask": yes, **dropout},
        "`dropout_mask`, a function": {
            "dropout_mask": lambda q_pos, kv_pos: (q_pos + kv_pos) % 2 == 0,
            **dropout,
        },
    }


def chosen(xp, shape, run):
    """Return the engine that "auto" takes for each row, in a call that `run` starts."""

    def choose(options, x):
        found.append(af.select_engine(x, x, x, **options))
        return x

    found, x = [], xp.zeros(shape, dtype=xp.float32)
    for options in options_of(xp, shape).values():
        run(partial(choose, options), x)
    return found


def option_table():
    """Return the table of options and libraries."""
    import jax
    import jax.numpy as jnp
    import torch
    from torch.func import jvp, vmap

    columns = {
        "NumPy": (np, lambda f, x: f(x)),
        "PyTorch": (torch, lambda f, x: f(x)),
        "in `torch.func.vmap`": (torch, lambda f, x: vmap(f)(x[None])),
        "in `torch.func.jvp`": (torch, lambda f, x: jvp(f, (x,), (x,))),
        "JAX": (jnp, lambda f, x: f(x)),
        "in `jax.jit`": (jnp, lambda f, x: jax.jit(lambda x: f(x)).lower(x)),
    }
    cells = []
    for xp, run in columns.values():
        pairs = zip(chosen(xp, LONG, run), chosen(xp, SHORT, run), strict=True)
        cells.append([a if a == b else f"{a}, {b}" for a, b in pairs])
    rows = zip(options_of(np, SHORT), *cells, strict=True)
    return table(["asked for", *columns], rows)


# -------------------------------------------------- which derivatives there are

HEADS, KV_HEADS, LENGTH, DIM = 4, 2, 4, 3
RNG = np.random.default_rng(0)
QUERY = (HEADS, LENGTH, DIM)
KEY, VALUE = RNG.normal(size=(2, KV_HEADS, LENGTH, DIM))
#: Queries, and a bias for each head and distance, in one row; and a direction.
SIZE = math.prod(QUERY)
X, T = RNG.normal(size=(2, SIZE + HEADS * 2 * LENGTH))
XS = np.stack([X, -X])
#: Libraries, each with a bias that is an array, and one that is a function.
COLUMNS = [
    ("NumPy", False),
    ("PyTorch", False),
    ("PyTorch", True),
    ("JAX", False),
    ("JAX", True),
]
HEADS_OF_COLUMNS = [f"{library}, a function" if f else library for library, f in COLUMNS]


def loss_by(xp, engine, *, functions):
    """Return a function of a row of numbers: of queries, and of a bias in either form."""

    def loss(x):
        query = xp.reshape(x[:SIZE], QUERY)
        distances = xp.reshape(x[SIZE:], (HEADS, 2 * LENGTH))

        def bias(q_pos, kv_pos):
            return distances[:, kv_pos - q_pos + LENGTH]

        positions = xp.arange(LENGTH)
        given = bias if functions else bias(positions[:, None], positions[None, :])
        key, value = xp.asarray(KEY), xp.asarray(VALUE)
        out = af.attention(query, key, value, bias=given, is_causal=True, engine=engine)
        return (out**2).sum()

    return loss


def on_numpy():
    """Return how to compute each row of the table on NumPy, which differentiates nothing."""
    return {"value": lambda f: f(X)}


def on_torch():
    """Return how to compute each row of the table on PyTorch."""
    import torch
    from torch.func import grad, jvp, vmap

    x, t, xs = map(torch.asarray, (X, T, XS))

    def reverse(f, x=x):
        x = x.clone().requires_grad_()
        return torch.autograd.grad(f(x), x)[0]

    def twice(f):
        y = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(f(y), y, create_graph=True)
        return torch.autograd.grad((gradient * t).sum(), y)[0]

    def compiled(f):
        torch.compiler.reset()
        return reverse(torch.compile(f, backend="aot_eager", fullgraph=True))

    return {
        "value": lambda f: f(x),
        "reverse": reverse,
        "reverse, twice": twice,
        "forward": lambda f: jvp(f, (x,), (t,))[1],
        "forward over reverse": lambda f: jvp(grad(f), (x,), (t,))[1],
        "reverse in vmap": lambda f: vmap(grad(f))(xs),
        "reverse, compiled": compiled,
    }


def on_jax():
    """Return how to compute each row of the table on JAX."""
    import jax
    import jax.numpy as jnp
    from jax import grad, jit, jvp, vmap

    x, t, xs = map(jnp.asarray, (X, T, XS))
    assert x.dtype == jnp.float64, jax.config.jax_enable_x64

    return {
        "value": lambda f: f(x),
        "reverse": lambda f: grad(f)(x),
        "reverse, twice": lambda f: jit(grad(lambda x: (grad(f)(x) * t).sum()))(x),
        "forward": lambda f: jit(lambda x: jvp(f, (x,), (t,))[1])(x),
        "forward over reverse": lambda f: jit(lambda x: jvp(grad(f), (x,), (t,))[1])(x),
        "reverse in vmap": lambda f: jit(vmap(grad(f)))(xs),
        "reverse, compiled": lambda f: jit(grad(f))(x),
    }


def word(compute, f, right):
    """Return what to say of a computation: that it is right, that it raises, or fail."""
    try:
        found = compute(f)
    except Exception as error:
        if not isinstance(error, NotImplementedError) and "NotImplementedError" not in str(
            error
        ):
            raise
        return "raises"
    np.testing.assert_allclose(plain(found), right, rtol=1e-9, atol=1e-9)
    assert np.abs(right).max() > 1e-2, "zeros would be right, too"
    return "right"


def right_by(xp, computations):
    """Return what the definition gives on a library, by the name of the row."""
    f = loss_by(xp, "dense", functions=False)
    return {name: plain(compute(f)) for name, compute in computations.items()}


def plain(x):
    return x.detach().numpy() if hasattr(x, "detach") else np.asarray(x)


def derivative_table():
    """Return the table of engines, derivatives and libraries."""
    import jax.numpy as jnp
    import torch

    ways = {"NumPy": on_numpy(), "PyTorch": on_torch(), "JAX": on_jax()}
    spaces = {"NumPy": np, "PyTorch": torch, "JAX": jnp}
    # What one library computes is held against the definition on another.
    by_torch, by_jax = right_by(torch, ways["PyTorch"]), right_by(jnp, ways["JAX"])
    right = {"NumPy": by_torch, "PyTorch": by_jax, "JAX": by_torch}
    rows = []
    for engine in ("dense", "blockwise", "native", "auto"):
        for name in ways["JAX"]:
            row = [f"{engine}: {name}"]
            for library, functions in COLUMNS:
                f = loss_by(spaces[library], engine, functions=functions)
                compute = ways[library].get(name)
                row.append(word(compute, f, right[library][name]) if compute else "-")
            rows.append(row)
    return table(["engine: what is asked for", *HEADS_OF_COLUMNS], rows)


# ------------------------------------------------------------ the closed forms


def closed_forms(xp, *, functions):
    """Return the gradient of a loss, and its change along a direction, in closed form."""
    key, value, t = xp.asarray(KEY), xp.asarray(VALUE), xp.asarray(T[:SIZE])

    def bias(q_pos, kv_pos):
        return -0.125 * abs(q_pos - kv_pos)  # exact in float32, which torch makes of it

    positions = xp.arange(LENGTH)
    given = bias if functions else xp.asarray(bias(positions[:, None], positions[None, :]))
    options = {"bias": given, "is_causal": True}

    def loss(x):
        out = af.attention(xp.reshape(x, QUERY), key, value, engine="dense", **options)
        return (out**2).sum()

    def by_vjp(x):
        query = xp.reshape(x, QUERY)
        out = af.attention(query, key, value, engine="dense", **options)
        found = af.attention_vjp(query, key, value, 2.0 * out, **options)
        return xp.reshape(found.query, (-1,))

    def by_jvp(x):
        query, along = xp.reshape(x, QUERY), xp.reshape(t, QUERY)
        (out, _), (d_out, _) = af.attention_jvp(
            (query, key, value), (along, 0 * key, 0 * value), **options
        )
        return (2.0 * out * d_out).sum()

    return loss, {"`attention_vjp`": by_vjp, "`attention_jvp`": by_jvp}


def ways_to_call():
    """Return the rows of the table on each library: what is done to the function."""
    import jax
    import jax.numpy as jnp
    import torch
    from torch.func import grad, vmap

    n = SIZE

    def compiled(g):
        torch.compiler.reset()
        return torch.compile(g, backend="aot_eager", fullgraph=True)(torch.asarray(X[:n]))

    return {
        "NumPy": {"called": lambda g: g(X[:n])},
        "PyTorch": {
            "called": lambda g: g(torch.asarray(X[:n])),
            "in vmap": lambda g: vmap(g)(torch.asarray(XS[:, :n])),
            "compiled": compiled,
            "differentiated": lambda g: grad(lambda x: (g(x) * torch.asarray(T[:n])).sum())(
                torch.asarray(X[:n])
            ),
        },
        "JAX": {
            "called": lambda g: g(jnp.asarray(X[:n])),
            "in vmap": lambda g: jax.jit(jax.vmap(g))(jnp.asarray(XS[:, :n])),
            "compiled": lambda g: jax.jit(g)(jnp.asarray(X[:n])),
            "differentiated": lambda g: jax.jit(
                jax.grad(lambda x: (g(x) * jnp.asarray(T[:n])).sum())
            )(jnp.asarray(X[:n])),
        },
    }


def closed_form_table():
    """Return the table of attention_vjp and attention_jvp."""
    import jax
    import jax.numpy as jnp
    import torch

    ways, spaces = ways_to_call(), {"NumPy": np, "PyTorch": torch, "JAX": jnp}
    right = {}
    for library, grad, jvp in (
        ("PyTorch", torch.func.grad, torch.func.jvp),
        ("JAX", jax.grad, jax.jvp),
    ):
        xp = spaces[library]
        loss, _ = closed_forms(xp, functions=False)
        t = xp.asarray(T[:SIZE])
        by_definition = {
            "`attention_vjp`": grad(loss),
            "`attention_jvp`": partial(along, jvp, loss, t),
        }
        right[library] = {
            (name, way): plain(run(g))
            for name, g in by_definition.items()
            for way, run in ways[library].items()
        }
    # What one library computes is held against the definition on another.
    right = {"NumPy": right["JAX"], "PyTorch": right["JAX"], "JAX": right["PyTorch"]}
    rows = []
    for name in ("`attention_vjp`", "`attention_jvp`"):
        for way in ways["JAX"]:
            row = [f"{name} {way}"]
            for library, functions in COLUMNS:
                g = closed_forms(spaces[library], functions=functions)[1][name]
                run = ways[library].get(way)
                row.append(word(run, g, right[library][name, way]) if run else "-")
            rows.append(row)
    return table(["what is asked for", *HEADS_OF_COLUMNS], rows)


def along(jvp, loss, t, x):
    return jvp(loss, (x,), (t,))[1]


def table(heads, rows):
    """Return a table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def between(name, text):
    """Return the table of a name in the page."""
    return re.search(rf"<!-- {name} -->\n\n(.*?)\n\n<!-- end -->", text, re.DOTALL)[1]


def replaced(name, text, made):
    start, end = f"<!-- {name} -->\n\n", "\n\n<!-- end -->"
    return text.replace(start + between(name, text) + end, start + made + end)


TABLES = {
    "options": option_table,
    "derivatives": derivative_table,
    "closed forms": closed_form_table,
}


def main(*names):
    """Write some tables, or all, into the page, between their markers."""
    import jax

    jax.config.update("jax_enable_x64", True)
    for name in names or TABLES:
        if name != "options":
            # From here on a few rows are several tiles, and few scores are many.
            _tiles.LEAST_ROWS, _tiles.MOST_ROWS, _engines.MANY_SCORES = 1, 2, 1
        made = TABLES[name]()
        text = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(replaced(name, text, made), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
