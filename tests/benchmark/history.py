"""One line for each whole run, so that the next one can see what became slower."""

import json

__all__ = ["append", "newest", "worse"]

#: What is moved by less is not told from noise.
NOTABLE = 1.15


def append(path, run):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(run, separators=(",", ":"), ensure_ascii=False) + "\n")


def newest(path, machine=None):
    """Return the last run, of the same machine where one is given; None where there is none."""
    if not path.exists():
        return None
    runs = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    return next((r for r in reversed(runs) if machine in (None, r["machine"])), None)


def is_more(now, was, measure):
    """Return whether a number rose: an exponent by 0.15, anything else by 15 %."""
    limit = was[0] + NOTABLE - 1 if measure.startswith("growth") else was[0] * NOTABLE
    return now[0] > limit and now[1] > was[2]


def worse(before, now):
    """Return what became more than 15 % worse: (case, against, before, now).

    Ratios are compared where there are any, since a machine's own speed moves; else what ours
    takes. Spreads that overlap are no change.
    """
    earlier = {record["case"]: record for record in before["results"]}
    found = []
    for record in now["results"]:
        old = earlier.get(record["case"], {})
        for peer, ratio in record.get("ratios", {}).items():
            was = old.get("ratios", {}).get(peer)
            if was and was[0] / ratio[0] > NOTABLE and ratio[2] < was[1]:
                found.append((record["case"], peer, was, ratio))
        if not record.get("ratios"):
            for side, spread in record.get("sides", {}).items():
                was = old.get("sides", {}).get(side)
                if was and is_more(spread, was, record["measure"]):
                    found.append((record["case"], side, was, spread))
        found += [
            (record["case"], f"{side}: {why}", None, None)
            for side, why in {**record.get("refused", {}), **record.get("failed", {})}.items()
            if side in old.get("sides", {})
        ]
    return found
