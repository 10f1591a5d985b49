"""NUMA nodes as devices of one agent: which cores each has, and a real agent on two of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.agent.machines import plant
from tests.conftest import CORES
from tests.waiting import wait_until

from deadheat.agent.corepool import MAX_POOLS, Place, places
from deadheat.agent.probes.cgroups import Cgroups
from deadheat.agent.probes.cpu import CpuProbe
from deadheat.client import Client, LocalCluster
from deadheat.runtime.children import Child
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.settings import AgentSettings, Sources

needs_two_cores = pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")


def test_sockets_are_devices_of_their_own_and_parts_of_one_are_not(tmp_path: Path) -> None:
    sys = plant("two_sockets", tmp_path / "two") / "sys"
    both = (Place("n/cpu0", tuple(range(8))), Place("n/cpu1", tuple(range(8, 16))))
    assert places("n", range(16), "auto", sys) == both
    assert places("n", range(16), "split", sys) == both
    assert places("n", range(16), "whole", sys) == (Place("n/cpu", tuple(range(16))),)
    # Cores of one node only are one device, with the name that it has everywhere.
    assert places("n", (3, 1), "split", sys) == (Place("n/cpu", (1, 3)),)
    assert places("n", (0, 9), "auto", sys) == (Place("n/cpu0", (0,)), Place("n/cpu1", (9,)))
    parts = plant("four_parts", tmp_path / "four") / "sys"
    assert len(places("n", range(16), "auto", parts)) == 1
    assert [len(one.cpus) for one in places("n", range(16), "split", parts)] == [4, 4, 4, 4]


def test_every_core_has_a_device_also_one_that_is_on_no_node(tmp_path: Path) -> None:
    sys = plant("two_sockets", tmp_path) / "sys"
    found = places("n", range(18), "split", sys)
    assert [one.cpus for one in found] == [(*range(8), 16, 17), tuple(range(8, 16))]
    assert places("n", (0, 1), "split", tmp_path / "nothing") == (Place("n/cpu", (0, 1)),)


def test_there_are_no_more_than_can_be(tmp_path: Path) -> None:
    for node in range(MAX_POOLS + 1):
        folder = tmp_path / f"devices/system/node/node{node}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(f"{node}\n")
    cpus = range(MAX_POOLS + 1)
    assert len(places("n", range(MAX_POOLS), "split", tmp_path)) == MAX_POOLS
    with pytest.raises(InvalidInput, match="33 NUMA nodes, and an agent may have 32"):
        places("n", cpus, "split", tmp_path)
    assert len(places("n", cpus, "whole", tmp_path)) == 1


def test_the_setting_is_one_of_three() -> None:
    assert AgentSettings.load(Sources("agent", {}, environment={})).numa == "auto"
    for name in ("split", "whole"):
        found = AgentSettings.load(Sources("agent", {}, environment={"DEADHEAT_NUMA": name}))
        assert found.numa == name
    with pytest.raises(InvalidInput, match="may be auto, split or whole"):
        AgentSettings.load(Sources("agent", {"numa": "both"}, environment={}))
    with pytest.raises(InvalidInput, match="may be auto, split or whole"):
        LocalCluster([{"numa": "both"}])


def test_what_runs_anywhere_and_a_quota_count_in_proportion(tmp_path: Path) -> None:
    """Of four cores these are one: process 7 runs on it, process 8 on any of the four."""
    now_s = 0.0
    group = tmp_path / "cgroup/work"
    group.mkdir(parents=True)
    (group / "cpu.max").write_text("200000 100000\n")
    (tmp_path / "cgroup/cgroup.controllers").write_text("cpu\n")
    probe = CpuProbe(
        [0],
        lambda: [7],
        lambda: 7,
        root=tmp_path / "proc",
        cgroups=Cgroups(tmp_path / "cgroup", tmp_path / "proc"),
        clock=lambda: now_s,
        anywhere=lambda: [8],
        of_cpus=4,
    )
    _record(tmp_path / "proc", 0.0, 1.0, {7: 0.0, 8: 0.0})
    assert probe.sample() is None
    now_s = 1.0
    _record(tmp_path / "proc", 0.9, 1.1, {7: 0.5, 8: 0.8})
    found = probe.sample()
    assert found is not None
    assert probe.share == 0.25
    # Half a second of its own, a quarter of the other's 0.8, and what is left is somebody else's.
    assert found.own == pytest.approx(0.7)
    assert found.foreign == pytest.approx(0.2)
    # Two cores' time for four.
    assert found.quota == pytest.approx(0.5)


def _record(proc: Path, busy_s: float, idle_s: float, used_s: dict[int, float]) -> None:
    """Processor seconds of core 0, and of processes."""
    ticks = os.sysconf("SC_CLK_TCK")
    files = {"stat": f"cpu0 {round(busy_s * ticks)} 0 0 {round(idle_s * ticks)} 0 0 0 0\n"}
    for pid, used in used_s.items():
        fields = ["0"] * 50
        fields[0], fields[11] = "S", str(round(used * ticks))
        files[f"{pid}/stat"] = f"{pid} (python) {' '.join(fields)}\n"
        files[f"{pid}/cgroup"] = "0::/work\n"
    for name, text in files.items():
        path = proc / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def _two_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree in which two of this machine's cores are on two far nodes."""
    root = tmp_path / "sys"
    for node, cpu in enumerate((CORES[0], CORES[-1])):
        folder = root / f"devices/system/node/node{node}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(f"{cpu}\n")
        (folder / "distance").write_text(["10 21\n", "21 10\n"][node])
    (root / "devices/system/node/online").write_text("0-1\n")
    monkeypatch.setenv("SPLIT_SYS", str(root))


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster([]) as running:
        yield running


