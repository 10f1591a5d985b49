"""NVIDIA GPUs through NVML, when a driver is there.

Every call may fail or hang: the driver is asked from a thread of its own, and whoever wants to
know gets the last answer with its age. A GPU that cannot say something says "unknown", not 0.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import pynvml

from deadheat.runtime import logs

log = logs.get("nvml")

POLL_INTERVAL_S: Final = 0.5
#: Without a driver, it is looked for again so often: a GPU may appear after the agent.
SEARCH_INTERVAL_S: Final = 10.0
#: An answer older than this means that the driver hangs.
STALE_AFTER_S: Final = 3.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU at one moment; None for what NVML does not say."""

    uuid: str
    name: str
    busy: float | None = None
    memory_busy: float | None = None
    memory_total_bytes: int = 0
    memory_used_bytes: int = 0
    power_watts: float | None = None
    temperature_celsius: float | None = None
    clock_hz: float | None = None
    clock_max_hz: float | None = None
    pids: tuple[int, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Gpus:
    """All GPUs, and when that was so."""

    at_s: float
    devices: tuple[Gpu, ...] = ()
    problem: str = field(default="")


class NvmlProbe:
    """Asks the driver from its own thread, for ever."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._latest = Gpus(clock())
        self._stopping = threading.Event()
        self._answered = threading.Event()
        self._thread = threading.Thread(target=self._run, name="nvml", daemon=True)
        self._thread.start()

    def first(self, timeout_s: float) -> Gpus:
        """The first answer, or what there is when the time is over."""
        self._answered.wait(timeout_s)
        return self.latest()

    def latest(self) -> Gpus:
        """The last answer; a stale one is said to be so."""
        found = self._latest
        if found.devices and self._clock() - found.at_s > STALE_AFTER_S:
            return Gpus(found.at_s, found.devices, "the driver does not answer")
        return found

    def stop(self) -> None:
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                pynvml.nvmlInit()
            except pynvml.NVMLError as error:
                self._latest = Gpus(self._clock(), problem=str(error))
                self._answered.set()
                self._stopping.wait(SEARCH_INTERVAL_S)
                continue
            try:
                self._poll()
            except pynvml.NVMLError as error:
                log.warning(f"NVML failed: {error}", extra=logs.keys("nvml"))
                self._latest = Gpus(self._clock(), problem=str(error))
                self._stopping.wait(POLL_INTERVAL_S)
            finally:
                _ask(pynvml.nvmlShutdown)

    def _poll(self) -> None:
        while not self._stopping.is_set():
            count = pynvml.nvmlDeviceGetCount()
            devices = tuple(_read(index) for index in range(count))
            self._latest = Gpus(self._clock(), devices)
            self._answered.set()
            self._stopping.wait(POLL_INTERVAL_S)


def _ask(call: Callable[..., T], *arguments: Any) -> T | None:
    """The answer, or None for "not supported" and all its relatives."""
    try:
        return call(*arguments)
    except pynvml.NVMLError:
        return None


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _read(index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    uuid, name = _text(pynvml.nvmlDeviceGetUUID(handle)), _text(pynvml.nvmlDeviceGetName(handle))
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError as error:
        return Gpu(uuid, name, problem=str(error))
    busy = _ask(pynvml.nvmlDeviceGetUtilizationRates, handle)
    power_mw = _ask(pynvml.nvmlDeviceGetPowerUsage, handle)
    clock_mhz = _ask(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM)
    clock_max_mhz = _ask(pynvml.nvmlDeviceGetMaxClockInfo, handle, pynvml.NVML_CLOCK_SM)
    processes = _ask(pynvml.nvmlDeviceGetComputeRunningProcesses, handle) or []
    temperature = _ask(pynvml.nvmlDeviceGetTemperatureV, handle, pynvml.NVML_TEMPERATURE_GPU)
    return Gpu(
        uuid=uuid,
        name=name,
        busy=None if busy is None else min(1.0, busy.gpu / 100),
        memory_busy=None if busy is None else min(1.0, busy.memory / 100),
        memory_total_bytes=memory.total,
        memory_used_bytes=memory.used,
        power_watts=None if power_mw is None else power_mw / 1e3,
        temperature_celsius=temperature,
        clock_hz=None if clock_mhz is None else clock_mhz * 1e6,
        clock_max_hz=None if clock_max_mhz is None else clock_max_mhz * 1e6,
        pids=tuple(process.pid for process in processes),
    )
