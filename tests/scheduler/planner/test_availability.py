"""Availability: what we would get, not one minus utilization."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadheat.scheduler.planner.availability import (
    MIN_AVAILABILITY,
    Sample,
    of_sample,
)


def sample(at_s: float = 0.0, **values: float | bool | None) -> Sample:
    defaults: dict[str, float | int | bool | None] = {
        "window_s": 1.0,
        "busy": 0.0,
        "own": 0.0,
        "foreign": 0.0,
    }
    return Sample(at_s=at_s, **{**defaults, **values})  # type: ignore[arg-type]


def test_an_idle_device_is_all_ours() -> None:
    assert of_sample(sample()) == 1.0


def test_a_busy_core_still_gives_a_newcomer_half() -> None:
    assert of_sample(sample(busy=1.0, foreign=1.0, foreign_runnable=1)) == 0.5


def test_a_light_load_leaves_what_it_does_not_use() -> None:
    assert of_sample(sample(busy=0.3, foreign=0.3, foreign_runnable=1)) == pytest.approx(0.7)


def test_one_hog_on_two_cores_leaves_two_thirds() -> None:
    hog = sample(busy=0.5, foreign=0.5, foreign_runnable=1, threads=2)
    assert of_sample(hog) == pytest.approx(2 / 3)


def test_while_we_run_the_kernel_says_it() -> None:
    running = sample(busy=1.0, own=0.6, foreign=0.4, foreign_runnable=1, run_s=0.6, wait_s=0.4)
    assert of_sample(running) == pytest.approx(0.6)


def test_stolen_time_is_not_ours() -> None:
    assert of_sample(sample(steal=0.25)) == pytest.approx(0.75)


def test_nobody_gets_more_than_the_quota() -> None:
    assert of_sample(sample(quota=0.75)) == 0.75
    # A thread that the quota stops waits: what the kernel counted holds the quota already.
    throttled = sample(own=0.75, run_s=0.75, wait_s=0.25, quota=0.75)
    assert of_sample(throttled) == pytest.approx(0.75)


def test_what_group_weights_give_replaces_the_even_share() -> None:
    heavy = sample(busy=1.0, foreign=1.0, foreign_runnable=2, threads=2, fair_share=0.1)
    assert of_sample(heavy) == pytest.approx(0.1)
    light = sample(busy=1.0, foreign=1.0, foreign_runnable=2, threads=2, fair_share=0.9)
    assert of_sample(light) == pytest.approx(0.9)


share = st.floats(0, 1)


@given(
    share,
    share,
    share,
    st.integers(0, 64),
    st.integers(1, 64),
    share,
    share,
    share,
    st.none() | share,
)
def test_it_is_always_a_fraction_that_can_be_planned_on(
    busy: float,
    foreign: float,
    steal: float,
    runnable: int,
    threads: int,
    run: float,
    wait: float,
    quota: float,
    fair: float | None,
) -> None:
    found = of_sample(
        sample(
            quota=quota,
            fair_share=fair,
            busy=busy,
            foreign=foreign,
            steal=steal,
            foreign_runnable=runnable,
            threads=threads,
            run_s=run * threads,
            wait_s=wait * threads,
        )
    )
    assert MIN_AVAILABILITY <= found <= 1.0
    assert math.isfinite(found)
