"""What a program would cost on the pool as it is now: planned like a job, but of no consequence.

Rules of this file: the world is only read, so whatever comes of it may be thrown away. `problem`
takes a snapshot, `solve` works on that alone (in another thread if it is large), and `summary`
reads a plan for people.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from deadheat.runtime.programs import Program, Rectangle, needed_blocks
from deadheat.scheduler.core import snapshot
from deadheat.scheduler.core.events import Failure, JobPolicy
from deadheat.scheduler.core.queueing import LEVEL, rank_of
from deadheat.scheduler.core.state import Job
from deadheat.scheduler.core.steps import Steps
from deadheat.scheduler.core.world import World
from deadheat.scheduler.planner.inputs import PlanningInput, Policy, Pool, Work
from deadheat.scheduler.planner.plan import Alternative, LeftOut, Placement, Plan, Reason, Step
from deadheat.scheduler.planner.planner import plan

#: Devices that are named although they would get nothing.
MAX_LISTED = 1000


@dataclass(frozen=True, slots=True)
class Problem:
    """A program, and the pool when it was asked about."""

    program: Program
    policy: Policy
    pool: Pool
    excluded: Sequence[tuple[str, str]]

    @property
    def size(self) -> int:
        """Devices times operations: what planning time grows with."""
        return len(self.pool) * len(self.program.operations)


@dataclass(frozen=True, slots=True)
class DeviceEstimate:
    """One device's part. Seconds count from now, `share` is its fraction of the flops."""

    node: str
    device: str
    kind: str
    share: float
    availability: float
    speed_flops: float
    ready_s: float
    transfer_s: float
    compute_s: float
    finish_s: float
    bytes_in: int
    bytes_out: int
    memory_bytes: int


@dataclass(frozen=True)
class Estimate:
    """What was found. Without a plan (it would wait, or be refused) there is no makespan."""

    flops: float
    makespan_s: float | None = None
    bytes_to_move: int | None = None
    bytes_lower_bound: int | None = None
    pool_flops: float | None = None
    devices: Sequence[DeviceEstimate] = ()
    alternatives: Sequence[Alternative] = ()
    left_out: Sequence[LeftOut] = ()
    refusal: Failure | None = None
    note: str = ""
    #: How often the devices' memories are filled until all is done; 0 without a plan.
    rounds: int = 0


def estimate(world: World, program: Program, policy: JobPolicy, now: float) -> Plan:
    """The plan of a whole program on the pool that the world knows.

    Raises Unavailable without devices and LimitReached if the operands fit no device.
    """
    return solve(problem(world, program, policy), now)


def problem(world: World, program: Program, policy: JobPolicy) -> Problem:
    """As if a user without other jobs asked, and as if nothing were in the devices' memories: a job
    waits for that, so it only counts what they have in all. With a time limit it may go before
    others of its priority, as a job does that would miss its limit otherwise."""
    nobody = Job("", "", "", "", program, policy, world.serial, world.now, Steps())
    cost_s = program.flops / max(1.0, world.pool_flops)
    tag = world.queue.would_be(cost_s, world.now) if policy.timeout_s is None else -LEVEL / 2
    nobody.rank = rank_of(policy.priority, tag)
    pool, excluded = snapshot.pool(world, nobody, set())
    return Problem(program, Policy(policy.cut), pool.with_free(pool.memory_bytes), excluded)


def solve(given: Problem, now: float) -> Plan:
    """Plans level by level, as a job is: an operation starts when all that it reads is complete."""
    program, apart = given.program, frozenset[str]()
    made = _planned(given, program, now, apart, may_rewrite=True)
    rewritten = []
    while made.program is not None:
        # Its order was decided first; what it is made of is planned like any other program.
        rewritten.append(made)
        same = set(program.operations)
        program = made.program
        apart |= {one.result for one in program.operations if one not in same}
        made = _planned(given, program, now, apart, may_rewrite=False)
    if not rewritten:
        return made
    order = rewritten[0].order if len(given.program.operations) == 1 else None
    return replace(made, program=rewritten[-1].program, order=order)


def _planned(
    given: Problem, program: Program, now: float, apart: frozenset[str], *, may_rewrite: bool
) -> Plan:
    pool = given.pool
    steps: list[Step] = []
    makespan_s = pool_flops = 0.0
    lower_bound = left_area = 0
    levels = deque(_levels(program))
    while levels:
        work = levels.popleft()
        wanted = PlanningInput(
            program,
            work,
            pool,
            given.policy,
            given.excluded,
            may_rewrite=may_rewrite,
            may_join=not steps,
            apart=apart,
        )
        made = plan(wanted, now=now)
        if made.program is not None:
            return made
        steps += made.steps
        times = _rounds(program, made)
        if crowded_out := [one for one in work if one.operation not in times]:
            levels.appendleft(crowded_out)  # When the memories are free again.
        begun_s, made_s = makespan_s, max(makespan_s, made.makespan_s)
        most = max(times.values(), default=1.0)
        makespan_s = begun_s + (made_s - begun_s) * most
        left_area += made.left_area
        pool_flops = max(pool_flops, made.pool_flops)
        lower_bound += round(made.bytes_lower_bound * most)
        pool = pool.with_ready(np.maximum(pool.ready_s, makespan_s))
    return Plan(tuple(steps), makespan_s, pool_flops, lower_bound, left_area=left_area)


