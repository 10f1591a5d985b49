"""The bound that no schedule can beat: it knows all loads, losses and slowdowns to come, moves
nothing, cuts continuously, and loses no time to noise."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from deadheat.scheduler.simulator.curves import Curve, supply_of
from deadheat.scheduler.simulator.programs import program_of
from deadheat.scheduler.simulator.scenario import Fault, FaultKind, Scenario


def capacity(scenario: Scenario) -> Curve:
    """Flops that all devices together have really had to give, up to each moment."""
    faults: dict[str, list[Fault]] = {}
    for fault in scenario.faults:
        faults.setdefault(fault.device, []).append(fault)
    changes: defaultdict[float, float] = defaultdict(float)
    known: dict[object, Sequence[tuple[float, float]]] = {}
    for device in scenario.devices:
        own = faults.get(device.name, ())
        key = (device.foreign, device.sharing)
        if own or key not in known:
            steps = list(_without_losses(supply_of(device, own).effort, own))
            if not own:
                known[key] = steps
        else:
            steps = list(known[key])
        before = 0.0
        for at_s, rate in steps:
            changes[at_s] += (rate - before) * device.speed_flops
            before = rate
    times_s = sorted(changes)
    rates: list[float] = []
    for at_s in times_s:
        rates.append((rates[-1] if rates else 0.0) + changes[at_s])
    most = max(rates)
    # What rounding leaves of a pool that is gone is nothing.
    return Curve(times_s, [rate if rate > 1e-9 * most else 0.0 for rate in rates])


def _without_losses(effort: Curve, faults: Sequence[Fault]) -> Iterable[tuple[float, float]]:
    """The steps of a device's effort, with none while it is lost."""
    moments = sorted({*effort.times_s, *(fault.at_s for fault in faults)})
    for at_s in moments:
        is_lost = False
        for fault in faults:
            if fault.at_s <= at_s and fault.kind in (FaultKind.LOST, FaultKind.BACK):
                is_lost = fault.kind is FaultKind.LOST
        yield at_s, 0.0 if is_lost else effort.rate(at_s)


def oracle_makespan_s(scenario: Scenario, pool: Curve) -> float | None:
    """From the first job's start to the earliest moment at which the pool can have done all work
    of each job and of those that come after it; None if it never can.

    The work of a chain is that of its cheapest order. A pool that works whenever there is work
    ends at the latest of these moments (the busy period that began with that job), and no pool
    can end earlier.
    """
    flops, ends_s = 0.0, 0.0
    for job in reversed(scenario.jobs):
        flops += program_of(job).flops
        ends_s = max(ends_s, pool.when(pool.at(job.at_s) + flops))
    first_s = scenario.jobs[0].at_s
    # A job starts when there is somebody to start it.
    starts_s = max(first_s, pool.when(math.nextafter(pool.at(first_s), math.inf)))
    return ends_s - starts_s if ends_s < math.inf else None
