"""Draws the pictures of docs/design/planner.md from simulations; the same input, the same bytes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np

from deadheat.scheduler.core.machine import SubtaskState
from deadheat.scheduler.core.report import JobReport
from deadheat.scheduler.planner import shapes
from deadheat.scheduler.planner.amdahl import speed_up_curve
from deadheat.scheduler.planner.inputs import SUBTASK_COST_S, Cut
from deadheat.scheduler.simulator.outcome import run_one
from deadheat.scheduler.simulator.parsing import parse

mpl.use("Agg")
# Ids in an SVG are random unless salted.
mpl.rcParams.update(
    {
        "svg.hashsalt": "deadheat",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.constrained_layout.use": True,
    }
)

from matplotlib import pyplot as plt  # noqa: E402 - after the choice of what draws
from matplotlib.figure import Figure  # noqa: E402

PICTURES: Final = Path(__file__).resolve().parent.parent / "docs" / "design" / "pictures"
OURS, OTHERS, LOADED, DARK = "#2a6f97", "#b5b5b5", "#f4d9b8", "#333333"
JOB_AT_S, STEP_AT_S = 3.0, 12.0
GFLOPS: Final = {"gpu box": 80.0, "ws-1": 50.0, "ws-2": 50.0, "laptop": 20.0}
HIT: Final = "ws-1"


def gantt() -> Figure:
    """One job cut equally and balanced, while somebody else takes 60 % of a device in mid-run."""
    figure, rows = plt.subplots(2, 1, figsize=(8, 4.4), sharex=True)
    for axes, cut, name in zip(rows, (Cut.EQUAL, Cut.BALANCED), ("cut equally", "balanced")):
        report = _run(cut)
        end_s = report.makespan_s or 0.0
        for line, device in enumerate(GFLOPS):
            own = [p for p in report.placements if p.node == device and p.start_s is not None]
            for placement in own:
                if placement.state is SubtaskState.DONE and placement.finish_s is not None:
                    lasted_s = placement.finish_s - (placement.start_s or 0.0)
                    axes.barh(line, lasted_s, 0.62, placement.start_s or 0.0, color=OURS,
                              edgecolor="white", linewidth=1.2)  # fmt: skip
        hit = list(GFLOPS).index(HIT)
        axes.barh(hit, end_s - (STEP_AT_S - JOB_AT_S), 0.95, STEP_AT_S - JOB_AT_S,
                  color=LOADED, zorder=0)  # fmt: skip
        axes.axvline(end_s, color=DARK, linewidth=1, linestyle=":")
        axes.set_yticks(range(len(GFLOPS)), [f"{n}, {g:g} GFLOP/s" for n, g in GFLOPS.items()])
        axes.invert_yaxis()
        spread = report.finish_spread or 0.0
        axes.set_title(f"{name}: {end_s:.1f} s, finish spread {spread:.1%}", loc="left")
    rows[1].set_xlim(left=0.0)
    rows[1].set_xlabel(f"seconds; shaded: others take 60 % of {HIT}")
    return figure


def _run(cut: Cut) -> JobReport:
    devices = [
        {
            "name": name,
            "speed_gflops": gflops,
            "memory_gb": 64.0,
            "noise": 0.05,
            "foreign": [[0.0, 0.0], [STEP_AT_S, 0.6]] if name == HIT else [[0.0, 0.0]],
        }
        for name, gflops in GFLOPS.items()
    ]
    job = {"at_s": JOB_AT_S, "m": 12_500, "k": 12_500, "n": 12_500}
    return run_one(parse({"seed": 7, "device": devices, "job": [job]}), cut).reports[0]


def traffic() -> Figure:
    """Strips and columns of rectangles against the lower bound, by the number of devices."""
    rng = np.random.default_rng(7)
    side = 16_384
    counts = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    strips: list[float] = []
    columns: list[float] = []
    for count in counts:
        ratios: list[tuple[float, float]] = []
        for _ in range(60):
            areas = rng.uniform(1.0, 10.0, count)
            areas *= side * side / areas.sum()
            least = shapes.least_half_perimeters(areas, side, side)
            layout = shapes.snapped(*shapes.columns(areas, side, side), areas, side, side)
            assert layout is not None
            made = shapes.half_perimeters(layout.heights, layout.widths[layout.column_of])
            ratios.append((side * (count + 1) / least, made / least))
        mean = np.mean(ratios, axis=0)
        strips.append(float(mean[0]))
        columns.append(float(mean[1]))
    figure, axes = plt.subplots(figsize=(6.4, 3.2))
    axes.plot(counts, strips, color=OTHERS, marker="o", markersize=4)
    axes.plot(counts, columns, color=OURS, marker="o", markersize=4)
    axes.axhline(1.0, color=DARK, linewidth=1, linestyle=":")
    axes.annotate("strips of rows", (16, strips[7]), (-6, 6), textcoords="offset points",
                  ha="right")  # fmt: skip
    axes.annotate("columns of rectangles", (16, columns[7]), (0, 8), textcoords="offset points",
                  color=OURS)  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks([1, 2, 4, 8, 16, 32, 64], ["1", "2", "4", "8", "16", "32", "64"])
    axes.set_xlabel("devices, speeds within a factor of 10")
    axes.set_ylabel("traffic / lower bound")
    return figure


def speed_up() -> Figure:
    """Predicted speed-up of three sizes of job on 64 equal devices, with the knee of each."""
    figure, axes = plt.subplots(figsize=(6.4, 3.4))
    count, flops_s = 64, 50e9
    shades = ("#8fb8d0", "#5592b5", OURS)
    for takes_s, color in zip((0.05, 0.4, 10.0), shades):
        curve, knee = speed_up_curve(
            takes_s * flops_s, np.full(count, 0.001), np.full(count, flops_s), SUBTASK_COST_S
        )
        devices = [point.devices for point in curve]
        axes.plot(devices, [point.speed_up for point in curve], color=color)
        at = next(point for point in curve if point.devices == knee)
        axes.plot(knee, at.speed_up, "o", color=color)
        is_last = knee == count
        axes.annotate(
            f"{takes_s:g} s alone: knee at {knee}",
            (knee, at.speed_up),
            (-90, 0) if is_last else (0, 8),
            textcoords="offset points",
            color=color,
            ha="right" if is_last else "left",
            va="center" if is_last else "bottom",
        )
    axes.plot([1, count], [1, count], color=OTHERS, linewidth=1, linestyle=":")
    axes.set_xlabel("devices")
    axes.set_ylabel("speed-up over one")
    axes.set_xlim(0, count + 2)
    axes.set_ylim(0, count + 2)
    return figure


DRAWN: Final[dict[str, Callable[[], Figure]]] = {
    "gantt": gantt,
    "traffic": traffic,
    "speed_up": speed_up,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--format", choices=("svg", "png"), default="svg")
    parser.add_argument("--into", type=Path, default=PICTURES)
    chosen = parser.parse_args()
    chosen.into.mkdir(parents=True, exist_ok=True)
    for name, draw in DRAWN.items():
        path = chosen.into / f"{name}.{chosen.format}"
        metadata: dict[str, Any] = {"Date": None} if chosen.format == "svg" else {}
        draw().savefig(path, metadata=metadata, dpi=110)
        print(path)


if __name__ == "__main__":
    main()
