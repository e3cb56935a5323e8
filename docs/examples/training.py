"""
The training loops of the examples: the same loss, a pure function, with JAX and with PyTorch.

Randomness is the caller's: a batch holds the masks of its dropout, and the same batches give
the same training on both.
"""

import functools

from array_api_compat import array_namespace
from loading import to_library

import attnfn as af

__all__ = ["FIT", "cross_entropy"]


def cross_entropy(logits, labels):
    """Return how surprising each label is, in nats: minus the log of the softmax, there."""
    xp = array_namespace(logits)
    highest = xp.max(logits, axis=-1, keepdims=True)
    total = xp.log(xp.sum(xp.exp(logits - highest), axis=-1, keepdims=True)) + highest
    return (total - xp.take_along_axis(logits, labels[..., None], axis=-1))[..., 0]


def fit_on_jax(loss, params, batches, *, learning_rate, is_checkpointed=False):
    """Yield the loss of each batch with the parameters after it: Adam of optax, under a jit."""
    import jax
    import optax

    if is_checkpointed:
        loss = functools.partial(loss, checkpoint=jax.checkpoint)
    optimizer = optax.adam(learning_rate)

    @jax.jit
    def step(params, state, batch):
        value, gradients = jax.value_and_grad(loss)(params, batch)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, value

    params = to_library(params, jax.numpy.asarray)
    state = optimizer.init(params)
    for batch in batches:
        params, state, value = step(params, state, to_library(batch, jax.numpy.asarray))
        yield value, params


def fit_on_torch(loss, params, batches, *, learning_rate, is_checkpointed=False):
    """Yield the loss of each batch with the parameters after it: Adam, and `torch.func`."""
    import torch

    # torch.func knows no checkpoints; autograd does.
    step = checkpointed_gradients(loss) if is_checkpointed else torch.func.grad_and_value(loss)
    # Copies, for the optimizer writes into them.
    params = to_library(params, functools.partial(torch.tensor, requires_grad=is_checkpointed))
    leaves = af.flatten_params(params)
    optimizer = torch.optim.Adam(leaves.values(), lr=learning_rate)
    for batch in batches:
        gradients, value = step(params, to_library(batch, torch.asarray))
        for name, gradient in af.flatten_params(gradients).items():
            leaves[name].grad = gradient
        optimizer.step()
        yield value, to_library(params, torch.Tensor.detach)


def checkpointed_gradients(loss):
    """Return what `torch.func.grad_and_value` does, without what the blocks would remember."""
    import torch
    from torch.utils.checkpoint import checkpoint

    def forgetful(block):
        return functools.partial(checkpoint, block, use_reentrant=False)

    def step(params, batch):
        value = loss(params, batch, checkpoint=forgetful)
        leaves = af.flatten_params(params)
        gradients = torch.autograd.grad(value, list(leaves.values()))
        named = dict(zip(leaves, gradients, strict=True))
        return af.unflatten_params(params, named), value.detach()

    return step


FIT = {"jax": fit_on_jax, "torch": fit_on_torch}
