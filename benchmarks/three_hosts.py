"""A product whose agents are on other hosts: what moves, and how close to the slower of computing
and sending it ends."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import available
from benchmarks.hosts import Cluster, cluster
from benchmarks.measuring import REPEATS, Figure, summary, two_cores

GBIT = 1.0
#: Bytes a second of such a link.
RATE_BYTES = GBIT * 1e9 / 8


def run(
    *,
    size: int,
    repeats: int = REPEATS,
    target: float | None = None,
    makespan_target: float | None = None,
) -> Iterator[Figure]:
    traffic, ratios, makespans, computes, transfers = [], [], [], [], []
    with cluster(f"{GBIT:g}gbit") as far:
        speed = sum(available.speeds_flops(sorted(set(two_cores()))))
        far.client("multiply", str(size))
        for _ in range(repeats):
            before = passed(far)
            (report,) = far.client("multiply", str(size))
            busiest = max(after - before for after, before in zip(passed(far), before))
            compute_s, transfer_s = 2.0 * size**3 / speed, busiest / RATE_BYTES
            traffic.append(report["bytes_moved"] / report["bytes_lower_bound"])
            ratios.append(report["makespan_s"] / max(compute_s, transfer_s))
            makespans.append(report["makespan_s"])
            computes.append(compute_s)
            transfers.append(transfer_s)
    case = f"three hosts, {GBIT:g} Gbit/s, n = {size}"
    yield summary(case, "bytes moved / lower bound", traffic, target=target)
    name = "makespan / max(compute, transfer)"
    yield summary(case, name, ratios, target=makespan_target)
    yield summary(case, "makespan", makespans, "s")
    yield summary(case, "compute alone", computes, "s")
    yield summary(case, "transfer alone, busiest link", transfers, "s")


def passed(far: Cluster) -> list[int]:
    """Bytes that each host has got and has sent: the directions of a link do not share it."""
    return [count for host in far.hosts for count in host.bytes_passed()]