def start(cluster: LocalCluster, tmp_path: Path, *more: str) -> Child:
    cpus = f"{CORES[0]},{CORES[-1]}"
    arguments = ["--scheduler", cluster.address, "--name", "n", "--cpus", cpus, "--gpus", "none"]
    child = Child("tests.agent.split_agent", [*arguments, *more], log_path=tmp_path / "agent.log")
    cluster.agents.append(child)
    child.wait_ready(150.0)
    return child


def devices(client: Client) -> dict[str, Any]:
    return {one["id"]: one for node in client.nodes() for one in node["devices"]}


def executors(agent: Child) -> dict[frozenset[int], int]:
    """Processes that the agent started, by the cores on which all of their threads stay; empty
    while one of them begins or ends."""
    found: dict[frozenset[int], int] = {}
    try:
        for entry in Path(f"/proc/{agent.process.pid}/task").glob("*/children"):
            for pid in map(int, entry.read_text().split()):
                threads = [int(one.name) for one in Path(f"/proc/{pid}/task").iterdir()]
                (cores,) = {frozenset(os.sched_getaffinity(thread)) for thread in threads}
                found[cores] = pid
    except (OSError, ValueError):
        return {}
    return found


FIRST, LAST = frozenset({CORES[0]}), frozenset({CORES[-1]})


@needs_two_cores
@pytest.mark.usefixtures("_two_nodes")
def test_an_agent_on_two_nodes_has_two_devices_that_share_a_product(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    agent = start(cluster, tmp_path)
    random = np.random.default_rng(1)
    a, b = random.random((1500, 1200)), random.random((1200, 1400))
    with Client(cluster.address) as client:
        found = devices(client)
        assert set(found) == {"n/cpu0", "n/cpu1"}
        assert [one["threads"] for one in found.values()] == [1, 1]
        assert all(one["speed_flops"]["float64"] for one in found.values())
        sizes = {one["memory_bytes"] for one in found.values()}
        assert len(sizes) == 1
        wait_until(
            lambda: all(one["busy"] is not None for one in devices(client).values()), "samples"
        )
        wait_until(lambda: set(executors(agent)) == {FIRST, LAST}, "an executor on each")
        job = client.submit_matmul(a, b, cut="equal")
        np.testing.assert_allclose(job.result(timeout=60), a @ b)
        assert {one["device"] for one in job.report().devices} == {"n/cpu0", "n/cpu1"}
        balanced = client.submit_matmul(a, b)
        np.testing.assert_allclose(balanced.result(timeout=60), a @ b)


@needs_two_cores
@pytest.mark.usefixtures("_two_nodes")
def test_an_executor_that_dies_is_replaced_on_its_own_node(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    agent = start(cluster, tmp_path)
    a = np.random.default_rng(2).random((900, 900))
    with Client(cluster.address) as client:

        def both() -> dict[frozenset[int], int]:
            found = executors(agent)
            return found if set(found) == {FIRST, LAST} else {}

        before = wait_until(both, "an executor on each")
        os.kill(before[LAST], 9)
        wait_until(lambda: both().get(LAST, before[LAST]) != before[LAST], "a new one there")
        assert wait_until(both, "both of them")[FIRST] == before[FIRST]
        job = client.submit_matmul(a, a, cut="equal")
        np.testing.assert_allclose(job.result(timeout=60), a @ a)


@needs_two_cores
@pytest.mark.usefixtures("_two_nodes")
def test_whole_is_one_device_whatever_the_machine(cluster: LocalCluster, tmp_path: Path) -> None:
    start(cluster, tmp_path, "--numa", "whole")
    with Client(cluster.address) as client:
        ((name, device),) = devices(client).items()
        assert (name, device["threads"]) == ("n/cpu", 2)
