"""Nodes: who is there, who is silent, who is lost, and what becomes of their work."""

from __future__ import annotations

from typing import Final

from deadheat.runtime.errors import Conflict, NotFound
from deadheat.scheduler.core import endings, events, jobs, learning, presence, subtasks
from deadheat.scheduler.core.effects import (
    AcceptNode,
    DeviceRow,
    EventRow,
    NodeRow,
    RefuseNode,
    ReplyFailure,
    SendCancel,
    SendDrain,
    SendSettled,
)
from deadheat.scheduler.core.machine import NODE, NodeEvent, NodeState
from deadheat.scheduler.core.state import Node
from deadheat.scheduler.core.world import World

#: An agent sends at least one sample a second: three missed ones make it suspect.
SUSPECT_AFTER_S: Final = 3.0
LOST_AFTER_S: Final = 10.0
#: A connection that was broken, rather than silent, is had again in this time or never: an agent
#: that lives reconnects at once, a killed one does not.
RECONNECT_GRACE_S: Final = 2.5
#: If so many nodes or more fall silent together, the fault is more likely ours.
MASS_LOSS_NODES: Final = 4
MASS_LOSS_SHARE: Final = 0.5
MASS_LOSS_PAUSE_S: Final = 20.0


def on_registered(world: World, event: events.NodeRegistered) -> None:
    known = world.nodes.get(event.node)
    if error := _conflict(world, event, known):
        world.emit(RefuseNode(event.node, event.instance, error))
        return
    state = NODE.next(known.state if known else NodeState.LOST, NodeEvent.REGISTERED)
    node = Node(
        name=event.node,
        instance=event.instance,
        host=event.host,
        cpus=event.cpus,
        shares_cpus=event.shares_cpus,
        shares_memory=event.shares_memory,
        version=event.version,
        state=state,
        heard_s=world.now,
        is_connected=True,
        lost_at_s=world.now + LOST_AFTER_S,
        drain_reason=known.drain_reason if known else "",
        peer_address=event.peer_address,
    )
    if known and known.instance != event.instance:
        _abandon_all(world, known)
    for facts in event.devices:
        device = node.devices[facts.id] = learning.registered(world, node, facts)
        device.bandwidth_bytes_per_s = event.bandwidth_bytes_per_s or device.bandwidth_bytes_per_s
        device.latency_s = event.latency_s
    if known:
        world.by_host[known.host].discard(known.name)
        for id_ in known.devices.keys() - node.devices.keys():
            world.note_held(world.devices.pop(id_), frozenset())
    world.nodes[event.node] = node
    world.by_host.setdefault(node.host, set()).add(node.name)
    world.devices |= node.devices
    world.wake_at(world.now + SUSPECT_AFTER_S, "node", node.name)
    world.commit(
        _row(node),
        *(DeviceRow(node.name, device.facts) for device in node.devices.values()),
        EventRow(world.now, "node_registered", node=node.name),
    )
    for device in node.devices.values():
        learning.record(world, device)
    world.emit(AcceptNode(event.node, event.instance))
    presence.note(world, node.name, is_once=event.is_once)
    _reconcile(world, node, event)
    jobs.advance_all(world)


def _conflict(world: World, event: events.NodeRegistered, known: Node | None) -> Conflict | None:
    alive = known is not None and known.is_connected and known.state is not NodeState.LOST
    if known and alive and known.instance != event.instance:
        where = "this host" if known.host == event.host else "another host"
        return Conflict(
            f"an agent called {event.node!r} is connected from {where}; give --name", field="name"
        )
    if card := world.refusal_of_card(event.node, [facts.uuid for facts in event.devices]):
        return Conflict(f"{card}; give other --gpus", field="gpus")
    if not event.cpus:
        return None
    for name in sorted(world.by_host.get(event.host, ())):
        other = world.nodes[name]
        if name == event.node or not other.is_connected:
            continue
        overlap = sorted(other.cpus & event.cpus)
        if overlap and not (other.shares_cpus and event.shares_cpus):
            return Conflict(
                f"agent {other.name!r} on this host has cores {overlap} already; give other --cpus",
                field="cpus",
            )
    return None


def _reconcile(world: World, node: Node, event: events.NodeRegistered) -> None:
    """After a break: what the agent has and we do not want is cancelled, what we want and it does
    not have (the assignment was lost on its way) is sent again."""
    held = {item.id for item in event.held}
    ours = {subtask.id for subtask in node.active()} | world.unrecorded.keys()
    for subtask in node.active():
        if subtask.id not in held:
            world.emit(subtasks.assignment(world, world.jobs[subtask.job], subtask))
    if settled := [item.id for item in event.held if item.is_finished and item.id not in ours]:
        world.emit(SendSettled(node.name, settled))
    if unwanted := [item.id for item in event.held if not item.is_finished and item.id not in ours]:
        world.emit(SendCancel(node.name, unwanted))


def hear(world: World, name: str) -> Node | None:
    """Notes that a node lives; None for one that never registered or was lost since."""
    node = world.nodes.get(name)
    if node is None or not NODE.allows(node.state, NodeEvent.HEARD):
        return None
    node.heard_s = world.now
    was_suspect = node.state is NodeState.SUSPECT
    node.state = NODE.next(node.state, NodeEvent.HEARD)
    if was_suspect:
        world.wake_at(world.now + SUSPECT_AFTER_S, "node", name)
        jobs.advance_all(world)
    return node


