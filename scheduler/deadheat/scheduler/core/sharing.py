"""Which agents may have a block that another one needs, so that not everybody asks the store.

Rules of this file: names are hints. Whoever is named may have the block no more, or not yet; then
it is asked in vain, and the store has it. First come those to which this job gave the block before,
the latest of them first: agents that need the same one then form a chain, in which each passes on
the rows that have come, and the store sends it once. Then come those who say that they have the
whole matrix, in turns. An agent whose way to the others is much slower than the receiver's is not
named, nor one that maps the store's own memory.
"""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Iterator
from itertools import chain, islice
from typing import Final

from deadheat.runtime.programs import Rectangle
from deadheat.scheduler.core.state import Job, Node
from deadheat.scheduler.core.world import World

#: Addresses named for one block: whoever has asked so many in vain asks the store.
MAX_PEERS: Final = 4
#: Receivers of each matrix that a job remembers.
MAX_RECEIVERS: Final = 64
#: A peer may have this share of the receiver's bandwidth; with less, the store is faster even if
#: some others ask there too.
LEAST_BANDWIDTH_SHARE: Final = 0.25


def peers(world: World, job: Job, node: Node, matrix_id: str, block: Rectangle) -> tuple[str, ...]:
    """Addresses to ask for a block that `node` gets now; remembers that it does."""
    if world.is_near(node):
        return ()
    receivers = job.receivers.setdefault(matrix_id, deque(maxlen=MAX_RECEIVERS))
    least = LEAST_BANDWIDTH_SHARE * _bandwidth(node)
    found: dict[str, None] = {}
    for name in chain(_earlier(receivers, block), _holders(world, matrix_id, len(receivers))):
        peer = world.nodes.get(name)
        if peer is None or peer is node or not peer.is_usable or not peer.peer_address:
            continue
        if peer.host != node.host and _is_loopback(peer.peer_address):
            continue
        if not world.is_near(peer) and _bandwidth(peer) >= least:
            found[peer.peer_address] = None
        if len(found) == MAX_PEERS:
            break
    if node.peer_address and (node.name, block) not in receivers:
        receivers.append((node.name, block))
    return tuple(found)


def meets(node: Node) -> str:
    """Equal for nodes that reach one another; empty for one that nobody reaches. Other versions may
    not speak as we do."""
    if not node.peer_address:
        return ""
    where = node.host if _is_loopback(node.peer_address) else "everywhere"
    return f"{where} {node.version}"


def blocks_travel(world: World) -> bool:
    """Whether some agent that gets work does not map the store's memory."""
    return any(node.is_usable and not world.is_near(node) for node in world.nodes.values())


def _earlier(receivers: deque[tuple[str, Rectangle]], block: Rectangle) -> Iterator[str]:
    for name, rectangle in reversed(receivers):
        if block.is_inside(rectangle):
            yield name


def _holders(world: World, matrix_id: str, turn: int) -> Iterator[str]:
    """Nodes that have the whole matrix; each time another one comes first."""
    devices = world.holders.get(matrix_id, {})
    first = turn % len(devices) if devices else 0
    for id_ in chain(islice(devices, first, None), islice(devices, first)):
        if device := world.devices.get(id_):
            yield device.node


def _is_loopback(address: str) -> bool:
    """Whether only processes on the peer's own host can reach it there."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bandwidth(node: Node) -> float:
    """Bytes a second, as its best device found it."""
    return max((one.bandwidth_bytes_per_s for one in node.devices.values()), default=0.0)
