"""Daemons that die are started again, so often; then whoever started them is told."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from deadheat.runtime.children import Child
from deadheat.runtime.errors import ClusterError

MAX_RESTARTS: Final = 5
RESTARTS_WINDOW_S: Final = 60.0


class Supervisor:
    """Waits for the deaths of children; `restart` makes a new child for a dead one."""

    def __init__(self, restart: Callable[[Child], Child], say: Callable[[str], None]) -> None:
        self._restart = restart
        self._say = say
        self._deaths: queue.Queue[Child] = queue.Queue()
        self._recent: deque[float] = deque(maxlen=MAX_RESTARTS)

    def watch(self, child: Child) -> None:
        def wait() -> None:
            child.process.wait()
            self._deaths.put(child)

        threading.Thread(target=wait, name=f"watch-{child.name}", daemon=True).start()

    def run(self) -> None:
        """Until interrupted; raises ClusterError when restarting does not help."""
        while True:
            dead = self._deaths.get()
            self._say(f"{dead.name} ended with code {dead.process.returncode}, starting it again")
            self._recent.append(time.monotonic())
            full = len(self._recent) == MAX_RESTARTS
            if full and self._recent[-1] - self._recent[0] < RESTARTS_WINDOW_S:
                raise ClusterError(f"{dead.name} ended {MAX_RESTARTS} times within a minute")
            self.watch(self._restart(dead))
