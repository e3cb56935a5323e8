"""Whether what is supposed of a function predicts the answers that it gave."""

import math

import numpy as np

from .._simulation._model import Model
from .._simulation._simulate import Trace, simulate
from .._simulation._simulated_gradients import simulate_gradients
from .._verdicts._asked import Asked
from .._verdicts._judgement import is_near, lost_in_dtype, part_of, wanted_parts
from .._verdicts._tolerance import UNITS, tolerance_of
from ._hypotheses import Hypothesis, applied

__all__ = ["Predictions"]

Supposed = tuple[Hypothesis, ...]

#: A mistake makes an answer larger, and its rounding with it.
_SLACK = 4.0
#: An error of a lower precision may be larger than the plain formula's in it.
_ROUGH = 2.0
#: Of which nobody knows what it makes of a sink.
_WITHOUT_SINKS = ("softmax_over_queries", "softmax_over_heads")


class Predictions:
    """What each set of hypotheses predicts of what was asked, found once."""

    def __init__(self, asked: list[Asked]) -> None:
        self.asked = asked
        self._known: dict[tuple[int, Supposed], bool] = {}
        self._traces: dict[tuple[str, str, Supposed], Trace] = {}

    def fit(self, number: int, supposed: Supposed) -> bool:
        """Return whether the answer to a question is the predicted one."""
        asked = self.asked[number]
        concerned = tuple(sorted((h for h in supposed if h.concerns(asked.case)), key=repr))
        if not concerned:
            return asked.verdict == "right"
        at = (number, concerned)
        if at not in self._known:
            self._known[at] = self._fits(asked, concerned)
        return self._known[at]

    def summary(self, number: int, supposed: Supposed) -> bytes:
        """Return what tells a prediction from others, to a few digits."""
        asked = self.asked[number]
        exact = tuple(h for h in supposed if not h.is_rough and h.concerns(asked.case))
        model = applied(asked.question.model, exact)
        trace = self._trace(asked, model, exact)
        parts = [trace.out, trace.lse]
        if "gradients" in asked.case.asks:
            parts += [x for g in self._gradients(asked, model, trace) if g for x in g.values()]
        with np.errstate(over="ignore"):
            return b"".join(np.asarray(x).astype(np.float32).tobytes() for x in parts)

    def estimated(self, number: int, supposed: Supposed) -> list[Hypothesis]:
        """Return hypotheses whose numbers are found from an answer: an eps in the softmax."""
        asked = self.asked[number]
        found = asked.answer.out
        if found is None or any(h.name.startswith("softmax") for h in supposed):
            return []
        exact = tuple(h for h in supposed if not h.is_rough and h.concerns(asked.case))
        trace = self._trace(asked, applied(asked.question.model, exact), exact)
        if found.shape != trace.out.shape or not found.size:
            return []
        total, maximum = trace.softmax.total, trace.softmax.maximum
        with np.errstate(all="ignore"):
            ratio = (trace.out * found).sum(-1) / (found * found).sum(-1)
            shifted = total.reshape(ratio.shape) * (ratio - 1)
            unshifted = shifted * np.exp(maximum.reshape(ratio.shape))
        return [
            Hypothesis("softmax_eps", (float(np.median(eps)), is_unshifted))
            for eps, is_unshifted in ((shifted, False), (unshifted, True))
            if np.isfinite(eps).all() and eps.min() > 0 and eps.max() < 1.001 * eps.min()
        ]

    def _fits(self, asked: Asked, supposed: Supposed) -> bool:
        rough = {h.name: h for h in supposed if h.is_rough}
        case, question = asked.case, asked.question
        if "half_overflow" in rough and _may_overflow(asked):
            return True
        exact = tuple(h for h in supposed if not h.is_rough)
        model = applied(question.model, exact)
        if "sinks" in case.options and any(model.has(name) for name in _WITHOUT_SINKS):
            return True
        trace = self._trace(asked, model, exact)
        low = rough.get("low_precision")
        slack = _SLACK if low is None else 1.0
        parts = wanted_parts(question)
        gradients = self._gradients(asked, model, trace) if "gradients" in case.asks else []
        for name, wanted, tolerance in parts:
            found = part_of(asked.answer, name)
            found = np.zeros_like(wanted) if found is None else found
            allowed = _widened(name, tolerance, low, asked)
            allowed += _of_constant(model, asked, trace)
            allowed += lost_in_dtype(name, wanted, asked.answer)
            if name == "lse" and model.has("lse_not_logarithm"):
                allowed *= 1 + np.abs(trace.softmax.maximum).max(initial=0.0)
            if name in ("out", "lse"):
                predicted = [trace.out if name == "out" else trace.lse]
            else:
                predicted = [g[name.removeprefix("gradient of ")] for g in gradients if g]
                if not predicted:
                    continue
            if case.is_poisoned:
                found, *predicted = (_nan_for_inf(x) for x in (found, *predicted))
            may_leak = "gradient_nan" in rough
            if not any(
                _is_met(found, p, allowed * slack * _growth(wanted, p), may_leak)
                for p in predicted
            ):
                return False
        return True

    def _trace(self, asked: Asked, model: Model, supposed: Supposed) -> Trace:
        # Neither the dtype nor the numbers are looked at but where rounding is the mistake.
        question = asked.question
        dtype = "float64" if question.dtype == "float64" else question.dtype
        at = (asked.case.name, dtype, supposed)
        if at not in self._traces:
            self._traces[at] = simulate(asked.case, model, dtype=dtype)
        return self._traces[at]

    def _gradients(
        self, asked: Asked, model: Model, trace: Trace
    ) -> list[dict[str, np.ndarray] | None]:
        """Return what gradients may be: those of what is computed, or those that are right."""
        mine = simulate_gradients(asked.case, model, trace)
        of_gradients = tuple(f for f in model.faults if f.name.startswith("gradient"))
        if len(of_gradients) == len(model.faults):
            return [mine]
        # A backward pass of its own may be right where the forward pass is wrong.
        own = Model(asked.question.model.conventions, of_gradients)
        apart = simulate_gradients(asked.case, own, simulate(asked.case, own))
        return [] if mine is None else [mine, apart]


