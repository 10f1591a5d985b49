"""`deadheat doctor` on GPUs: found, ailing, missing, or none at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from deadheat.agent.cardpool import chosen
from deadheat.agent.probes import cards
from deadheat.agent.probes.gpus import Gpu, Gpus
from deadheat.cli import checks_cupy
from deadheat.cli.findings import Finding
from deadheat.runtime.units import format_bytes

FIRST_ANSWER_S: Final = 5.0


def examine(
    environment: Mapping[str, str], on_the_bus: tuple[str, ...], setting: str = "all"
) -> Iterator[Finding]:
    """Asks NVML, for at most some seconds, and then CuPy, for a minute at most. `setting` is what
    an agent would be told to use."""
    from deadheat.agent.probes.nvml import NvmlProbe

    probe = NvmlProbe()
    found = probe.first(FIRST_ANSWER_S)
    probe.stop()
    in_container = bool(cards.container(environment))
    yield from judge(found, environment, on_the_bus, in_container=in_container)
    well = [gpu for gpu in found.devices if not gpu.problem]
    used, _ = chosen(well, setting, environment)
    yield from checks_cupy.examine([gpu.uuid for gpu in used or well], setting, environment)


def judge(
    found: Gpus, environment: Mapping[str, str], on_the_bus: tuple[str, ...], *, in_container: bool
) -> Iterator[Finding]:
    """What to say of them, given what should be there."""
    yield from (_finding(gpu) for gpu in found.devices)
    if text := cards.missing(found, on_the_bus, environment, in_container=in_container):
        advice = "load or reinstall the driver; the agent does not use the CPU in a GPU's place"
        if in_container:
            advice = "start the container with its GPUs (docker: --gpus all)"
        yield Finding("gpus missing", "bad", text, advice)
    elif found.problem and found.devices:
        yield Finding("gpus", "bad", found.problem)
    elif not found.devices:
        yield Finding("gpus", "note", f"none: {found.problem or 'NVML lists no device'}")


def _finding(gpu: Gpu) -> Finding:
    name = f"{gpu.name} {gpu.uuid}"
    if gpu.problem:
        return Finding("gpu", "bad", f"{name}: {gpu.problem}")
    total, used = gpu.memory_total_bytes, gpu.memory_used_bytes
    parts = [
        f"busy {'unknown' if gpu.busy is None else f'{gpu.busy:.0%}'}",
        f"{format_bytes(used)} of {format_bytes(total)} used",
    ]
    if gpu.processes:
        parts.append(f"{len(gpu.processes)} processes")
    if gpu.temperature_celsius is not None:
        parts.append(f"{gpu.temperature_celsius:.0f} C")
    if gpu.clock_hz is not None and gpu.clock_max_hz is not None:
        parts.append(f"{gpu.clock_hz / 1e9:.2f} of {gpu.clock_max_hz / 1e9:.2f} GHz")
    if gpu.power_watts is not None and gpu.power_limit_watts is not None:
        parts.append(f"{gpu.power_watts:.0f} of {gpu.power_limit_watts:.0f} W")
    if gpu.pcie_generation is not None and gpu.pcie_lanes is not None:
        parts.append(f"PCIe {gpu.pcie_generation} x{gpu.pcie_lanes}")
    text = f"{name}: {', '.join(parts)}"
    if gpu.parent_uuid:
        text = f"{text}; a part (MIG) of {gpu.parent_uuid}"
    if gpu.throttle:
        return Finding("gpu", "note", f"{text}; held back by: {', '.join(gpu.throttle)}")
    return Finding("gpu", "ok", text)
