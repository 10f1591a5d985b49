"""`plan()`: numbered steps from a snapshot to a plan.

For each piece of work in turn: (1) price every device, (2) water-fill, (3) drop those whose piece
is too small to be worth sending, (4) compare with the best single device, (5) lay the shares down
as strips of rows, and pass each device's finish on as its ready time for the next piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from deadheat.runtime.errors import LimitReached, Unavailable
from deadheat.runtime.programs import GemmShape, Operation, Program, Rectangle, needed_blocks
from deadheat.scheduler.planner.balance import Balance, Floats, Integers, balance, weighted
from deadheat.scheduler.planner.inputs import Cut, Device, PlanningInput, Policy, Work
from deadheat.scheduler.planner.plan import Alternative, LeftOut, Placement, Plan, Reason, Step


@dataclass(frozen=True)
class _Prices:
    """What each device asks: seconds before its first row, seconds a row, and rows it can hold."""

    shape: GemmShape
    ready_s: Floats
    fixed_s: Floats
    fixed_bytes: Integers
    row_s: Floats
    row_compute_s: Floats
    row_bytes_in: int
    row_bytes_out: int
    caps: Integers
    speed_flops: Floats

    @property
    def start_s(self) -> Floats:
        return self.ready_s + self.fixed_s


def plan(given: PlanningInput, *, now: float) -> Plan:
    """Plans all of `given.work`; times in the result count from `now`.

    Raises Unavailable without devices and LimitReached if the operands fit no device.
    """
    del now  # Snapshots carry ages, not dates; the caller stamps the plan.
    devices = sorted(given.devices, key=lambda device: device.id)
    if not devices:
        raise Unavailable("no device may be used for this job")
    steps: list[Step] = []
    pool_flops = 0.0
    for work in given.work:
        step, prices = _plan_step(given, work, devices)
        steps.append(step)
        available = prices.speed_flops * np.array([device.availability for device in devices])
        pool_flops = max(pool_flops, float(available.sum()))
        finish_s = {reason.device: reason.finish_s for reason in step.reasons}
        devices = [replace(d, ready_s=finish_s.get(d.id, d.ready_s)) for d in devices]
    makespan_s = max((step.makespan_s for step in steps), default=0.0)
    return Plan(tuple(steps), makespan_s, pool_flops, _lower_bound(steps))


def _plan_step(given: PlanningInput, work: Work, devices: list[Device]) -> tuple[Step, _Prices]:
    program, operation = given.program, given.program.operations[work.operation]
    shape = replace(
        program.shape_of(operation), rows=work.rectangle.rows, columns=work.rectangle.columns
    )
    prices = _price(program, operation, work.rectangle, shape, devices)
    chosen = _choose(given.policy, shape, prices, devices)
    step = _lay_out(work, prices, chosen, devices)
    left_out = [LeftOut(device, reason) for device, reason in given.excluded]
    left_out += [
        LeftOut(device.id, _why_left_out(prices, k, chosen))
        for k, device in enumerate(devices)
        if not chosen.shares[k]
    ]
    alternatives = tuple(_alternatives(shape.rows, prices))
    return replace(step, left_out=tuple(left_out), alternatives=alternatives), prices


def _price(
    program: Program,
    operation: Operation,
    rectangle: Rectangle,
    shape: GemmShape,
    devices: Sequence[Device],
) -> _Prices:
    itemsize = program.types[operation.result].element.itemsize
    blocks = dict(needed_blocks(operation, program.types, rectangle))
    first = operation.operands[0]
    shared = {name: block.area * itemsize for name, block in blocks.items() if name != first}
    row_bytes_in, row_bytes_out = shape.inner * itemsize, shape.columns * itemsize
    # A device's share is not known yet; its rate is looked up for an even share of the rows.
    even = shape.with_rows(max(1, shape.rows // len(devices)))
    rates, fixed, fixed_s, row_s, compute_s, caps = [], [], [], [], [], []
    for device in devices:
        rate = max(device.model.flops_rate(even) * device.bias, 1.0)
        missing = sum(
            size for name, size in shared.items() if _id_of(program, name) not in device.holds
        )
        effective = device.measured_flops or rate * device.availability
        row_compute_s = even.flops / even.rows / effective
        row_transfer_s = device.link.transfer_s(row_bytes_in + row_bytes_out)
        room = device.memory_bytes - sum(shared.values())
        rates.append(rate)
        fixed.append(0 if device.link.is_local else missing)
        fixed_s.append(device.launch_s + device.link.latency_s + device.link.transfer_s(missing))
        row_s.append(row_compute_s + row_transfer_s)
        compute_s.append(row_compute_s)
        caps.append(max(0, room // max(1, row_bytes_in + row_bytes_out)))
    return _Prices(
        shape=shape,
        ready_s=np.array([device.ready_s for device in devices]),
        fixed_s=np.array(fixed_s),
        fixed_bytes=np.array(fixed, dtype=np.int64),
        # An empty product costs nothing, but a division by it must not.
        row_s=np.maximum(np.array(row_s), 1e-12),
        row_compute_s=np.array(compute_s),
        row_bytes_in=row_bytes_in,
        row_bytes_out=row_bytes_out,
        caps=np.array(caps, dtype=np.int64),
        speed_flops=np.array(rates),
    )


def _id_of(program: Program, name: str) -> str:
    operand = program.sources.get(name)
    return operand.matrix_id if operand else name


def _choose(policy: Policy, shape: GemmShape, prices: _Prices, devices: list[Device]) -> Balance:
    if int(prices.caps.sum()) < shape.rows:
        biggest = max(devices, key=lambda device: device.memory_bytes)
        raise LimitReached(
            f"{shape.rows} rows need more memory than all devices together have; the largest, "
            f"{biggest.id}, has {biggest.memory_bytes} bytes",
            field="memory",
        )
    if policy.cut is not Cut.BALANCED:
        return weighted(
            shape.rows, _weights(policy.cut, prices, devices), prices.start_s, prices.row_s
        )
    best = balance(shape.rows, prices.start_s, prices.row_s, prices.caps)
    return _without_crumbs(policy, shape.rows, prices, best)


def _weights(cut: Cut, prices: _Prices, devices: list[Device]) -> Floats:
    if cut is Cut.EQUAL:
        return np.ones(len(devices), dtype=np.float64)
    if cut is Cut.PEAK:
        return prices.speed_flops
    idle: Floats = np.array([max(0.01, 1.0 - device.busy) for device in devices])
    return np.multiply(prices.speed_flops, idle)


def _without_crumbs(policy: Policy, rows: int, prices: _Prices, best: Balance) -> Balance:
    """Drops devices whose piece is too small to send, worst half at a time, then the rest."""
    caps = prices.caps.copy()
    while True:
        busy_s = best.shares * prices.row_s
        crumbs = np.flatnonzero((best.shares > 0) & (busy_s < policy.min_subtask_s))
        if not len(crumbs) or np.count_nonzero(best.shares) == 1:
            return best
        latest_first = crumbs[np.argsort(-prices.start_s[crumbs], kind="stable")]
        dropped = latest_first[: max(1, len(crumbs) // 2)]
        if len(dropped) == np.count_nonzero(best.shares):
            dropped = dropped[:-1]
        caps[dropped] = 0
        if int(caps.sum()) < rows:
            return best
        best = balance(rows, prices.start_s, prices.row_s, caps)


def _lay_out(work: Work, prices: _Prices, chosen: Balance, devices: list[Device]) -> Step:
    """Strips of rows in the order of the devices' names."""
    placements: list[Placement] = []
    reasons: list[Reason] = []
    row = work.rectangle.row_start
    for k in np.flatnonzero(chosen.shares).tolist():
        device, rows = devices[k], int(chosen.shares[k])
        moves = 0 if device.link.is_local else rows
        bytes_in = int(prices.fixed_bytes[k]) + moves * prices.row_bytes_in
        finish_s = float(chosen.finish_s[k])
        placements.append(
            Placement(
                operation=work.operation,
                rectangle=work.rectangle.with_rows(row, row + rows),
                device=device.id,
                predicted_start_s=float(prices.ready_s[k]) + device.launch_s,
                predicted_finish_s=finish_s,
                predicted_bytes_in=bytes_in,
                predicted_bytes_out=moves * prices.row_bytes_out,
                availability=device.availability,
                speed_flops=float(prices.speed_flops[k]),
            )
        )
        compute_s = rows * float(prices.row_compute_s[k])
        reasons.append(
            Reason(
                device=device.id,
                node=device.node,
                kind=device.kind,
                share=rows / work.rectangle.rows,
                availability=device.availability,
                bias=device.bias,
                speed_flops=float(prices.speed_flops[k]),
                ready_s=float(prices.ready_s[k]),
                transfer_s=finish_s - float(prices.ready_s[k]) - device.launch_s - compute_s,
                compute_s=compute_s,
                finish_s=finish_s,
            )
        )
        row += rows
    return Step(
        work.operation,
        work.rectangle,
        "rows",
        tuple(placements),
        tuple(reasons),
        (),
        (),
        chosen.makespan_s,
    )


def _why_left_out(prices: _Prices, k: int, chosen: Balance) -> str:
    if not prices.caps[k]:
        return "its memory does not hold the operands"
    start_s = float(prices.start_s[k])
    if start_s >= chosen.makespan_s:
        return f"it could only start at {start_s:.3f} s, when the others finish"
    return f"its piece would be too small to be worth sending (start at {start_s:.3f} s)"


def _alternatives(rows: int, prices: _Prices) -> Sequence[Alternative]:
    alone_s = prices.start_s + prices.row_s * rows
    equal = weighted(rows, np.ones(len(alone_s)), prices.start_s, prices.row_s)
    return (
        Alternative("the best single device", float(alone_s.min())),
        Alternative("the same rows for everybody", equal.makespan_s),
    )


def _lower_bound(steps: Sequence[Step]) -> int:
    """Bytes that this cut cannot do without: each remote device needs its operands once, and its
    result has to come back."""
    return sum(
        placement.predicted_bytes_in + placement.predicted_bytes_out
        for step in steps
        for placement in step.placements
    )
