"""The distribution function of the normal distribution, which the Array API does not have."""

import functools

import numpy as np

from .._typing import Array, Namespace

__all__ = ["normal_cdf_by_polynomial"]

#: So many numbers at once stay in the cache of a core, with all that is made of them.
BLOCK = 2**14

#: Chebyshev fits of :math:`(u + 4)/4 \cdot e^{u^2/2}\,\Phi(-u)`, for u from 0 to infinity, as
#: polynomials in (4 - u) / (4 + u), the constant first; found with 60 digits. The first is for
#: float32, the second good to the last digit of a float64.
SHORT = (
    0.18882128178389639,
    0.15197410095365886,
    0.096784390727712277,
    0.046631677717931246,
    0.015098823967489227,
    0.0018780578454378914,
    -0.00086904197372723066,
    -0.00039094672470664006,
    3.2331420335188191e-05,
    3.9330142396146074e-05,
)
LONG = (
    0.18882128260393785,
    0.15197416049297324,
    0.096784350185556645,
    0.046630464489894677,
    0.01509914372259023,
    0.0018850472422229046,
    -0.00086992308916287564,
    -0.0004077046213683964,
    3.3336052290036945e-05,
    5.7773784446822336e-05,
    -4.769190076797745e-07,
    -8.7864005897611292e-06,
    1.7865053828168654e-07,
    1.4807234443854819e-06,
    -1.5623877693912945e-07,
    -2.5674601753579823e-07,
    6.6183432049496698e-08,
    4.0557908021339177e-08,
    -1.9695900856734096e-08,
    -4.8924022349935119e-09,
    4.0168467393323501e-09,
    3.19308785823943e-10,
    -4.2216442416966838e-10,
)


def normal_cdf_by_polynomial(x: Array, xp: Namespace) -> Array:
    if not isinstance(x, np.ndarray) or x.size <= BLOCK:
        return _normal_cdf(x, xp)
    # A few numbers at a time: every pass over all of them would wait for memory.
    flat = x.reshape(-1)
    out = np.empty_like(flat)
    for start in range(0, x.size, BLOCK):
        out[start : start + BLOCK] = _normal_cdf(flat[start : start + BLOCK], xp)
    return out.reshape(x.shape)


def _normal_cdf(x: Array, xp: Namespace) -> Array:
    # Beyond, it is 0 or 1; an infinity would make a NaN.
    x = xp.clip(x, -40.0, 40.0)
    u = xp.abs(x)
    reciprocal = 1 / (4 + u)
    w = (4 - u) * reciprocal
    *most, last = SHORT if x.dtype == xp.float32 else LONG
    polynomial = functools.reduce(lambda p, c: p * w + c, reversed(most), last)
    tail = xp.exp(-0.5 * u * u) * (4 * reciprocal * polynomial)
    return xp.where(x < 0, tail, 1 - tail)
