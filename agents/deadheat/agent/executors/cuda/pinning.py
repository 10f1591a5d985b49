"""Matrices in shared memory that the card reads and writes by itself: mapped and pinned once.

To pin a gigabyte (cudaHostRegister) takes 25 ms in pages of 2 MiB, 50 ms in pages of 4 KiB, 180 ms
in such that this process has not touched yet, and all that long the driver does little else: copies
that are asked for meanwhile wait. The card copies it in 20 ms, by way of staging in about 80
(measured on an H200 behind PCIe 5). So pinning pays for memory that is used again, and a store's
arenas are: a matrix that goes leaves its pages to the next one. Hence a mapping outlives its matrix
here, until its file is gone or others need the room, and what has been mapped before is pinned when
the card has nothing to do, or in any case if it never has.

Rules of this file: pinning happens in a thread of its own, and until it is done, or where it cannot
be (an old driver and a read-only mapping, a limit on locked memory), copies go by way of staging.
Who maps gets a lease, which ends with the last array over it; only what has no lease is unpinned.
A mapping keeps its pages, so one whose file has been deleted goes within SWEEP_S.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import psutil

from deadheat.agent.executors.cuda.card import Card
from deadheat.agent.executors.pool import never
from deadheat.runtime import logs, pages

log = logs.get("gpu")

#: Of this machine's memory, what may be pinned: it is not to be had for anything else.
PINNED_SHARE: Final = 0.5
#: Below this a copy by way of staging takes less time than the calls that pin.
MIN_BYTES: Final = 1 << 20
MAX_MAPPINGS: Final = 256
SWEEP_S: Final = 1.0
#: Times that a file is mapped: before it is worth being pinned, and before that cannot wait.
WORTH_PINNING: Final = 2
CANNOT_WAIT: Final = 4


@dataclass(eq=False)
class _Mapping:
    """A whole file in memory."""

    #: Ours: the file's pages count for us as long as it is open.
    descriptor: int
    memory: memoryview
    is_writable: bool
    uses: int = 0
    leases: int = 0
    is_pinned: bool = False
    #: Pinned, or found that it cannot be.
    is_settled: bool = False

    @property
    def size_bytes(self) -> int:
        return self.memory.nbytes

    @property
    def bytes(self) -> np.ndarray[Any, Any]:
        return np.frombuffer(self.memory, np.uint8)

    @property
    def is_deleted(self) -> bool:
        return os.fstat(self.descriptor).st_nlink == 0


class Mappings:
    """Files that are mapped here, pinned for one card. Any thread may call it."""

    def __init__(
        self,
        card: Card,
        is_idle: Callable[[], bool] = lambda: True,
        limit_bytes: int | None = None,
    ) -> None:
        """`is_idle` is asked whether the card has nothing to do; `wake` says that it may have
        changed."""
        self._card = card
        self._is_idle = is_idle
        self.limit_bytes = limit_bytes
        self._changed = threading.Condition()
        #: By device, inode and whether it is writable; the least recently used first.
        self._known: dict[tuple[int, int, bool], _Mapping] = {}
        #: Leases that have ended: whatever thread it was has only put them down here.
        self._ended: deque[_Mapping] = deque()
        self._is_closed = False
        threading.Thread(target=self._work, name="pinning", daemon=True).start()

    def map(
        self, descriptor: int, length: int, *, is_writable: bool
    ) -> tuple[memoryview, Callable[[], bool]]:
        """The first `length` bytes of a file, and whether the card reaches them by itself yet. The
        descriptor stays the caller's. Raises OSError and ValueError as `pages.map_file` does."""
        found = os.fstat(descriptor)
        if length < MIN_BYTES:
            return pages.map_file(descriptor, length, is_writable=is_writable), never
        key = (found.st_dev, found.st_ino, is_writable)
        with self._changed:
            self._end_leases()
            mapping = self._known.pop(key, None)
            if mapping and mapping.size_bytes < length:  # The file has grown.
                self._retire(mapping)
                mapping = None
            if mapping is None:
                memory = pages.map_file(descriptor, found.st_size, is_writable=is_writable)
                mapping = _Mapping(os.dup(descriptor), memory, is_writable)
            self._known[key] = mapping
            mapping.leases += 1
            mapping.uses += 1
            self._changed.notify_all()
        return self._lease(mapping, length), lambda: mapping.is_pinned

    @property
    def pinned_bytes(self) -> int:
        with self._changed:
            return sum(one.size_bytes for one in self._known.values() if one.is_pinned)

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def settle(self) -> None:
        """Waits until all that is mapped is pinned, or is known not to be: none of it can wait."""
        with self._changed:
            for mapping in self._known.values():
                mapping.uses = max(mapping.uses, CANNOT_WAIT)
            self._changed.notify_all()
            self._changed.wait_for(lambda: all(one.is_settled for one in self._known.values()))

    def close(self) -> None:
        """Its thread ends; what is mapped stays so."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _lease(self, mapping: _Mapping, length: int) -> memoryview:
        """An object of its own over the same memory: all arrays over it keep it."""
        holder = (ctypes.c_ubyte * length).from_address(mapping.bytes.ctypes.data)
        weakref.finalize(holder, self._ended.append, mapping).atexit = False
        view = memoryview(holder).cast("B")
        return view if mapping.is_writable else view.toreadonly()

    # With the lock

    def _end_leases(self) -> None:
        while self._ended:
            self._ended.popleft().leases -= 1

    def _retire(self, mapping: _Mapping) -> None:
        """Its place is another's now; who has a lease keeps it."""
        old = (-1, id(mapping), mapping.is_writable)
        mapping.is_settled = True
        self._known[old] = mapping

    def _sweep(self, needed_bytes: int = 0) -> None:
        """Drops what nobody uses: deleted files, and as much else as there has to be room for."""
        self._end_leases()
        limit_bytes = self._limit_bytes - needed_bytes
        for key, one in list(self._known.items()):
            is_over = (one.is_pinned and self.pinned_bytes > limit_bytes) or (
                len(self._known) > MAX_MAPPINGS
            )
            if not one.leases and (key[0] < 0 or is_over or one.is_deleted):
                del self._known[key]
                self._drop(one)

    def _drop(self, mapping: _Mapping) -> None:
        os.close(mapping.descriptor)
        if not mapping.is_pinned:
            return
        try:
            self._card.unpin(mapping.bytes)
        except RuntimeError as error:  # Whoever uses the card next finds out what it has.
            log.warning(f"{mapping.size_bytes} bytes are still pinned: {error}")

    @property
    def _limit_bytes(self) -> int:
        if self.limit_bytes is not None:
            return self.limit_bytes
        return int(psutil.virtual_memory().total * PINNED_SHARE)

    # Its thread

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.notify_all()
                if not self._next():
                    self._changed.wait(SWEEP_S if self._known else None)
                if self._is_closed:
                    return
                self._sweep()
                mapping = self._next()
                if mapping is None:
                    continue
                self._sweep(mapping.size_bytes)
                fits = self.pinned_bytes + mapping.size_bytes <= self._limit_bytes
                mapping.leases += 1
            is_pinned = fits and self._pin(mapping)
            with self._changed:
                mapping.is_pinned, mapping.is_settled = is_pinned, True
                mapping.leases -= 1

    def _next(self) -> _Mapping | None:
        enough = WORTH_PINNING if self._is_idle() else CANNOT_WAIT
        due = (one for one in self._known.values() if not one.is_settled and one.uses >= enough)
        return next(due, None)

    def _pin(self, mapping: _Mapping) -> bool:
        try:
            self._card.pin(mapping.bytes, is_writable=mapping.is_writable)
        except RuntimeError as error:  # The root of all of CUDA's errors in CuPy.
            log.debug(f"{mapping.size_bytes} bytes are not pinned: {error}")
            return False
        return True
