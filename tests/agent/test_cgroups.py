"""Control groups on recorded trees of several machines, and what their weights give us."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agent.test_probes import machine, process, write

from deadheat.agent.probes.cgroups import IDLE_WEIGHT, Cgroups, Group, thread_weight
from deadheat.agent.probes.cpu import CpuProbe
from deadheat.agent.probes.fairness import Contender, fair_share

BOTH = frozenset({0, 1})


class Tree:
    """A recorded /proc and /sys/fs/cgroup."""

    def __init__(self, root: Path) -> None:
        self.proc, self.mounted = root / "proc", root / "cgroup"
        self.cgroups = Cgroups(self.mounted, self.proc)

    def folder(self, path: str, **files: str) -> None:
        for name, text in files.items():
            write(self.mounted / path, name.replace("_", ".", 1), text + "\n")

    def process(self, pid: int, membership: str, autogroup: str = "") -> None:
        write(self.proc, f"{pid}/cgroup", membership)
        if autogroup:
            write(self.proc, f"{pid}/autogroup", autogroup + "\n")


#: A virtual machine: every controller mounted as version 1, nobody in any group, sessions grouped.
HYBRID_MEMBERSHIP = """\
9:name=systemd:/
8:pids:/
7:blkio:/
6:freezer:/
5:devices:/
4:memory:/process_api/72ae5f84
3:cpuset:/
2:cpuacct:/
1:cpu:/
0::/
"""


def hybrid(root: Path) -> Tree:
    tree = Tree(root)
    tree.folder("cpu", cpu_shares="1024", cpu_cfs_quota_us="-1", cpu_cfs_period_us="100000")
    tree.folder("memory/process_api/72ae5f84", memory_limit_in_bytes="1073741824")
    tree.folder("unified", cgroup_controllers="")
    write(tree.proc, "sys/kernel/sched_autogroup_enabled", "1\n")
    tree.process(7, HYBRID_MEMBERSHIP, "/autogroup-4 nice 0")
    tree.process(8, HYBRID_MEMBERSHIP, "/autogroup-9 nice 5")
    return tree


def test_version_1_without_groups_is_grouped_by_session(tmp_path: Path) -> None:
    tree = hybrid(tmp_path)
    assert tree.cgroups.quota_cores(7) == math.inf
    assert tree.cgroups.groups(7) == (Group("/autogroup-4", 1.0),)
    ((_, weight),) = [(g.path, g.weight) for g in tree.cgroups.groups(8)]
    assert weight == pytest.approx(0.328, rel=0.01)
    write(tree.proc, "sys/kernel/sched_autogroup_enabled", "0\n")
    assert tree.cgroups.groups(7) == ()


def test_version_1_shares_and_quotas_are_read_at_every_level(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    joint = "cpu,cpuacct"
    tree.folder(joint, cpu_shares="1024", cpu_cfs_quota_us="-1", cpu_cfs_period_us="100000")
    outer = f"{joint}/batch"
    tree.folder(outer, cpu_shares="512", cpu_cfs_quota_us="300000", cpu_cfs_period_us="200000")
    inner = f"{outer}/job7"
    tree.folder(inner, cpu_shares="2048", cpu_cfs_quota_us="-1", cpu_cfs_period_us="100000")
    tree.process(7, f"4:{joint}:/batch/job7\n0::/\n", "/autogroup-4 nice 0")
    assert tree.cgroups.quota_cores(7) == 1.5
    assert [group.weight for group in tree.cgroups.groups(7)] == [0.5, 2.0]


#: systemd on version 2: our service in a slice that may use one and a half cores.
def systemd(root: Path) -> Tree:
    tree = Tree(root)
    tree.folder("", cgroup_controllers="cpuset cpu io memory pids")
    tree.folder("deadheat.slice", cpu_weight="100", cpu_max="150000 100000", cpu_idle="0")
    tree.folder("deadheat.slice/agent.service", cpu_weight="300", cpu_max="max 100000")
    tree.folder("user.slice", cpu_weight="900", cpu_max="max 100000")
    # The controller was not delegated further.
    tree.folder("user.slice/user-1000.slice", memory_max="max")
    tree.process(7, "0::/deadheat.slice/agent.service\n")
    tree.process(8, "0::/user.slice/user-1000.slice/session-2.scope\n")
    return tree


def test_version_2_nested_with_a_fraction_of_a_core(tmp_path: Path) -> None:
    tree = systemd(tmp_path)
    assert tree.cgroups.quota_cores(7) == 1.5
    assert tree.cgroups.quota_cores(8) == math.inf
    assert [group.weight for group in tree.cgroups.groups(7)] == [1.0, 3.0]
    # Where the controller ends, what is below competes as if it were there.
    assert [group.weight for group in tree.cgroups.groups(8)] == [9.0]


def test_a_group_for_what_nobody_wants(tmp_path: Path) -> None:
    tree = systemd(tmp_path)
    tree.folder("deadheat.slice", cpu_idle="1")
    assert tree.cgroups.groups(7)[0].weight == IDLE_WEIGHT


def test_a_container_sees_its_own_limits_though_not_its_path(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.folder("", cgroup_controllers="cpu", cpu_weight="79", cpu_max="50000 100000")
    tree.process(7, "0::/docker/0123abcd\n")
    assert tree.cgroups.quota_cores(7) == 0.5
    assert tree.cgroups.groups(7) == ()


def test_a_process_that_ended_or_a_machine_without_groups_is_no_error(tmp_path: Path) -> None:
    assert Tree(tmp_path).cgroups.groups(7) == ()
    assert Tree(tmp_path).cgroups.quota_cores(7) == math.inf
    tree = Tree(tmp_path)
    tree.process(7, "0::/../..\n")
    assert tree.cgroups.groups(7) == ()


def one(
    groups: tuple[Group, ...] = (),
    threads: float = 1,
    cpus: frozenset[int] = BOTH,
    weight: float = 1.0,
) -> Contender:
    return Contender(groups, weight, threads, cpus)


def beside(*others: Contender, groups: tuple[Group, ...] = (), weight: float = 1.0) -> float:
    """Our share of two cores."""
    return fair_share(BOTH, one(groups, 2, weight=weight), others)


def test_within_a_group_threads_share_evenly() -> None:
    assert beside(one()) == pytest.approx(2 / 3)
    assert beside(one(threads=2)) == pytest.approx(1 / 2)
    assert beside(one(), one(), one(), one()) == pytest.approx(1 / 3)


def test_groups_share_evenly_whatever_they_have_in_them() -> None:
    ours, theirs = (Group("/autogroup-1", 1.0),), (Group("/autogroup-2", 1.0),)
    assert beside(one(theirs, threads=8), groups=ours) == pytest.approx(0.5)
    assert beside(one(theirs, threads=1), groups=ours) == pytest.approx(0.5)
    # Twice what even sharing among threads would say.
    assert beside(one(threads=6)) == pytest.approx(0.25)


def test_weights_of_siblings_count_at_the_level_where_they_compete() -> None:
    ours, theirs = (Group("/a", 1.0), Group("/a/x", 1.0)), (Group("/b", 9.0),)
    assert beside(one(theirs, threads=2), groups=ours) == pytest.approx(0.1)
    # A sibling inside our slice takes from the slice's part, not from the other's.
    sibling = (Group("/a", 1.0), Group("/a/y", 3.0))
    both = beside(one(theirs, threads=2), one(sibling, threads=2), groups=ours)
    assert both == pytest.approx(0.1 / 4)


def test_what_others_do_not_want_is_ours() -> None:
    theirs = (Group("/b", 9.0),)
    # One thread cannot use more than one core, whatever its weight.
    assert beside(one(theirs), groups=(Group("/a", 1.0),)) == pytest.approx(0.5)


def test_a_pinned_hog_takes_from_its_core_only() -> None:
    assert beside(one(cpus=frozenset({0}))) == pytest.approx(0.75)
    ours, theirs = (Group("/autogroup-1", 1.0),), (Group("/autogroup-2", 1.0),)
    # All of its group's weight is on that core, half of ours.
    found = beside(one(theirs, cpus=frozenset({0})), groups=ours)
    assert found == pytest.approx((1 / 3 + 1) / 2)


def test_threads_that_yield_to_everybody_get_next_to_nothing() -> None:
    weight = thread_weight(0, is_idle=True)
    assert beside(one(threads=2), weight=weight) < 0.01
    assert beside(one(threads=2, weight=weight)) > 0.99
    assert beside(one(threads=2), weight=thread_weight(5, is_idle=False)) < 0.3


groups = st.lists(st.sampled_from("abc"), max_size=3).map(
    lambda names: tuple(
        Group("/" + "/".join(names[: k + 1]), 1.0 + len(names[k])) for k in range(len(names))
    )
)
contenders = st.builds(
    one,
    groups,
    st.floats(0, 64),
    st.sets(st.integers(0, 1)).map(frozenset),
    st.floats(1e-3, 100),
)


@given(groups, st.lists(contenders, max_size=6))
def test_a_share_is_a_fraction_and_more_rivals_never_give_more(
    ours: tuple[Group, ...], others: list[Contender]
) -> None:
    found = beside(*others, groups=ours)
    assert 0.0 < found <= 1.0
    assert beside(groups=ours) == pytest.approx(1.0)


def test_the_probe_tells_the_share_and_the_quota(tmp_path: Path) -> None:
    tree, now = systemd(tmp_path), 0.0
    probe = CpuProbe(
        [0, 1],
        lambda: [7],
        lambda: 7,
        root=tree.proc,
        cgroups=tree.cgroups,
        clock=lambda: now,
    )
    for second in (0, 1, 2, 3):
        now = float(second)
        machine(tree.proc, {0: now, 1: now}, at_s=now)
        process(tree.proc, 7, 0.0, state="S")
        for pid, core in ((8, 0), (9, 1)):
            process(tree.proc, pid, now, core=core)
            tree.process(pid, "0::/user.slice\n")
        sample = probe.sample()
    assert sample is not None
    assert sample.quota == 0.75
    assert sample.foreign_runnable == 2
    assert sample.fair_share == pytest.approx(0.1)


def test_without_all_rivals_found_there_is_no_opinion(tmp_path: Path) -> None:
    tree, now = systemd(tmp_path), 0.0
    probe = CpuProbe(
        [0, 1], lambda: [7], lambda: 7, root=tree.proc, cgroups=tree.cgroups, clock=lambda: now
    )
    for second in (0, 1, 2, 3):
        now = float(second)
        machine(tree.proc, {0: now, 1: now}, at_s=now)
        process(tree.proc, 7, 0.0, state="S")
        process(tree.proc, 8, now, core=0)
        sample = probe.sample()
    assert sample is not None
    assert sample.fair_share is None
