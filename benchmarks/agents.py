"""What agents see of others, against the truth: loads, rates, reactions, limits, their own cost.

One agent with two cores. The truth of a load is the processor time that a hog's own process got in
the window of the sample, that of a rate how long the next job took, that of a limit the quota.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.checking import operands
from benchmarks.limits import held
from benchmarks.measuring import Figure, LeftOut, hog, summary, two_cores
from benchmarks.memory import anonymous_bytes
from deadheat.agent.probes import procfs
from deadheat.client import Client, LocalCluster

#: Foreign load when nobody is at work.
QUIET: Final = 0.02
#: What somebody uses of a core, and how long the readings of one last.
HOGS: Final = (0.1, 0.4, 0.9)
READING_S: Final = 6.0
#: Samples are over about a second, and some until they have arrived.
SETTLED_S: Final = 3.0
#: Long enough that what one message takes is nothing, short enough that nothing else changes.
RATE_SIZE: Final = 4096
RATE_REPEATS: Final = 3
#: A job of this size takes longer than everything that is read while it runs.
LOAD_SIZE: Final = 9216
#: The forecast goes half the way to a new level in 0.7 s, after a window of a second.
FORECAST_S: Final = 9.0
QUOTAS: Final = (0.3, 1.5)
#: A group that holds nobody: other than ours is all that it is to be.
UNHELD: Final = 64.0

_PART_HOG = """
import os, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
share, parent = float(sys.argv[2]), os.getppid()
while os.getppid() == parent:
    # So much processor time in each fiftieth of a second, however long that takes.
    ends_s, used_s = time.monotonic() + 0.02, time.process_time() + 0.02 * share
    while time.process_time() < used_s:
        pass
    time.sleep(max(0.0, ends_s - time.monotonic()))
"""


@contextmanager
def part_hog(core: int, share: float) -> Iterator[int]:
    """A process that uses a share of a core; yields its id."""
    command = [sys.executable, "-c", _PART_HOG, str(core), str(share)]
    process = subprocess.Popen(command)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def run() -> Iterator[Figure]:
    cores = two_cores()
    if cores[0] == cores[1]:
        raise LeftOut("it takes two cores")
    with (
        LocalCluster([{"name": "n", "cpus": list(cores)}]) as cluster,
        Client(cluster.address) as client,
    ):
        time.sleep(SETTLED_S)
        yield from _own_cost(cluster.agents[0].pid)
        yield from _reactions(client, cores[1])
        yield from _loads(client, cores)
        yield from _rates(client, cores)
        yield from _limits(client, cluster.agents[0].pid)


def _device(client: Client) -> Mapping[str, Any]:
    found: Mapping[str, Any] = client.nodes()[0]["devices"][0]
    return found


# What it costs


def _own_cost(pid: int) -> Iterator[Figure]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    processes = {"agent": pid, "executor": int(children[0])}
    before = {name: procfs.process_times(one) for name, one in processes.items()}
    started_s = time.monotonic()
    time.sleep(READING_S)
    elapsed_s = time.monotonic() - started_s
    for name, one in processes.items():
        old, new = before[name], procfs.process_times(one)
        assert old
        assert new
        share = (new.cpu_s - old.cpu_s) / elapsed_s
        yield Figure("idle agent", f"{name}, of a core", share, target=0.01)
        anonymous_mb = anonymous_bytes(one) / 1e6
        yield Figure("idle agent", f"{name}, RssAnon", anonymous_mb, "MB", target=80.0)


# How soon it is seen


def _reactions(client: Client, core: int) -> Iterator[Figure]:
    shown, gone = [], []
    for _ in range(3):
        with hog(core):
            shown.append(_until(client, lambda d: d["foreign"] >= 0.4 and d["availability"] < 0.8))
            time.sleep(SETTLED_S)
        gone.append(_until(client, lambda d: d["foreign"] <= 0.1 and d["availability"] > 0.9))
        time.sleep(1.0)
    yield summary("a hog on one of two cores", "shows in nodes after", shown, "s", target=2.0)
    yield summary("a hog on one of two cores", "has gone from nodes after", gone, "s", target=5.0)


def _until(
    client: Client, is_so: Callable[[Mapping[str, Any]], bool], *, pause_s: float = 0.05
) -> float:
    started_s = time.monotonic()
    while not is_so(_device(client)):
        if time.monotonic() - started_s > 30.0:
            raise TimeoutError(f"not seen in 30 s: {_device(client)}")
        time.sleep(pause_s)
    return time.monotonic() - started_s


# Loads


def _loads(client: Client, cores: Sequence[int]) -> Iterator[Figure]:
    """While a job uses all that is left: one long one, so that nothing is sent meanwhile (who
    sends is somebody else to the agent, and rightly so)."""
    a, _ = operands(LOAD_SIZE)
    for share in HOGS:
        # Of the job before, the store is tidying up: to the agent that is somebody else, too. And
        # so are we who ask, and the scheduler that answers.
        _until(client, lambda d: d["foreign"] <= QUIET, pause_s=1.0)
        with part_hog(cores[1], share) as pid:
            job = client.submit_matmul(a, a)
            while client.report(job.id).state != "running":
                time.sleep(0.05)
            time.sleep(SETTLED_S)
            errors = list(_errors(client, pid, len(cores)))
            state = client.report(job.id).state
            assert state == "running", f"the job has {state} before it was measured"
            client.cancel(job.id)
        name = f"{share:.0%} of a core: |reported - true|"
        yield summary("foreign load beside a job", name, errors, target=0.05)


def _errors(client: Client, pid: int, cores: int) -> Iterator[float]:
    """The hog's time in the second before each reading against what was reported of it."""
    marks: list[tuple[float, float]] = []
    ends_s = time.monotonic() + READING_S
    while (now := time.monotonic()) < ends_s:
        times = procfs.process_times(pid)
        assert times
        marks.append((now, times.cpu_s))
        if old := next((one for one in reversed(marks) if now - one[0] >= 1.0), None):
            true = (times.cpu_s - old[1]) / (now - old[0]) / cores
            yield abs(_device(client)["foreign"] - true)
        time.sleep(0.25)


