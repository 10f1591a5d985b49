"""Devices that come late, or give way to the machine's owner, and nodes that only pass by.

A device that gives way is for the planner as if it were not there; what it had not started it gives
back by itself, and that is planned elsewhere like any other gap. A node that passes by is told once
each time that no job is open any more, and decides itself what that means to it.
"""

from __future__ import annotations

from typing import Final

from deadheat.scheduler.core import events, jobs, learning
from deadheat.scheduler.core.effects import DeviceRow, EventRow, SendNothingToDo
from deadheat.scheduler.core.world import World

#: Devices of one node; an agent has one for its cores and one for each GPU (or part of one).
MAX_DEVICES: Final = 128


def on_appeared(world: World, event: events.DeviceAppeared) -> None:
    node, facts = world.nodes.get(event.node), event.facts
    owner = world.devices.get(facts.id)
    if node is None or (owner and owner.node != node.name):
        return  # Devices are named after their nodes: this one is somebody else's.
    refusal = world.refusal_of_card(node.name, [facts.uuid])
    if facts.id not in node.devices and len(node.devices) >= MAX_DEVICES:
        refusal = f"the node has {MAX_DEVICES} devices already"
    if refusal:
        detail = f"{facts.id}: {refusal}"
        world.commit(EventRow(world.now, "device_refused", node=node.name, detail=detail))
        return
    device = node.devices[facts.id] = learning.registered(world, node, facts)
    world.devices[facts.id] = device
    world.commit(
        DeviceRow(node.name, facts),
        EventRow(world.now, "device_appeared", node=node.name, detail=facts.id),
    )
    learning.record(world, device)
    jobs.advance_all(world)


def on_yields(world: World, event: events.DeviceYields) -> None:
    node = world.nodes.get(event.node)
    device = node.devices.get(event.device) if node else None
    if device is None or device.yields == event.reason:
        return
    device.yields = event.reason
    kind = "device_yields" if event.reason else "device_resumed"
    detail = f"{event.device}: {event.reason}" if event.reason else event.device
    world.commit(EventRow(world.now, kind, node=event.node, detail=detail))
    if not event.reason:
        jobs.advance_all(world)


def note(world: World, node: str, *, is_once: bool) -> None:
    """A node has registered, or left."""
    for names in (world.passing, world.untold):
        if is_once:
            names.add(node)
        else:
            names.discard(node)


def tell_idle(world: World) -> None:
    """Says to nodes that pass by that there is nothing to do, if that is so."""
    if world.untold and not world.open:
        world.emit(*(SendNothingToDo(name) for name in sorted(world.untold)))
        world.untold.clear()
