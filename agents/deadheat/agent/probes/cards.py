"""GPUs that ought to be there: cards on the bus, and what a container was promised.

NVML cannot tell "no GPU" from "a GPU and no driver"; the bus can.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from deadheat.agent.probes.gpus import Gpus
from deadheat.agent.probes.topology import SYS

NVIDIA: Final = "0x10de"
#: PCI classes of what computes: VGA controllers and 3D controllers (not their sound devices).
CLASSES: Final = ("0x0300", "0x0302")
#: Drivers of cards that were given to a virtual machine: they are not this machine's any more.
GIVEN_AWAY: Final = frozenset({"vfio-pci", "pci-stub"})


def on_the_bus(sys: Path = SYS) -> tuple[str, ...]:
    """PCI addresses of NVIDIA's GPUs that this kernel has."""
    found = []
    for folder in sorted((sys / "bus/pci/devices").glob("*")):
        if _text(folder / "vendor") != NVIDIA or _text(folder / "class")[:6] not in CLASSES:
            continue
        driver = folder / "driver"
        if not (driver.exists() and driver.resolve().name in GIVEN_AWAY):
            found.append(folder.name)
    return tuple(found)


def container(environment: Mapping[str, str], root: Path = Path("/")) -> str:
    """What kind of container this is, or nothing. A guess from what the usual ones leave behind."""
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run/.containerenv").exists():
        return "podman"
    if "KUBERNETES_SERVICE_HOST" in environment:
        return "kubernetes"
    return environment.get("container", "")


def missing(
    found: Gpus, cards: tuple[str, ...], environment: Mapping[str, str], *, in_container: bool
) -> str:
    """Which GPUs are expected and not there, in a sentence; empty if none are missed."""
    physical = {gpu.parent_uuid or gpu.uuid for gpu in found.devices}
    why = f" ({found.problem})" if found.problem else ""
    promised = environment.get("NVIDIA_VISIBLE_DEVICES", "void")
    if not physical and promised not in ("", "void", "none"):
        return f"this container was promised GPUs ({promised}), and NVML shows none{why}"
    # A container sees all cards of its host on the bus, and rightly not all of them in NVML.
    if in_container or len(physical) >= len(cards):
        return ""
    where = ", ".join(cards)
    return f"{len(cards)} on the bus ({where}), {len(physical)} in NVML{why}"


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