# Rates


def _rates(client: Client, cores: Sequence[int]) -> Iterator[Figure]:
    for count in range(1, 5):
        with ExitStack() as stack:
            for number in range(count):
                stack.enter_context(hog(cores[number % 2]))
            yield _rate(client, f"{count} hogs in our group")
    try:
        with held(UNHELD) as group:
            for count in range(1, 5):
                with ExitStack() as stack:
                    for number in range(count):
                        group.add(stack.enter_context(hog(cores[number % 2])))
                    yield _rate(client, f"{count} hogs in another group")
    except LeftOut as reason:
        print(f"left out: hogs in another group: {reason}", flush=True)


def _rate(client: Client, load: str) -> Figure:
    """How far the time that the plan promised is from what the job took."""
    a, b = operands(RATE_SIZE)
    # The first after a while, and the first of a load, also tells what comes after it.
    client.matmul(a, b, where="cluster")
    time.sleep(SETTLED_S)
    errors = []
    for _ in range(RATE_REPEATS):
        client.matmul(a, b, where="cluster")
        (device,) = client.report("last").devices
        errors.append(abs(device["predicted_finish_s"] / device["finish_s"] - 1.0))
        time.sleep(0.5)
    return summary(load, "|predicted rate / got - 1|", errors, target=0.10)


# Limits


def _limits(client: Client, pid: int) -> Iterator[Figure]:
    """Availability under a quota is the quota, also while nobody works."""
    for quota in QUOTAS:
        try:
            with held(quota) as group:
                group.add_tree(pid)
                time.sleep(FORECAST_S)
                readings = []
                for _ in range(8):
                    readings.append(_device(client)["availability"] * 2)
                    time.sleep(0.25)
                error = abs(statistics.median(readings) / quota - 1.0)
                name = "|availability / quota - 1|"
                yield Figure(f"a quota of {quota} cores", name, error, target=0.05)
        except LeftOut as reason:
            print(f"left out: a quota of {quota} cores: {reason}", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("DEADHEAT_LOG_LEVEL", "warning")
    for figure in run():
        print(figure, flush=True)
