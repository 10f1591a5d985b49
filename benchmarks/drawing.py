"""Draws what was measured as SVG; the same input, the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.keeping import Record
from benchmarks.versus import LOADS

STYLE: Any = {
    # Ids in an SVG are random unless salted.
    "svg.hashsalt": "deadheat",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
}
#: Times better or worse than a target, at the edges.
WIDEST = 8.0
OURS, OTHERS, MISSED, DARK = "#2a6f97", "#b5b5b5", "#c1121f", "#333333"


def draw(made: Sequence[Record], folder: Path) -> list[tuple[str, str]]:
    """Names and titles of the pictures that were drawn."""
    drawn: list[tuple[str, str]] = []
    pictures = (
        ("peers.svg", "Others' time / ours, by load and size", peers),
        ("targets.svg", "Each figure against its target", targets),
    )
    with rc_context(STYLE):
        for name, title, make in pictures:
            figure = make(made)
            if figure is not None:
                folder.mkdir(exist_ok=True)
                figure.savefig(folder / name, metadata={"Date": None})
                drawn.append((name, title))
    return drawn


def peers(made: Sequence[Record]) -> Figure | None:
    """For each load the ratio to each peer, with its range; right of 1 we are faster."""
    by_load: dict[str, list[tuple[str, Record]]] = {}
    for record in made:
        if record["module"] == "versus":
            given, first = record["given"], record["figures"][0]
            kind = "" if given.get("dtype", "float64") == "float64" else ", float32"
            label = f"{first['name'].partition(chr(39))[0]}, {given['size']}{kind}"
            by_load.setdefault(given["load"], []).append((label, first))
    loads = [load for load in LOADS if load in by_load]
    if not loads:
        return None
    counts = [len(by_load[load]) for load in loads]
    figure = Figure(figsize=(8, 1.2 + 0.32 * sum(counts) + 0.5 * len(loads)))
    rows = figure.subplots(len(loads), 1, sharex=True, squeeze=False, height_ratios=counts)
    for axes, load in zip(rows[:, 0], loads):
        _bars(axes, sorted(by_load[load], key=lambda labelled: labelled[0]))
        axes.set_title(LOADS[load], loc="left")
    rows[-1, 0].set_xlabel("their time / ours (median and range); ticks: targets")
    return figure


def _bars(axes: Axes, bars: Sequence[tuple[str, Record]]) -> None:
    for line, (_, found) in enumerate(bars):
        value, low, high = found["value"], found["low"], found["high"]
        axes.barh(line, value, 0.62, color=OURS if value >= 1.0 else OTHERS)
        around = [[value - low], [high - value]]
        axes.errorbar(value, line, xerr=around, color=DARK, capsize=3, linewidth=1)
        if found["target"] is not None:
            axes.plot([found["target"]] * 2, [line - 0.4, line + 0.4], color=MISSED, linewidth=2)
    axes.set_yticks(range(len(bars)), [label for label, _ in bars])
    axes.invert_yaxis()
    axes.axvline(1.0, color=DARK, linewidth=1, linestyle=":")


def targets(made: Sequence[Record]) -> Figure | None:
    """How far each figure is on the right side of its target, in times; what is farther away than
    the picture is wide stands at its edge."""
    found = [
        (f"{figure['case']}: {figure['name']}", figure)
        for record in made
        for figure in record["figures"]
        if figure["target"] and figure["value"] > 0
    ]
    if not found:
        return None
    figure = Figure(figsize=(9, 1.0 + 0.24 * len(found)))
    axes = figure.subplots()
    for line, (_, figure_) in enumerate(found):
        times = figure_["value"] / figure_["target"]
        times = min(WIDEST, max(1.0 / WIDEST, times if figure_["at_least"] else 1.0 / times))
        axes.plot([1.0, times], [line, line], color=OTHERS, linewidth=2, zorder=1)
        axes.plot(times, line, "o", color=OURS if figure_["holds"] else MISSED, markersize=5)
    axes.axvline(1.0, color=DARK, linewidth=1, linestyle=":")
    axes.set_xscale("log", base=2)
    axes.set_xlim(0.9 / WIDEST, 1.1 * WIDEST)
    ticks = [1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8]
    axes.set_xticks(ticks, ["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    axes.set_ylim(-0.8, len(found) - 0.2)
    axes.set_yticks(range(len(found)), [label for label, _ in found], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("times better than its target; left of 1 (red): missed")
    return figure
