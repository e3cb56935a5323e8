"""Attention problems for property tests: strategies of Hypothesis."""

import math
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np

try:
    from hypothesis import strategies as st
except ImportError as error:
    message = (
        f'attnfn.testing.strategies needs Hypothesis: pip install "attnfn[testing]" ({error}).'
    )
    raise ImportError(message, name=error.name) from error

from .._backend import chosen_namespace
from .._checks import check_choice, check_has_dtype, check_integer
from .._typing import Namespace
from ._drawing._drawn_arrays import (
    LAYOUTS,
    NUMBERS,
    Draw,
    drawn_array,
    drawn_shapes,
    laid_out,
    put,
)
from ._drawing._drawn_options import drawn_bools, drawn_options
from ._rounding._precision import precision_of

__all__ = [
    "FEATURES",
    "LAYOUTS",
    "NUMBERS",
    "Problem",
    "Shapes",
    "attention_problems",
    "attention_shapes",
    "float_arrays",
    "masks",
]

#: What a problem may have.
FEATURES = (
    "scale",
    "mask",
    "lengths",
    "causal",
    "window",
    "q_offset",
    "segments",
    "bias",
    "softcap",
    "sinks",
    "dropout",
    "score_mod",
    "functions",
    "grouped_heads",
    "free_axes",
    "no_length",
    "layouts",
    "large_logits",
    "denormals",
    "not_finite",
)


class Shapes(NamedTuple):
    """
    The shapes of query, key and value, which fit together.

    Parameters
    ----------
    query : tuple of ints
        ``(*batch, num_heads, q_len, head_dim)``.
    key : tuple of ints
        ``(*batch, num_kv_heads, kv_len, head_dim)``.
    value : tuple of ints
        ``(*batch, num_kv_heads, kv_len, value_dim)``.

    See Also
    --------
    attention_shapes : Draws some.

    Examples
    --------
    >>> from attnfn.testing.strategies import Shapes
    >>> Shapes((4, 3, 8), (2, 5, 8), (2, 5, 6)).scores
    (4, 3, 5)
    """

    query: tuple[int, ...]
    key: tuple[int, ...]
    value: tuple[int, ...]

    @property
    def batch(self) -> tuple[int, ...]:
        """The axes before the heads."""
        return np.broadcast_shapes(*(shape[:-3] for shape in self))

    @property
    def heads(self) -> tuple[int, ...]:
        """The number of query heads, or () where no array has an axis for them."""
        counts = [shape[-3] for shape in self if len(shape) > 2]
        return (next((n for n in counts if n != 1), 1),) if counts else ()

    @property
    def scores(self) -> tuple[int, ...]:
        """The shape of the scores."""
        return (*self.batch, *self.heads, self.query[-2], self.key[-2])


class Problem(NamedTuple):
    """
    One call of attention: its arrays, and its options.

    Parameters
    ----------
    query : array, shape (..., num_heads, q_len, head_dim)
        What each position looks for.
    key : array, shape (..., num_kv_heads, kv_len, head_dim)
        What each position offers to be found by.
    value : array, shape (..., num_kv_heads, kv_len, value_dim)
        What each position hands over.
    options : dict
        Keyword arguments of `attnfn.attention`.

    See Also
    --------
    attention_problems : Draws some.

    Examples
    --------
    >>> import numpy as np
    >>> import attnfn as af
    >>> from attnfn.testing.strategies import Problem
    >>> x = np.zeros((1, 2, 4))
    >>> *arrays, options = Problem(x, x, x, {"is_causal": True})
    >>> af.attention(*arrays, **options).shape
    (1, 2, 4)
    """

    query: Any
    key: Any
    value: Any
    options: dict[str, Any]