def on_sampled(world: World, event: events.NodeSampled) -> None:
    node = hear(world, event.node)
    if node is None:
        return
    node.machine = event.host or node.machine
    for sampled in event.devices:
        device = node.devices.get(sampled.device)
        if device is not None:
            learning.take_sample(world, device, sampled)


def on_speed_measured(world: World, event: events.SpeedMeasured) -> None:
    node = hear(world, event.node)
    device = node.devices.get(event.device) if node else None
    if device is None:
        return
    device.problem = event.problem
    learning.take_claims(world, device, event.points)
    learning.record(world, device)
    jobs.advance_all(world)


def on_session_broken(world: World, event: events.SessionBroken) -> None:
    node = world.nodes.get(event.node)
    if node is None or node.instance != event.instance or not node.is_connected:
        return
    node.is_connected = False
    node.lost_at_s = world.now + RECONNECT_GRACE_S
    if NODE.allows(node.state, NodeEvent.SILENT):
        node.state = NODE.next(node.state, NodeEvent.SILENT)
    world.wake_at(node.lost_at_s, "node", node.name)


def on_left(world: World, event: events.NodeLeft) -> None:
    node = world.nodes.get(event.node)
    if node is None or node.instance != event.instance:
        return
    _leave(world, node, NodeEvent.LEFT, f"left: {event.reason}")


def check_silence(world: World, name: str) -> None:
    """The node's deadline is over: is it silent, lost, or was it heard of meanwhile?"""
    node = world.nodes.get(name)
    if node is None or node.state in (NodeState.LOST, NodeState.DRAINED):
        return
    lost_at_s = node.heard_s + LOST_AFTER_S if node.is_connected else node.lost_at_s
    if world.now >= lost_at_s:
        if _is_mass_loss(world):
            # All of them at once: we were suspended, or our own network is down.
            world.wake_at(world.now + 1.0, "node", name)
            return
        _leave(world, node, NodeEvent.EXPIRED, "not heard of")
        return
    if world.now >= node.heard_s + SUSPECT_AFTER_S and NODE.allows(node.state, NodeEvent.SILENT):
        node.state = NODE.next(node.state, NodeEvent.SILENT)
    silent_at_s = node.heard_s + SUSPECT_AFTER_S
    is_up = node.state is NodeState.UP and node.is_connected
    world.wake_at(silent_at_s if is_up else lost_at_s, "node", name)


def _is_mass_loss(world: World) -> bool:
    silent = [
        node
        for node in world.nodes.values()
        if node.state is not NodeState.LOST and world.now - node.heard_s >= SUSPECT_AFTER_S
    ]
    known = sum(node.state is not NodeState.LOST for node in world.nodes.values())
    oldest_s = max((world.now - node.heard_s for node in silent), default=0.0)
    return (
        len(silent) >= MASS_LOSS_NODES
        and len(silent) > MASS_LOSS_SHARE * known
        and oldest_s < LOST_AFTER_S + MASS_LOSS_PAUSE_S
    )


def _leave(world: World, node: Node, why: NodeEvent, detail: str) -> None:
    node.state = NODE.next(node.state, why)
    node.is_connected = False
    presence.note(world, node.name, is_once=False)
    world.commit(
        _row(node),
        EventRow(world.now, "node_lost", node=node.name, detail=detail),
    )
    _abandon_all(world, node, died=why is NodeEvent.EXPIRED)
    jobs.advance_all(world)


def _abandon_all(world: World, node: Node, *, died: bool = True) -> None:
    """An agent that left in good order did not die of its work."""
    for subtask in node.active():
        endings.abandon(world, subtask, f"node {node.name} was lost", died=died)


def on_drain(world: World, event: events.DrainAsked) -> None:
    node = world.nodes.get(event.node)
    if node is None:
        world.emit(_unknown(event.node))
        return
    node.state = NODE.next(node.state, NodeEvent.DRAIN)
    node.drain_reason = event.reason
    world.draining.add(node.name)
    world.emit(SendDrain(node.name, event.reason))
    world.commit(
        _row(node),
        EventRow(world.now, "node_drained", node=node.name, detail=event.reason),
    )


def check_drained(world: World) -> None:
    """A draining node that has nothing left to do is drained."""
    for name in sorted(world.draining):
        node = world.nodes[name]
        if node.state is not NodeState.DRAINING:
            world.draining.discard(name)
        elif not node.active():
            world.draining.discard(name)
            node.state = NODE.next(node.state, NodeEvent.EMPTIED)
            world.commit(_row(node))


def on_resume(world: World, event: events.ResumeAsked) -> None:
    node = world.nodes.get(event.node)
    if node is None:
        world.emit(_unknown(event.node))
        return
    node.state = NODE.next(node.state, NodeEvent.RESUME)
    node.drain_reason = ""
    if node.state is NodeState.UP and not node.is_connected:
        node.state = NODE.next(node.state, NodeEvent.SILENT)
        node.lost_at_s = world.now + LOST_AFTER_S
    world.wake_at(world.now, "node", node.name)
    world.commit(
        _row(node),
        EventRow(world.now, "node_resumed", node=node.name),
    )
    jobs.advance_all(world)


def _row(node: Node) -> NodeRow:
    return NodeRow(node.name, node.instance, node.host, node.version, node.state.value)


def _unknown(name: str) -> ReplyFailure:
    return ReplyFailure(events.Failure(NotFound.code, f"there is no node {name!r}"))
