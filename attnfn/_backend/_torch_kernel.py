"""PyTorch's own kernel, ``scaled_dot_product_attention``, where it keeps to these semantics.

It knows queries, keys, values, a mask that is added, and one causal order. What else there is
becomes one of these: packed segments and a window with a mask are slices, a sink is a factor on
the result, the gradient of an lse is one more column of the values. What cannot be one of these
is done in place by tiles of our own: softcap, dropout, offsets by batch, the gradient of a
bias, and gradients where weights may be denormal numbers, over which the kernel's backward pass
crawls. A window alone is faster as products of batches of our own than as slices.

It is not careful with what is not finite: 0 * NaN from a hidden key is NaN. Where values may be
looked at they are, and what is not finite is left to the rows of the definition. Where they may
not, in a graph or on a device, keys that no query may see are set to zero.
"""

import math
from functools import partial
from typing import Any

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

from .._typing import Array
from . import _torch_step as step
from . import _torch_tiles as tiles
from . import _torch_windows as windows
from ._torch import (
    all_finite,
    is_in_forward_mode,
    is_transforming,
    may_look,
    may_look_freely,
    norm,
)
from ._torch_gradient import needs_gradient, with_gradient
from ._torch_parts import Part, laid_out, parts_of, with_heads, without_hidden

__all__ = ["attention", "is_worth_it", "supports"]

#: What scaled_dot_product_attention comes to on a CPU: it returns the lse, too.
_forward: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_backward: Any = getattr(
    torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None
)

#: Rows of a slice of a window, forward and backward: a backward pass makes more of fewer calls.
ROWS, GRADIENT_ROWS = 256, 512
#: So few scores of a head had better be computed for all heads at once.
FEW_SCORES = 2**16
#: How often a loop may be unrolled in a graph.
MOST_SLICES = 16


def supports(problem: Any, /) -> str | None:
    """Return what this kernel cannot do of a problem, None if it can do all of it."""
    if problem.score_mod is not None:
        return "`score_mod`"
    for name in ("mask", "bias", "dropout_mask"):
        if callable(getattr(problem, name)):
            return f"a function given as `{name}`"
    if is_in_forward_mode(problem):
        return "forward-mode derivatives, which attention_jvp() tells, too"
    if _forward is not None and may_look(problem.q):
        return None
    return _obstacle_to_a_graph(problem, has_positions=problem.window != (None, None))


def _obstacle_to_a_graph(problem: Any, /, *, has_positions: bool) -> str | None:
    if is_transforming():
        return "the transforms of torch.func"
    told = {
        "`softcap`": problem.softcap is not None,
        "`dropout_mask`": problem.dropout_mask is not None,
        "an array given as `q_offset`": has_positions
        and isinstance(problem.q_offset, torch.Tensor),
        "the log-sum-exp": problem.wants_lse or problem.sinks is not None,
    }
    for what, is_asked in told.items():
        if is_asked:
            return f"{what}, in a graph or on the device {problem.q.device.type}"
    if has_positions and not all(type(n) is int for n in problem.shape[-2:]):
        return "windows over lengths that are not known"
    if has_positions and problem.q_offset != 0:
        # It would decide which keys to slice: another graph for every offset.
        return "`q_offset` in a graph or on a device"
    return None


def is_worth_it(problem: Any, /) -> bool:
    """Return whether this is faster than the definition."""
    if not may_look(problem.q):
        # A comparison would tie a graph to the lengths that it was made with.
        return True
    is_few = problem.group * problem.shape[-2] <= step.FEW_ROWS
    if is_few and may_look_freely(problem.q, problem.k, problem.v):
        return step.fits(problem)
    return not _needs_tiles(problem) or math.prod(problem.shape[-2:]) >= FEW_SCORES


def _needs_tiles(problem: Any, /) -> bool:
    """Return whether PyTorch's kernel cannot do what ours can."""
    return (
        problem.softcap is not None
        or problem.dropout_mask is not None
        or (problem.window != (None, None) and isinstance(problem.q_offset, torch.Tensor))
    )


