"""A daemon's heartbeat: its status for people, and the watchdog's food while it is well.

Rules: it beats on the daemon's event loop, so that a blocked loop is not fed for; the watchdog is
fed only if `problem` has nothing to say; `problem` is about this process alone, since a restart
does not mend a peer that is away or a disk that is full.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from deadheat.runtime import logs, notify

log = logs.get("heartbeat")

#: How old what `systemctl status` shows may be.
STATUS_INTERVAL_S: Final = 2.0
#: A beat that comes so late is worth a line in the log: something blocks the event loop.
LATE_S: Final = 1.0


class Heartbeat:
    """Call `ready` when the daemon serves, and have `run` run from then on."""

    def __init__(self, status: Callable[[], str], problem: Callable[[], str]) -> None:
        self._status = status
        self._problem = problem
        self._told = ""
        self._told_problem = ""
        self._is_ready = False
        #: What people should know until the next reload.
        self.note = ""

    def ready(self) -> None:
        """Says READY=1; also ends a reload. Before the first call by the daemon itself a reload
        must not say it, or a daemon that is still starting would be taken for one that serves."""
        self._is_ready = True
        self._told = self._text()
        notify.ready(self._told)

    def reloaded(self, note: str) -> None:
        self.note = note
        if self._is_ready:
            self.ready()

    def _text(self) -> str:
        return "; ".join(part for part in (self._problem(), self._status(), self.note) if part)

    async def run(self) -> None:
        interval_s = min(STATUS_INTERVAL_S, notify.watchdog_interval_s() or STATUS_INTERVAL_S)
        while True:
            self._beat()
            due_s = time.monotonic() + interval_s
            await asyncio.sleep(interval_s)
            late_s = time.monotonic() - due_s
            if late_s > LATE_S:
                log.warning(
                    f"the event loop was blocked for {late_s:.1f} s",
                    extra=logs.keys("loop_blocked", late_s=late_s),
                )

    def _beat(self) -> None:
        lines = []
        problem = self._problem()
        if not problem:
            lines.append("WATCHDOG=1")
        if problem != self._told_problem:
            self._told_problem = problem
            if problem:
                log.error(
                    f"not well, the watchdog is not fed: {problem}", extra=logs.keys("unwell")
                )
        text = self._text()
        if text != self._told and notify.notify(*lines, f"STATUS={text}"):
            self._told = text
        elif lines:
            notify.notify(*lines)
