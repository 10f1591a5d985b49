"""The agent's end of an executor: starts it, speaks to it, starts it again if it dies."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from deadheat.runtime import logs, notify
from deadheat.runtime.errors import ClusterError
from deadheat.runtime.frames import AsyncFrames
from deadheat.v1 import local_pb2 as pb

log = logs.get("executor")

START_TIMEOUT_S: Final = 20.0
#: Deaths within this time after which the agent gives up its device.
MAX_DEATHS: Final = 10
DEATHS_WINDOW_S: Final = 60.0
#: One BLAS thread for each of ours, or they would fight for the same cores.
_ONE_THREAD: Final = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "BLIS_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Command:
    """What is started: a module, and what its environment has besides the agent's."""

    module: str = "deadheat.agent.executors.worker"
    environment: Mapping[str, str] = field(default_factory=dict)
    #: The cores on which its threads stay; empty for the agent's.
    cpus: tuple[int, ...] = ()
    #: Variables that it must not have, whoever set them.
    without: frozenset[str] = frozenset()
    #: For people.
    name: str = "the executor"
    start_timeout_s: float = START_TIMEOUT_S


CORES: Final = Command()


class ExecutorLink:
    """One executor process. `on_event` gets what it says; `on_died` is told of its death, before
    a new one is started."""

    def __init__(
        self,
        threads: int,
        politeness: str,
        on_event: Callable[[pb.ExecutorEvent], None],
        on_died: Callable[[str], None],
        command: Command = CORES,
    ) -> None:
        self._threads = threads
        self._command = command
        #: What it has said of its end.
        self._reason = ""
        self._politeness = politeness
        self._on_event = on_event
        self._on_died = on_died
        self._process: subprocess.Popen[bytes] | None = None
        self._frames: AsyncFrames | None = None
        self._ready: asyncio.Future[pb.ExecutorReady] | None = None
        self._kept_open = -1
        self._deaths: deque[float] = deque(maxlen=MAX_DEATHS)
        self._stopping = False
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    async def start(self) -> pb.ExecutorReady:
        self._reason = ""
        ours = self._spawn()
        self._ready = asyncio.get_running_loop().create_future()
        self._frames = AsyncFrames(ours, self._on_frame, self._on_closed)
        try:
            found = await asyncio.wait_for(
                asyncio.shield(self._ready), self._command.start_timeout_s
            )
        except TimeoutError:
            raise ClusterError(f"{self._command.name} did not start in time") from None
        if self._kept_open >= 0:
            self._send_kept_open()
        return found

    def _spawn(self) -> socket.socket:
        """Starts the process; returns our end of the socket to it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        arguments = ["--fd", str(theirs.fileno()), "--threads", str(self._threads)]
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", self._command.module, *arguments),
                *("--politeness", self._politeness),
                *(("--cpus", ",".join(map(str, self._command.cpus))) if self._command.cpus else ()),
            ],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            env=self._environment(),
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        return ours

    def _environment(self) -> dict[str, str]:
        inherited = notify.environment_of_a_child(os.environ)
        kept = {key: v for key, v in inherited.items() if key not in self._command.without}
        return {**kept, **_ONE_THREAD, **self._command.environment}

    def send(self, request: pb.ExecutorRequest, descriptors: Sequence[int] = ()) -> None:
        if self._frames:
            self._frames.send(request.SerializeToString(), descriptors)

    def keep_open(self, descriptor: int) -> None:
        """The executor holds this open too, so that its end is seen only after the executor's."""
        self._kept_open = descriptor
        self._send_kept_open()

    def _send_kept_open(self) -> None:
        self.send(pb.ExecutorRequest(keep_open=pb.KeepOpen()), [self._kept_open])

    def _on_frame(self, payload: bytes, descriptors: list[int]) -> None:
        del descriptors  # An executor sends none.
        event = pb.ExecutorEvent.FromString(payload)
        if event.WhichOneof("event") == "ready":
            if self._ready and not self._ready.done():
                self._ready.set_result(event.ready)
            return
        if event.WhichOneof("event") == "ending":
            self._reason = event.ending.reason
            return
        self._on_event(event)

    def _on_closed(self) -> None:
        if self._stopping:
            return
        asyncio.get_running_loop().create_task(self._replace())

    async def _replace(self) -> None:
        """It has died (or is dying: its socket closed first). One that was never ready is not
        started again by itself: it would end for the same reason."""
        process, name = self._process, self._command.name
        assert process is not None
        code = await asyncio.to_thread(_reap, process)
        reason = self._reason or (f"signal {-code}" if code < 0 else f"exit code {code}")
        log.warning(f"{name} died: {reason}", extra=logs.keys("executor_died"))
        if self._ready and not self._ready.done():
            # Whoever waits is told; nobody may, if that took too long.
            self._ready.set_exception(ClusterError(f"{name} did not start: {reason}"))
            self._ready.exception()
            return
        self._on_died(reason)
        self._deaths.append(time.monotonic())
        many = len(self._deaths) == MAX_DEATHS
        if self._stopping:
            return
        if many and self._deaths[-1] - self._deaths[0] < DEATHS_WINDOW_S:
            self._give_up(ClusterError(f"{name} died {MAX_DEATHS} times, at last: {reason}"))
            return
        try:
            await self.start()
        except ClusterError as error:
            self._give_up(error)

    def _give_up(self, error: ClusterError) -> None:
        if not self.failed.done():
            self.failed.set_exception(error)

    def set_politeness(self, politeness: str) -> None:
        """Of the process that runs and of those that replace it. Raises PermissionError where
        becoming normal again is not allowed (it takes RLIMIT_NICE, LimitNICE= in a unit)."""
        policy = os.SCHED_IDLE if politeness == "idle" else os.SCHED_OTHER
        # Threads that start meanwhile have what the one that starts them has.
        for thread in Path(f"/proc/{self.pid}/task").glob("*") if self.pid else ():
            with suppress(ProcessLookupError):
                os.sched_setscheduler(int(thread.name), policy, os.sched_param(0))
        self._politeness = politeness

    async def stop(self) -> None:
        self._stopping = True
        if self._frames:
            self._frames.close()
        if self._process:
            await asyncio.to_thread(_reap, self._process)


def _reap(process: subprocess.Popen[bytes]) -> int:
    """Waits for a process whose socket is closed; one that is stuck is killed."""
    try:
        return process.wait(1.0)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