def attention(problem: Any, definition: Any, /) -> tuple[Array, Array | None]:
    """Return the output and the lse in the compute dtype, None for an lse that is not told."""
    if _forward is None or not may_look(problem.q):
        return _attend_unseen(definition, problem), None
    if isinstance(problem.scale, float) and not needs_gradient(problem):
        # In a short call every question counts, and `supports` has asked the others.
        return _attend(definition, problem)
    return with_gradient(partial(_attend, definition), partial(_pull_back, definition), problem)


def _attend(definition: Any, problem: Any, /) -> tuple[Array, Array]:
    return _finite(definition, problem) or definition.attend(problem)


def _finite(definition: Any, problem: Any, /) -> tuple[Array, Array] | None:
    """Return the results if there is something to compute, and all that is seen is finite."""
    if _has_no_axis(problem):
        return None
    is_step = step.fits(problem)
    found = (step.attend if is_step else _of_many)(definition, problem)
    if found is None or problem.sinks is None:
        return found
    has_its_share = _needs_tiles(problem) and not is_step
    return found if has_its_share else _with_sinks(*found, problem.sinks)


def _of_many(definition: Any, problem: Any, /) -> tuple[Array, Array] | None:
    """Return the results, without the sinks unless tiles are needed."""
    problem = _cast(problem)
    needs_tiles = _needs_tiles(problem)
    if problem.window != (None, None) and not needs_tiles:
        blocks = windows.small_blocks_of(problem)
        if blocks is not None:
            return _of_window(definition, problem, blocks)
    # By Cauchy and Schwarz no score exceeds the product of the norms; nor do its parts.
    limit = torch.finfo(problem.dtype).max
    if not norm(problem.q) * norm(problem.k) * max(1.0, abs(problem.scale)) < limit:
        return None
    if needs_tiles:
        out, lse = tiles.attend(definition, problem, tiles.greatest(problem))
        return (out, lse) if all_finite(out) else None
    # Nor a sum of values, each times at most 1, the norm times the root of their number. To
    # look at the output takes longer: it is in the caches of all cores.
    is_known = problem.bias is None and math.sqrt(problem.shape[-1]) * norm(problem.v) < limit
    results = [_of_part(part) for part in parts_of(definition, problem, ROWS)]
    if len(results) == 1:
        ((out, lse),) = results
    else:
        outs, lses = zip(*results, strict=True)
        out, lse = torch.cat(outs, dim=-2), torch.cat(lses, dim=-1)
    return (out, lse) if is_known or all_finite(out) else None


def _of_window(
    definition: Any, problem: Any, blocks: windows.Blocks, /
) -> tuple[Array, Array] | None:
    """Return the results of a window in small blocks, but for the ends of the sequence."""
    most = tiles.greatest(problem)
    # Neither a score nor the product that is scaled may overflow; NaN is not less either.
    limit = torch.finfo(problem.dtype).max * min(1.0, abs(problem.scale))
    if not tiles.LOG2_E * most < limit:
        return None
    out = problem.q.new_empty((*problem.shape[:-1], problem.v.shape[-1]))
    lse = problem.q.new_empty((*problem.shape[:-1], 1))
    if not windows.attend_in_place(problem, blocks, most, out, lse):
        return None
    for first, end in ((0, blocks.start), (blocks.stop, problem.shape[-2])):
        if first == end:
            continue
        keys = definition.visible(problem, first, end - first)
        edge = definition.narrow(problem, (first, end - first), keys)
        for part in parts_of(definition, edge, ROWS):
            rows = slice(first + part.rows.start, first + part.rows.stop)
            out[..., rows, :], lse[..., rows, 0] = _of_part(part)
            if not all_finite(out[..., rows, :]):
                return None
    return out, lse[..., 0]


def _of_part(part: Part, /) -> tuple[Array, Array]:
    """Return the output and the lse of some rows, in the shape of the problem."""
    problem = part.problem
    shape = problem.shape[:-1]
    if 0 in problem.shape:
        out = problem.q.new_zeros((*shape, problem.v.shape[-1]))
        return out, problem.q.new_full(shape, -math.inf)
    q, k, v = laid_out(problem)
    out, lse = _forward(
        q, k, v, 0.0, part.is_causal, attn_mask=part.mask, scale=float(problem.scale)
    )
    if part.mask is not None and (lse == 0.0).any():
        # It says 0 of a row in which nothing is allowed.
        lse = torch.where((part.mask == -math.inf).all(-1), -math.inf, lse)
    if q is problem.q:
        return out, lse
    out = out[..., : problem.v.shape[-1]]
    return out.reshape(*shape, out.shape[-1]), lse.reshape(shape)


