"""The calls to NVML for one GPU: every one may say that it is not supported, not found or lost.

What is not supported is None. What means that the whole GPU or the driver is gone is raised, since
a GPU that lost only some of its figures would look idle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import pynvml

from deadheat.agent.probes.gpus import Gpu, GpuProcess

#: The driver went away beneath us: NVML has to be initialised again.
RELOAD: Final = frozenset(
    {
        pynvml.NVML_ERROR_UNINITIALIZED,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    }
)
_FATAL: Final = RELOAD | {
    pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_RESET_REQUIRED,
    pynvml.NVML_ERROR_GPU_NOT_FOUND,
}
#: What an operator can do about it, where it is known.
_ADVICE: Final = {
    pynvml.NVML_ERROR_UNINITIALIZED: "the driver was unloaded or reloaded",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "no driver is loaded",
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "no libnvidia-ml.so.1 is installed, or it is not visible",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "the driver was upgraded in the kernel or outside of it only; restart the agent, or reboot"
    ),
    pynvml.NVML_ERROR_GPU_IS_LOST: "it fell off the bus; reset it, or reboot",
    pynvml.NVML_ERROR_RESET_REQUIRED: "it has to be reset",
    pynvml.NVML_ERROR_NOT_FOUND: "missing: it was here before and is not now",
    pynvml.NVML_ERROR_NO_PERMISSION: "this user or unit may not open the device files",
}
#: Reasons that make the GPU slower than its clocks promise (not: idle, or set so by somebody).
_THROTTLES: Final = {
    pynvml.nvmlClocksEventReasonSwPowerCap: "power cap",
    pynvml.nvmlClocksEventReasonHwSlowdown: "hardware slowdown",
    pynvml.nvmlClocksEventReasonSyncBoost: "sync boost",
    pynvml.nvmlClocksEventReasonSwThermalSlowdown: "heat",
    pynvml.nvmlClocksEventReasonHwThermalSlowdown: "heat (hardware)",
    pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown: "power brake",
    pynvml.nvmlClocksEventReasonApplicationsClocksSetting: "clocks set by an administrator",
}
#: What changes slowly or costs much is asked for at every so many-th look: measuring a PCIe rate
#: keeps the caller for 20 ms.
SLOW_EVERY: Final = 4

T = TypeVar("T")


def explain(error: pynvml.NVMLError) -> str:
    """NVML's words, and what they mean."""
    advice = _ADVICE.get(error.value, "")
    words = str(error).rstrip(".")
    return f"{words}: {advice}" if advice else words


def ask(call: Callable[..., T], *arguments: Any) -> T | None:
    """The answer, or None for "not supported" and its like; raises NVMLError if all is lost."""
    try:
        return call(*arguments)
    except pynvml.NVMLError as error:
        if error.value in _FATAL:
            raise
        return None