def _of_constant(model: Model, asked: Asked, trace: Trace) -> float:
    """Return what is lost where a large number is added to scores, and is not to blame."""
    number = 0.0
    if model.conventions.mask_value == "-10000":
        number = 1e4
    elif model.has("mask_finite") and model.which("mask_finite")[1] == "added":
        number = abs(model.which("mask_finite")[0])
    unit = min(UNITS[asked.question.dtype], UNITS["float32"])
    values = float(np.abs(trace.v[np.isfinite(trace.v)]).max(initial=0.0))
    return 8 * unit * number * values if number < 1e6 else 0.0


def _may_overflow(asked: Asked) -> bool:
    """Return whether a product of query and key comes near the end of float16."""
    trace, dtype = asked.question.trace, asked.question.dtype
    products = np.abs(trace.scores[np.isfinite(trace.scores)]) / abs(trace.scale or 1.0)
    return dtype == "float16" and float(products.max(initial=0.0)) > 3e4


def _growth(wanted: np.ndarray, predicted: np.ndarray) -> float:
    """Return how much larger a prediction is than what was wanted."""
    sizes = [np.abs(x[np.isfinite(x)]).max(initial=0.0) for x in (wanted, predicted)]
    return float(max(1.0, sizes[1] / max(sizes[0], 1e-300)))


def _widened(name: str, tolerance: float, low: Hypothesis | None, asked: Asked) -> float:
    """Return what may be rounding where something is kept in a lower precision."""
    if low is None:
        return tolerance
    if low.which == "sums":
        # A sum that grows no more may be any part of what it should be.
        return math.inf if asked.case.feature == "long_sums" else _ROUGH * tolerance
    question = asked.question
    wider = tolerance_of(asked.case, question.model, question.trace, low.which)
    kind = name if name in ("out", "lse") else "gradients"
    return float(max(_SLACK * tolerance, _ROUGH * getattr(wider, kind)))


def _nan_for_inf(x: np.ndarray) -> np.ndarray:
    """Take one thing that is not finite for another: which one depends on the order of sums."""
    return np.where(np.isfinite(x), x, np.nan)


def _is_met(found: np.ndarray, predicted: np.ndarray, allowed: float, may_leak: bool) -> bool:
    if found.shape != predicted.shape:
        return False
    return bool(is_near(found, predicted, allowed, may_leak=may_leak).all())
