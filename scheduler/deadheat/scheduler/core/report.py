"""The report of a job: what was promised, what happened, and how far apart the devices finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deadheat.runtime.precisions import precision_of
from deadheat.runtime.programs import Precision, Rectangle
from deadheat.scheduler.core.events import Failure
from deadheat.scheduler.core.machine import JobState, SubtaskState
from deadheat.scheduler.core.state import Job
from deadheat.scheduler.planner.amdahl import karp_flatt


@dataclass(frozen=True, slots=True)
class PlacementReport:
    """One sub-task. Seconds count from the job's start."""

    operation: str
    rectangle: Rectangle
    node: str
    device: str
    attempt: int
    state: SubtaskState
    availability: float
    speed_flops: float
    predicted_start_s: float
    predicted_finish_s: float
    start_s: float | None
    finish_s: float | None
    flops: float
    bytes_in: int
    bytes_out: int


@dataclass(frozen=True, slots=True)
class DeviceReport:
    node: str
    device: str
    kind: str
    share: float
    availability: float
    speed_flops: float
    predicted_finish_s: float
    finish_s: float | None
    busy_s: float
    flops: float
    bytes_in: int
    bytes_out: int


@dataclass(frozen=True, slots=True)
class JobReport:
    """Seconds ending in `_at_s` are moments of the scheduler's clock, the others durations."""

    id: str
    kind: str
    state: JobState
    user: str
    submitted_at_s: float
    started_at_s: float | None
    finished_at_s: float | None
    makespan_s: float | None
    predicted_makespan_s: float | None
    finish_spread: float | None
    efficiency: float | None
    serial_s: float | None
    serial_fraction: float | None
    bytes_moved: int | None
    bytes_lower_bound: int | None
    resplits: int
    failure: Failure | None
    note: str
    devices: Sequence[DeviceReport]
    placements: Sequence[PlacementReport]
    #: What its products were asked for at least.
    precision: Precision = Precision.STRICT


def placements_of(job: Job) -> list[PlacementReport]:
    start = job.started_s or 0.0
    return [
        PlacementReport(
            operation=job.steps[subtask.operation].operation.result,
            rectangle=piece,
            node=subtask.node,
            device=subtask.device,
            attempt=subtask.attempt,
            state=subtask.state,
            availability=subtask.placement.availability,
            speed_flops=subtask.placement.speed_flops,
            predicted_start_s=subtask.predicted_start_s - start,
            predicted_finish_s=subtask.predicted_finish_s - start,
            start_s=None if subtask.started_s is None else subtask.started_s - start,
            finish_s=None if subtask.finished_s is None else subtask.finished_s - start,
            flops=job.flops_of(subtask.operation, piece.area),
            bytes_in=0 if number else subtask.bytes_in,
            bytes_out=0 if number else subtask.bytes_out,
        )
        for subtask in job.subtasks.values()
        for number, piece in enumerate(subtask.pieces)
    ]


def devices_of(
    placements: Sequence[PlacementReport], kinds: Mapping[str, str]
) -> list[DeviceReport]:
    """One entry for each device that was given work."""
    by_device: dict[str, list[PlacementReport]] = {}
    for placement in placements:
        by_device.setdefault(placement.device, []).append(placement)
    total = sum(p.flops for p in placements if p.state is SubtaskState.DONE)
    found = []
    for device, own in sorted(by_device.items()):
        done = [p for p in own if p.state is SubtaskState.DONE]
        flops = sum(p.flops for p in done)
        # The pieces of one sub-task ran in one span.
        spans = {(p.start_s, p.finish_s) for p in done}
        found.append(
            DeviceReport(
                node=own[0].node,
                device=device,
                kind=kinds.get(device, "cpu"),
                share=flops / total if total else 0.0,
                availability=own[0].availability,
                speed_flops=own[0].speed_flops,
                predicted_finish_s=max(p.predicted_finish_s for p in own),
                finish_s=max((p.finish_s for p in done if p.finish_s is not None), default=None),
                busy_s=sum(b - a for a, b in spans if a is not None and b is not None),
                flops=flops,
                bytes_in=sum(p.bytes_in for p in own),
                bytes_out=sum(p.bytes_out for p in own),
            )
        )
    return found


def finish_spread(devices: Sequence[DeviceReport], makespan_s: float | None) -> float | None:
    """(latest - earliest finish over the devices given work) / makespan: the product's promise."""
    finishes = [device.finish_s for device in devices if device.finish_s is not None]
    if not finishes or not makespan_s:
        return None
    return (max(finishes) - min(finishes)) / makespan_s


def report_of(job: Job, kinds: Mapping[str, str]) -> JobReport:
    placements = placements_of(job)
    devices = devices_of(placements, kinds)
    makespan_s = _makespan_s(job)
    serial_s = _serial_s(job, placements)
    efficiency = None
    if job.state is JobState.DONE and makespan_s and job.pool_flops and job.program.flops:
        efficiency = job.program.flops / job.pool_flops / makespan_s
    return JobReport(
        id=job.id,
        kind=job.kind,
        state=job.state,
        user=job.user,
        submitted_at_s=job.submitted_s,
        started_at_s=job.started_s,
        finished_at_s=job.finished_s,
        makespan_s=makespan_s,
        predicted_makespan_s=job.predicted_makespan_s,
        finish_spread=finish_spread(devices, makespan_s) if job.state is JobState.DONE else None,
        efficiency=efficiency,
        serial_s=serial_s,
        serial_fraction=_serial_fraction(job, devices, makespan_s),
        bytes_moved=sum(device.bytes_in + device.bytes_out for device in devices),
        bytes_lower_bound=job.bytes_lower_bound if job.plans else None,
        resplits=job.resplits,
        failure=job.failure,
        note=job.note,
        devices=devices,
        placements=placements,
        precision=precision_of(job.program),
    )


def _makespan_s(job: Job) -> float | None:
    if job.started_s is None or job.state is not JobState.DONE:
        return None
    end = job.computed_s if job.computed_s is not None else job.finished_s
    return None if end is None else max(0.0, end - job.started_s)


def _serial_s(job: Job, placements: Sequence[PlacementReport]) -> float | None:
    """Seconds in which no device worked: planning and sending before, collecting after."""
    starts = [p.start_s for p in placements if p.start_s is not None]
    if job.state is not JobState.DONE or job.started_s is None or job.finished_s is None:
        return None
    before = max(0.0, min(starts, default=0.0))
    after = max(0.0, job.finished_s - (job.computed_s or job.finished_s))
    return before + after


def _serial_fraction(
    job: Job, devices: Sequence[DeviceReport], makespan_s: float | None
) -> float | None:
    if job.state is not JobState.DONE or not makespan_s:
        return None
    # What devices really did while they worked: a plan that was wrong about them is no serial part.
    speeds = [device.flops / device.busy_s for device in devices if device.flops and device.busy_s]
    return karp_flatt(job.program.flops, speeds, makespan_s)


def final_values(job: Job) -> dict[str, object]:
    """The columns of an ended job."""
    found = report_of(job, {})
    return {
        "state": job.state.value,
        "started_at_s": job.started_s,
        "finished_at_s": job.finished_s,
        "makespan_s": found.makespan_s,
        "finish_spread": found.finish_spread,
        "efficiency": found.efficiency,
        "serial_s": found.serial_s,
        "serial_fraction": found.serial_fraction,
        "bytes_moved": found.bytes_moved,
        "resplits": job.resplits,
        "planning_s": job.planning_s,
        "error_code": job.failure.code if job.failure else None,
        "error_message": job.failure.message if job.failure else None,
    }
