"""What it costs to look: 64 recorded cores and 8 stub GPUs, four times a second, as the agent does.

Counted is processor time of the whole process, threads of NVML and all. The GPUs are a stub, so
that the driver's own time is not in it: that is the driver's, and differs.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pynvml

from benchmarks.measuring import Figure, summary
from deadheat.agent.probes.cgroups import Cgroups
from deadheat.agent.probes.cpu import CpuProbe
from deadheat.agent.probes.nvml import NvmlProbe
from deadheat.agent.probes.sampler import Sampler
from deadheat.v1 import agent_pb2 as pb

CORES: Final = 64
GPUS: Final = 8
#: The executor's threads: schedstat is read for each.
PID: Final = 1000
WINDOWS: Final = 5
WINDOW_S: Final = 2.0
TARGET_S: Final = 0.020
STUB: Final = Path(__file__).parent.parent / "tests/agent/nvml_stub.c"


def run() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _record(root)
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            yield from _measure(root, 0)
            return
        library = root / "libnvidia-ml.so.1"
        command = [compiler, "-shared", "-fPIC", "-O2", "-pthread", "-o", str(library), str(STUB)]
        subprocess.run(command, check=True)
        before = pynvml.nvmlLib
        os.environ["NVML_STUB_STATE"] = str(root / "gpus")
        pynvml.nvmlLib = ctypes.CDLL(str(library))
        try:
            yield from _measure(root, GPUS)
        finally:
            pynvml.nvmlLib = before
            pynvml._nvmlGetFunctionPointer_cache.clear()  # noqa: SLF001


def _measure(root: Path, gpus: int) -> Iterator[Figure]:
    proc, cgroups = root / "proc", Cgroups(root / "cgroup", root / "proc")
    nvml = NvmlProbe()
    found = nvml.first(10.0)
    told: list[pb.Samples] = []
    devices = {gpu.uuid: f"n/gpu{k}" for k, gpu in enumerate(found.devices)}
    cpu = CpuProbe(range(CORES), lambda: [PID], lambda: PID, root=proc, cgroups=cgroups)
    sampler = Sampler({"n/cpu": cpu}, nvml, devices, int, tuple, told.append, lambda _: None)
    costs = []
    # A window is as long as it says, whatever is told in it; nothing is waited for.
    pause = threading.Event()
    for _ in range(WINDOWS):
        started_s, cpu_s = time.monotonic(), time.process_time()
        pause.wait(WINDOW_S)
        costs.append((time.process_time() - cpu_s) / (time.monotonic() - started_s))
    sampler.stop()
    nvml.stop()
    nvml.join(5.0)
    name = f"{CORES} cores, {gpus} GPUs at 4 Hz, of a core"
    assert len(devices) == gpus, f"{len(devices)} of {gpus} GPUs were found: {found.problem}"
    assert told, "nothing was sampled"
    yield summary("sampling", name, costs, "s/s", target=TARGET_S)


def _record(root: Path) -> None:
    """A machine as its kernel would show it; nothing changes, which costs the same to read."""
    cores = [f"cpu{core} 10000 0 5000 900000 100 0 50 0 0 0" for core in range(CORES)]
    _write(root / "proc/stat", "\n".join(["cpu  0 0 0 0 0 0 0 0 0 0", *cores]))
    fields = ["0"] * 50
    fields[0] = "S"
    for thread in range(PID, PID + CORES + 8):
        _write(root / f"proc/{PID}/task/{thread}/schedstat", "123456789 2345678 99")
    _write(root / f"proc/{PID}/stat", f"{PID} (python) {' '.join(fields)}")
    _write(root / f"proc/{PID}/cgroup", "0::/system.slice/deadheat-agent.service")
    _write(root / "cgroup/system.slice/deadheat-agent.service/cpu.max", "max 100000")
    gpus = [
        f"gpu GPU-{k} name=NVIDIA_H100 util=50 mutil=20 used=1000 total=81920 mw=300000 "
        f"mwmax=700000 temp=60 sm=1500 smmax=1980 gen=5 genmax=5 width=16\n"
        f"proc GPU-{k} {2000 + k} 1000 50"
        for k in range(GPUS)
    ]
    _write(root / "gpus", "\n".join(gpus))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")