def _rounds(program: Program, made: Plan) -> Mapping[int, float]:
    """How often each operation has to be done as it was planned until all of it is: more than once
    where the memories hold a part of it at a time. Only the first round is planned; later ones are
    taken to be like it."""
    given: dict[int, int] = defaultdict(int)
    for step in made.steps:
        given[step.operation] += step.given_area
    wholes = {number: program.types[program.operations[number].result] for number in given}
    return {number: wholes[number].whole().area / area for number, area in given.items()}


def _levels(program: Program) -> Sequence[Sequence[Work]]:
    """Operations by how many must come before them; empty results need no work."""
    depths = {operand.name: 0 for operand in program.operands}
    levels: dict[int, list[Work]] = defaultdict(list)
    for index, operation in enumerate(program.operations):
        depth = 1 + max(depths[name] for name in operation.operands)
        depths[operation.result] = depth
        whole = program.types[operation.result].whole()
        if whole.area:
            levels[depth].append(Work(index, whole))
    return [levels[depth] for depth in sorted(levels)]


def summary(given: Problem, made: Plan) -> Estimate:
    """A plan, added up by device."""
    parts: dict[str, list[tuple[Placement, Reason]]] = defaultdict(list)
    for step in made.steps:
        reasons = {reason.device: reason for reason in step.reasons()}
        for placement in step.placements:
            parts[placement.device].append((placement, reasons[placement.device]))
    left_out = {out.device: out for step in made.steps for out in step.left_out(MAX_LISTED)}
    program = made.program or given.program
    times = _rounds(program, made)
    return Estimate(
        flops=program.flops,
        makespan_s=made.makespan_s,
        bytes_to_move=round(sum(_bytes_moved(p) * times[p.operation] for p in made.placements)),
        bytes_lower_bound=made.bytes_lower_bound,
        pool_flops=made.pool_flops,
        devices=[_device(program, parts[name], times) for name in sorted(parts)],
        alternatives=_alternatives(made),
        left_out=[out for name, out in sorted(left_out.items()) if name not in parts],
        rounds=math.ceil(max(times.values(), default=1.0)),
    )


def _bytes_moved(placement: Placement) -> int:
    return placement.predicted_bytes_in + placement.predicted_bytes_out


def without_plan(given: Problem, refusal: Failure | None, note: str = "") -> Estimate:
    """What can be said although there is no plan."""
    left_out = [LeftOut(device, reason) for device, reason in given.excluded]
    return Estimate(given.program.flops, left_out=left_out, refusal=refusal, note=note)


def _device(
    program: Program, parts: Sequence[tuple[Placement, Reason]], times: Mapping[int, float]
) -> DeviceEstimate:
    placements = [placement for placement, _ in parts]
    # A device that got several pieces of one operation has one reason for all of them.
    reasons = list(dict.fromkeys(reason for _, reason in parts))
    first = reasons[0]
    flops = sum(_flops(program, placement) * times[placement.operation] for placement in placements)
    of_reason = {reason: times[placement.operation] for placement, reason in parts}
    return DeviceEstimate(
        node=first.node,
        device=first.device,
        kind=first.kind,
        share=flops / program.flops if program.flops else 0.0,
        availability=first.availability,
        speed_flops=first.speed_flops,
        ready_s=first.ready_s,
        transfer_s=sum(reason.transfer_s * of_reason[reason] for reason in reasons),
        compute_s=sum(reason.compute_s * of_reason[reason] for reason in reasons),
        finish_s=max(_finish_s(reason, of_reason[reason]) for reason in reasons),
        bytes_in=round(sum(p.predicted_bytes_in * times[p.operation] for p in placements)),
        bytes_out=round(sum(p.predicted_bytes_out * times[p.operation] for p in placements)),
        memory_bytes=_memory_bytes(program, placements),
    )


def _finish_s(reason: Reason, times: float) -> float:
    return reason.ready_s + (reason.finish_s - reason.ready_s) * times


def _flops(program: Program, placement: Placement) -> float:
    shape = program.shape_of(program.operations[placement.operation])
    return shape.flops / (shape.rows * shape.columns) * placement.rectangle.area


def _memory_bytes(program: Program, placements: Sequence[Placement]) -> int:
    """The most that one operation's blocks need together: its operands' and its result's."""
    blocks: dict[int, set[tuple[str, Rectangle]]] = defaultdict(set)
    for placement in placements:
        operation = program.operations[placement.operation]
        found = blocks[placement.operation]
        found.update(needed_blocks(operation, program.types, placement.rectangle))
        found.add((operation.result, placement.rectangle))
    return max(
        sum(block.area * program.types[name].element.itemsize for name, block in found)
        for found in blocks.values()
    )


def _alternatives(made: Plan) -> Sequence[Alternative]:
    """What it would cost if every operation were cut that way, and other orders of a chain."""
    if made.order:
        return made.order.alternatives
    totals: dict[str, float | None] = {}
    begun_s = 0.0
    for step in made.steps:
        for other in step.alternatives:
            before_s = totals.get(other.name, 0.0)
            if before_s is None or other.makespan_s is None:
                totals[other.name] = None
            else:
                totals[other.name] = before_s + other.makespan_s - begun_s
        begun_s = step.makespan_s
    return [Alternative(name, total_s) for name, total_s in totals.items()]
