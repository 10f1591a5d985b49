"""The store's one port, shared by all who stream from and to it.

Each device has at most one transfer at a time, which gets a max-min fair share of the port, at
most its own link's bandwidth; nothing while the store is away. Transfers over links of one speed
always run at one rate, so they are kept together and end in the order of their sizes on a clock of
bytes served: a transfer costs a logarithm, and a change of rates costs one step for each speed of
link, not for each transfer.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False, slots=True)
class Transfer:
    """`owner` is whatever its starter wants back at its end."""

    owner: Any
    size_bytes: float
    is_over: bool = False
    #: On its class's clock.
    ends_at: float = 0.0


@dataclass(eq=False, slots=True)
class _Class:
    """Links of one bandwidth; `served` counts the bytes that each of its transfers has had."""

    bandwidth_bytes_per_s: float
    served: float = 0.0
    rate: float = 0.0
    active: int = 0
    queue: list[tuple[float, int, Transfer]] = field(default_factory=list)

    def first(self) -> Transfer | None:
        while self.queue and self.queue[0][2].is_over:
            heapq.heappop(self.queue)
        return self.queue[0][2] if self.queue else None


class Network:
    def __init__(self, port_bytes_per_s: float) -> None:
        self._port = port_bytes_per_s
        self._classes: dict[float, _Class] = {}
        self._busy: list[_Class] = []
        self._now = 0.0
        self._serial = 0
        self._is_stale = False
        self._is_paused = False
        self._next_s = math.inf

    def pause(self, now: float, *, is_paused: bool) -> None:
        """Nothing moves any more, or everything goes on where it was."""
        self._pass(now)
        self._is_paused, self._is_stale = is_paused, True

    def start(
        self, owner: Any, size_bytes: float, bandwidth_bytes_per_s: float, now: float
    ) -> Transfer:
        self._pass(now)
        links = self._classes.get(bandwidth_bytes_per_s)
        if links is None:
            links = self._classes[bandwidth_bytes_per_s] = _Class(bandwidth_bytes_per_s)
        if not links.active:
            links.served = 0.0
        transfer = Transfer(owner, size_bytes, ends_at=links.served + size_bytes)
        self._serial += 1
        heapq.heappush(links.queue, (transfer.ends_at, self._serial, transfer))
        links.active += 1
        self._is_stale = True
        return transfer

    def stop(self, transfer: Transfer, bandwidth_bytes_per_s: float, now: float) -> float:
        """Takes a transfer out; returns the bytes that it had still to go."""
        self._pass(now)
        links = self._classes[bandwidth_bytes_per_s]
        transfer.is_over = True
        links.active -= 1
        self._is_stale = True
        return max(0.0, transfer.ends_at - links.served)

    def next_s(self) -> float:
        """When the first transfer ends; infinity if there is none."""
        if self._is_stale:
            self._share_out()
        return self._next_s

    def take_ended(self, now: float) -> list[Any]:
        """The owners of transfers that have ended by now."""
        self.next_s()
        self._pass(now)
        ended: list[Any] = []
        for links in self._busy:
            # A nanosecond's worth of rounding must not leave a transfer forever unfinished.
            reached = links.served * (1.0 + 1e-12) + links.rate * 1e-9
            while (first := links.first()) and first.ends_at <= reached:
                heapq.heappop(links.queue)
                first.is_over = True
                links.active -= 1
                ended.append(first.owner)
        self._is_stale = True
        return ended

    def _pass(self, now: float) -> None:
        if now > self._now:
            if self._is_stale:
                self._share_out()
            for links in self._busy:
                links.served += links.rate * (now - self._now)
            self._now = now

    def _share_out(self) -> None:
        """Max-min fair: the slowest links get what they can take, the others share the rest."""
        self._is_stale = False
        self._busy = sorted(
            (links for links in self._classes.values() if links.active),
            key=lambda links: links.bandwidth_bytes_per_s,
        )
        left, waiting = self._port, sum(links.active for links in self._busy)
        self._next_s = math.inf
        for links in self._busy:
            if self._is_paused:
                links.rate = 0.0
                continue
            links.rate = min(links.bandwidth_bytes_per_s, left / waiting)
            left -= links.rate * links.active
            waiting -= links.active
            first = links.first()
            assert first is not None
            missing = max(0.0, first.ends_at - links.served)
            self._next_s = min(self._next_s, self._now + missing / links.rate)