def text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def instances(handle: Any) -> Iterator[Any]:
    """The handles of a GPU's MIG instances."""
    for index in range(ask(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        found = ask(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, index)
        if found is not None:
            yield found


def is_partitioned(handle: Any) -> bool:
    """Whether MIG is on: then the instances are what multiplies, not the GPU."""
    mode = ask(pynvml.nvmlDeviceGetMigMode, handle)
    return bool(mode and mode[0])


class Reader:
    """Reads one GPU, and remembers what need not be asked for each time."""

    def __init__(self, uuid: str, name: str, parent_uuid: str = "") -> None:
        self.uuid, self.name, self._parent_uuid = uuid, name, parent_uuid
        self._looks = 0
        self._slow: dict[str, Any] = {}

    def read(self, now: float) -> Gpu:
        """The GPU as it is; raises NVMLError when it is not there."""
        # The handle is asked for each time: after a reload of the driver an old one is invalid.
        handle = pynvml.nvmlDeviceGetHandleByUUID(self.uuid)
        if self._looks % SLOW_EVERY == 0:
            self._slow = _slow(handle)
        self._looks += 1
        busy = ask(pynvml.nvmlDeviceGetUtilizationRates, handle)
        try:
            memory, problem = pynvml.nvmlDeviceGetMemoryInfo(handle), ""
        except pynvml.NVMLError as error:
            if error.value in _FATAL:
                raise
            memory, problem = None, f"memory is unknown: {error}"
        return Gpu(
            uuid=self.uuid,
            name=self.name,
            parent_uuid=self._parent_uuid,
            at_s=now,
            busy=_share(busy and busy.gpu),
            memory_busy=_share(busy and busy.memory),
            memory_total_bytes=memory.total if memory else 0,
            memory_used_bytes=memory.used if memory else 0,
            clock_hz=_times(ask(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM), 1e6),
            throttle=_throttle(handle),
            problem=problem,
            **self._slow,
        )


def _slow(handle: Any) -> dict[str, Any]:
    clock_max = ask(pynvml.nvmlDeviceGetMaxClockInfo, handle, pynvml.NVML_CLOCK_SM)
    rate = pynvml.nvmlDeviceGetPcieThroughput
    return {
        "power_watts": _times(ask(pynvml.nvmlDeviceGetPowerUsage, handle), 1e-3),
        "power_limit_watts": _times(ask(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle), 1e-3),
        "temperature_celsius": _temperature(handle),
        "clock_max_hz": _times(clock_max, 1e6),
        "pcie_generation": ask(pynvml.nvmlDeviceGetCurrPcieLinkGeneration, handle),
        "pcie_generation_max": ask(pynvml.nvmlDeviceGetMaxPcieLinkGeneration, handle),
        "pcie_lanes": ask(pynvml.nvmlDeviceGetCurrPcieLinkWidth, handle),
        # NVML counts in KB, of 1000 bytes or of 1024: it does not say, and it does not matter.
        "pcie_in_bytes_per_s": _times(ask(rate, handle, pynvml.NVML_PCIE_UTIL_RX_BYTES), 1e3),
        "pcie_out_bytes_per_s": _times(ask(rate, handle, pynvml.NVML_PCIE_UTIL_TX_BYTES), 1e3),
        "processes": _processes(handle),
    }


def _temperature(handle: Any) -> float | None:
    found = ask(pynvml.nvmlDeviceGetTemperatureV, handle, pynvml.NVML_TEMPERATURE_GPU)
    # Older drivers know only the older call, which newer bindings have dropped.
    older = getattr(pynvml, "nvmlDeviceGetTemperature", None)
    if found is None and older is not None:
        found = ask(older, handle, pynvml.NVML_TEMPERATURE_GPU)
    return found


def _throttle(handle: Any) -> tuple[str, ...] | None:
    bits = ask(pynvml.nvmlDeviceGetCurrentClocksEventReasons, handle)
    if bits is None:
        return None
    return tuple(words for bit, words in _THROTTLES.items() if bits & bit)


def _processes(handle: Any) -> tuple[GpuProcess, ...] | None:
    # Not its unversioned name: that raises something else for drivers that lack it.
    running = ask(pynvml.nvmlDeviceGetComputeRunningProcesses_v3, handle)
    if running is None:
        return None
    # Samples of about the last second; "not found" means that there are none since then.
    samples = ask(pynvml.nvmlDeviceGetProcessUtilization, handle, 0) if running else None
    latest: dict[int, Any] = {}
    for one in samples or ():
        if one.pid not in latest or one.timeStamp > latest[one.pid].timeStamp:
            latest[one.pid] = one
    return tuple(
        GpuProcess(
            one.pid,
            one.usedGpuMemory,
            _share(latest[one.pid].smUtil) if one.pid in latest else None,
        )
        for one in running
    )


def _share(percent: int | None) -> float | None:
    return None if percent is None else min(1.0, percent / 100)


def _times(value: int | None, factor: float) -> float | None:
    return None if value is None else value * factor
