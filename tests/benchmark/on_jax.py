"""Sides that compute with JAX, under `jit`: ours, its own, and the formula."""

import jax
import jax.numpy as jnp

import attnfn as af

from .work import allowed, draw, options

__all__ = ["functional", "functional_to_compile", "naive", "ours", "ours_to_compile"]


def jitted(work, attention):
    """Compile a function of query, key, value and others; with its gradient where wanted.

    Return the compiled function: to call it compiles nothing.
    """

    def gradient(query, key, value, d_out, others):
        out, back = jax.vjp(lambda *a: attention(*a, others), query, key, value)
        return out, back(d_out)

    def forward(query, key, value, _d_out, others):
        return attention(query, key, value, others)

    return jax.jit(gradient if work.gradient else forward)


def called(function, arguments):
    compiled = function.lower(*arguments).compile()
    return lambda: jax.block_until_ready(compiled(*arguments))


def arrays(x, turn=lambda a: a):
    """Return query, key, value and d_out as JAX arrays."""
    return tuple(None if a is None else turn(jnp.asarray(a)) for a in x[:4])


def ours_in_jit(work, engine="auto"):
    x = draw(work)
    said = options(work, jnp.asarray, x)
    # Masks and biases are arguments: XLA would fold a constant of their size for seconds.
    others = {name: said.pop(name) for name in ("mask", "bias") if name in said}

    def attention(query, key, value, others):
        return af.attention(query, key, value, **others, **said, engine=engine)

    return jitted(work, attention), (*arrays(x), others)


def ours(work, engine="auto"):
    return called(*ours_in_jit(work, engine))


def engine_of(work):
    x = draw(work)
    found = []

    def ask(query, key, value):
        found.append(af.select_engine(query, key, value, **options(work, jnp.asarray, x)))
        return query

    jax.eval_shape(ask, *arrays(x)[:3])
    return found[0]


def functional_in_jit(work):
    """`jax.nn.dot_product_attention`, on arrays that have its axes from the start."""
    if work.softcap is not None:
        reason = "has no softcap"
        raise NotImplementedError(reason)
    x = draw(work)
    window, is_causal = work.window, work.is_causal
    others = {
        name: jnp.asarray(a)
        for name, a in (("mask", x.mask), ("bias", x.bias))
        if a is not None
    }
    if "mask" in others and others["mask"].ndim == 2:
        others["mask"] = others["mask"][None, None]

    def attention(query, key, value, others):
        return jax.nn.dot_product_attention(
            query, key, value, **others, is_causal=is_causal, local_window_size=window
        )

    return jitted(work, attention), (*arrays(x, lambda a: a.swapaxes(1, 2)), others)


def functional(work):
    return called(*functional_in_jit(work))


def naive(work):
    x = draw(work)
    if work.num_heads != work.num_kv_heads or work.softcap is not None or work.has_bias:
        reason = "is written for plain scores of as many heads alone"
        raise NotImplementedError(reason)
    mask = allowed(work, x)
    others = {} if mask is None else {"mask": jnp.asarray(mask)}

    def attention(query, key, value, others):
        scores = (query * work.head_dim**-0.5) @ key.mT
        if others:
            scores = jnp.where(others["mask"], scores, -jnp.inf)
        return jax.nn.softmax(scores, axis=-1) @ value

    return called(jitted(work, attention), (*arrays(x), others))


def ours_to_compile(work, engine="auto"):
    """Compile anew, without running: forward, and then the gradient."""
    return lambda: [
        function.lower(*arguments).compile()
        for gradient in (False, True)
        for function, arguments in [ours_in_jit(work._replace(gradient=gradient), engine)]
    ]


def functional_to_compile(work):
    return lambda: [
        function.lower(*arguments).compile()
        for gradient in (False, True)
        for function, arguments in [functional_in_jit(work._replace(gradient=gradient))]
    ]
