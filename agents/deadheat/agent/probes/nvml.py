"""NVIDIA GPUs through NVML, when a driver is there; a thread for each, since every call may hang.

One thread looks for GPUs, again and again: a GPU may appear late, a driver may be reloaded. Each
GPU found has a thread that reads it. A call that hangs keeps its own thread and nobody else:
whoever wants to know gets the last answer, said to be stale. No thread is ever started in the place
of one that hangs, so that there are never more than one for each GPU and one that looks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pynvml

from deadheat.agent.probes.gpus import Gpu, Gpus
from deadheat.agent.probes.nvml_calls import (
    RELOAD,
    Reader,
    ask,
    explain,
    instances,
    is_partitioned,
    text,
)
from deadheat.runtime import logs

log = logs.get("nvml")

POLL_INTERVAL_S: Final = 0.25
#: GPUs are looked for again so often.
SEARCH_INTERVAL_S: Final = 10.0
#: After a failure, sooner: a reload of the driver takes seconds.
RETRY_INTERVAL_S: Final = 1.0
#: An answer older than this means that the driver hangs.
STALE_AFTER_S: Final = 3.0
#: More than any machine has (16 GPUs of 7 instances would be 112, in no machine that we know of);
#: each has a thread.
MAX_GPUS: Final = 64

NO_ANSWER: Final = "the driver does not answer"


class NvmlProbe:
    """Asks the driver from its own threads, until `stop`."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        search_interval_s: float = SEARCH_INTERVAL_S,
    ) -> None:
        self._clock = clock
        self._search_interval_s = search_interval_s
        self._stopping = threading.Event()
        self._again = threading.Event()
        self._answered = threading.Event()
        # Replaced whole, never changed: other threads read it without a lock.
        self._watchers: dict[str, _Watcher] = {}
        self._problem = ""
        self._busy_since_s: float | None = clock()
        self._thread = threading.Thread(target=self._search, name="nvml", daemon=True)
        self._thread.start()

    def first(self, timeout_s: float) -> Gpus:
        """What each GPU says first, or what there is when the time is over."""
        deadline_s = time.monotonic() + timeout_s
        if not self._answered.wait(timeout_s):
            return Gpus(self._clock(), problem=NO_ANSWER)
        for watcher in self._watchers.values():
            watcher.answered.wait(max(0.0, deadline_s - time.monotonic()))
        return self.latest()

    def latest(self) -> Gpus:
        """The last answers, at once; a stale one is said to be so."""
        now, since_s = self._clock(), self._busy_since_s
        is_hanging = since_s is not None and now - since_s > STALE_AFTER_S
        devices = tuple(watcher.at(now) for watcher in self._watchers.values())
        return Gpus(now, devices, NO_ANSWER if is_hanging else self._problem)

    def stop(self) -> None:
        """Ends the threads; one that hangs is left alone, and ends with the process."""
        self._stopping.set()
        self._again.set()

    def join(self, timeout_s: float) -> bool:
        """Whether all threads have ended, after waiting so long for them."""
        deadline_s = time.monotonic() + timeout_s
        threads = [self._thread, *(watcher.thread for watcher in self._watchers.values())]
        for thread in threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _search(self) -> None:
        while not self._stopping.is_set():
            try:
                self._busy_since_s = self._clock()
                pynvml.nvmlInit()
            except pynvml.NVMLError as error:
                self._pause(explain(error), RETRY_INTERVAL_S if self._watchers else None)
                continue
            # What the watchers said while NVML was away is answered by this.
            self._again.clear()
            try:
                while not self._stopping.is_set() and not self._again.is_set():
                    self._busy_since_s = self._clock()
                    self._look()
                    self._pause(self._problem)
            except pynvml.NVMLError as error:
                log.warning(f"NVML failed: {explain(error)}", extra=logs.keys("nvml"))
                self._pause(explain(error), RETRY_INTERVAL_S)
            finally:
                self._shut_down()
            self._stopping.wait(RETRY_INTERVAL_S)

    def _pause(self, problem: str, interval_s: float | None = None) -> None:
        self._problem, self._busy_since_s = problem, None
        self._answered.set()
        if interval_s is None:
            self._again.wait(self._search_interval_s)
        else:
            self._stopping.wait(interval_s)

    def _shut_down(self) -> None:
        self._busy_since_s = self._clock()
        try:
            pynvml.nvmlShutdown()
        except pynvml.NVMLError:
            pass  # Uninitialised already: that is why we are here.
        self._busy_since_s = None

    def _look(self) -> None:
        """Finds GPUs that are new; those that are gone are missed by their own threads."""
        problem, found = "", dict(self._watchers)
        for index in range(pynvml.nvmlDeviceGetCount()):
            try:
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                uuid = text(pynvml.nvmlDeviceGetUUID(handle))
                parts = list(instances(handle)) if is_partitioned(handle) else None
            except pynvml.NVMLError as error:
                if error.value in RELOAD:
                    raise
                problem = f"GPU {index}: {explain(error)}"
                continue
            if parts == []:
                problem = f"GPU {index} {uuid}: MIG is on, but it has no instances"
            for part in [handle] if parts is None else parts:
                self._add(found, part, "" if parts is None else uuid)
        self._problem, self._watchers = problem, found

    def _add(self, found: dict[str, _Watcher], handle: Any, parent_uuid: str) -> None:
        uuid = ask(pynvml.nvmlDeviceGetUUID, handle)
        if uuid is None or text(uuid) in found:
            return
        if len(found) == MAX_GPUS:
            log.warning(f"more than {MAX_GPUS} GPUs; the others are ignored")
            return
        name = text(ask(pynvml.nvmlDeviceGetName, handle) or "unknown GPU")
        reader = Reader(text(uuid), name, parent_uuid)
        found[reader.uuid] = _Watcher(reader, self._clock, self._stopping, self._again)


