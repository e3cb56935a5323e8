"""`python -m benchmark`: measure, print, and with `--page` write the page and the history."""

import argparse
import fnmatch
import json
import os
import sys
import time
from pathlib import Path

from . import history, machine
from .cases import CASES
from .measure import Pace, measured, shrunk
from .page import write
from .report import Report

__all__ = ["main"]

DOCS = Path(__file__).parents[2] / "docs"
QUICK = Pace(rounds=1, least_rounds=1, block=0.0, budget=0.0, processes=0, is_tiny=True)


def parser():
    parser = argparse.ArgumentParser(prog="python -m benchmark", description=__doc__)
    parser.add_argument(
        "--case",
        action="append",
        metavar="PATTERN",
        help="only these, as in 'numpy *causal'; may be given several times",
    )
    parser.add_argument(
        "--engine", help="have ours take it, where the case names none; not for the page"
    )
    parser.add_argument("--list", action="store_true", help="name the cases, measure nothing")
    parser.add_argument("--quick", action="store_true", help="tiny arrays, once: does it run?")
    parser.add_argument(
        "--page", action="store_true", help="add the run to the history, make the page of it"
    )
    parser.add_argument(
        "--page-only", action="store_true", help="make the page of the last run in the history"
    )
    parser.add_argument("--docs", type=Path, default=DOCS, help="where page and history are")
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="FILE",
        help="keep what is done in FILE; go on from there",
    )
    return parser


def main(arguments):
    """Return the exit status: 1 where a side failed, which is not to refuse."""
    chosen = parser().parse_args(arguments)
    report = Report()
    past = chosen.docs / "benchmark" / "history.jsonl"
    cases = [
        case
        for case in CASES
        if any(fnmatch.fnmatchcase(case.name, p) for p in chosen.case or ["*"])
    ]
    is_part = chosen.case or chosen.quick or chosen.engine
    if chosen.page and is_part and chosen.docs == DOCS:
        parser().error("the page is made of a whole run; give another folder by --docs")
    if chosen.engine:
        cases = [with_engine(case, chosen.engine) for case in cases]
    if not cases:
        parser().error("no case has such a name; --list names them")
    if chosen.list:
        report.say("\n".join(case.name for case in cases))
        return 0
    if chosen.page_only:
        last = history.newest(past)
        if last is None:
            parser().error(f"there is no run in {past}")
        write(chosen.docs, last)
        return 0

    run = {**machine.describe(), "results": []}
    report.circumstances(run)
    run["results"] = measure_all(
        cases, QUICK if chosen.quick else Pace(), report, chosen.resume
    )
    report.tables(run)
    before = history.newest(past, run["machine"])
    report.changes(before, history.worse(before, run) if before else [])
    if chosen.page:
        history.append(past, run)
        write(chosen.docs, run)
    return int(any("failed" in record for record in run["results"]))


def with_engine(case, engine):
    is_free = case.ours.startswith("attnfn") and "," not in case.ours
    return case._replace(ours=f"{case.ours}, {engine}") if is_free else case


def measure_all(cases, pace, report, kept):
    """Return what was measured, in the order of the cases; what is in `kept` is not repeated."""
    lines = kept.read_text(encoding="utf-8").splitlines() if kept and kept.exists() else []
    done = {record["case"]: record for record in map(json.loads, lines)}
    start = time.perf_counter()
    for number, case in enumerate(cases, 1):
        if case.name not in done:
            done[case.name] = (measured_once if pace.is_tiny else measured)(case, pace)
            if kept:
                with kept.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(done[case.name]) + "\n")
        report.progress(number, len(cases), done[case.name], time.perf_counter() - start)
    return [done[case.name] for case in cases]


TINY_DONE = {}


def measured_once(case, pace):
    """Return what was measured before, where two cases are the same when they are tiny."""
    same = repr(shrunk(case)._replace(name="", peers=tuple(case.peers), at_most=None))
    if same not in TINY_DONE:
        TINY_DONE[same] = measured(case, pace)
    return {**TINY_DONE[same], "case": case.name}


if __name__ == "__main__":
    machine.restart_cleaned(sys.argv[1:])
    os.environ.setdefault("KERAS_BACKEND", "numpy")
    sys.exit(main(sys.argv[1:]))
