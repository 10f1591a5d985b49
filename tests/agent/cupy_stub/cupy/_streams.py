"""Streams that do nothing before somebody waits for them, and events in them."""

from __future__ import annotations

import threading
from typing import Any

from cupy._card import check, lock, log

_local = threading.local()


class Stream:
    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False) -> None:
        with lock:
            streams.append(self)
            self.ptr = len(streams)
        self._work: list[Any] = []
        self._done = 0

    def _add(self, work: Any) -> None:
        with lock:
            self._work.append(work)

    def _drain(self, count: int | None = None) -> None:
        with lock:
            stop = len(self._work) if count is None else count
            while self._done < stop:
                work, self._work[self._done] = self._work[self._done], None
                self._done += 1
                work()

    def synchronize(self) -> None:
        check()
        self._drain()
        log.append((self.ptr, "synchronize", 0))

    def record(self, event: Any = None) -> Any:
        event = event or Event()
        with lock:
            event._at = (self, len(self._work))
        log.append((self.ptr, "record", 0))
        return event

    def wait_event(self, event: Any) -> None:
        event._wait()
        log.append((self.ptr, "wait_event", 0))

    def __enter__(self) -> Any:
        _local.streams = [*getattr(_local, "streams", []), self]
        return self

    def __exit__(self, *args: object) -> None:
        _local.streams = _local.streams[:-1]


class Event:
    def __init__(
        self, block: bool = False, disable_timing: bool = False, interprocess: bool = False
    ) -> None:
        self._at: Any = None

    def _wait(self) -> None:
        if self._at:
            stream, count = self._at
            stream._drain(count)

    def synchronize(self) -> None:
        check()
        self._wait()


streams: list[Stream] = []
_null = Stream(null=True)


def current() -> Stream:
    streams = getattr(_local, "streams", [])
    return streams[-1] if streams else _null
