"""The measuring: everybody in turn, round after round, so that what disturbs disturbs all."""

import contextlib
import gc
import math
import statistics
import time
from typing import Any, NamedTuple

import numpy as np

from .cases import Case
from .fresh import measured_afresh, measured_here
from .sides import engine_of, side
from .work import Work, tiny

__all__ = ["Pace", "measured", "shrunk", "slopes", "spread"]


#: So many blocks make a call that is not disturbed by how it begins.
LONG = 5


class Pace(NamedTuple):
    """How long to measure."""

    rounds: int = 9
    least_rounds: int = 3
    block: float = 0.05  # seconds that one side takes at the least, in each round
    budget: float = 6.0  # seconds for a case, after which only least_rounds are done
    processes: int = 3  # for what is measured in a fresh process; in this one if there are none
    is_tiny: bool = False


def measured(case: Case, pace: Pace) -> dict[str, Any]:
    """Return what a line of the history says about one case."""
    case = shrunk(case) if pace.is_tiny else case
    found = {
        "case": case.name,
        "measure": case.measure,
        "ours": case.ours,
        "refused": {},
        "failed": {},
    }
    what, _, of = case.measure.partition(" of ")
    samples, points = {
        "time": times,
        "memory": afresh,
        "compile": afresh,
        "growth": growth_of_time if of == "time" else growth_of_memory,
    }[what](case, pace, found)
    found["sides"] = {label: spread(values) for label, values in samples.items()}
    if case.ours in samples and what != "growth":
        found["ratios"] = {
            label: spread(ratios(values, samples[case.ours]))
            for label, values in samples.items()
            if label != case.ours
        }
    if points:
        found["points"] = points
    if case.ours in samples:
        found["engine"] = engine_of(case.ours, last(case))
    return {name: value for name, value in found.items() if value}


def shrunk(case: Case) -> Case:
    return case._replace(
        work=tiny(case.work),
        lengths=(16, 32, 48)[: len(case.lengths)],
        unscaled=case.unscaled and tiny(case.unscaled),
    )


def last(case: Case) -> Work:
    """Return the work of a case; for growth, at its last length."""
    return sized(case.work, case.lengths[-1]) if case.lengths else case.work


def sized(work: Work, length: int) -> Work:
    return work._replace(q_len=length, kv_len=length)


@contextlib.contextmanager
def trying(found, name):
    """Note a side that refuses, or fails, and go on without it."""
    try:
        yield
    except NotImplementedError as error:
        found["refused"][name] = str(error)
    except Exception as error:  # one side must not end the run of all
        found["failed"][name] = f"{type(error).__name__}: {error}"


def parties(case: Case) -> list[tuple[str, str, Work]]:
    """Return the name, the side and the work of everyone who takes part."""
    return [
        (case.ours, case.ours, case.work),
        *(
            (peer, case.ours, case.unscaled) if peer == "unscaled" else (peer, peer, case.work)
            for peer in case.peers
        ),
    ]


def times(case, pace, found):
    calls = {}
    for name, label, work in parties(case):
        with trying(found, name):
            calls[name] = warmed(side(label, work))
    return interleaved(calls, pace), None


def warmed(call):
    """Call it once; return the call, and how many seconds the first one took."""
    return call, seconds(call, 1)


def interleaved(warm, pace):
    """Return the seconds of each call in each round."""
    loops = {name: repeats(call, first, pace.block) for name, (call, first) in warm.items()}
    calls = {name: call for name, (call, _) in warm.items()}
    # Whose threads slept until now may find them on one core, for 15 ms and more.
    waking = {
        name: loops[name] if first < LONG * pace.block else 0
        for name, (_, first) in warm.items()
    }
    samples = {name: [] for name in calls}
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        for done in range(pace.rounds):
            if done >= pace.least_rounds and time.perf_counter() - start > pace.budget:
                break
            for name, call in calls.items():
                time.sleep(0.01 if pace.block else 0)  # threads of the one before come to rest
                for _ in range(waking[name]):
                    call()
                samples[name].append(seconds(call, loops[name]))
    finally:
        gc.enable()
    return samples


def repeats(call, first, block):
    """Return how many calls take as long as a block, given what the first one took."""
    if not block or first > 20 * block:
        return 1
    once = seconds(call, 1)
    if once < block / 10:
        once = seconds(call, 10)
    return max(1, math.ceil(block / once))


def seconds(call, loops):
    start = time.perf_counter()
    for _ in range(loops):
        call()
    return (time.perf_counter() - start) / loops


def afresh(case, pace, found):
    samples = {}
    measure = measured_afresh if pace.processes else measured_here
    for _ in range(pace.processes or 1):
        for name, label, work in parties(case):
            if name in found["refused"] or name in found["failed"]:
                continue
            with trying(found, name):
                number = measure(case.measure, label, work)
                samples.setdefault(name, []).append(number)
    return samples, None


def growth_of_time(case, pace, found):
    calls = {}
    for name, label, work in parties(case):
        with trying(found, name):
            for length in case.lengths:
                calls[name, length] = warmed(side(label, sized(work, length)))
    return slopes(case, interleaved(calls, pace))


def growth_of_memory(case, pace, found):
    samples = {}
    measure = measured_afresh if pace.processes else measured_here
    for _ in range(pace.processes or 1):
        for name, label, work in parties(case):
            with trying(found, name):
                for length in case.lengths:
                    number = measure("memory", label, sized(work, length))
                    samples.setdefault((name, length), []).append(number)
    return slopes(case, samples)


def slopes(case, samples):
    """Return the exponent of growth in each round, and the median at each length."""
    exponents, points = {}, {}
    for name in (case.ours, *case.peers):
        rounds = [samples.get((name, length), []) for length in case.lengths]
        if not all(rounds):
            continue
        logs = np.log(case.lengths)
        exponents[name] = [
            float(np.polyfit(logs, np.log(each), 1)[0]) for each in zip(*rounds, strict=False)
        ]
        points[name] = {
            str(length): rounded(statistics.median(each))
            for length, each in zip(case.lengths, rounds, strict=True)
        }
    return exponents, points


def ratios(theirs, ours):
    """Return how many times as good ours is, round by round."""
    return [t / o for t, o in zip(theirs, ours, strict=False)]


def spread(values):
    """Return the median and the quartiles, rounded."""
    if len(values) < 2:
        return [rounded(values[0])] * 3
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return [rounded(median), rounded(low), rounded(high)]


def rounded(value):
    """Keep four digits."""
    return float(f"{value:.4g}")
