"""Operands on the card: kept by a byte limit, filled as panels need them, each byte copied once.

Rules of this file: an entry is a rectangle of a matrix with memory of its own on the card, of which
parts are filled. Only what a panel needs is ever copied, since further rows may not have arrived
yet. A panel gets all of its operands or none, so that two panels never wait for each other's; what
is in use is pinned, and the least recently used of the rest makes room. Whoever fills a part marks
it with an event, for which the streams of others wait. A pin ends only when its panel's stream has
been waited for: memory that is given up is not being read.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from deadheat.agent.executors.cuda.card import Card
from deadheat.agent.executors.cuda.staging import Lane
from deadheat.agent.executors.pool import Block, part_of
from deadheat.runtime.programs import Rectangle, uncovered

Array = Any


@dataclass(frozen=True)
class Request:
    """`wanted` of the matrix called `key`, whose bytes are in `block`; its sub-task will want no
    more than `span` of it."""

    key: str
    block: Block
    wanted: Rectangle
    span: Rectangle

    def size_bytes(self, rectangle: Rectangle) -> int:
        return rectangle.area * int(self.block.array.dtype.itemsize)


@dataclass(eq=False)
class _Fill:
    """A part that is there as soon as its event has come; None while it is not on a stream yet."""

    rectangle: Rectangle
    event: Any = None


@dataclass(eq=False)
class _Entry:
    key: str
    rectangle: Rectangle
    array: Array
    size_bytes: int
    fills: list[_Fill] = field(default_factory=list)
    pins: int = 0

    def view(self, part: Rectangle) -> Array:
        place = part.relative_to(self.rectangle)
        rows = slice(place.row_start, place.row_stop)
        return self.array[rows, place.column_start : place.column_stop]


class Residence:
    """All operands on one card."""

    def __init__(self, card: Card, limit_bytes: int) -> None:
        self._card = card
        self.limit_bytes = limit_bytes
        #: On the card now, and copied to it since the start.
        self.used_bytes = 0
        self.copied_bytes = 0
        self._changed = threading.Condition()
        self._asking = threading.Lock()
        #: The least recently used first.
        self._entries: list[_Entry] = []
        self._pinned_panels = 0
        # Memory that one entry leaves is taken by the next, which CuPy allows within a stream only.
        self._stream = card.stream()

    @contextmanager
    def hold(self, lane: Lane, requests: Sequence[Request]) -> Iterator[list[Array]]:
        """The wanted parts as arrays on the card, m x n views that the lane's stream may read. At
        the end of the block nothing on that stream may need them any more.

        Raises MemoryError if they do not fit even alone.
        """
        entries = self._pin(requests)
        try:
            try:
                self._fill(lane, requests, entries)
            except BaseException:
                lane.settle()  # Before operands lose their pins.
                raise
            yield [entry.view(one.wanted) for one, entry in zip(requests, entries)]
        finally:
            with self._changed:
                for entry in entries:
                    entry.pins -= 1
                self._pinned_panels -= 1
                self._changed.notify_all()

    @property
    def is_idle(self) -> bool:
        """No panel has operands here, or waits for room for them that others have."""
        return not self._pinned_panels

    def drop_unused(self) -> None:
        """Leaves only what is pinned."""
        with self._changed:
            self._shrink(0)

    # Room

    def _pin(self, requests: Sequence[Request]) -> list[_Entry]:
        with self._changed:
            places = self._places(requests)
            while not self._make_room(requests, places):
                if not self._pinned_panels:
                    needed = sum(one.size_bytes(one.wanted) for one in requests)
                    raise MemoryError(
                        f"operands of {needed} bytes; the limit on the card is {self.limit_bytes}"
                    )
                self._changed.wait()
            entries = [
                self._find(one.key, place) or self._new(one, place)
                for one, place in zip(requests, places)
            ]
            for entry in entries:
                entry.pins += 1
                self._entries.remove(entry)
                self._entries.append(entry)
            self._pinned_panels += 1
            return entries

    def _places(self, requests: Sequence[Request]) -> list[Rectangle]:
        """What of each matrix gets memory: all that its sub-task will want where that fits, the
        smallest matrices first, else what this panel wants, as a stream."""
        places = [one.wanted for one in requests]
        sizes = [one.size_bytes(one.span) for one in requests]
        # Half of the limit is for what streams; nothing streams if all fits.
        left = self.limit_bytes if sum(sizes) <= self.limit_bytes else self.limit_bytes // 2
        for index in sorted(range(len(sizes)), key=sizes.__getitem__):
            left -= sizes[index]
            if left >= 0:
                places[index] = requests[index].span
        # A matrix that is both operands is there once.
        return [
            next(
                (
                    other
                    for also, other in zip(requests, places)
                    if also.key == one.key and place.is_inside(other) and place != other
                ),
                place,
            )
            for one, place in zip(requests, places)
        ]

    def _make_room(self, requests: Sequence[Request], places: Sequence[Rectangle]) -> bool:
        missing: dict[tuple[str, Rectangle], int] = {}
        for one, place in zip(requests, places):
            if entry := self._find(one.key, place):
                self._entries.remove(entry)  # It is used now, so it goes last.
                self._entries.append(entry)
            else:
                missing[one.key, place] = one.size_bytes(place)
        kept = {id(self._find(one.key, place)) for one, place in zip(requests, places)}
        return self._shrink(self.limit_bytes - sum(missing.values()), kept)

    def _shrink(self, limit_bytes: int, kept: set[int] | None = None) -> bool:
        """Drops what has been used least recently until the rest is within a limit."""
        for entry in list(self._entries):
            if self.used_bytes <= limit_bytes:
                break
            if not entry.pins and id(entry) not in (kept or ()):
                self._entries.remove(entry)
                self.used_bytes -= entry.size_bytes
        return self.used_bytes <= limit_bytes

    def _find(self, key: str, place: Rectangle) -> _Entry | None:
        return next(
            (e for e in self._entries if e.key == key and place.is_inside(e.rectangle)), None
        )

    def _new(self, request: Request, place: Rectangle) -> _Entry:
        with self._stream:
            dtype = request.block.array.dtype
            array = self._card.cupy.empty((place.rows, place.columns), dtype)
        entry = _Entry(request.key, place, array, request.size_bytes(place))
        self._entries.append(entry)
        self.used_bytes += entry.size_bytes
        return entry

    # Filling

    def _fill(self, lane: Lane, requests: Sequence[Request], entries: Sequence[_Entry]) -> None:
        """First all that nobody copies yet, then the waiting, so that nobody waits for somebody who
        waits. What somebody failed to copy is looked for again."""
        # What a panel needs is asked for at once: were it mixed with what another panel needs, both
        # would be late. By way of staging it is a thread's own work, and others' goes on beside it.
        is_quick = all(one.block.is_pinned() for one in requests)
        while True:
            with self._asking if is_quick else nullcontext():
                for one, entry in zip(requests, entries):
                    self._copy(lane, one, entry)
            if all(self._follow(lane, one, entry) for one, entry in zip(requests, entries)):
                return

    def _copy(self, lane: Lane, request: Request, entry: _Entry) -> None:
        with self._changed:
            missing = uncovered(request.wanted, [fill.rectangle for fill in entry.fills])
            mine = [_Fill(piece) for piece in missing]
            entry.fills += mine
        for number, fill in enumerate(mine):
            try:
                event = lane.upload(
                    part_of(request.block, fill.rectangle),
                    entry.view(fill.rectangle),
                    is_pinned=request.block.is_pinned(),
                )
            except BaseException:
                with self._changed:
                    for lost in mine[number:]:
                        entry.fills.remove(lost)
                    self._changed.notify_all()
                raise
            with self._changed:
                fill.event = event
                self.copied_bytes += request.size_bytes(fill.rectangle)
                self._changed.notify_all()

    def _follow(self, lane: Lane, request: Request, entry: _Entry) -> bool:
        """Has the lane's stream wait for what it and others copy; False if one of them gave up."""
        with self._changed:
            fills = [fill for fill in entry.fills if _overlap(fill.rectangle, request.wanted)]
            for fill in fills:
                while fill.event is None:
                    if fill not in entry.fills:
                        return False
                    self._changed.wait()
        for fill in fills:
            lane.stream.wait_event(fill.event)
        return True


def _overlap(one: Rectangle, other: Rectangle) -> bool:
    return uncovered(other, [one]) != [other] if other.area else False
