"""A pool in two parts: disjoint, together everything, near the ratios aimed at."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadheat.scheduler.planner.groups import FRACTIONS, split_pool


@given(st.lists(st.floats(1e-3, 1e3), max_size=12))
def test_the_parts_of_a_split_are_disjoint_and_together_the_pool(speeds: list[float]) -> None:
    groups = split_pool(speeds)
    assert groups.members[0] == tuple(range(len(speeds)))
    for first, second in groups.splits:
        assert groups.members[first]
        assert groups.members[second]
        both = sorted(groups.members[first] + groups.members[second])
        assert both == list(groups.members[0])


@pytest.mark.parametrize("count", [0, 1])
def test_one_device_cannot_be_split(count: int) -> None:
    assert split_pool([1.0] * count).splits == ()


def test_two_devices_are_split_one_way() -> None:
    assert split_pool([1.0, 3.0]).members == ((0, 1), (0,), (1,))


@given(st.lists(st.floats(1.0, 2.0), min_size=24, max_size=48))
def test_many_devices_come_near_every_ratio(speeds: list[float]) -> None:
    groups = split_pool(speeds)
    assert len(groups.splits) == len(FRACTIONS)
    for (first, _), fraction in zip(groups.splits, FRACTIONS):
        share = sum(speeds[k] for k in groups.members[first]) / sum(speeds)
        assert share == pytest.approx(fraction, abs=0.05)
