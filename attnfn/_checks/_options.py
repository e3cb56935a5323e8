"""The options of attention, and what functions given as options return."""

import math
from typing import Any

from .._backend import is_integer, is_real, namespace, numpy_namespace
from .._typing import Array, Namespace
from ._arrays import check_dtype, check_floating, check_one_device, check_one_library
from ._params import check_kind_of_params
from ._words import agree, shape_of, shown, shown_kind

__all__ = [
    "check_able",
    "check_activated",
    "check_closed_form",
    "check_dropout",
    "check_dropout_masks",
    "check_factors",
    "check_modified_scores",
    "check_scale",
    "check_scaled",
    "check_scaling",
    "check_softcap",
    "check_unambiguous",
    "check_window",
]


def check_able(engine: str, obstacle: str | None, /) -> None:
    """Check that nothing keeps an engine from computing a problem."""
    if obstacle is not None:
        msg = (
            f"`engine` must be one that can do what is asked; {engine!r} cannot do {obstacle}. "
            f"Use 'auto' or 'dense'."
        )
        raise NotImplementedError(msg)


def check_closed_form(function: str, score_mod: Any, /) -> None:
    if score_mod is not None:
        msg = (
            f"`score_mod` must be None in {function}(), since the derivative of a function has "
            f"no closed form; got one. Differentiate attention() by the library's own means, "
            f"such as torch.autograd or jax.grad."
        )
        raise NotImplementedError(msg)


def check_scaling(scaling: Any, /) -> None:
    if not callable(scaling):
        msg = (
            f"`scaling` must be a function of (frequencies, length), such as "
            f"LinearScaling(4.0); got {shown(scaling)}."
        )
        raise TypeError(msg)


def check_scaled(scaled: Any, n: int, /, **arrays: Array) -> tuple[Any, float]:
    """Check what a scaling returned: so many frequencies, or an array of them, and a factor."""
    if not isinstance(scaled, tuple | list) or len(scaled) != 2:
        msg = (
            f"`scaling` must return a pair (frequencies, attention_factor); "
            f"got {shown_kind(scaled)}."
        )
        raise TypeError(msg)
    frequencies, factor = scaled
    if isinstance(frequencies, tuple | list):
        own: tuple[int, ...] = (len(frequencies),)
    else:
        if namespace(frequencies) is not numpy_namespace:
            check_one_library(**arrays, **{"scaling(frequencies, length)": frequencies})
        own = shape_of(frequencies)
    if own[-1:] != (n,):
        msg = f"`scaling` must return dim / 2 = {n} frequencies; got shape {own}."
        raise ValueError(msg)
    return frequencies, factor


def check_factors(name: str, factors: Any, n: int, /) -> None:
    if len(factors) != n:
        msg = f"`{name}` must hold dim / 2 = {n} numbers; got {len(factors)}."
        raise ValueError(msg)


def check_scale(scale: Any, /) -> None:
    xp = namespace(scale)
    if xp is not None:
        if scale.ndim != 0:
            msg = (
                f"`scale` must be one number; got shape {shape_of(scale)}. "
                f"For a scale per head, multiply `query` by it."
            )
            raise ValueError(msg)
        check_dtype(("integral", "real floating"), xp=xp, scale=scale)
    elif not is_real(scale):
        msg = f"`scale` must be a number or a 0-d array; got {shown(scale)}."
        raise TypeError(msg)
    elif not -math.inf < scale < math.inf:
        msg = f"`scale` must be finite; got {scale}."
        raise ValueError(msg)


def check_softcap(softcap: Any, /) -> None:
    if softcap is None:
        return
    if not is_real(softcap):
        msg = (
            f"`softcap` must be a number; got {shown(softcap)}. "
            f"For a cap that is an array, use `score_mod`."
        )
        raise TypeError(msg)
    if not 0 < softcap < math.inf:
        msg = f"`softcap` must be positive and finite; got {softcap}. None means no cap."
        raise ValueError(msg)


def check_dropout(dropout_mask: Any, dropout_rate: Any, /) -> None:
    if dropout_mask is None and dropout_rate is None:
        return
    if dropout_mask is None:
        msg = (
            f"`dropout_rate` needs a `dropout_mask`; got dropout_rate={shown(dropout_rate)} "
            f"alone. Draw one that is True with probability 1 - dropout_rate."
        )
        raise ValueError(msg)
    if dropout_rate is None:
        msg = (
            "`dropout_mask` needs a `dropout_rate`; got None. "
            "Pass the rate that the mask was drawn with; 0.0 means no rescaling."
        )
        raise ValueError(msg)
    _check_dropout_rate(dropout_rate)


