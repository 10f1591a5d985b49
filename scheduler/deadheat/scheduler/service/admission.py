"""The edge where jobs are estimated and admitted: plans that nobody carries out.

They share the planner's thread with plans for jobs, one at a time, so that a job's plan waits for
one of them at most; and none of them is made on the event loop unless it is small.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from deadheat.runtime.errors import DeadheatError, LimitReached, Unavailable, from_code
from deadheat.runtime.programs import Program
from deadheat.scheduler.core import admission, estimating
from deadheat.scheduler.core.estimating import DeviceEstimate, Estimate, Problem
from deadheat.scheduler.core.events import Failure, JobPolicy
from deadheat.scheduler.core.planning import NO_AGENT
from deadheat.scheduler.service import convert
from deadheat.scheduler.service.shell import INLINE_PLANNING, Shell
from deadheat.v1 import job_pb2 as pb

#: Estimates that wait for the planner's thread; one more is told to come back. A large one takes
#: a good part of a second, so whoever is last in this queue is still answered in time.
MAX_WAITING_ESTIMATES: Final = 16

#: Operations of a program that is planned as a whole before it is admitted: about a millisecond
#: each, in which no other job is planned.
MAX_PLANNED_AT_ONCE: Final = 256


class Admission:
    """One per daemon, on its event loop."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def estimate(self, program: Program, policy: JobPolicy) -> Estimate:
        """What a job would cost and whether it would be refused; raises LimitReached if too many
        ask at once."""
        if self._waiting >= MAX_WAITING_ESTIMATES:
            raise LimitReached(
                f"{self._waiting} estimates are waiting; the limit is {MAX_WAITING_ESTIMATES}"
            )
        given = estimating.problem(self._shell.core.world, program, policy)
        found = await self._solve(given, policy)
        refusal = self._room_refusal() or self._store_refusal(program) or found.refusal
        return replace(found, refusal=refusal)

    async def check(self, program: Program, policy: JobPolicy) -> Estimate | None:
        """Raises what a job is refused with: no room, no memory, too little time. Returns what it
        was estimated to cost, if it was."""
        refusal, estimate = self._room_refusal() or self._store_refusal(program), None
        if not refusal and _is_worth_a_plan(program, policy):
            given = estimating.problem(self._shell.core.world, program, policy)
            if not _is_sure(given, policy):
                estimate = await self._solve(given, policy)
                refusal = estimate.refusal
        if refusal:
            raise from_code(refusal.code, refusal.message)
        return estimate

    def check_room(self) -> None:
        """Raises what any job would be refused with now, whatever it is."""
        if refusal := self._room_refusal():
            raise from_code(refusal.code, refusal.message)

    def _room_refusal(self) -> Failure | None:
        writer = self._shell.writer
        problem = (writer.problem or "no reason known") if writer.is_stalled else ""
        return admission.room_refusal(self._shell.core.world, problem)

    def _store_refusal(self, program: Program) -> Failure | None:
        return admission.store_refusal(program, self._shell.store_limits)

    async def _solve(self, given: Problem, policy: JobPolicy) -> Estimate:
        if given.size <= INLINE_PLANNING:
            return _solved(given, policy, self._shell.clock.now())
        self._waiting += 1
        try:
            async with self._turn:
                return await self._shell.plan_aside(lambda now: _solved(given, policy, now))
        finally:
            self._waiting -= 1


def _is_worth_a_plan(program: Program, policy: JobPolicy) -> bool:
    """A job without a time limit whose operands travel inline fits anywhere, and planning it twice
    would take a good part of its time; a long program would keep the planner from others."""
    is_inline = all(operand.inline is not None for operand in program.operands)
    is_short = len(program.operations) <= MAX_PLANNED_AT_ONCE
    return is_short and (policy.timeout_s is not None or not is_inline)


def _is_sure(given: Problem, policy: JobPolicy) -> bool:
    """A product or chain without a time limit has room where any device maps the store's memory;
    its plan says what it is predicted to take. To plan it twice takes longer than a barrier."""
    is_one = len(given.program.operations) == 1
    return is_one and policy.timeout_s is None and bool(given.pool.is_local.any())


def _solved(given: Problem, policy: JobPolicy, now: float) -> Estimate:
    try:
        made = estimating.solve(given, now)
    except Unavailable:
        # Not refused: it would wait until there are devices, as a job does.
        return estimating.without_plan(given, None, note=_why_it_would_wait(given))
    except DeadheatError as error:
        return estimating.without_plan(given, Failure(error.code, error.message))
    refusal = admission.time_refusal(policy, made.makespan_s)
    return replace(estimating.summary(given, made), refusal=refusal)


def _why_it_would_wait(given: Problem) -> str:
    if not given.excluded:
        return NO_AGENT
    return "waiting: " + "; ".join(f"{device}: {why}" for device, why in given.excluded[:3])


def estimate_to_wire(
    found: Estimate, free_bytes: Mapping[str, int]
) -> pb.JobServiceEstimateResponse:
    """`free_bytes` is the free memory of each device that said so."""
    return pb.JobServiceEstimateResponse(
        flops=found.flops,
        predicted_makespan_s=found.makespan_s,
        bytes_to_move=found.bytes_to_move,
        bytes_lower_bound=found.bytes_lower_bound,
        pool_flops=found.pool_flops,
        devices=[_device_to_wire(device, free_bytes) for device in found.devices],
        alternatives=[
            pb.EstimatedAlternative(name=other.name, makespan_s=other.makespan_s)
            for other in found.alternatives
        ],
        left_out=[pb.LeftOutDevice(device=out.device, reason=out.reason) for out in found.left_out],
        refusal=convert.failure_to_wire(found.refusal) if found.refusal else None,
        note=found.note,
        rounds=found.rounds,
    )


def _device_to_wire(device: DeviceEstimate, free_bytes: Mapping[str, int]) -> pb.EstimatedDevice:
    return pb.EstimatedDevice(
        node=device.node,
        device=device.device,
        kind=device.kind,
        share=device.share,
        availability=device.availability,
        speed_flops=device.speed_flops,
        ready_s=device.ready_s,
        transfer_s=device.transfer_s,
        compute_s=device.compute_s,
        predicted_finish_s=device.finish_s,
        bytes_in=device.bytes_in,
        bytes_out=device.bytes_out,
        memory_bytes=device.memory_bytes,
        memory_free_bytes=free_bytes.get(device.device),
    )
