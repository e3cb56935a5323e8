"""The derivatives of attention, in closed form: for every library, also one that has none."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Unpack

from jaxtyping import Float

from ._backend import full_precision, namespace
from ._checks import (
    check_closed_form,
    check_exact_shape,
    check_floating,
    check_one_device,
    check_one_library,
    check_options,
    check_pair_saved,
    check_primals,
    check_tangent_shape,
    check_tangents,
    is_absent,
)
from ._closed_forms import Differentials
from ._numerics import cast
from ._problem import AttentionProblem, describe
from ._rows import whole
from ._tiles import compute_jvp, compute_vjp
from ._typing import Array, ArrayT, DerivativeOptions

__all__ = ["AttentionGradients", "attention_jvp", "attention_vjp"]

DERIVATIVE_OPTIONS = frozenset(DerivativeOptions.__annotations__)


class AttentionGradients(NamedTuple):
    """
    What has a derivative in attention: its gradients, or a direction to go in.

    Each has the shape of the argument of the same name; ``()`` stands for none.

    Parameters
    ----------
    query : array, shape (..., num_heads, q_len, head_dim)
        Of `query`.
    key : array, shape (..., num_kv_heads, kv_len, head_dim)
        Of `key`.
    value : array, shape (..., num_kv_heads, kv_len, value_dim)
        Of `value`.
    bias : array, optional
        Of `bias`, in its shape; ``()`` if there is none, or it is a function.
    sinks : array, optional
        Of `sinks`, in its shape; ``()`` if there are none.

    See Also
    --------
    attention_vjp : Returns one.
    attention_jvp : Takes one.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> x = np.zeros((1, 4, 8))
    >>> gradients = af.attention_vjp(x, x, x, np.ones((1, 4, 8)), sinks=0.5)
    >>> [name for name, x in gradients._asdict().items() if len(np.shape(x)) == 3]
    ['query', 'key', 'value']
    >>> gradients.bias
    ()
    """

    query: Any
    key: Any
    value: Any
    bias: Any = ()
    sinks: Any = ()


def attention_vjp(
    query: Float[ArrayT, "*batch num_heads q_len head_dim"],
    key: Float[ArrayT, "*batch num_kv_heads kv_len head_dim"],
    value: Float[ArrayT, "*batch num_kv_heads kv_len value_dim"],
    d_out: Float[ArrayT, "*batch num_heads q_len value_dim"],
    /,
    *,
    d_lse: Float[Array, "*batch num_heads q_len"] | None = None,
    saved: tuple[Array, Array] | None = None,
    **options: Unpack[DerivativeOptions],
) -> AttentionGradients:
    r"""
    Backward pass of attention: its gradients in closed form, on every library.

    With :math:`w` the weights, :math:`\mathit{keep}` the dropout mask over
    ``1 - dropout_rate``, and :math:`A` what the query may attend to:

    .. math::

        dV &= (w \cdot \mathit{keep})^\top \, d\mathit{out} \\
        dP &= \mathit{keep} \cdot (d\mathit{out}\, V^\top) \\
        \delta &= \textstyle\sum d\mathit{out} \cdot \mathit{out} - d\mathit{lse} \\
        ds &= w \cdot (dP - \delta) \text{ where } A, \text{ else } 0 \\
        d\mathit{bias} &= ds, \qquad d\mathit{sink} = -\textstyle\sum_i e^{\mathit{sink} -
            \mathit{lse}}\, \delta \\
        d(QK^\top) &= \mathit{scale} \cdot ds
            \cdot \big(1 - (s / \mathit{softcap})^2\big) \\
        dQ &= d(QK^\top)\, K, \qquad dK = d(QK^\top)^\top Q

    as in [1]_, appendix B.2, with :math:`s` the capped score. It works on a few queries at a
    time, against the keys that they may see, and finds their weights again, so that memory is
    linear in the length.

    Parameters
    ----------
    query : array, shape (..., num_heads, q_len, head_dim)
        What each position looks for.
    key : array, shape (..., num_kv_heads, kv_len, head_dim)
        What each position offers to be found by.
    value : array, shape (..., num_kv_heads, kv_len, value_dim)
        What each position hands over.
    d_out : floating array, shape (..., num_heads, q_len, value_dim)
        Gradient of a loss with respect to the output, in the output's full shape.
    d_lse : floating array, shape (..., num_heads, q_len), optional
        Gradient with respect to the log-sum-exp. Default: zero.
    saved : tuple of two arrays, optional
        ``(out, lse)``, as `attention_with_lse` returned them. This spares finding ``d_out *
        out`` from the weights. If the keys here are a part of more, `saved` belongs to all of
        them, and the gradients are this part's share: see the notes. Default: found again.
    **options
        The options of `attention` with the same meaning, all but `engine`. `score_mod` has no
        closed form.

    Returns
    -------
    AttentionGradients
        ``(query, key, value, bias, sinks)``, each in the shape and dtype of its argument,
        summed over the axes along which that was broadcast; ``()`` for a `bias` or `sinks` that
        was not given. The gradient of what a function given as `bias` closes over is not
        among them: `bias` is ``()`` then. Sinks that are a number have a 0-d gradient in the
        compute dtype.

    Raises
    ------
    ValueError, TypeError
        As `attention`, and if `d_out`, `d_lse` or `saved` do not have the shape of what they
        belong to.
    NotImplementedError
        If there is a `score_mod`. The library's own differentiation of `attention` on the
        dense engine does it.

    See Also
    --------
    attention_jvp : The other direction: how the output changes with the arguments.
    attention_with_lse : The forward pass.

    Notes
    -----
    *Nothing to attend to*: a query without keys gets no gradient and passes none on; its sink
    gets that of the lse. The same holds for a query whose output is NaN, since it may attend to
    a key or a value that is not finite.

    *Keys in parts*: over a ring of devices, or against a cache in pieces, call it once for each
    part of the keys, with the ``out`` and ``lse`` that `merge_attentions` made of all of them
    as `saved`. The parts' gradients of `query` add up; those of `key` and `value` are whole. If
    there is a sink, give it to one call alone.

    In half precision ``out`` was rounded when it was saved; without `saved`, nothing is.

    References
    ----------
    .. [1] Dao et al., "FlashAttention", 2022, arXiv:2205.14135.

    Examples
    --------
    Two keys that match equally well: the loss, the sum of the output, grows with each value by
    its weight, and with a key by how much its value is above what the query got.

    >>> import numpy as np
    >>> import attnfn as af
    >>> query, key = np.ones((1, 1)), np.ones((2, 1))
    >>> value = np.asarray([[1.0], [3.0]])
    >>> gradients = af.attention_vjp(query, key, value, np.ones((1, 1)))
    >>> gradients.value
    array([[0.5],
           [0.5]])
    >>> gradients.key
    array([[-0.5],
           [ 0.5]])
    """
    check_options("attention_vjp", options, DERIVATIVE_OPTIONS)
    problem = describe(query, key, value, **options)
    check_closed_form("attention_vjp", problem.score_mod)
    out_shape = (*problem.shape[:-1], value.shape[-1])
    d_out = _of_result(problem, "d_out", d_out, out_shape)
    if d_lse is not None:
        d_lse = _of_result(problem, "d_lse", d_lse, problem.shape[:-1])
    if saved is not None:
        check_pair_saved(saved)
        saved = (
            _of_result(problem, "saved[0]", saved[0], out_shape),
            _of_result(problem, "saved[1]", saved[1], problem.shape[:-1]),
        )
    with full_precision(query):
        found = compute_vjp(problem, d_out, d_lse, saved)
    given = (query, key, value, options.get("bias"), options.get("sinks"))
    return AttentionGradients(
        *(_as_given(problem, x, like) for x, like in zip(found, given, strict=True))
    )


def attention_jvp(
    primals: Sequence[ArrayT],
    tangents: Sequence[Any],
    /,
    **options: Unpack[DerivativeOptions],
) -> tuple[tuple[ArrayT, ArrayT], tuple[ArrayT, ArrayT]]:
    r"""
    Attention, and how it changes as its arguments do: forward mode, in closed form.

    With :math:`w` the weights, :math:`\mathit{keep}` the dropout mask over
    ``1 - dropout_rate``, and :math:`A` what the query may attend to:

    .. math::

        ds &= \mathit{scale} \cdot (dQ\, K^\top + Q\, dK^\top)
            \cdot \big(1 - (s / \mathit{softcap})^2\big) + d\mathit{bias}
            \text{ where } A, \text{ else } 0 \\
        d\mathit{lse} &= \textstyle\sum_j w \cdot ds
            + e^{\mathit{sink} - \mathit{lse}}\, d\mathit{sink} \\
        dw &= w \cdot (ds - d\mathit{lse}) \\
        d\mathit{out} &= (dw \cdot \mathit{keep})\, V + (w \cdot \mathit{keep})\, dV

    with :math:`s` the capped score. It works on a few queries at a time, so that memory is
    linear in the length.

    Parameters
    ----------
    primals : tuple of three arrays
        ``(query, key, value)``, as `attention` takes them.
    tangents : tuple of three to five arrays, or AttentionGradients
        The direction: ``(query, key, value, bias, sinks)``, each in the shape of its argument;
        ``()`` or None for what does not change. `bias` and `sinks` may be left out.
    **options
        The options of `attention` with the same meaning, all but `engine`. `score_mod` has no
        closed form. `bias` and `sinks` are options here, too, as everywhere: what changes is
        said by `tangents` alone.

    Returns
    -------
    results : tuple of two arrays
        ``(out, lse)``, as `attention_with_lse` returns them.
    changes : tuple of two arrays
        ``(d_out, d_lse)``: their derivatives along the direction, in their shapes and dtypes.

    Raises
    ------
    ValueError, TypeError
        As `attention`, and if a tangent does not have the shape of its argument, or there is
        no such argument, or it is a function.
    NotImplementedError
        If there is a `score_mod`. The library's own differentiation of `attention` on the
        dense engine does it.

    See Also
    --------
    attention_vjp : The other direction: gradients, to all arguments at once.
    attention_with_lse : The results alone.

    Notes
    -----
    Where the output or the lse is NaN, or -inf, it does not change.

    Examples
    --------
    The first value grows, and so does the output, by its weight:

    >>> import numpy as np
    >>> import attnfn as af
    >>> primals = (np.ones((1, 1)), np.ones((2, 1)), np.asarray([[1.0], [3.0]]))
    >>> (out, lse), (d_out, d_lse) = af.attention_jvp(
    ...     primals, ((), (), np.asarray([[1.0], [0.0]]))
    ... )
    >>> out, d_out
    (array([[2.]]), array([[0.5]]))

    The gradients are the same derivative, read in the other direction:

    >>> gradients = af.attention_vjp(*primals, np.ones((1, 1)))
    >>> _, (d_out, _) = af.attention_jvp(primals, gradients)
    >>> np.allclose(d_out, sum((x**2).sum() for x in gradients[:3]))
    True
    """
    check_options("attention_jvp", options, DERIVATIVE_OPTIONS)
    check_primals(primals)
    query, key, value = primals
    problem = describe(query, key, value, **options)
    check_closed_form("attention_jvp", problem.score_mod)
    check_tangents(tangents)
    given = (query, key, value, options.get("bias"), options.get("sinks"))
    tangent = _direction(problem, tangents, given)
    with full_precision(query):
        out, lse, d_out, d_lse = compute_jvp(problem, tangent)
    out, d_out = (cast(x, query.dtype, xp=problem.xp) for x in (out, d_out))
    shape = (*problem.shape[:-1], value.shape[-1])
    return (
        (whole(problem, out, shape), whole(problem, lse, shape[:-1])),
        (whole(problem, d_out, shape), whole(problem, d_lse, shape[:-1])),
    )


def _of_result(
    problem: AttentionProblem, name: str, x: Any, shape: tuple[int, ...], /
) -> Array:
    """Check what must look like the output or the lse, and take it to the compute dtype."""
    _check_floating_beside(problem, name, x)
    layout = "(*batch, num_heads, q_len, value_dim)"
    if len(shape) < len(problem.shape):
        layout = "(*batch, num_heads, q_len)"
    check_exact_shape(name, x, [shape], layout)
    return cast(x, problem.dtype, xp=problem.xp)


def _direction(
    problem: AttentionProblem, tangents: Sequence[Any], given: tuple[Any, ...], /
) -> Differentials:
    """Check tangents, and lay those of bias and sinks out as the problem has them."""
    found: list[Array | None] = [None] * len(given)
    for i, (x, like) in enumerate(zip(tangents, given, strict=False)):
        name = AttentionGradients._fields[i]
        if x is None or is_absent(x):
            continue
        _check_floating_beside(problem, f"tangents[{i}]", x)
        check_tangent_shape(f"tangents[{i}]", x, name, like)
        own: Any = (problem.q, problem.k, problem.v, problem.bias, problem.sinks)[i]
        found[i] = problem.xp.reshape(cast(x, problem.dtype, xp=problem.xp), own.shape)
    return Differentials(*found)


def _check_floating_beside(problem: AttentionProblem, name: str, x: Any, /) -> None:
    check_one_library(query=problem.q, **{name: x})
    check_one_device(query=problem.q, **{name: x})
    check_floating(xp=problem.xp, **{name: x})


def _as_given(problem: AttentionProblem, x: Array | None, like: Any, /) -> Any:
    """Return a gradient in the shape and dtype of its argument."""
    if x is None:
        return ()
    if namespace(like) is None:
        return x
    return cast(problem.xp.reshape(x, like.shape), like.dtype, xp=problem.xp)