def check_dropout_masks(dropout_masks: Any, dropout_rate: Any, kind: type, /) -> None:
    if dropout_masks is None and dropout_rate is None:
        return
    if dropout_masks is None:
        msg = (
            f"`dropout_rate` needs `dropout_masks`; got dropout_rate={shown(dropout_rate)} "
            f"alone. Draw {kind.__name__} that are True with probability 1 - dropout_rate."
        )
        raise ValueError(msg)
    check_kind_of_params("dropout_masks", dropout_masks, kind)
    if dropout_rate is None:
        msg = (
            "`dropout_masks` need a `dropout_rate`; got None. "
            "Pass the rate that the masks were drawn with; 0.0 means no rescaling."
        )
        raise ValueError(msg)
    _check_dropout_rate(dropout_rate)


def _check_dropout_rate(dropout_rate: Any, /) -> None:
    if not is_real(dropout_rate):
        msg = f"`dropout_rate` must be a number; got {shown(dropout_rate)}."
        raise TypeError(msg)
    if not 0 <= dropout_rate < 1:
        msg = f"`dropout_rate` must be in [0, 1); got {dropout_rate}."
        raise ValueError(msg)


def check_window(window_size: Any, /, *, is_needed: bool = False) -> None:
    if window_size is None and not is_needed:
        return
    if is_integer(window_size):
        n = max(1, window_size)
        msg = (
            f"`window_size` must be a pair (left, right); got {window_size}. Libraries read "
            f"one number in several ways: ({n}, {n}) looks both ways, ({n}, 0) back over {n} "
            f"keys and itself, ({n - 1}, 0) back over {n} keys in all; None is no bound."
        )
        raise TypeError(msg)
    if not isinstance(window_size, tuple | list) or len(window_size) != 2:
        msg = f"`window_size` must be a pair (left, right); got {shown(window_size)}."
        raise TypeError(msg)
    for bound in window_size:
        if bound is not None and not is_integer(bound):
            msg = (
                f"`window_size` must hold two ints, or None for no bound; "
                f"got {shown(window_size)}."
            )
            raise TypeError(msg)
        if bound is not None and bound < 0:
            msg = (
                f"`window_size` must hold bounds of 0 or more; got {tuple(window_size)}. "
                f"(left, right) means q_pos - left <= kv_pos <= q_pos + right; "
                f"None, not -1, is no bound."
            )
            raise ValueError(msg)


def check_unambiguous(options: dict[str, bool], q_len: int, kv_len: int, /) -> None:
    """Refuse to guess where the queries stand among the keys."""
    used = [name for name, is_used in options.items() if is_used]
    if used and not agree(q_len, kv_len):
        msg = (
            f"`{used[0]}` needs `q_offset` when q_len and kv_len differ; "
            f"got q_len={q_len}, kv_len={kv_len}. q_offset={kv_len - q_len} puts the queries "
            f"last, as in decoding from a cache; q_offset=0 puts them first, "
            f"as torch and JAX do."
        )
        raise ValueError(msg)


def check_modified_scores(x: Any, scores: Array, /, *, xp: Namespace) -> None:
    """Check what `score_mod` returned."""
    call = "score_mod(scores, q_pos, kv_pos)"
    _check_returned("score_mod", "scores", call, x, xp=xp, scores=scores)


def check_activated(x: Any, given: Array, /, *, xp: Namespace) -> None:
    """Check what a function given as `activation` returned."""
    _check_returned("activation", "an array", "activation(x)", x, xp=xp, x=given)


def _check_returned(
    name: str, what: str, call: str, x: Any, /, *, xp: Namespace, **given: Array
) -> None:
    """Check that a function returned an array like the one that it was given."""
    check_one_library(**given, **{call: x})
    check_one_device(**given, **{call: x})
    check_floating(xp=xp, **{call: x})
    (like,) = given.values()
    if len(x.shape) != len(like.shape) or not all(map(agree, x.shape, like.shape)):
        msg = (
            f"`{name}` must return {what} of the shape it was given, "
            f"{shape_of(like)}; got shape {shape_of(x)}."
        )
        raise ValueError(msg)
