"""What was measured, as rows of text: for the terminal and for the page."""

from .cases import CASES, Case

__all__ = ["MEASURES", "goals", "header", "rows", "verdict"]

#: In the order of the page.
MEASURES = ("time", "memory", "compile", "growth of time", "growth of memory")
BY_NAME = {case.name: case for case in CASES}


def header(measure):
    if measure.startswith("growth"):
        return "case", "side", "exponent", "at most", "verdict", "measured"
    return "case", "engine", "attnfn", "against", "theirs", "ratio", "goal", "verdict"


def rows(records, measure):
    """Return one row for each side that ours is held against."""
    chosen = [r for r in records if r["measure"] == measure and r["case"] in BY_NAME]
    of = growth_rows if measure.startswith("growth") else rows_of
    return [row for record in chosen for row in of(record, BY_NAME[record["case"]])]


def rows_of(record, case: Case):
    unit = amount if record["measure"] == "memory" else duration
    name, engine = case.name, record.get("engine", "")
    sides, told = record.get("sides", {}), excuses(record)
    ours = told.get(record["ours"]) or ranged(sides[record["ours"]], unit)
    if case.at_most is not None:
        limit = limit_of(case)
        judged = verdict(sides.get(record["ours"]), case.at_most, is_limit=True)
        yield name, engine, ours, "", "", "", f"≤ {limit}", judged
    elif not case.peers:
        yield name, engine, ours, "", "", "", "", ""
    for peer, goal in case.peers.items():
        ratio = record.get("ratios", {}).get(peer)
        theirs = told.get(peer) or (unit(sides[peer][0]) if peer in sides else "")
        shown = ranged(ratio, times) if ratio else ""
        wanted = "" if goal is None else f"≥ {times(goal)}"
        judged = verdict(ratio, goal) if ratio or goal is None else "not compared"
        yield name, engine, ours, peer, theirs, shown, wanted, judged


def growth_rows(record, case: Case):
    told = excuses(record)
    for side in (record["ours"], *case.peers):
        exponent = record.get("sides", {}).get(side)
        limit = case.at_most if side == record["ours"] else None
        unit = amount if case.measure.endswith("memory") else duration
        points = record.get("points", {}).get(side, {})
        yield (
            case.name,
            side,
            told.get(side) or ranged(exponent, "{:.2f}".format),
            "" if limit is None else f"{limit:.2f}",
            verdict(exponent, limit, is_limit=True),
            ", ".join(f"{length}: {unit(value)}" for length, value in points.items()),
        )


def excuses(record):
    """Return what stands instead of a number, by side."""
    return {
        **{side: f"refused: {why}" for side, why in record.get("refused", {}).items()},
        **{side: f"FAILED: {why}" for side, why in record.get("failed", {}).items()},
    }


def verdict(found, goal, *, is_limit=False):
    """Say whether a median reaches its goal, or at least the better quartile does."""
    if found is None or goal is None:
        return ""
    median, low, high = found
    if is_limit:
        median, high, goal = -median, -low, -goal
    if median >= goal:
        return "reached"
    return "within the spread" if high >= goal else "missed"


def goals(records):
    """Return every (case, against, found, wanted, verdict) that has a goal."""
    found = []
    for measure in MEASURES:
        for row in rows(records, measure):
            if measure.startswith("growth"):
                case, _, exponent, wanted, judged, _ = row
                found.append((case, "", exponent, wanted and f"≤ {wanted}", judged))
            else:
                case, _, ours, peer, _, ratio, wanted, judged = row
                found.append((case, peer, ratio or ours, wanted, judged))
    return [row for row in found if row[-1]]


def limit_of(case: Case):
    return f"{case.at_most:g} {'MiB' if case.measure == 'memory' else 's'}"


def ranged(found, form):
    median, low, high = found
    return f"{form(median)} ({form(low)} to {form(high)})"


def times(ratio):
    return f"{ratio:.3g}x"


def amount(mebibytes):
    return f"{mebibytes:.3g} MiB" if mebibytes < 1000 else f"{mebibytes:.0f} MiB"


def duration(seconds):
    for size, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= size:
            number = seconds / size
            return f"{number:.3g} {unit}" if number < 1000 else f"{number:.0f} {unit}"
    return f"{seconds / 1e-6:.3g} µs"
