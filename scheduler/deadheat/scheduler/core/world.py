"""All that the core remembers, and the effects of the event at hand."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Collection
from typing import Final

from deadheat.scheduler.core.effects import Change, Commit, Effect
from deadheat.scheduler.core.queueing import FairQueue
from deadheat.scheduler.core.state import Device, Job, Node, Subtask

#: Ended jobs that are kept in memory to be asked about, and sub-tasks of all of them together;
#: older ones are in the database.
RECENT_JOBS: Final = 512
RECENT_SUBTASKS: Final = 50_000


class World:
    """The state that every handler works on. `host` is the identity of the scheduler's own host:
    agents there share its memory."""

    def __init__(self, host: str, store_bytes_per_s: float = math.inf) -> None:
        self.host = host
        #: What the store's port gives to all devices of other hosts together.
        self.store_bytes_per_s = store_bytes_per_s
        self.now = 0.0
        self.nodes: dict[str, Node] = {}
        self.devices: dict[str, Device] = {}
        #: Devices that have a matrix whole, by its id.
        self.holders: dict[str, dict[str, None]] = {}
        #: Names of nodes by host, since agents on one host may be in each other's way.
        self.by_host: dict[str, set[str]] = {}
        self.jobs: dict[str, Job] = {}
        #: Those that have not ended.
        self.open: dict[str, Job] = {}
        self.queue = FairQueue()
        #: One plan is made at a time, since each has to know what the one before gave to whom: the
        #: job that has its turn, those that wait for one, and those whose plan waits for room.
        self.planning = ""
        self.awaiting_plan: set[str] = set()
        self.pending: dict[str, Job] = {}
        #: Jobs of which something fits into no memory now. They are planned again when sub-tasks
        #: have ended: how many ever did, and how many had when that was last done.
        self.waiting_memory: set[str] = set()
        self.released = 0
        self.retried = 0
        #: Available flops a second of the whole pool, as the newest plan found them.
        self.pool_flops = 0.0
        self.requests: dict[str, str] = {}
        #: Sub-tasks that are assigned or run.
        self.subtasks: dict[str, Subtask] = {}
        #: Sub-tasks that have ended, while their ends are not recorded (see epochs.py).
        self.unrecorded: dict[str, tuple[Job, Subtask]] = {}
        #: Names of nodes that are draining.
        self.draining: set[str] = set()
        #: Names of nodes that leave when there is nothing to do, and of those among them that have
        #: not been told so since a job was open.
        self.passing: set[str] = set()
        self.untold: set[str] = set()
        self.serial = 0
        self._ended: deque[str] = deque()
        self._ended_subtasks = 0
        self._deadlines: list[tuple[float, str, str]] = []
        self._effects: list[Effect] = []

    def is_near(self, node: Node) -> bool:
        """Whether it maps the store's memory."""
        return node.shares_memory and node.host == self.host

    def refusal_of_card(self, node: str, uuids: Collection[str]) -> str:
        """Why a node cannot have cards with these UUIDs: another one, that is connected, has one of
        them. Empty if it can. A card is one wherever its agents run: in two containers it would
        be counted twice as well."""
        wanted = {uuid for uuid in uuids if uuid}
        for device in self.devices.values() if wanted else ():
            uuid, other = device.facts.uuid, device.node
            if uuid in wanted and other != node and self.nodes[other].is_connected:
                return f"agent {other!r} has the card {uuid} already, as {device.facts.id}"
        return ""

    def emit(self, *effects: Effect) -> None:
        self._effects.extend(effects)

    def commit(self, *changes: Change) -> None:
        self._effects.append(Commit(changes))

    def take_effects(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects

    def note_held(self, device: Device, held: frozenset[str]) -> None:
        """A device has these matrices whole, and no others."""
        for matrix_id in held - device.held:
            self.holders.setdefault(matrix_id, {})[device.facts.id] = None
        for matrix_id in device.held - held:
            holders = self.holders.get(matrix_id, {})
            holders.pop(device.facts.id, None)
            if not holders:
                self.holders.pop(matrix_id, None)
        device.held = held

    def wake_at(self, when_s: float, kind: str, key: str) -> None:
        heapq.heappush(self._deadlines, (when_s, kind, key))

    def next_deadline_s(self) -> float | None:
        return self._deadlines[0][0] if self._deadlines else None

    def take_due(self) -> list[tuple[str, str]]:
        """The deadlines that are over, as (kind, key)."""
        found = []
        while self._deadlines and self._deadlines[0][0] <= self.now:
            _, kind, key = heapq.heappop(self._deadlines)
            found.append((kind, key))
        return found

    def remember_ended(self, job: Job) -> None:
        self.open.pop(job.id, None)
        self.pending.pop(job.id, None)
        self.waiting_memory.discard(job.id)
        self.queue.leave(job.id, self.now)
        self._ended.append(job.id)
        self._ended_subtasks += len(job.subtasks)
        while len(self._ended) > 1 and (
            len(self._ended) > RECENT_JOBS or self._ended_subtasks > RECENT_SUBTASKS
        ):
            forgotten = self.jobs.pop(self._ended.popleft())
            self._ended_subtasks -= len(forgotten.subtasks)
            self.requests.pop(forgotten.request_id, None)
