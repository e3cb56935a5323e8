"""How fast each pair of features turns with the position, and how to slow it down."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from ._backend import device, from_numpy, namespace, numpy_namespace, vector, wide_float
from ._checks import check_above, check_even, check_factors
from ._numerics import cast
from ._typing import Array, Namespace

__all__ = [
    "DynamicNTKScaling",
    "LinearScaling",
    "Llama3Scaling",
    "LongRoPEScaling",
    "RotaryScaling",
    "YaRNScaling",
    "frequencies_of",
    "moved",
]

#: ``f(frequencies, length)``: the frequencies to take instead, and a factor on cos and sin.
RotaryScaling: TypeAlias = Callable[[tuple[float, ...], Any], tuple[Any, float]]


def frequencies_of(dim: int, base: float, /) -> tuple[float, ...]:
    """Return the frequency of each pair of features."""
    check_even("dim", dim)
    check_above("base", base, 1)
    return tuple(float(base) ** (-i / dim) for i in range(0, dim, 2))


def moved(frequencies: Any, xp: Namespace, dtype: Any, where: Any, /) -> Array:
    """Return frequencies, numbers or an array, as an array of the library."""
    if namespace(frequencies) is None:
        return vector(frequencies, dtype, xp, where)
    if namespace(frequencies) is numpy_namespace:
        return from_numpy(frequencies, xp, dtype, where)
    return cast(frequencies, dtype, xp=xp)


class LinearScaling(NamedTuple):
    r"""
    Rotary frequencies for positions that are interpolated.

    .. math:: f'_i = f_i / \mathit{factor}

    as in [1]_: ``factor`` positions turn as far as one did.

    Parameters
    ----------
    factor : float
        How many times as long the sequences are, above 0.

    See Also
    --------
    rotary_angles : Takes it as `scaling`.

    References
    ----------
    .. [1] Chen et al., "Extending Context Window of Large Language Models via Positional
           Interpolation", 2023, arXiv:2306.15595.

    Examples
    --------
    >>> import attnfn as af
    >>> af.LinearScaling(4.0)((1.0, 0.5), 9)
    ((0.25, 0.125), 1.0)
    """

    factor: float

    def __call__(self, frequencies: tuple[float, ...], length: Any, /) -> tuple[Any, float]:
        """Return the scaled frequencies, and the factor on cos and sin."""
        del length
        return tuple(f / self.factor for f in frequencies), 1.0


class DynamicNTKScaling(NamedTuple):
    r"""
    Rotary frequencies that fall, the lowest most, once a sequence is too long.

    .. math::

        g = \max\!\left(1,\; \mathit{factor} \cdot
            \frac{\mathit{length}}{\mathit{original\_length}} - (\mathit{factor} - 1)\right),
        \qquad f'_i = f_i \, g^{-2i / (\mathit{dim} - 2)}

    which is a larger base [1]_. The highest frequency stays, the lowest is divided by `g`.

    Parameters
    ----------
    factor : float
        How fast the frequencies fall with the length, 1 or more.
    original_length : int
        The greatest length that the model was trained on; up to it nothing changes.

    See Also
    --------
    rotary_angles : Takes it as `scaling`, and the length as `length`.

    Notes
    -----
    Keys in a cache keep the rotation of the length at which they were put there.

    References
    ----------
    .. [1] Peng et al., "YaRN", 2023, arXiv:2309.00071, 3.1 and 3.3.

    Examples
    --------
    >>> import attnfn as af
    >>> scaling = af.DynamicNTKScaling(2.0, original_length=4)
    >>> scaling((1.0, 0.75), 4), scaling((1.0, 0.75), 8)
    (((1.0, 0.75), 1.0), ((1.0, 0.25), 1.0))
    """

    factor: float
    original_length: int

    def __call__(self, frequencies: tuple[float, ...], length: Any, /) -> tuple[Any, float]:
        """Return the scaled frequencies, and the factor on cos and sin."""
        n, xp = len(frequencies), namespace(length)
        powers = [-i / max(1, n - 1) for i in range(n)]
        if xp is None:
            growth = max(1.0, self._growth(length))
            return tuple(f * growth**p for f, p in zip(frequencies, powers, strict=True)), 1.0
        dtype, where = wide_float(xp, device(length)), device(length)
        growth = self._growth(cast(length, dtype, xp=xp))
        growth = xp.where(growth < 1.0, 1.0, growth) ** vector(powers, dtype, xp, where)
        return vector(frequencies, dtype, xp, where) * growth, 1.0

    def _growth(self, length: Any, /) -> Any:
        return self.factor * length / self.original_length - (self.factor - 1)


class YaRNScaling(NamedTuple):
    r"""
    Rotary frequencies of which the low ones are interpolated, the high ones kept.

    .. math::

        f'_i = (1 - r_i)\, f_i + r_i\, f_i / \mathit{factor}

    as in [1]_. The ramp :math:`r` rises from 0 at the frequency that turns `beta_fast` times
    over the length trained on to 1 at the one that turns `beta_slow` times, linearly in
    :math:`i`. Cosines and sines are multiplied by `attention_factor`, and so the scores by its
    square.

    Parameters
    ----------
    factor : float
        How many times as long the sequences are, above 0.
    original_length : int
        The greatest length that the model was trained on.
    beta_fast : float, optional
        Turns from which on a frequency stays as it is. Default: 32.
    beta_slow : float, optional
        Turns up to which a frequency is divided by `factor`. Default: 1.
    attention_factor : float, optional
        Factor on cos and sin. Default: ``1 + 0.1 * log(factor)``, 1 where `factor` is below.
        Models that set ``mscale`` and ``mscale_all_dim`` to the same, as DeepSeek-V3, have 1.
    is_truncated : bool, optional
        Whether the ends of the ramp are rounded outwards to whole indices. Default: True.

    See Also
    --------
    rotary_angles : Takes it as `scaling`.

    References
    ----------
    .. [1] Peng et al., "YaRN", 2023, arXiv:2309.00071, 3.2 and 3.4.

    Examples
    --------
    >>> import attnfn as af
    >>> scaling = af.YaRNScaling(4.0, original_length=128)
    >>> frequencies, attention_factor = scaling((8.0, 0.8, 0.08, 0.008), 1)
    >>> [round(f, 3) for f in frequencies], round(attention_factor, 3)
    ([8.0, 0.6, 0.04, 0.002], 1.139)
    """

    factor: float
    original_length: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    is_truncated: bool = True

    def __call__(self, frequencies: tuple[float, ...], length: Any, /) -> tuple[Any, float]:
        """Return the scaled frequencies, and the factor on cos and sin."""
        del length
        factor = self.attention_factor
        if factor is None:
            factor = 1.0 + 0.1 * math.log(max(1.0, self.factor))
        n = len(frequencies)
        if n == 1:
            return frequencies, factor
        first = self._index(frequencies, self.beta_fast)
        last = self._index(frequencies, self.beta_slow)
        if self.is_truncated:
            first, last = math.floor(first), math.ceil(last)
        # As the paper's code has it, which lets the ramp end at the width, not at its half.
        first, last = max(first, 0), min(last, 2 * n - 1)
        steps = last - first if last != first else 0.001
        ramp = [min(max((i - first) / steps, 0.0), 1.0) for i in range(n)]
        slowed = (
            f * (1 - r) + f / self.factor * r for f, r in zip(frequencies, ramp, strict=True)
        )
        return tuple(slowed), factor

    def _index(self, frequencies: tuple[float, ...], turns: float, /) -> float:
        """Return the index, a fraction, of the frequency that turns so many times."""
        first, second, *_ = frequencies
        most = self.original_length * first / (2 * math.pi)
        return math.log(most / turns) / math.log(first / second)


class Llama3Scaling(NamedTuple):
    r"""
    Rotary frequencies of which the low ones are interpolated, as in Llama 3.1.

    .. math::

        f'_i = (1 - s_i)\, f_i / \mathit{factor} + s_i\, f_i, \qquad
        s_i = \mathrm{clip}\!\left(
            \frac{\mathit{original\_length} \cdot f_i / 2\pi - \mathit{low}}
                 {\mathit{high} - \mathit{low}}, 0, 1\right)

    where :math:`\mathit{original\_length} \cdot f_i / 2\pi` is how many times a frequency turns
    over the length trained on.

    Parameters
    ----------
    factor : float
        How many times as long the sequences are, above 0.
    original_length : int
        The greatest length that the model was trained on; 8192 for Llama 3.
    low_frequency_factor : float, optional
        Turns up to which a frequency is divided by `factor`. Default: 1.
    high_frequency_factor : float, optional
        Turns from which on it stays as it is. Default: 4.

    See Also
    --------
    rotary_angles : Takes it as `scaling`.

    References
    ----------
    .. [1] Grattafiori et al., "The Llama 3 Herd of Models", 2024, arXiv:2407.21783.

    Examples
    --------
    >>> import attnfn as af
    >>> af.Llama3Scaling(8.0, original_length=8192)((1.0, 0.01, 0.0001), 1)
    ((1.0, 0.01, 1.25e-05), 1.0)
    """

    factor: float
    original_length: int
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0

    def __call__(self, frequencies: tuple[float, ...], length: Any, /) -> tuple[Any, float]:
        """Return the scaled frequencies, and the factor on cos and sin."""
        del length
        low, high = self.low_frequency_factor, self.high_frequency_factor
        turns = (self.original_length * f / (2 * math.pi) for f in frequencies)
        smooth = [min(max((n - low) / (high - low), 0.0), 1.0) for n in turns]
        slowed = (
            f * (1 - s) / self.factor + f * s for f, s in zip(frequencies, smooth, strict=True)
        )
        return tuple(slowed), 1.0


class LongRoPEScaling(NamedTuple):
    r"""
    Rotary frequencies divided by factors that were searched for, one for each.

    .. math:: f'_i = f_i / \mathit{factors}_i

    as in [1]_, with `long_factors` for sequences that are longer than `original_length`, else
    `short_factors`. Phi-3 and its successors use it.

    Parameters
    ----------
    short_factors : sequence of dim / 2 floats
        For sequences up to the length trained on.
    long_factors : sequence of dim / 2 floats
        For longer ones.
    original_length : int
        The greatest length that the model was trained on.
    factor : float, optional
        How many times as long the longest sequences are. Default: 1.
    attention_factor : float, optional
        Factor on cos and sin. Default: ``sqrt(1 + log(factor) / log(original_length))``, 1
        where `factor` is below.

    See Also
    --------
    rotary_angles : Takes it as `scaling`, and the length as `length`.

    Notes
    -----
    Keys in a cache keep the rotation of the length at which they were put there.

    References
    ----------
    .. [1] Ding et al., "LongRoPE", 2024, arXiv:2402.13753.

    Examples
    --------
    >>> import attnfn as af
    >>> scaling = af.LongRoPEScaling((1.0, 1.0), (1.0, 2.0), original_length=4)
    >>> scaling((1.0, 0.5), 4), scaling((1.0, 0.5), 5)
    (((1.0, 0.5), 1.0), ((1.0, 0.25), 1.0))
    """

    short_factors: Sequence[float]
    long_factors: Sequence[float]
    original_length: int
    factor: float = 1.0
    attention_factor: float | None = None

    def __call__(self, frequencies: tuple[float, ...], length: Any, /) -> tuple[Any, float]:
        """Return the scaled frequencies, and the factor on cos and sin."""
        factor = self.attention_factor
        if factor is None:
            more = math.log(max(1.0, self.factor)) / math.log(self.original_length)
            factor = math.sqrt(1.0 + more)
        short = _divided("short_factors", frequencies, self.short_factors)
        long = _divided("long_factors", frequencies, self.long_factors)
        xp = namespace(length)
        if xp is None:
            return (long if length > self.original_length else short), factor
        where = device(length)
        dtype = wide_float(xp, where)
        few, many = (vector(x, dtype, xp, where) for x in (short, long))
        return xp.where(length > self.original_length, many, few), factor


def _divided(
    name: str, frequencies: tuple[float, ...], factors: Sequence[float], /
) -> tuple[float, ...]:
    check_factors(name, factors, len(frequencies))
    return tuple(f / x for f, x in zip(frequencies, factors, strict=True))
