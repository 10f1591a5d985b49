"""What the planner is told of the pool now."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

import numpy as np

from deadheat.scheduler.core.machine import NodeState
from deadheat.scheduler.core.sharing import meets
from deadheat.scheduler.core.state import LAUNCH_S, UNKNOWN_LATENCY_S, Device, Job, Node
from deadheat.scheduler.core.world import World
from deadheat.scheduler.planner.pool import Flags, Pool
from deadheat.scheduler.planner.speed import SpeedModel

#: Devices that map the store's memory hold no copies: their own memory does not bound a share.
_UNBOUNDED_BYTES: Final = 1 << 62


def pool(
    world: World, job: Job | None, operations: AbstractSet[int], *, without_own: bool = False
) -> tuple[Pool, list[tuple[str, str]]]:
    """The devices that may be used, and the others with the reason why not.

    Release times count what goes before this job: sub-tasks of jobs that rank behind it do not hold
    it up. Its own ones do, unless `without_own`.
    """
    usable: list[tuple[Node, Device]] = []
    excluded: list[tuple[str, str]] = []
    for node in world.nodes.values():
        for device in node.devices.values():
            if reason := _why_not(node, device) or _lacks(device, job):
                excluded.append((device.facts.id, reason))
            else:
                usable.append((node, device))
    usable.sort(key=lambda pair: pair[1].facts.id)
    return _columns(world, job, operations, usable, without_own), sorted(excluded)


def _why_not(node: Node, device: Device) -> str:
    if node.state is NodeState.LOST:
        return "its node is lost"
    if node.state in (NodeState.DRAINING, NodeState.DRAINED):
        return f"its node is drained ({node.drain_reason or 'no reason given'})"
    if not node.is_usable:
        return "its node is silent"
    if device.yields:
        return f"it gives way ({device.yields})"
    if not device.model.points:
        return device.problem or "it is being calibrated"
    return ""


def _lacks(device: Device, job: Job | None) -> str:
    """Cores compute every dtype, if slowly. What a card was not measured with it cannot do."""
    if device.facts.kind != "gpu" or job is None:
        return ""
    dtypes = sorted(job.program.dtypes)
    missing = [one for one in dtypes if device.model.peak_flops(one) is None]
    missing += sorted(job.program.only_on_cores)
    return f"it does not compute {', '.join(missing)}" if missing else ""


def _columns(
    world: World,
    job: Job | None,
    operations: AbstractSet[int],
    usable: list[tuple[Node, Device]],
    without_own: bool,
) -> Pool:
    now = world.now
    devices = [device for _, device in usable]
    numbers: dict[SpeedModel, int] = {}
    local = [world.is_near(node) for node, _ in usable]
    is_local = np.array(local, dtype=np.bool_)
    rank = math.inf if job is None else job.rank
    horizon_s = 0.0 if job is None else job.cost_s
    without = job.id if job is not None and without_own else ""
    ready_s = [d.ready_s(now, rank=rank, without_job=without) if d.active else 0.0 for d in devices]
    for other in world.pending.values():
        if other.rank <= rank and other is not job:
            _add_pending(other, {d.facts.id: n for n, d in enumerate(devices)}, ready_s)
    measured = [_measured(job, operations, d, now) if d.active else math.nan for d in devices]
    memory = [
        _UNBOUNDED_BYTES if near else _limit_bytes(device) for near, device in zip(local, devices)
    ]
    # What others took of a machine's memory they may give back: that is waited for, as for what is
    # assigned, and no job is refused for it.
    free = [
        limit if near else max(0, limit - device.assigned_bytes - device.memory_short_bytes)
        for near, limit, device in zip(local, memory, devices)
    ]
    for other in world.pending.values():
        if other is not job:
            _take_pending(other, {d.facts.id: n for n, d in enumerate(devices)}, free)
    far_latency_s = [
        (device.latency_s or UNKNOWN_LATENCY_S) if not near else 0.0
        for near, device in zip(local, devices)
    ]
    return Pool(
        ids=tuple(device.facts.id for device in devices),
        nodes=tuple(node.name for node, _ in usable),
        kinds=tuple(device.facts.kind for device in devices),
        model_of=np.array(
            [numbers.setdefault(device.model, len(numbers)) for device in devices], dtype=np.int64
        ),
        models=tuple(numbers),
        availability=np.array([d.availability(now, horizon_s).mean for d in devices]),
        busy=np.array([device.samples[-1].busy if device.samples else 0.0 for device in devices]),
        bias=np.array([device.bias for device in devices]),
        ready_s=np.array(ready_s),
        launch_s=np.full(len(devices), LAUNCH_S),
        memory_bytes=np.array(memory, dtype=np.int64),
        free_bytes=np.array(free, dtype=np.int64),
        is_local=is_local,
        bandwidth_bytes_per_s=np.array([device.bandwidth_bytes_per_s for device in devices]),
        latency_s=np.array(far_latency_s),
        overlaps=~is_local,
        measured_flops=np.array(measured, dtype=np.float64),
        meets=tuple(meets(node) for node, _ in usable),
        holders=_holders(job, operations, devices),
        store_bytes_per_s=world.store_bytes_per_s,
    )


def _limit_bytes(device: Device) -> int:
    """What a device has for blocks when nothing of ours is there. A card's memory is also others',
    so there its samples bound it."""
    limit = device.facts.memory_bytes
    if device.facts.kind != "gpu":
        return limit
    return min(limit, device.memory_free_bytes + device.assigned_bytes)


def _take_pending(other: Job, numbers: Mapping[str, int], free: list[int]) -> None:
    """Memory that work needs which is planned but waits for room for its result."""
    assert other.pending_plan is not None
    for step in other.pending_plan.steps:
        needed = step.memory_bytes(other.program).tolist()
        for device, size_bytes in zip(step.used.tolist(), needed):
            number = numbers.get(step.pool.ids[device])
            if number is not None:
                free[number] = max(0, free[number] - size_bytes)


def _add_pending(other: Job, numbers: Mapping[str, int], ready_s: list[float]) -> None:
    """Work that is planned but waits for room for its result is on its way, too."""
    assert other.pending_plan is not None
    for step in other.pending_plan.steps:
        seconds = (step.transfer_s + step.compute_s).tolist()
        for device, takes_s in zip(step.used.tolist(), seconds):
            number = numbers.get(step.pool.ids[device])
            if number is not None:
                ready_s[number] += takes_s


def _holders(
    job: Job | None, operations: AbstractSet[int], devices: Sequence[Device]
) -> dict[str, Flags]:
    """Which devices have matrices that these operations of the job read, or any operand of it, by
    the ids or names that the planner uses."""
    told = {matrix_id for device in devices for matrix_id in device.held}
    if job is None or not told:
        return {}
    names = {matrix_id: matrix_id for matrix_id in sorted(told & job.program.matrix_ids)}
    for number in sorted(operations):
        for name in job.program.operations[number].operands:
            step = job.steps.made_by.get(name)
            if step and step.result_id in told:
                names[step.result_id] = name
    return {
        name: np.array([matrix_id in device.held for device in devices], dtype=np.bool_)
        for matrix_id, name in names.items()
    }


def _measured(job: Job | None, operations: AbstractSet[int], device: Device, now: float) -> float:
    """What the device really does for this very operation now; not a number if it does not."""
    if job is None:
        return math.nan
    for subtask in device.active.values():
        if subtask.job == job.id and operations == {subtask.operation}:
            rate = subtask.rate(device.facts.threads, now)
            return math.nan if rate is None else rate * job.flops_of(subtask.operation, 1)
    return math.nan