def _with_sinks(out: Array, lse: Array, sinks: Array, /) -> tuple[Array, Array]:
    """Let the sink have its share of a result that was computed without it."""
    both = torch.logaddexp(lse, sinks[..., 0] if sinks.ndim else sinks)
    share = torch.where(lse == -math.inf, 0.0, torch.exp(lse - both))
    return out * share[..., None], both


def _pull_back(
    definition: Any,
    problem: Any,
    d_out: Array,
    d_lse: Array | None,
    saved: tuple[Array, Array],
    /,
) -> dict[str, Array]:
    """Return the gradients of a problem by name, in the compute dtype."""
    # The kernel's own backward pass has no derivative, and tells no gradient of a mask.
    needs_more = torch.is_grad_enabled() or not all(
        may_look(x) for x in (d_out, d_lse) if x is not None
    )
    found = None
    if not needs_more and _backward is not None and may_look(problem.q):
        found = _gradients(definition, problem, d_out, d_lse, saved)
    return found or definition.pull_back(problem, d_out, d_lse, saved)


def _gradients(
    definition: Any,
    problem: Any,
    d_out: Array,
    d_lse: Array | None,
    saved: tuple[Array, Array],
    /,
) -> dict[str, Array] | None:
    out, lse = saved
    if _has_no_axis(problem) or not all_finite(d_out, out):
        return None
    full = _cast(problem)
    most = tiles.greatest(full)
    if not (math.isfinite(most) or all_finite(problem.q, problem.k)):
        return None
    by_tiles = (
        _needs_tiles(problem)
        or (problem.bias is not None and problem.bias.requires_grad)
        # Over products with weights that are not normal it crawls.
        or tiles.makes_denormals(problem.dtype, most)
    )
    if by_tiles or problem.sinks is not None:
        delta = (d_out * out).sum(-1, keepdim=True)
        delta = delta if d_lse is None else delta - d_lse[..., None]
    if by_tiles:
        sums = tiles.pull_back(definition, full, most, d_out, delta)
    else:
        sums = _kernel_gradients(definition, full, d_out, d_lse, (out, lse))
    if not all_finite(*sums.values()):
        return None
    if problem.sinks is not None:
        share = torch.exp(problem.sinks - saved[1][..., None])
        d_sinks = -(share * delta).sum(-2, keepdim=True)
        sums["sinks"] = d_sinks.sum_to_size(problem.sinks.shape)
    return sums


def _kernel_gradients(
    definition: Any,
    full: Any,
    d_out: Array,
    d_lse: Array | None,
    saved: tuple[Array, Array],
    /,
) -> dict[str, Array]:
    out, lse = saved
    # Where there are no keys every score is -inf, and exp(-inf - 0) is the weight.
    lse = torch.where(lse == -math.inf, 0.0, lse)
    arrays = {name: getattr(full, name) for name in ("q", "k", "v")}
    sums: dict[str, Array] = {}
    for part in parts_of(definition, full, GRADIENT_ROWS):
        is_all = tuple(part.problem.shape[-2:]) == tuple(full.shape[-2:])
        if not (is_all or sums):
            sums = {name: torch.zeros_like(x) for name, x in arrays.items()}
        if 0 in part.problem.shape:
            continue
        at = (..., part.rows)
        found = _of_part_back(
            part,
            d_out[(*at, slice(None))],
            None if d_lse is None else d_lse[at],
            out[(*at, slice(None))],
            lse[at],
        )
        for (name, whole), x in zip(arrays.items(), found, strict=True):
            if is_all:
                sums[name] = x.sum_to_size(whole.shape)
                continue
            span = part.rows if name == "q" else part.keys
            sums[name][..., span, :] += x.sum_to_size(sums[name][..., span, :].shape)
    return sums


