"""The stub NVML as tests use it: built once, told what to say by a file that is replaced whole."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pynvml
import pytest
from tests.waiting import wait_until

from deadheat.agent.probes.gpus import Gpu
from deadheat.agent.probes.nvml import NvmlProbe

SOURCE = Path(__file__).with_name("nvml_stub.c")
STATE_VARIABLE = "NVML_STUB_STATE"
LOST = pynvml.NVML_ERROR_GPU_IS_LOST
NOT_SUPPORTED = pynvml.NVML_ERROR_NOT_SUPPORTED

H100 = (
    "gpu GPU-a name=NVIDIA_H100 util=37 mutil=12 used=2048 total=81920 mw=310500 mwmax=700000 "
    "temp=64 sm=1755 smmax=1980 throttle=0x4 gen=4 genmax=5 width=16 rx=1000 tx=2000"
)
T4 = "gpu GPU-b name=Tesla_T4 util=0 used=10 total=15360 mw=12000 mwmax=70000 temp=35 sm=300"


def build(folder: Path) -> Path:
    """Compiles the stub as `folder`/libnvidia-ml.so.1; skips where nothing can."""
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler for the stub of NVML")
    library = folder / "libnvidia-ml.so.1"
    flags = ["-shared", "-fPIC", "-O1", "-pthread", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run([compiler, *flags, "-o", str(library), str(SOURCE)], check=True)
    return library


class Stub:
    """What the driver is to say. Probes made by it are ended with the test."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self._probes: list[NvmlProbe] = []

    def say(self, *lines: str) -> None:
        """Replaces all that it says."""
        new = self.state.with_suffix(".new")
        new.write_text("\n".join(lines) + "\n")
        new.replace(self.state)

    def unload(self) -> None:
        """There is no driver any more."""
        self.state.unlink(missing_ok=True)

    def probe(self) -> NvmlProbe:
        found = NvmlProbe(search_interval_s=0.1)
        self._probes.append(found)
        return found

    def end(self) -> None:
        self.unload()  # Whatever hangs, ends.
        for probe in self._probes:
            probe.stop()
        assert all(probe.join(60.0) for probe in self._probes)


@contextmanager
def installed(library: Path, folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """The stub in the place of the driver's library, in this process."""
    stub = Stub(folder / "nvml.state")
    patch.setenv(STATE_VARIABLE, str(stub.state))
    patch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(library)))
    patch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    try:
        yield stub
    finally:
        stub.end()


def gpu_of(probe: NvmlProbe, uuid: str = "GPU-a") -> Gpu | None:
    return next((gpu for gpu in probe.latest().devices if gpu.uuid == uuid), None)


def wait_for_problem(probe: NvmlProbe, words: str, uuid: str = "GPU-a") -> Gpu:
    def found() -> Gpu | None:
        gpu = gpu_of(probe, uuid)
        return gpu if gpu and words in gpu.problem else None

    gpu = wait_until(found, f"{uuid} to say {words!r}")
    assert gpu is not None
    return gpu


def wait_for_health(probe: NvmlProbe, uuid: str = "GPU-a") -> Gpu:
    def found() -> Gpu | None:
        gpu = gpu_of(probe, uuid)
        return gpu if gpu and not gpu.problem else None

    gpu = wait_until(found, f"{uuid} to be well")
    assert gpu is not None
    return gpu
