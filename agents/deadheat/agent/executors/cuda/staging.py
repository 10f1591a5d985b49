"""Copies between matrices in memory of the host and a card.

A card copies to and from pinned memory only, and only from there while it computes. A matrix that
is pinned itself (see `pinning`) is copied as it lies. Others go by way of pinned memory here, of
which there are two halves: while the card copies one, this thread fills (or empties) the other.

Of copies to the card on several streams each gets a part of the link, and all are late. So what
needs no thread goes on one stream, in the order in which panels asked for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from deadheat.agent.executors.cuda.card import MAX_PITCH_BYTES, Card

Array = Any

#: Of each half: a copy of it takes a card half a millisecond, and its start some microseconds.
HALF_BYTES: Final = 16 << 20
#: By size: what is copied as plain numbers is copied without the interpreter's lock.
_PLAIN: Final = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64, 16: np.complex128}


@dataclass(eq=False)
class _Half:
    memory: np.ndarray[Any, Any]
    event: Any
    #: The card may still be reading it, or writing.
    is_busy: bool = False
    #: Where what is in it belongs: the part of it, and the part of a matrix.
    source: Array = None
    target: Array = None

    def settle(self) -> None:
        if self.is_busy:
            self.event.synchronize()
            self.is_busy = False
        if self.target is not None:
            np.copyto(self.target, self.source)
        self.source = self.target = None


class Lane:
    """A thread's stream and its pinned memory; used by that thread only. `incoming` is the stream
    of all lanes for what the card copies to itself."""

    def __init__(self, card: Card, incoming: Any, half_bytes: int = HALF_BYTES) -> None:
        self._card = card
        self.stream = card.stream()
        self._incoming = incoming
        self._half_bytes = half_bytes
        #: Comes when all has that was put on the stream.
        self._all = card.event()
        self._halves = [_Half(card.pinned(half_bytes), card.event()) for _ in range(2)]

    def upload(self, host: Array, array: Array, *, is_pinned: bool = False) -> Any:
        """Puts a copy of `host` on a stream; both are m x n, of one dtype. Returns the event with
        which `array` is complete; `host` may be changed then, and as soon as this returns if it is
        not pinned."""
        done = self._card.event()
        if is_pinned and _is_in_reach(host):
            self._card.send(host, array, self._incoming)
            self._incoming.record(done)
            return done
        for part in self._parts(array):
            half = self._take()
            place = _room(half, host[part])
            np.copyto(place, _plain(host[part]))
            self._card.send(place, array[part], self.stream)
            self._leave(half)
        self.stream.record(done)
        return done

    def download(self, array: Array, host: Array, *, is_pinned: bool = False) -> None:
        """Copies to `host`, which is complete when this returns, as is all that was put on the
        stream before."""
        if is_pinned and _is_in_reach(host):
            self._card.fetch(array, host, self.stream)
        else:
            for part in self._parts(array):
                half = self._take()
                place = _room(half, host[part])
                self._card.fetch(array[part], place, self.stream)
                self._leave(half)
                half.source, half.target = place, _plain(host[part])
        # Halves that are still busy were on the stream before.
        self.stream.record(self._all)
        self._all.synchronize()
        for half in self._halves:
            half.settle()

    def settle(self) -> None:
        """Waits for all that is on the streams; what has not arrived by now is dropped."""
        for half in self._halves:
            half.source = half.target = None
        self._incoming.synchronize()
        self.stream.synchronize()
        for half in self._halves:
            half.is_busy = False

    def _take(self) -> _Half:
        half = self._halves[0]
        half.settle()
        self._halves.reverse()
        return half

    def _leave(self, half: _Half) -> None:
        self.stream.record(half.event)
        half.is_busy = True

    def _parts(self, array: Array) -> Iterator[tuple[slice, slice]]:
        rows, columns = array.shape
        if not rows or not columns:
            return
        width = min(columns, max(1, self._half_bytes // array.itemsize))
        height = max(1, self._half_bytes // (width * array.itemsize))
        for row in range(0, rows, height):
            for column in range(0, columns, width):
                yield (
                    slice(row, min(rows, row + height)),
                    slice(column, min(columns, column + width)),
                )


def _is_in_reach(host: Array) -> bool:
    """Whether a card can copy it in one call."""
    rows, columns = host.shape
    if not rows or not columns:
        return False
    is_dense = columns == 1 or host.strides[1] == host.itemsize
    return bool(is_dense and (rows == 1 or 0 < host.strides[0] <= MAX_PITCH_BYTES))


def _plain(array: Array) -> Array:
    return array.view(_PLAIN[array.dtype.itemsize])


def _room(half: _Half, part: Array) -> Array:
    """As much of a half as a part of a matrix takes, without gaps."""
    size_bytes = part.size * part.dtype.itemsize
    return half.memory[:size_bytes].view(_PLAIN[part.dtype.itemsize]).reshape(part.shape)