def attention_problems(
    *,
    xp: Namespace | None = None,
    dtype: str = "float32",
    features: Collection[str] = FEATURES,
    max_features: int = 6,
    max_len: int = 8,
    max_heads: int = 6,
    max_dim: int = 8,
) -> st.SearchStrategy[Problem]:
    """
    Draw attention problems, from plain ones to the corners where implementations differ.

    A problem has a few of `features`, each in one of its forms: a mask of keys, of a matrix,
    with axes of 1, or for every score; empty rows; positions from anywhere. It shrinks
    towards one query and one key, zeros, and no feature.

    Parameters
    ----------
    xp : namespace, optional
        The array library, such as ``numpy``, ``torch`` or ``jax.numpy``. Default: NumPy.
    dtype : {"float16", "bfloat16", "float32", "float64"}, optional
        Of query, key, value, bias and sinks. Default: "float32".
    features : collection of str, optional
        What a problem may have, of `FEATURES`. Default: all of them. Leave out what an
        implementation does not claim to do; "not_finite" puts a NaN or an inf into some
        vectors, hidden ones or not.
    max_features : int, optional
        How many of them at once, 0 or more. Default: 6.
    max_len : int, optional
        Of queries and keys, 1 or more. Default: 8.
    max_heads : int, optional
        Of the query, 1 or more. Default: 6.
    max_dim : int, optional
        Of head_dim and value_dim, 1 or more. Default: 8.

    Returns
    -------
    SearchStrategy
        Of `Problem`, ``(query, key, value, options)``.

    Raises
    ------
    ValueError, TypeError
        If a feature or a dtype is not known, or a bound is too small.

    See Also
    --------
    attention_shapes, masks, float_arrays : What it is made of.

    Examples
    --------
    >>> from hypothesis import given, settings
    >>> import attnfn as af
    >>> from attnfn.testing import assert_attention_close
    >>> from attnfn.testing.strategies import attention_problems
    >>> @settings(max_examples=20, derandomize=True, database=None)
    ... @given(attention_problems(features={"causal", "grouped_heads"}))
    ... def test_agrees_with_the_oracle(problem):
    ...     query, key, value, options = problem
    ...     out = af.attention(query, key, value, **options)
    ...     assert_attention_close(out, query, key, value, **options)
    >>> print(test_agrees_with_the_oracle())
    None
    """
    for feature in features:
        check_choice("features", feature, FEATURES)
    precision_of("dtype", dtype)
    check_integer("max_features", max_features, least=0)
    _check_limits(max_len, max_heads, max_dim)
    known = [feature for feature in FEATURES if feature in features]
    limits = (max_len, max_heads, max_dim)
    library = chosen_namespace(xp)
    check_has_dtype("dtype", dtype, xp=library)
    draw_problem = st.composite(_drawn_problem)
    return draw_problem(library, dtype, known, max_features, limits)


def attention_shapes(
    *,
    max_len: int = 8,
    max_heads: int = 6,
    max_dim: int = 8,
    grouped_heads: bool = True,
    free_axes: bool = True,
    no_length: bool = False,
) -> st.SearchStrategy[Shapes]:
    """
    Draw shapes of query, key and value that fit together.

    Parameters
    ----------
    max_len : int, optional
        Of queries and keys, 1 or more. Default: 8.
    max_heads : int, optional
        Of the query, 1 or more. Default: 6.
    max_dim : int, optional
        Of head_dim and value_dim, 1 or more. Default: 8.
    grouped_heads : bool, optional
        Whether key and value may have fewer heads than the query. Default: True.
    free_axes : bool, optional
        Whether some arrays may lack axes or have axes of 1 where others do not. Default: True.
    no_length : bool, optional
        Whether one axis has length 0. Default: False.

    Returns
    -------
    SearchStrategy
        Of `Shapes`.

    See Also
    --------
    attention_problems : Arrays of these shapes, and options.

    Examples
    --------
    >>> from hypothesis import find
    >>> from attnfn.testing.strategies import attention_shapes
    >>> find(attention_shapes(), lambda shapes: shapes.query[-2] > 1).query[-2:]
    (2, 1)
    """
    _check_limits(max_len, max_heads, max_dim)
    draw_shapes = st.composite(drawn_shapes)
    limits = (max_len, max_heads, max_dim)
    return draw_shapes(limits, grouped_heads, free_axes, no_length).map(
        lambda shapes: Shapes(*shapes)
    )


