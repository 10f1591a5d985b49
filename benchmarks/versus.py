"""deadheat against one peer: the same cores, in turn, end to end, every product checked.

Loads: `idle`; `hog`, one busy process that floats; `pinned`, one on the last core; `held`, one of
two workers of each side held to 30 % of a core (for us, one of two agents with a core each).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack

from benchmarks import available, peers
from benchmarks.checking import Array, Checker, operands
from benchmarks.limits import held
from benchmarks.measuring import REPEATS, Figure, LeftOut, hog, summary
from deadheat.client import Client, LocalCluster

LOADS = {
    "idle": "idle",
    "hog": "one hog, floating",
    "pinned": "one hog, pinned",
    "held": "one worker at 30 %",
}
HELD = 0.3
#: By then agents have noticed a load.
NOTICED_S = 3.0
#: A peer's settings are tried at this size at most.
TRIED_SIZE = 4096


def run(
    *,
    peer: str,
    size: int,
    load: str = "idle",
    dtype: str = "float64",
    repeats: int = REPEATS,
    target: float | None = None,
    bound_target: float | None = None,
) -> Iterator[Figure]:
    """The peer's time / ours; with a floating hog also our time against the fair share."""
    cores = sorted(os.sched_getaffinity(0))
    case = f"{LOADS[load]}, n = {size}" + ("" if dtype == "float64" else f", {dtype}")
    a, b = operands(size, dtype=dtype)
    with ExitStack() as stack:
        them = stack.enter_context(peers.started(peer, cores))
        agents = [{"cpus": [core]} for core in cores] if load == "held" else None
        cluster = stack.enter_context(LocalCluster(agents))
        client = stack.enter_context(Client(cluster.address))
        is_bounded = load == "hog" and peer == "numpy_here" and dtype == "float64"
        one_flops = available.speeds_flops(cores[:1])[0] if is_bounded else 0.0
        known = _burden(stack, load, cores, cluster, them)
        _choose(them, size, dtype)
        sides = Sides(them, client, a, b)
        sides.ours()
        sides.theirs()
        pairs = [(sides.ours(), sides.theirs()) for _ in range(repeats)]
        if load == "held" and not set(them.workers()) <= known:
            raise LeftOut(f"{them.name} has replaced the worker that was held back")
    ratios = [theirs_s / ours_s for ours_s, theirs_s in pairs]
    yield summary(case, f"{them.name}'s time / ours", ratios, target=target, at_least=True)
    if is_bounded:
        # As many threads as cores, and one more that is somebody else's.
        share = len(cores) * len(cores) / (len(cores) + 1)
        least_s = 2.0 * size**3 / (share * one_flops)
        ours = [least_s / ours_s for ours_s, _ in pairs]
        name = "fair share's time / ours"
        yield summary(case, name, ours, target=bound_target, at_least=True)
        yield Figure(case, "one core, idle", one_flops / 1e9, "GFLOP/s")
    yield summary(case, "ours", [ours_s for ours_s, _ in pairs], "s")
    chosen = f", {them.choice} parts" if len(them.choices) > 1 else ""
    yield summary(case, f"{them.name}{chosen}", [theirs_s for _, theirs_s in pairs], "s")


class Sides:
    """One product of each side: its seconds, once it has been found right."""

    def __init__(self, them: peers.BasePeer, client: Client, a: Array, b: Array) -> None:
        self._them, self._client, self._a, self._b = them, client, a, b
        self._check = Checker(a, b)

    def ours(self) -> float:
        started_s = time.perf_counter()
        product = self._client.matmul(self._a, self._b, where="cluster")
        seconds = time.perf_counter() - started_s
        self._check(product)
        return seconds

    def theirs(self) -> float:
        seconds, product = self._them.timed(self._a, self._b)
        if product is not None:
            self._check(product)
        return seconds


def _burden(
    stack: ExitStack, load: str, cores: list[int], cluster: LocalCluster, them: peers.BasePeer
) -> set[int]:
    """The same load for both sides, until the stack ends; the peer's workers if one is held."""
    workers: list[int] = []
    match load:
        case "hog" | "pinned":
            stack.enter_context(hog(cores[-1] if load == "pinned" else None))
        case "held":
            workers = them.workers()
            for pid, is_tree in ((cluster.agents[-1].process.pid, True), (workers[-1], False)):
                group = stack.enter_context(held(HELD))
                (group.add_tree if is_tree else group.add)(pid)
    if load != "idle":
        time.sleep(NOTICED_S)
    return set(workers)


def _choose(them: peers.BasePeer, size: int, dtype: str) -> None:
    """The fastest of a peer's settings, each tried once, after a call that starts what is late."""
    a, b = operands(min(size, TRIED_SIZE), dtype=dtype)
    them.timed(a, b)
    tried: dict[int, float] = {}
    for choice in them.choices if len(them.choices) > 1 else ():
        them.choice = choice
        tried[choice], _ = them.timed(a, b)
    if tried:
        them.choice = min(tried, key=lambda choice: tried[choice])
