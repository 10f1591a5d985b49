"""What figures are judged by, and that no wrong product counts."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks import available, peers
from benchmarks.checking import Checker, operands
from benchmarks.limits import Hierarchy, held
from benchmarks.measuring import Figure, LeftOut, summary


@pytest.mark.parametrize(
    ("value", "target", "at_least", "holds"),
    [
        (0.95, 0.95, True, True),
        (0.949, 0.95, True, False),
        (0.03, 0.03, False, True),
        (0.031, 0.03, False, False),
        (math.nan, 0.95, True, False),
        (7.0, None, True, None),
    ],
)
def test_a_target_is_judged_from_its_own_side(
    value: float, target: float | None, at_least: bool, holds: bool | None
) -> None:
    assert Figure("c", "n", value, "", target, at_least).holds is holds


def test_a_summary_keeps_what_it_is_the_median_of() -> None:
    found = summary("c", "n", [3.0, 1.0, 2.0], target=2.0)
    assert (found.value, found.low, found.high) == (2.0, 1.0, 3.0)
    assert found.as_dict()["values"] == [3.0, 1.0, 2.0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_wrong_product_is_noticed(dtype: str) -> None:
    a, b = operands(60, dtype=dtype)
    check = Checker(a, b)
    check(a @ b)
    for wrong in (0.1, math.nan):
        product = a @ b
        product[3, 4] += wrong
        with pytest.raises(AssertionError, match="a wrong product"):
            check(product)


def test_numpy_is_a_peer_that_is_always_there() -> None:
    a, b = operands(30)
    with peers.started("numpy_here", (0,)) as peer:
        seconds, product = peer.timed(a, b)
        with pytest.raises(LeftOut):
            peer.workers()
    assert seconds > 0
    assert np.array_equal(product, a @ b)


def test_a_peer_that_is_not_installed_is_left_out() -> None:
    with pytest.raises(LeftOut, match="not installed"):
        peers.load("nobody")


def test_strips_cover_all_rows() -> None:
    assert [s.stop - s.start for s in peers.strips(10, 4)] == [2, 3, 2, 3]


def test_efficiency_counts_what_was_available_when() -> None:
    # Ten seconds at 100 could do 1000; half of the core was gone after four.
    assert available.efficiency(700.0, 10.0, [(0.0, 100.0), (4.0, 50.0)]) == pytest.approx(1.0)
    # A load that came after the end counts for nothing.
    assert available.efficiency(500.0, 5.0, [(0.0, 100.0), (9.0, 1.0)]) == pytest.approx(1.0)


def test_the_speed_of_a_core_is_measured() -> None:
    core = min(os.sched_getaffinity(0))
    (found,) = available.speeds_flops([core], seconds=0.05, size=64)
    assert found > 0


def mounts(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "mounts"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_control_groups_are_found_in_either_version(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    new.mkdir()
    (new / "cgroup.controllers").write_text("cpuset cpu io\n")
    both = mounts(
        tmp_path,
        f"cgroup {old}-cpuset cgroup rw,cpuset 0 0",
        f"cgroup {old} cgroup rw,relatime,cpu,cpuacct 0 0",
    )
    assert Hierarchy.find(both) == Hierarchy(old, 1)
    assert Hierarchy.find(mounts(tmp_path, f"c {new} cgroup2 rw 0 0")) == Hierarchy(new, 2)
    (new / "cgroup.controllers").write_text("hugetlb\n")
    with pytest.raises(LeftOut, match="no mounted control group"):
        Hierarchy.find(mounts(tmp_path, f"c {new} cgroup2 rw 0 0"))


def test_where_no_group_can_be_made_the_case_is_left_out(tmp_path: Path) -> None:
    with (
        pytest.raises(LeftOut, match="cannot be had here"),
        held(0.3, Hierarchy(tmp_path / "x", 1)),
    ):
        raise AssertionError


@pytest.mark.root
def test_a_held_process_gets_its_part_and_is_let_go() -> None:
    try:
        hierarchy = Hierarchy.find()
        with held(0.3, hierarchy):
            pass
    except LeftOut as reason:
        pytest.skip(str(reason))
    loop = [sys.executable, "-c", "while True: pass"]
    with subprocess.Popen(loop) as process:
        try:
            with held(0.3, hierarchy) as group:
                group.add_tree(process.pid)
                assert any(
                    "deadheat-bench" in line
                    for line in Path(f"/proc/{process.pid}/cgroup").read_text().splitlines()
                )
            assert "deadheat-bench" not in Path(f"/proc/{process.pid}/cgroup").read_text()
        finally:
            process.kill()
