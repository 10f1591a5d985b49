"""Runs scenarios: once as asked, and again under each baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from deadheat.scheduler.core.machine import JobState
from deadheat.scheduler.core.report import JobReport
from deadheat.scheduler.planner.inputs import Cut
from deadheat.scheduler.simulator.oracle import capacity, oracle_makespan_s
from deadheat.scheduler.simulator.reports import report_as_dict
from deadheat.scheduler.simulator.scenario import Scenario
from deadheat.scheduler.simulator.simulation import Simulation, Stopwatch

#: Static cuts, planned at submission and never re-balanced.
BASELINES: Final[Mapping[str, Cut]] = {
    "equal": Cut.EQUAL,
    "peak": Cut.PEAK,
    "one_minus_utilization": Cut.ONE_MINUS_UTILIZATION,
}


@dataclass(frozen=True)
class Result:
    """One run. `makespan_s` is from the first job's start to the last one's end, `spread` the mean
    over the jobs, `efficiency` all work over what all devices really had to give meanwhile; None
    where a job did not get done."""

    reports: Sequence[JobReport]
    makespan_s: float | None
    spread: float | None
    efficiency: float | None
    resplits: int
    placements: int
    #: Real seconds of each call of the planner, by the caller's stopwatch.
    planning_s: Sequence[float]


@dataclass(frozen=True)
class Outcome:
    result: Result
    #: Makespan and spread under each rule, and of the oracle.
    baselines: Mapping[str, tuple[float | None, float | None]]

    def as_dict(self) -> dict[str, object]:
        """The contract's document."""
        taken = self.result.planning_s
        return {
            "jobs": [report_as_dict(report) for report in self.result.reports],
            "planning": {
                "calls": len(taken),
                "p50_s": float(np.percentile(taken, 50)) if taken else None,
                "p99_s": float(np.percentile(taken, 99)) if taken else None,
            },
            "baselines": {
                name: {"makespan_s": makespan_s, "finish_spread": spread}
                for name, (makespan_s, spread) in self.baselines.items()
            },
        }


def run_one(scenario: Scenario, cut: Cut, *, stopwatch: Stopwatch = lambda: 0.0) -> Result:
    """Simulates a scenario under one rule, whatever its own policy says."""
    simulation = Simulation(scenario, cut, stopwatch)
    simulation.run()
    reports = sorted(simulation.reports, key=lambda report: int(report.id.rpartition("-")[2]))
    starts_s = [report.started_at_s for report in reports]
    ends_s = [_end_s(report) for report in reports]
    makespan_s = efficiency = None
    known_starts_s = [start_s for start_s in starts_s if start_s is not None]
    known_ends_s = [end_s for end_s in ends_s if end_s is not None]
    if len(known_ends_s) == len(reports):
        first_s, last_s = min(known_starts_s), max(known_ends_s)
        makespan_s = last_s - first_s
        pool = capacity(scenario)
        had = pool.at(last_s) - pool.at(first_s)
        flops = sum(device.flops for report in reports for device in report.devices)
        efficiency = flops / had if had > 0.0 else None
    spreads = [report.finish_spread for report in reports if report.finish_spread is not None]
    return Result(
        reports=reports,
        makespan_s=makespan_s,
        spread=sum(spreads) / len(spreads) if spreads else None,
        efficiency=efficiency,
        resplits=sum(report.resplits for report in reports),
        placements=simulation.placements,
        planning_s=simulation.planning_s,
    )


def _end_s(report: JobReport) -> float | None:
    """When the last sub-task of a job that got done was finished."""
    if report.state is not JobState.DONE or report.started_at_s is None:
        return None
    return None if report.makespan_s is None else report.started_at_s + report.makespan_s


def simulate(
    scenario: Scenario, *, stopwatch: Callable[[], float], with_baselines: bool = True
) -> Outcome:
    """Runs a scenario, then the same under each baseline. `stopwatch` is read around each call of
    the planner; it has no other influence on the outcome."""
    result = run_one(scenario, scenario.cut, stopwatch=stopwatch)
    baselines: dict[str, tuple[float | None, float | None]] = {}
    if with_baselines:
        for name, cut in BASELINES.items():
            found = run_one(scenario, cut)
            baselines[name] = (found.makespan_s, found.spread)
        best_s = oracle_makespan_s(scenario, capacity(scenario))
        baselines["oracle"] = (best_s, 0.0 if best_s is not None else None)
    return Outcome(result, baselines)
