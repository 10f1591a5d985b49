"""What the planner is told of the pool now."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Final

from deadheat.scheduler.core.machine import NodeState
from deadheat.scheduler.core.state import LAUNCH_S, UNKNOWN_LATENCY_S, Device, Job, Node
from deadheat.scheduler.core.world import World
from deadheat.scheduler.planner import inputs

#: Devices that map the store's memory hold no copies: their own memory does not bound a share.
_UNBOUNDED_BYTES: Final = 1 << 62


def pool(
    world: World, job: Job, operations: AbstractSet[int]
) -> tuple[list[inputs.Device], list[tuple[str, str]]]:
    """The devices that may be used, and the others with the reason why not."""
    usable: list[inputs.Device] = []
    excluded: list[tuple[str, str]] = []
    for node in world.nodes.values():
        for device in node.devices.values():
            if reason := _why_not(node, device):
                excluded.append((device.facts.id, reason))
            else:
                usable.append(_view(world, node, device, _measured(world, job, operations, device)))
    return usable, sorted(excluded)


def _why_not(node: Node, device: Device) -> str:
    if node.state is NodeState.LOST:
        return "its node is lost"
    if node.state in (NodeState.DRAINING, NodeState.DRAINED):
        return f"its node is drained ({node.drain_reason or 'no reason given'})"
    if not node.is_usable:
        return "its node is silent"
    if not device.model.points:
        return "it is being calibrated"
    return ""


def _measured(world: World, job: Job, operations: AbstractSet[int], device: Device) -> float | None:
    """What the device really does for this very operation now, if it does it."""
    for subtask in device.active.values():
        if subtask.job == job.id and operations == {subtask.operation}:
            rate = subtask.rate(device.facts.threads, world.now)
            return None if rate is None else rate * job.flops_of(subtask.operation, 1)
    return None


def _view(world: World, node: Node, device: Device, measured_flops: float | None) -> inputs.Device:
    is_local = node.shares_memory and node.host == world.host
    link = inputs.Link(
        is_local=is_local,
        bandwidth_bytes_per_s=device.bandwidth_bytes_per_s,
        latency_s=0.0 if is_local else UNKNOWN_LATENCY_S,
    )
    newest = device.samples[-1] if device.samples else None
    return inputs.Device(
        id=device.facts.id,
        node=node.name,
        kind=device.facts.kind,
        model=device.model,
        availability=device.availability(world.now).mean,
        busy=newest.busy if newest else 0.0,
        bias=device.bias,
        ready_s=device.ready_s(world.now),
        launch_s=LAUNCH_S,
        memory_bytes=_UNBOUNDED_BYTES if is_local else device.memory_free_bytes,
        link=link,
        measured_flops=measured_flops,
    )
