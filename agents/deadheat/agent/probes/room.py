"""How much room there is where files go, asked for in a thread of its own.

A folder may lie on a network's file system, and asking that may hang for ever: then this thread
hangs and nobody else, and after a while the answer is that nobody knows.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Final

INTERVAL_S: Final = 10.0
#: An answer older than this is none.
STALE_AFTER_S: Final = 3 * INTERVAL_S


class Room:
    """Looks again and again until `stop`."""

    def __init__(self, folder: Path, *, interval_s: float = INTERVAL_S) -> None:
        self._folder = folder
        self._interval_s = interval_s
        self._stopping = threading.Event()
        #: When it was seen, total and free bytes; replaced whole.
        self._seen: tuple[float, int, int] | None = None
        self._answered = threading.Event()
        self._thread = threading.Thread(target=self._run, name="room", daemon=True)
        self._thread.start()

    def first(self, timeout_s: float) -> tuple[int, int] | None:
        """The first answer, waited for so long."""
        self._answered.wait(timeout_s)
        return self.latest()

    def latest(self) -> tuple[int, int] | None:
        """Total and free bytes; None where nobody knows."""
        seen = self._seen
        if seen is None or time.monotonic() - seen[0] > STALE_AFTER_S:
            return None
        return seen[1:]

    def stop(self) -> None:
        """Ends the thread; one that hangs is left alone, and ends with the process."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            now = time.monotonic()
            try:
                found = os.statvfs(_existing(self._folder))
                total, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
                self._seen = (now, total, free)
            except OSError:
                self._seen = None
            self._answered.set()
            self._stopping.wait(self._interval_s)


def _existing(folder: Path) -> Path:
    """The folder, or that in which it would be made."""
    return next((one for one in (folder, *folder.parents) if one.exists()), folder)