class _Watcher:
    """The thread that reads one GPU."""

    def __init__(
        self,
        reader: Reader,
        clock: Callable[[], float],
        stopping: threading.Event,
        again: threading.Event,
    ) -> None:
        self._reader = reader
        self._clock = clock
        self._stopping = stopping
        self._again = again
        self._latest = Gpu(reader.uuid, reader.name, at_s=clock())
        self.answered = threading.Event()
        self.thread = threading.Thread(target=self._run, name="nvml-gpu", daemon=True)
        self.thread.start()

    def at(self, now: float) -> Gpu:
        found = self._latest
        if not self.answered.is_set():
            return replace(found, problem=NO_ANSWER)
        if now - found.at_s > STALE_AFTER_S:
            problem = f"{NO_ANSWER}, for {now - found.at_s:.0f} s now"
            return replace(found, problem=problem)
        return found

    def _run(self) -> None:
        while not self._stopping.is_set():
            # The moment before: an answer that took long is old when it comes.
            now = self._clock()
            try:
                self._latest = self._reader.read(now)
            except pynvml.NVMLError as error:
                self._latest = self._without_figures(now, explain(error))
                if error.value in RELOAD:
                    self._again.set()
            except Exception as error:  # An answer that makes no sense must not end the looking.
                log.exception("reading a GPU failed", extra=logs.keys("nvml"))
                self._latest = self._without_figures(now, f"NVML cannot be read: {error!r}")
            self.answered.set()
            self._stopping.wait(POLL_INTERVAL_S)

    def _without_figures(self, now: float, problem: str) -> Gpu:
        """Its size stays known; what it does now is not."""
        before = self._latest
        return Gpu(
            before.uuid,
            before.name,
            before.parent_uuid,
            now,
            memory_total_bytes=before.memory_total_bytes,
            memory_used_bytes=before.memory_total_bytes,
            problem=problem,
        )