def float_arrays(
    shape: tuple[int, ...], /, *, dtype: str = "float32", numbers: Collection[str] = NUMBERS
) -> st.SearchStrategy[np.ndarray]:
    """
    Draw NumPy arrays of one kind of numbers, which a dtype holds exactly.

    Parameters
    ----------
    shape : tuple of ints
        Of the arrays.
    dtype : {"float16", "bfloat16", "float32", "float64"}, optional
        What holds the numbers; a bfloat16's come as float32. Default: "float32".
    numbers : collection of str, optional
        Of which kinds, of `NUMBERS`: "large" goes to 224, "denormal" stays below the least
        normal number. Default: any.

    Returns
    -------
    SearchStrategy
        Of NumPy arrays.

    See Also
    --------
    attention_problems : Queries, keys and values of such numbers.

    Examples
    --------
    >>> from hypothesis import find
    >>> from attnfn.testing.strategies import float_arrays
    >>> float(find(float_arrays((2, 3)), lambda x: x.any()).max())
    1.0
    """
    for kind in numbers:
        check_choice("numbers", kind, NUMBERS)
    precision_of("dtype", dtype)
    kinds = [kind for kind in NUMBERS if kind in numbers]
    draw_array = st.composite(drawn_array)
    return draw_array(shape, dtype, kinds)


def masks(scores: tuple[int, ...], /) -> st.SearchStrategy[np.ndarray]:
    """
    Draw bool masks for scores of a shape: of keys, of a matrix, or for every score.

    Parameters
    ----------
    scores : tuple of ints
        Shape of the scores, ``(*batch, num_heads, q_len, kv_len)``.

    Returns
    -------
    SearchStrategy
        Of NumPy arrays: full, empty, with empty rows, or with a share of True.

    See Also
    --------
    attention_problems : Draws one as `mask`, and another for dropout.

    Examples
    --------
    >>> from hypothesis import find
    >>> from attnfn.testing.strategies import masks
    >>> find(masks((2, 4, 3, 5)), lambda mask: not mask.any()).shape[-1]
    5
    """
    draw_mask = st.composite(drawn_bools)
    return draw_mask(tuple(scores))


def _check_limits(max_len: int, max_heads: int, max_dim: int, /) -> None:
    check_integer("max_len", max_len, least=1)
    check_integer("max_heads", max_heads, least=1)
    check_integer("max_dim", max_dim, least=1)


def _drawn_problem(
    draw: Draw,
    xp: Namespace,
    dtype: str,
    known: list[str],
    max_features: int,
    limits: tuple[int, int, int],
) -> Problem:
    count = draw(st.integers(0, min(max_features, len(known))))
    each = st.sampled_from(known) if known else st.nothing()
    chosen = set(draw(st.lists(each, min_size=count, max_size=count, unique=True)))
    shapes = Shapes(
        *drawn_shapes(
            draw,
            limits,
            "grouped_heads" in chosen,
            "free_axes" in chosen,
            "no_length" in chosen,
        )
    )
    kinds = [*NUMBERS[:-2]]
    kinds += ["large"] if "large_logits" in chosen else []
    kinds += ["denormal"] if "denormals" in chosen else []

    arrays: list[Any] = []
    for shape in shapes:
        x = draw(float_arrays(shape, dtype=dtype, numbers=kinds))
        if "not_finite" in chosen and x.size and draw(st.booleans()):
            at = tuple(draw(st.integers(0, n - 1)) for n in shape)
            x[at] = draw(st.sampled_from([math.nan, math.inf, -math.inf]))
        layout = draw(st.sampled_from(LAYOUTS)) if "layouts" in chosen else "whole"
        arrays.append(laid_out(x, layout, dtype, xp))

    own = getattr(xp, dtype)
    options = drawn_options(draw, chosen, shapes.scores, shapes.batch, own)
    if shapes.query[-1] == 0:
        options.setdefault("scale", 1.0)
    query, key, value = arrays
    options = {name: _option(x, dtype, xp) for name, x in options.items()}
    return Problem(query, key, value, options)


def _option(x: Any, dtype: str, xp: Namespace, /) -> Any:
    if isinstance(x, tuple) and any(isinstance(part, np.ndarray) for part in x):
        return tuple(put(part, dtype, xp) for part in x)
    return put(x, dtype, xp) if isinstance(x, np.ndarray) else x
