"""Gradients in closed form, where PyTorch differentiates."""

from collections.abc import Callable
from typing import Any

import torch

from .._typing import Array
from ._torch import full_precision, is_in_forward_mode, is_transforming

__all__ = ["needs_gradient", "with_gradient"]

Forward = Callable[[Any], tuple[Array, Array]]
Backward = Callable[[Any, Array, Array | None, tuple[Array, Array]], dict[str, Array | None]]


def with_gradient(forward: Forward, backward: Backward, problem: Any, /) -> tuple[Array, Array]:
    """Return ``forward(problem)``, whose gradients `backward` tells.

    Nothing of the forward pass is kept but the results. No function that the problem holds may
    have captured what is being differentiated: it would get no gradient, without a word.
    """
    if isinstance(problem.scale, torch.Tensor):
        # The scale may be learned, too.
        q = problem.q.to(problem.dtype) * problem.scale
        problem = problem._replace(q=q, scale=1.0)
    if not _is_recorded(problem):
        return forward(problem)
    # The gradients are found by way of the lse.
    arrays, rebuild = _taken_apart(problem._replace(wants_lse=True))
    return _InClosedForm.apply(forward, backward, rebuild, *arrays)


class _InClosedForm(torch.autograd.Function):  # type: ignore[misc]
    """A problem's results, by way of its arrays: only what is an argument is differentiated."""

    generate_vmap_rule = True

    @staticmethod
    def forward(forward: Forward, backward: Backward, rebuild: Any, *arrays: Array) -> Any:  # noqa: ARG004
        return forward(rebuild(arrays))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Array, Array]) -> None:
        _, ctx.of, ctx.rebuild, *arrays = inputs
        ctx.save_for_backward(*arrays, *output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, d_out: Array | None, d_lse: Array | None) -> tuple[Any, ...]:
        *arrays, out, lse = ctx.saved_tensors
        problem = ctx.rebuild(arrays)
        d_out = torch.zeros_like(out) if d_out is None else d_out
        # Autocast is on again if backward() is called inside of it.
        with full_precision(d_out):
            found = ctx.of(problem, d_out, d_lse, (out, lse))
        return (None, None, None, *_like(problem, found))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        msg = (
            "Forward-mode derivatives of the engines 'blockwise' and 'native' do not exist on "
            "PyTorch. Use attention(..., engine='dense'), or attention_jvp()."
        )
        raise NotImplementedError(msg)


def _taken_apart(problem: Any, /) -> tuple[list[Array], Callable[[Any], Any]]:
    """Return the arrays of a problem, and the function that puts it together again."""
    names = [
        name for name in problem._fields if isinstance(getattr(problem, name), torch.Tensor)
    ]
    arrays = [getattr(problem, name) for name in names]
    rest = problem._replace(**dict.fromkeys(names))
    if problem.segments is None:
        return arrays, lambda given: rest._replace(**dict(zip(names, given, strict=True)))

    def rebuild(given: Any) -> Any:
        *given, q_ids, kv_ids = given
        own = dict(zip(names, given, strict=True))
        return rest._replace(**own, segments=(q_ids, kv_ids))

    return [*arrays, *problem.segments], rebuild


def _like(problem: Any, found: dict[str, Array | None], /) -> list[Array | None]:
    """Return one gradient for each array of a problem, in its dtype."""
    gradients: list[Array | None] = []
    for name in problem._fields:
        x = getattr(problem, name)
        if isinstance(x, torch.Tensor):
            gradient = found.get(name)
            gradients.append(None if gradient is None else gradient.to(x.dtype))
    return gradients if problem.segments is None else [*gradients, None, None]


def _is_recorded(problem: Any, /) -> bool:
    """Return whether something records what is done to the arrays of a problem, or batches it.

    Of its scale alone it is not asked.
    """
    if needs_gradient(problem):
        return True
    return not is_transforming() and is_in_forward_mode(problem)


def needs_gradient(problem: Any, /) -> bool:
    """Return the same where it is known that nothing is in forward mode."""
    if is_transforming():
        arrays, _ = _taken_apart(problem)
        return any(map(torch._C._functorch.is_functorch_wrapped_tensor, arrays))
    given = (problem.q, problem.k, problem.v, problem.bias, problem.sinks)
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in given)