def _of_part_back(
    part: Part, d_out: Array, d_lse: Array | None, out: Array, lse: Array, /
) -> tuple[Array, Array, Array]:
    problem = part.problem
    by_lse = d_lse is not None
    q, k, v = laid_out(problem, extra=by_lse)
    value_dim = problem.v.shape[-1]

    def in_layout(x: Array, last: Array | None = None) -> Array:
        # With a column of ones in the values, what stands there in the gradient of the output
        # is added to that of every weight; and nothing is taken off if the output has a 0.
        x = x if last is None else torch.cat((x, last[..., None]), dim=-1)
        x = x.reshape(*q.shape[:3], x.shape[-1])
        return pad(x, (0, v.shape[-1] - x.shape[-1])) if x.shape[-1] < v.shape[-1] else x

    if by_lse:
        v[..., value_dim] = 1.0
    d_q, d_k, d_v = _backward(
        in_layout(d_out, d_lse),
        q,
        k,
        v,
        in_layout(out),
        lse.reshape(q.shape[:3]),
        0.0,
        part.is_causal,
        attn_mask=part.mask,
        scale=float(problem.scale),
    )
    head_dim = problem.q.shape[-1]
    *batch, num_heads, q_len, kv_len = with_heads(problem.shape)
    few = problem.num_kv_heads
    d_q = d_q[..., :head_dim].reshape(*batch, num_heads, q_len, head_dim)
    d_k, d_v = d_k[..., :head_dim], d_v[..., :value_dim]
    if problem.group > 1:
        d_k, d_v = (x.reshape(*batch, few, -1, kv_len, x.shape[-1]).sum(-3) for x in (d_k, d_v))
    return (
        d_q,
        d_k.reshape(*batch, few, kv_len, head_dim),
        d_v.reshape(*batch, few, kv_len, value_dim),
    )


def _attend_unseen(definition: Any, problem: Any, /) -> Array:
    """Compute the output alone, by operations that torch differentiates and compiles."""
    if 0 in problem.shape or 0 in problem.v.shape:
        return definition.attend(problem)[0]
    problem = _cast(problem)
    if problem.dtype in (torch.float32, torch.float64):
        # On a GPU the kernels scale the products, which may be too great by then. Those of
        # halves are float32, and a scaled query would be rounded once more.
        problem = problem._replace(q=problem.q * problem.scale, scale=1.0)
    blocks = windows.blocks_of(problem)
    if blocks is None:
        return _sliced(definition, problem)

    def edge(first: int, end: int) -> list[Array]:
        if first == end:
            return []
        keys = definition.visible(problem, first, end - first)
        return [_sliced(definition, definition.narrow(problem, (first, end - first), keys))]

    out = windows.attend(problem, blocks, *laid_out(problem, pads=False))
    middle = out.reshape(*problem.shape[:-2], *out.shape[-2:])
    first, last = edge(0, blocks.start), edge(blocks.stop, problem.shape[-2])
    return torch.cat([*first, middle, *last], dim=-2)


def _sliced(definition: Any, problem: Any, /) -> Array:
    size = None
    if problem.window not in ((None, None), (None, 0)):
        size = max(ROWS, -(-problem.shape[-2] // MOST_SLICES))
    outs = []
    for part in parts_of(definition, problem, size):
        if 0 in part.problem.shape:
            outs.append(definition.attend(part.problem)[0])
            continue
        q, k, v = laid_out(part.problem, pads=False)
        mask, scale = part.mask, part.problem.scale
        if mask is not None:
            # What a row gets in which nothing is allowed depends on the kernel that PyTorch
            # chooses: from cuDNN, on a GPU, what it would get if everything were.
            is_empty = (mask == -math.inf).all(-1, keepdim=True)
            q, mask = (torch.where(is_empty, 0.0, x) for x in (q, mask))
            allowed = definition.allowed(part.problem)
            if allowed is not None:
                k, v = (without_hidden(part.problem, allowed, x) for x in (k, v))
        out = scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=part.is_causal, scale=scale
        )
        if mask is not None:
            out = torch.where(is_empty, 0.0, out)
        outs.append(out.reshape(*part.problem.shape[:-1], out.shape[-1]))
    return outs[0] if len(outs) == 1 else torch.cat(outs, dim=-2)


def _cast(problem: Any, /) -> Any:
    if problem.q.dtype == problem.dtype:
        return problem
    q, k, v = (x.to(problem.dtype) for x in (problem.q, problem.k, problem.v))
    return problem._replace(q=q, k=k, v=v)


def _has_no_axis(problem: Any, /) -> bool:
    return 0 in problem.shape or 0 in problem.v.shape or 0 in problem.q.shape
