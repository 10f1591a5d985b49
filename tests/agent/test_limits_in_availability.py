"""From recorded trees of control groups to the availability that the planner reckons with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from tests.agent.test_cgroups import Tree
from tests.agent.test_probes import machine, process

from deadheat.agent.probes.cpu import CpuProbe
from deadheat.scheduler.planner.availability import Sample, of_sample

NONE = "max 100000"


def availability(root: Path, cores: Sequence[int], limits: Mapping[str, str]) -> float:
    """Of a pool on an idle machine, in cores; `limits` are quotas of folders, outermost first."""
    tree, now = Tree(root), 0.0
    tree.folder("", cgroup_controllers="cpuset cpu memory")
    for folder, quota in limits.items():
        tree.folder(folder, cpu_weight="100", cpu_max=quota)
    tree.process(7, f"0::/{list(limits)[-1]}\n")
    probe = CpuProbe(
        cores, lambda: [7], lambda: 7, root=tree.proc, cgroups=tree.cgroups, clock=lambda: now
    )
    sample = None
    for second in range(3):
        now = float(second)
        machine(tree.proc, dict.fromkeys(range(4), 0.0), at_s=now)
        process(tree.proc, 7, 0.0, state="S")
        sample = probe.sample()
    assert sample is not None
    seen = Sample(
        at_s=sample.at_s,
        window_s=sample.window_s,
        busy=sample.busy,
        own=sample.own,
        foreign=sample.foreign,
        threads=len(cores),
        quota=sample.quota,
        fair_share=sample.fair_share,
    )
    return of_sample(seen) * len(cores)


@pytest.mark.parametrize(
    ("cores", "limits", "expected"),
    [
        ([0, 1], {"a.slice": "30000 100000"}, 0.3),
        ([0, 1], {"a.slice": "150000 100000"}, 1.5),
        ([0, 1, 2, 3], {"a.slice": "75000 50000"}, 1.5),
        # A cpuset of one: a larger quota gives no more than the core.
        ([2], {"a.slice": NONE}, 1.0),
        ([2], {"a.slice": "150000 100000"}, 1.0),
        ([2], {"a.slice": "30000 100000"}, 0.3),
        # Nested slices: the tightest on the way, wherever it is.
        ([0, 1], {"a.slice": "150000 100000", "a.slice/b.slice": "30000 100000"}, 0.3),
        ([0, 1], {"a.slice": "30000 100000", "a.slice/b.slice": "150000 100000"}, 0.3),
        (
            [0, 1],
            {
                "a.slice": NONE,
                "a.slice/b.slice": "150000 100000",
                "a.slice/b.slice/c.service": NONE,
            },
            1.5,
        ),
    ],
)
def test_a_limit_is_what_there_is(
    tmp_path: Path, cores: Sequence[int], limits: Mapping[str, str], expected: float
) -> None:
    assert availability(tmp_path, cores, limits) == pytest.approx(expected, rel=0.05)
