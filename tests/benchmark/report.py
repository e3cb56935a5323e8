"""What was measured, in a terminal."""

from rich.console import Console
from rich.table import Table

from . import tables

__all__ = ["Report"]

COLORS = {
    "reached": "green",
    "within the spread": "yellow",
    "missed": "red",
    "not compared": "dim",
}


class Report:
    """Tells a person what happens, and what came of it."""

    def __init__(self):
        self.console = Console(highlight=False, soft_wrap=True)

    def say(self, text):
        self.console.print(text, markup=False)

    def circumstances(self, run):
        machine = ", ".join(f"{name} {said}" for name, said in run["machine"].items())
        versions = ", ".join(f"{name} {said}" for name, said in run["versions"].items() if said)
        self.say(f"attnfn at {run['commit']}, {run['date']}\n{machine}\n{versions}\n")

    def progress(self, number, total, record, seconds):
        """Say what one case came to, in one line."""
        told = [
            f"{peer} {tables.ranged(ratio, tables.times)}"
            for peer, ratio in record.get("ratios", {}).items()
        ] or [
            f"{side} {tables.ranged(spread, '{:.3g}'.format)}"
            for side, spread in record.get("sides", {}).items()
        ]
        told += [f"{side} {why}" for side, why in tables.excuses(record).items()]
        told = "; ".join(told)
        self.say(f"[{number}/{total}, {seconds:.0f} s] {record['case']}: {told}")

    def tables(self, run):
        for measure in tables.MEASURES:
            found = tables.rows(run["results"], measure)
            if found:
                self.table(measure, tables.header(measure), found)
        found = tables.goals(run["results"])
        if found:
            self.table("goals", ("case", "against", "found", "wanted", "verdict"), found)

    def table(self, title, header, rows):
        table = Table(*header, title=title, title_justify="left")
        for row in rows:
            table.add_row(*row, style=COLORS.get(next((c for c in row if c in COLORS), "")))
        # Wide enough for every column, also where the output goes to a file.
        Console(highlight=False, width=max(self.console.width, 180)).print(table)

    def changes(self, before, found):
        if before is None:
            self.say("No run on this machine is in the history to compare with.")
            return
        self.say(f"Compared with {before['commit']}, {before['date']}:")
        for case, against, was, now in found:
            moved = "" if was is None else f": {was[0]:g} became {now[0]:g}"
            self.say(f"  worse: {case}, {against}{moved}")
        if not found:
            self.say("  nothing became more than 15 % worse.")
