"""Those who watch jobs: woken when something is new, told once however much it was."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Watchers:
    def __init__(self) -> None:
        self._events: dict[str, set[asyncio.Event]] = {}

    def notify(self, job: str) -> None:
        for event in self._events.get(job, ()):
            event.set()

    @contextmanager
    def watching(self, job: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever the job has news, until the watcher leaves."""
        event = asyncio.Event()
        self._events.setdefault(job, set()).add(event)
        try:
            yield event
        finally:
            remaining = self._events[job]
            remaining.discard(event)
            if not remaining:
                del self._events[job]
