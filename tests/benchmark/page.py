"""The page of the documentation, and its two pictures, made of one run."""

import matplotlib
from matplotlib.figure import Figure

from . import tables
from .cases import CASES

__all__ = ["write"]

PAGE = """\
# Benchmark

<!-- Made by `nox -s bench -- --page`. A change by hand is lost at the next run. -->

How fast attnfn is beside what its users would pick instead, and how much memory it takes. Made by

```sh
nox -s bench -- --page
```

at commit `{commit}` on {date}, on {cores} cores of {cpu}, with {versions}.
{measured}
Every run adds a line to `docs/benchmark/history.jsonl`, and says what became more than 15 % worse than in the line
before it on the same machine.

## How to read it

- **Cases** are named by the library whose arrays attnfn is given, and by the length. *1 of 8192* is a step of decoding: one
  query, 8192 keys. *window 256* is each query's own key and the 255 before it. *scores to 118*: the queries are scaled
  until the greatest score is 118, so that many weights are too small for a normal number, and held against the same call
  *unscaled*. *layer* is `multi_head_attention` on `(32, 100, 512)` with 8 heads, *small call* is `(1, 1, 8, 8)`.
- **Ratios** say how many times as good attnfn is: 3x is a third of the time, or of the memory. All sides of a case run
  in one process, in turn, round after round (A B C, A B C, ...), each for at least {block:g} ms, and before it as long
  without being measured: threads that slept while others computed may share a core at first. A ratio is taken in each
  round; shown are the median and, in brackets, the two quartiles. Times on a shared machine move by tens of percent
  within minutes, and ratios of neighbours by much less.
- **attnfn** is called with `engine="auto"` unless the case names an engine; the column *engine* says what it chose.
- Every side computes with all cores, on arrays that are in its own layout from the start, with masks made beforehand.
  JAX runs under `jit`, compiled beforehand. Shapes are `(1, 8, length, 64)` in float32 where nothing else is said.
  The runner restarts itself without the environment variables that choose kernels, threads or compiler flags, so each
  library runs as it is installed.
- **Memory** is by how much the resident size of a fresh process rises during one call, beyond inputs and results
  (`VmHWM`: tracemalloc sees neither BLAS nor PyTorch nor JAX). Less than 1 MiB counts as 1 MiB.
- **Compile** is what a fresh process waits for until the forward pass and then the gradient are compiled.
- **Growth** is the exponent with which time or memory grows with the length: the slope in log-log.
- **A gradient** is that of the output for query, key and value, computed together with the output. On NumPy it is
  `attention_vjp`; the naive one is written by hand.
- *Goals* are what attnfn is to reach; *within the spread* means that the better quartile reaches it and the median does
  not. A side that cannot do a case is shown as refused, with its reason.

## Goals

{goals}

![Ratios with a goal: the median, the quartiles, and the goal as a line](benchmark/goals.svg)

## Time

![Time by length, forward, without masks and causal, on each library](benchmark/lengths.svg)

{time}

## Memory

{memory}

## Compile

{compile}

## Growth

{growth}
"""


def write(docs, run):
    """Write benchmark.md and its pictures into the folder of the documentation."""
    folder = docs / "benchmark"
    folder.mkdir(parents=True, exist_ok=True)
    # Words as words, and no number drawn by lot: a small file, and small differences.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "attnfn"}):
        for name, figure in (("goals", ratios_figure(run)), ("lengths", lengths_figure(run))):
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight")
    (docs / "benchmark.md").write_text(text(run), encoding="utf-8")


def text(run):
    results = run["results"]
    versions = ", ".join(f"{name} {said}" for name, said in run["versions"].items() if said)
    parts = {measure: markdown(results, measure) for measure in tables.MEASURES}
    return PAGE.format(
        commit=run["commit"],
        measured=_measured(len(results)),
        date=run["date"],
        cores=run["machine"]["cores"],
        cpu=run["machine"]["cpu"],
        versions=versions,
        block=50,
        goals=table(("case", "against", "found", "wanted", "verdict"), tables.goals(results)),
        time=parts["time"],
        memory=parts["memory"],
        compile=parts["compile"],
        growth=parts["growth of time"] + "\n\n" + parts["growth of memory"],
    )


def markdown(results, measure):
    return table(tables.header(measure), tables.rows(results, measure))


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(escaped, line)) + " |" for line in lines)


def escaped(cell):
    return cell.replace("|", "\\|").replace("\n", " ")


def ratios_figure(run):
    """Draw every ratio that has a goal, best above."""
    by_name = {case.name: case for case in CASES}
    shown = [
        (f"{record['case']}, beside {peer}", *ratio, by_name[record["case"]].peers[peer])
        for record in run["results"]
        if record["case"] in by_name
        for peer, ratio in record.get("ratios", {}).items()
        if by_name[record["case"]].peers.get(peer) is not None
    ]
    shown.sort(key=lambda row: row[1] / row[4])
    figure = Figure(figsize=(9, 0.8 + 0.22 * len(shown)))
    axes = figure.subplots()
    for y, (_, median, low, high, goal) in enumerate(shown):
        color = "tab:green" if median >= goal else "tab:orange" if high >= goal else "tab:red"
        axes.plot([low, high], [y, y], color=color, linewidth=2)
        axes.plot(median, y, "o", color=color, markersize=4)
        axes.plot(goal, y, "|", color="black", markersize=9)
    axes.set_xscale("log")
    axes.axvline(1.0, color="lightgray", zorder=0)
    axes.set_yticks(range(len(shown)), [row[0] for row in shown], fontsize=7)
    axes.set_xlabel("how many times as good; | is the goal")
    axes.margins(y=0.01)
    return figure


def lengths_figure(run):
    """Draw time by length of the plain cases: a column for each library."""
    records = {record["case"]: record for record in run["results"]}
    figure = Figure(figsize=(10, 6))
    panels = figure.subplots(2, 3, sharex=True, sharey=True)
    for row, (order, named) in zip(
        panels, (("", "all keys"), (", causal", "causal")), strict=True
    ):
        for axes, library in zip(row, ("numpy", "torch", "jax"), strict=True):
            lines = {}
            for length in (256, 1024, 2048, 4096, 16384):
                record = records.get(f"{library} {length}{order}", {})
                for side, spread in record.get("sides", {}).items():
                    lines.setdefault(side, []).append((length, spread[0] * 1e3))
            for side, points in lines.items():
                is_ours = side.startswith("attnfn")
                axes.plot(
                    *zip(*points, strict=True),
                    "o-" if is_ours else "x--",
                    label=side,
                    linewidth=2 if is_ours else 1,
                    markersize=4,
                )
            axes.set(xscale="log", yscale="log", title=f"{library}, {named}")
            axes.set_xticks([256, 1024, 4096, 16384], ["256", "1024", "4096", "16384"])
            axes.minorticks_off()
            if lines:
                axes.legend(fontsize=7)
    for axes in panels[-1]:
        axes.set_xlabel("length")
    for axes in panels[:, 0]:
        axes.set_ylabel("ms")
    figure.tight_layout()
    return figure


def _measured(count):
    """Say it where not every case was measured."""
    if count == len(CASES):
        return "Every case was measured."
    return f"**{count} of the {len(CASES)} cases were measured**; of the others there are no figures."
