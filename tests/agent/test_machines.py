"""What is read of other machines: kinds of core, limits, throttling, pressure, cards."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.agent.machines import plant
from tests.waiting import wait_until

from deadheat.agent.probes import cards, topology
from deadheat.agent.probes.cgroups import Cgroups
from deadheat.agent.probes.gpus import Gpu, Gpus
from deadheat.agent.probes.host import HostProbe
from deadheat.agent.probes.limits import Limits, Throttling
from deadheat.agent.probes.room import Room
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.settings import parse_cpus

GIB = 1024**3


def limits(root: Path) -> Limits:
    return Limits(root / "sys/fs/cgroup", root / "proc")


def test_efficient_cores_and_threads_are_told_apart(tmp_path: Path) -> None:
    found = topology.read(range(16), plant("laptop", tmp_path) / "sys")
    assert found.efficient == frozenset(range(8, 16))
    assert len(found.cores) == 12
    assert found.has_smt
    assert found.numa_nodes == {0: frozenset(range(16))}
    # An agent on efficient cores alone has no slower kind.
    some = topology.read({8, 9}, tmp_path / "sys")
    assert (some.efficient, some.has_smt) == (frozenset(), False)


def test_capacities_tell_big_cores_from_small_ones(tmp_path: Path) -> None:
    found = topology.read(range(8), plant("big_little", tmp_path) / "sys")
    assert found.efficient == frozenset(range(4))


def test_turbo_bins_are_no_kinds_and_nodes_of_memory_are_told(tmp_path: Path) -> None:
    found = topology.read(range(16), plant("slurm_step", tmp_path) / "sys")
    assert found.efficient == frozenset()
    assert found.cores[0] == {0, 8}
    assert found.numa_nodes[1] == {4, 5, 6, 7, 12, 13, 14, 15}
    assert topology.read({0, 1}, tmp_path / "sys").numa_nodes == {0: {0, 1}}


def test_nodes_of_memory_that_are_far_are_worth_an_agent_each(tmp_path: Path) -> None:
    sys = plant("two_sockets", tmp_path) / "sys"
    found = topology.read(range(16), sys)
    assert found.farthest == pytest.approx(2.1)
    assert found.pools == (frozenset(range(8)), frozenset(range(8, 16)))
    # The way to the memory behind CXL does not count: nobody can be put there.
    assert set(found.numa_nodes) == {0, 1}
    # Whoever has cores of one node only is in one place.
    assert topology.read({0, 1}, sys).pools == (frozenset({0, 1}),)
    assert parse_cpus("node:1,0", sys) == (0, *range(8, 16))
    for bad in ("node:2", "node:7", "node:x"):
        with pytest.raises(InvalidInput, match="no cores on such a NUMA node"):
            parse_cpus(bad, sys)


def test_parts_of_a_socket_are_no_devices_of_their_own(tmp_path: Path) -> None:
    found = topology.read(range(16), plant("four_parts", tmp_path) / "sys")
    assert len(found.numa_nodes) == 4
    assert found.farthest == pytest.approx(1.2)
    assert found.pools == (frozenset(range(16)),)
    # A kernel that says no distances makes nobody a device.
    (tmp_path / "sys/devices/system/node/node0/distance").write_text("10\n")
    assert topology.read(range(16), tmp_path / "sys").farthest == pytest.approx(1.2)
    assert topology.read({0, 1}, tmp_path / "sys").farthest == 1.0


def test_without_sysfs_every_cpu_is_a_core_like_the_others(tmp_path: Path) -> None:
    found = topology.read({0, 3}, tmp_path)
    assert found.cores == (frozenset({0}), frozenset({3}))
    assert (found.efficient, found.has_smt) == (frozenset(), False)


def test_the_tightest_memory_limit_on_the_way_binds_in_version_1(tmp_path: Path) -> None:
    found = limits(plant("slurm_step", tmp_path)).memory(7)
    assert found is not None
    # The job's, not the step's larger one; its file cache can be dropped.
    assert found.path.endswith("job_42")
    assert (found.limit_bytes, found.used_bytes, found.free_bytes) == (8 * GIB, 5 * GIB, 3 * GIB)


def test_memory_limits_in_version_2(tmp_path: Path) -> None:
    found = limits(plant("pod", tmp_path)).memory(7)
    assert found is not None
    assert (found.limit_bytes, found.used_bytes) == (GIB, 950_000_000)
    (tmp_path / "sys/fs/cgroup/memory.high").write_text("900000000\n")
    found = limits(tmp_path).memory(7)
    assert found is not None
    # Above "high" a group is held back until it is below again: that is its limit in fact.
    assert (found.limit_bytes, found.free_bytes) == (900_000_000, 0)


def test_what_may_still_be_taken_is_the_machines_or_the_groups(tmp_path: Path) -> None:
    pod, laptop = plant("pod", tmp_path / "pod"), plant("laptop", tmp_path / "laptop")
    assert limits(pod).memory_available_bytes(7) == GIB - 950_000_000
    assert limits(laptop).memory_available_bytes(7) == 9_000_000 * 1024


@pytest.mark.parametrize("name", ["laptop", "big_little"])
def test_no_limit_is_none(tmp_path: Path, name: str) -> None:
    assert limits(plant(name, tmp_path)).memory(7) is None
    assert limits(tmp_path).throttling(7) is None
    assert limits(tmp_path).cpuset(7) is None


def test_throttling_is_counted_in_both_versions(tmp_path: Path) -> None:
    pod, step = plant("pod", tmp_path / "pod"), plant("slurm_step", tmp_path / "step")
    assert limits(pod).throttling(7) == Throttling(600, 240, 41.5)
    assert limits(step).throttling(7) == Throttling(1000, 20, 3.5)
    for root, cores in ((pod, 1.5), (step, 4.0)):
        assert Cgroups(root / "sys/fs/cgroup", root / "proc").quota_cores(7) == cores


def test_a_machine_is_told_with_its_limits_and_what_holds_it_back(tmp_path: Path) -> None:
    root, now = plant("pod", tmp_path), 0.0
    (root / "proc/7/status").write_text("Name:\tagent\nVmRSS:\t 900 kB\nRssAnon:\t 500 kB\n")
    probe = HostProbe(
        root=root / "proc",
        cgroups=root / "sys/fs/cgroup",
        pid=7,
        own_pids=lambda: (7, 8),  # One has ended.
        clock=lambda: now,
    )
    first = probe.sample()
    assert first.memory_limit_bytes == GIB
    assert first.memory_available_bytes == GIB - 950_000_000
    assert first.memory_own_bytes == 500 * 1024
    assert first.throttled == 0.0, "what was before is over"
    stat = root / "sys/fs/cgroup/cpu.stat"
    stat.write_text("nr_periods 610\nnr_throttled 245\nthrottled_usec 42000000\n")
    now = 1.0
    assert probe.sample().throttled == 0.5
    assert not first.HasField("disk_free_bytes"), "nobody asked"
    free = HostProbe(root=plant("laptop", tmp_path / "free") / "proc", pid=7).sample()
    assert not free.HasField("throttled")
    assert not free.HasField("memory_limit_bytes")


def test_room_is_that_of_the_folder_that_would_be_made(tmp_path: Path) -> None:
    room = Room(tmp_path / "not" / "yet", interval_s=0.01)
    found = wait_until(room.latest, "an answer")
    room.stop()
    assert found is not None
    assert found[0] == shutil.disk_usage(tmp_path).total
    assert 0 < found[1] <= found[0]


def test_pressure_is_the_own_groups_where_there_is_one(tmp_path: Path) -> None:
    pod, step = plant("pod", tmp_path / "pod"), plant("slurm_step", tmp_path / "step")
    assert limits(pod).pressure(7, "cpu") == 0.62
    assert limits(pod).pressure(7, "io") is None
    assert limits(step).pressure(7, "cpu") is None


def test_cpusets_are_read_in_both_versions(tmp_path: Path) -> None:
    pod, step = plant("pod", tmp_path / "pod"), plant("slurm_step", tmp_path / "step")
    assert limits(pod).cpuset(7) == frozenset(range(8))
    assert limits(step).cpuset(7) == frozenset({0, 1, 8, 9})


def test_cards_on_the_bus_are_gpus_of_nvidia_that_are_ours(tmp_path: Path) -> None:
    sys = plant("slurm_step", tmp_path) / "sys"
    assert cards.on_the_bus(sys) == ("0000:01:00.0", "0000:81:00.0")
    vfio = sys / "bus/pci/drivers/vfio-pci"
    vfio.mkdir(parents=True)
    (sys / "bus/pci/devices/0000:01:00.0/driver").symlink_to(vfio)
    assert cards.on_the_bus(sys) == ("0000:81:00.0",)
    assert cards.on_the_bus(tmp_path / "nowhere") == ()


TWO = ("0000:01:00.0", "0000:81:00.0")
ONE_GPU, NONE = Gpus(0.0, (Gpu("GPU-a", "x"),)), Gpus(0.0, problem="no driver is loaded")


@pytest.mark.parametrize(
    ("found", "bus", "promised", "in_container", "words"),
    [
        (NONE, (), "", False, ""),
        (NONE, TWO, "", False, "2 on the bus (0000:01:00.0, 0000:81:00.0), 0 in NVML (no driver"),
        (ONE_GPU, TWO, "", False, "1 in NVML"),
        (ONE_GPU, TWO[:1], "", False, ""),
        # A container sees its host's bus, and need not have been given what is on it.
        (NONE, TWO, "", True, ""),
        (NONE, (), "all", True, "this container was promised GPUs (all)"),
        (ONE_GPU, TWO, "GPU-a", True, ""),
        (NONE, (), "void", True, ""),
    ],
)
def test_missing_gpus_are_said(
    found: Gpus, bus: tuple[str, ...], promised: str, in_container: bool, words: str
) -> None:
    environment = {"NVIDIA_VISIBLE_DEVICES": promised}
    text = cards.missing(found, bus, environment, in_container=in_container)
    assert words in text
    assert bool(text) == bool(words)
