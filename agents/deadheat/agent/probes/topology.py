"""Which cores are alike: threads of one core, fast and efficient cores, nodes of memory (sysfs).

Nothing here changes while a machine runs, but for cores taken on- and offline.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deadheat.agent.probes.procfs import parse_cpu_list

SYS: Final = Path("/sys")
#: Cores whose greatest speed is within this of the fastest are of its kind: turbo bins of one chip
#: differ by some per cent, efficiency cores by a third and more.
SAME_SPEED: Final = 0.85


#: Memory of another socket is twice as far as the own (20 or 21 to 10, says the firmware), of
#: another part of the same socket 1.1 or 1.2 times. Blocks of a product are read again and again
#: from caches, so only the former is worth the transfers between two devices.
FAR: Final = 1.5


@dataclass(frozen=True, slots=True)
class Topology:
    """Logical CPUs, as the kernel numbers them.

    `cores` are the sets of threads that share one core; `efficient` are CPUs of the slower kind,
    empty where all are alike; `numa_nodes` are CPUs by node of memory.
    """

    cpus: frozenset[int]
    cores: tuple[frozenset[int], ...]
    efficient: frozenset[int]
    numa_nodes: Mapping[int, frozenset[int]]
    #: How far memory of one node is from CPUs of another, in units of the way to the own memory;
    #: 1 where there is one node, or nobody says.
    farthest: float = 1.0

    @property
    def pools(self) -> tuple[frozenset[int], ...]:
        """The sets of CPUs that should each have an agent of their own: nodes of memory, where the
        others' is far; else all in one. A part of a socket (sub-NUMA clustering) is not far."""
        if self.farthest < FAR:
            return (self.cpus,)
        return tuple(self.numa_nodes[node] for node in sorted(self.numa_nodes))

    @property
    def has_smt(self) -> bool:
        return any(len(core) > 1 for core in self.cores)


def read(cpus: Collection[int], sys: Path = SYS) -> Topology:
    """What is known of some CPUs; without sysfs each is a core of its own, and all are alike."""
    wanted = frozenset(cpus)
    folder = sys / "devices/system/cpu"
    nodes = _numa_nodes(wanted, sys)
    cores = {_siblings(folder / f"cpu{cpu}/topology", cpu) & wanted for cpu in wanted}
    return Topology(
        cpus=wanted,
        cores=tuple(sorted(cores, key=min)),
        efficient=_efficient(wanted, sys, folder),
        numa_nodes=nodes,
        farthest=_farthest(nodes, sys),
    )


def _siblings(folder: Path, cpu: int) -> frozenset[int]:
    # Kernels before 5.x know only the second name.
    for name in ("core_cpus_list", "thread_siblings_list"):
        if text := _text(folder / name):
            return parse_cpu_list(text) | {cpu}
    return frozenset({cpu})


def _efficient(cpus: frozenset[int], sys: Path, folder: Path) -> frozenset[int]:
    # Intel's kernels name the efficiency cores ("atom"), Arm's give each core a capacity, of 1024
    # for the fastest; else the greatest clock has to tell.
    if named := _text(sys / "devices/cpu_atom/cpus"):
        found = parse_cpu_list(named) & cpus
        return found if found != cpus else frozenset()
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        speeds = {cpu: _text(folder / f"cpu{cpu}" / name) for cpu in cpus}
        known = {cpu: int(text) for cpu, text in speeds.items() if text.isdecimal()}
        if known and len(known) == len(cpus):
            fastest = max(known.values())
            return frozenset(cpu for cpu in cpus if known[cpu] < SAME_SPEED * fastest)
    return frozenset()


def _numa_nodes(cpus: frozenset[int], sys: Path) -> dict[int, frozenset[int]]:
    found: dict[int, frozenset[int]] = defaultdict(frozenset)
    for folder in sorted((sys / "devices/system/node").glob("node[0-9]*")):
        if ours := parse_cpu_list(_text(folder / "cpulist")) & cpus:
            found[int(folder.name[4:])] = ours
    return dict(found) or {0: cpus}


def _farthest(nodes: Mapping[int, frozenset[int]], sys: Path) -> float:
    """Among nodes that have CPUs of ours; distances are listed for all nodes that are online, by
    number."""
    online = sorted(parse_cpu_list(_text(sys / "devices/system/node/online")) or nodes)
    farthest = 1.0
    for node in nodes:
        words = _text(sys / f"devices/system/node/node{node}/distance").split()
        if len(words) != len(online) or not all(word.isdecimal() for word in words):
            continue
        distances = dict(zip(online, map(int, words)))
        others = [distances[other] for other in nodes if other != node and other in distances]
        if others and distances.get(node):
            farthest = max(farthest, max(others) / distances[node])
    return farthest


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
