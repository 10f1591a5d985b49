"""What the kernel's fair scheduler would give us if we ran now, beside those who run.

Time is shared in proportion to weights, at each level among the groups and threads there, and what
somebody does not want goes to the others (generalized processor sharing; Demers, Keshav and Shenker
1989). Each core shares on its own. Threads that may run on several cores are spread over them
evenly, as the kernel's balancing tends to, and a group's weight is spread over cores in proportion
to its threads there, as the kernel's is.

So within one group n threads of ours beside m of others on C cores get n * min(1, C / (n + m)),
while two groups of equal weight get half each, however many threads they have.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from deadheat.agent.probes.cgroups import Group


@dataclass(frozen=True, slots=True)
class Contender:
    """Threads of one process: their groups, outermost first, the weight of each, and which of our
    cores they may run on."""

    groups: tuple[Group, ...]
    weight: float
    threads: float
    cpus: frozenset[int]


#: Who runs for less than this part of the time takes nothing from anybody.
NEGLIGIBLE: Final = 1e-6


@dataclass(frozen=True, slots=True)
class _Part:
    """What a contender comes to on one core. `wanted` is in cores."""

    groups: tuple[Group, ...]
    weight: float
    wanted: float
    is_ours: bool


def fair_share(cpus: Collection[int], ours: Contender, others: Sequence[Contender]) -> float:
    """The fraction of these cores that we would get, with a thread of ours on each of them."""
    everyone = (ours, *(other for other in others if other.cpus and other.threads > NEGLIGIBLE))
    loads = _group_loads(everyone)
    return sum(_on_core(cpu, everyone, loads) for cpu in cpus) / len(cpus)


def _group_loads(everyone: Iterable[Contender]) -> Mapping[Group, float]:
    loads: dict[Group, float] = {}
    for one in everyone:
        for group in one.groups:
            loads[group] = loads.get(group, 0.0) + one.threads * one.weight
    return loads


def _on_core(cpu: int, everyone: Sequence[Contender], loads: Mapping[Group, float]) -> float:
    parts = []
    for one in everyone:
        if cpu in one.cpus:
            wanted = one.threads / len(one.cpus)
            parts.append(_Part(one.groups, wanted * one.weight, wanted, one is everyone[0]))
    share, depth = 1.0, 0
    while True:
        ours, rivals = _level(parts, depth, loads)
        share = _our_part(share, ours, rivals)
        group = next(part.groups for part in parts if part.is_ours)[depth : depth + 1]
        if not group:
            return min(1.0, share)
        # One level down: those in our group share what it gets.
        parts = [part for part in parts if part.groups[depth : depth + 1] == group]
        depth += 1


def _level(
    parts: Sequence[_Part], depth: int, loads: Mapping[Group, float]
) -> tuple[tuple[float, float], list[tuple[float, float]]]:
    """Weight and wanted cores of ours and of each rival at one level of groups."""
    entries: dict[Group | int, list[_Part]] = {}
    for index, part in enumerate(parts):
        key = part.groups[depth] if depth < len(part.groups) else index
        entries.setdefault(key, []).append(part)
    ours, rivals = (0.0, 0.0), []
    for key, members in entries.items():
        weight, wanted = sum(m.weight for m in members), sum(m.wanted for m in members)
        if isinstance(key, Group):
            # Of the group's weight this core has as much as of its load.
            weight = key.weight * weight / loads[key]
        if any(member.is_ours for member in members):
            ours = (weight, wanted)
        else:
            rivals.append((weight, wanted))
    return ours, rivals


def _our_part(
    capacity: float, ours: tuple[float, float], rivals: list[tuple[float, float]]
) -> float:
    """Ours of a capacity: in proportion to weights, but nobody gets more than they want."""
    weight, wanted = ours
    total = weight + sum(its_weight for its_weight, _ in rivals)
    # Who wants least for their weight is content first, and leaves the rest to the others.
    for its_weight, its_wanted in sorted(rivals, key=lambda rival: rival[1] / rival[0]):
        if its_wanted * total >= capacity * its_weight:
            break
        capacity, total = capacity - its_wanted, total - its_weight
    return min(wanted, capacity * weight / total)
