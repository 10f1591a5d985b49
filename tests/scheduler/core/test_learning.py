"""What the core learns of devices, and what it does not believe."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.scheduler.core.harness import HOST, Pool
from tests.scheduler.core.test_restore import restarted
from tests.scheduler.planner.builders import model

from deadheat.runtime.programs import GemmShape
from deadheat.scheduler.core import effects, events
from deadheat.scheduler.core.learning import (
    COMPLAINT_INTERVAL_S,
    MAX_SAMPLE_AGE_S,
    RECORD_INTERVAL_S,
    believable,
)
from deadheat.scheduler.core.state import Device
from deadheat.scheduler.planner.availability import MIN_AVAILABILITY, Sample, of_sample
from deadheat.scheduler.planner.speed import SpeedPoint

SQUARE = GemmShape(2048, 2048, 2048, "float64")


@pytest.fixture
def pool() -> Pool:
    pool = Pool()
    pool.join("a", 50.0)
    return pool


def device_of(pool: Pool, name: str = "a") -> Device:
    return pool.core.world.devices[f"{name}/cpu"]


def expected_gflops(device: Device) -> float:
    return SQUARE.flops / device.history.expected_s(SQUARE) / 1e9


def do_job(pool: Pool, gflops: float, *, name: str = "a", slowed: float = 1.0) -> None:
    """One job on one node whose idle speed is `gflops`; others make it take longer than that, in
    elapsed but not in processor time."""
    job = pool.submit(2048, 2048, 2048)
    subtask = pool.on(job, name)
    flops = job.flops_of(0, subtask.area)
    cpu_s = flops / (gflops * 1e9)
    pool.pass_time(cpu_s * slowed)
    made = events.Progress(
        subtask.id,
        subtask.rectangle.row_stop,
        subtask.area,
        pool.now - cpu_s * slowed,
        pool.now,
        cpu_s,
        cpu_s * slowed,
        flops,
    )
    pool.sample(name)
    pool.feed(events.SubtaskFinished(name, made, pool.now))


def let_be_recorded(pool: Pool) -> None:
    for _ in range(int(RECORD_INTERVAL_S) + 1):
        pool.pass_time(1.0)
        pool.sample("a")


def kinds_of(pool: Pool) -> list[str]:
    return [change.kind for change in pool.committed if isinstance(change, effects.EventRow)]


def test_a_hog_leaves_what_is_known_of_idle_speed_alone(pool: Pool) -> None:
    rng = np.random.default_rng(3)
    for noise in rng.normal(1.0, 0.02, 20):
        do_job(pool, 50.0 * float(noise), slowed=2.0)
    device = device_of(pool)
    assert device.model.flops_rate(SQUARE) == pytest.approx(50e9, rel=0.05)
    assert expected_gflops(device) == pytest.approx(50.0, rel=0.05)


@pytest.mark.parametrize("claimed", [0.5, 5000.0])
def test_a_device_is_taken_for_what_it_delivers_after_a_few_subtasks(claimed: float) -> None:
    pool = Pool()
    pool.join("a", claimed)
    for _ in range(5):
        do_job(pool, 50.0)
    assert expected_gflops(device_of(pool)) == pytest.approx(50.0, rel=0.2)
    assert "speed_flushed" in kinds_of(pool)


def test_a_liar_does_not_get_the_work_of_the_honest() -> None:
    pool = Pool()
    pool.join("honest", 50.0)
    pool.join("liar", 5000.0)

    def share_of_the_liar() -> float:
        job = pool.submit()
        active = pool.active(job)
        share = sum(s.area for s in active if s.node == "liar") / sum(s.area for s in active)
        for subtask in active:
            flops = job.flops_of(0, subtask.area)
            pool.finish(subtask, took_s=flops / 50e9)
        for subtask in pool.active(job):
            pool.finish(subtask, took_s=job.flops_of(0, subtask.area) / 50e9)
        return share

    shares = [share_of_the_liar() for _ in range(5)]
    assert shares[0] > 0.9
    assert shares[-1] == pytest.approx(0.5, abs=0.05)


def test_claims_that_cannot_be_are_refused_and_told() -> None:
    pool = Pool()
    points = (*model(50.0).points, SpeedPoint(SQUARE, 1e-12), SpeedPoint(SQUARE, math.nan))
    facts = events.DeviceFacts("a/cpu", "cpu", "test", 1, 1 << 34, points)
    pool.feed(events.NodeRegistered("a", "1", HOST, frozenset({0}), False, True, "test", [facts]))
    assert expected_gflops(device_of(pool)) == pytest.approx(50.0)
    told = [c for c in pool.committed if isinstance(c, effects.EventRow)]
    assert [e.detail for e in told if e.kind == "claims_refused"] == [
        "a/cpu: 2 of 5 claimed speeds cannot be"
    ]


def test_what_was_learnt_is_kept_until_the_claims_change(pool: Pool) -> None:
    for _ in range(10):
        do_job(pool, 35.0)
    pool.join("a", 50.0, instance="2", cpus=frozenset({0}))
    assert expected_gflops(device_of(pool)) == pytest.approx(35.0, rel=0.05)
    # A new executor: its first sub-task is cold again.
    do_job(pool, 1.0)
    assert expected_gflops(device_of(pool)) == pytest.approx(35.0, rel=0.05)
    # Another library: what was learnt of the old one is worth nothing.
    pool.join("a", 80.0, instance="3", cpus=frozenset({0}))
    assert expected_gflops(device_of(pool)) == pytest.approx(80.0)


def test_what_was_learnt_survives_a_restart_of_the_scheduler(pool: Pool, tmp_path: Path) -> None:
    for _ in range(10):
        do_job(pool, 35.0)
    let_be_recorded(pool)
    before = device_of(pool).history
    after = restarted(pool, tmp_path / "db")
    found = device_of(after).history
    assert found == replace(before, warm=frozenset())
    after.join("a", 50.0, cpus=frozenset({0}))
    assert expected_gflops(device_of(after)) == pytest.approx(35.0, rel=0.05)
    after.join("a", 60.0, cpus=frozenset({0}))
    assert expected_gflops(device_of(after)) == pytest.approx(60.0)


def test_what_is_learnt_is_recorded_now_and_then(pool: Pool) -> None:
    started_s = pool.now
    for _ in range(50):
        do_job(pool, 45.0)
    let_be_recorded(pool)
    rows = [change for change in pool.committed if isinstance(change, effects.SpeedRows)]
    assert 2 <= len(rows) <= 2 + (pool.now - started_s) / RECORD_INTERVAL_S
    last = rows[-1]
    assert last.history == device_of(pool).history


def gpu_pool(*, busy: float) -> tuple[Pool, Device]:
    pool = Pool()
    facts = events.DeviceFacts("a/cpu", "gpu", "test", 1, 1 << 34, model(1000.0).points)
    pool.feed(events.NodeRegistered("a", "1", HOST, frozenset({0}), False, True, "test", [facts]))
    for _ in range(5):
        pool.pass_time(1.0)
        sample = Sample(pool.now, 1.0, busy, 0.0, busy, is_prior=True)
        pool.feed(events.NodeSampled("a", [events.DeviceSampled("a/cpu", sample, 1 << 34)]))
    return pool, device_of(pool)


def run_on_gpu(pool: Pool, gflops: float) -> None:
    job = pool.submit(2048, 2048, 2048)
    subtask = pool.on(job, "a")
    flops = job.flops_of(0, subtask.area)
    wall_s = flops / (gflops * 1e9)
    made = events.Progress(
        subtask.id, 2048, subtask.area, pool.now - wall_s, pool.now, 0.0, wall_s, flops
    )
    pool.feed(events.SubtaskFinished("a", made, pool.now))


def test_on_a_shared_gpu_the_stopwatch_wins_over_nvml() -> None:
    pool, device = gpu_pool(busy=1.0)
    assert device.availability(pool.now).mean == pytest.approx(0.5)
    # Its "busy" neighbour in truth uses next to nothing of it.
    for _ in range(8):
        run_on_gpu(pool, 950.0)
    reckoned = expected_gflops(device) * device.availability(pool.now).mean
    assert reckoned == pytest.approx(950.0, rel=0.05)
    assert device.model.flops_rate(SQUARE) == pytest.approx(1e12)


def test_on_an_idle_gpu_the_stopwatch_is_its_speed() -> None:
    pool, device = gpu_pool(busy=0.0)
    for _ in range(20):
        run_on_gpu(pool, 800.0)
    assert device.model.flops_rate(SQUARE) == pytest.approx(8e11, rel=0.05)


def test_bad_samples_are_counted_and_told_once_a_minute(pool: Pool) -> None:
    device = device_of(pool)
    nan, now = math.nan, pool.now

    def feed(**changes: Any) -> None:
        sample = replace(Sample(pool.now, 1.0, 0.1, 0.0, 0.1), **changes)
        pool.feed(events.NodeSampled("a", [events.DeviceSampled("a/cpu", sample, 1)]))

    for _ in range(3):
        feed(busy=nan)
        feed(run_s=math.inf)
        feed(at_s=now + 100.0)
        feed(at_s=now - MAX_SAMPLE_AGE_S - 1.0)
        feed(window_s=-1.0)
        feed(foreign=1.5, own=-0.5)
    assert device.bad_samples == {
        "not_a_number": 6,
        "future": 3,
        "stale": 3,
        "window": 3,
        "negative": 3,
        "over_one": 3,
    }
    assert kinds_of(pool).count("bad_sample") == 6
    assert len(device.samples) == 3
    for _ in range(int(COMPLAINT_INTERVAL_S / RECORD_INTERVAL_S)):
        let_be_recorded(pool)
    feed(busy=nan)
    assert kinds_of(pool).count("bad_sample") == 7


def test_rounding_is_nobodys_fault(pool: Pool) -> None:
    kept, reasons = believable(Sample(pool.now, 1.0, 1.0 + 1e-9, -1e-9, 1.0), pool.now)
    assert reasons == ()
    assert kept is not None
    assert (kept.busy, kept.own) == (1.0, 0.0)


anything = st.floats(width=64)


@given(
    st.lists(anything, min_size=10, max_size=10),
    st.none() | anything,
    st.integers(1, 512),
)
def test_no_sample_can_do_harm(values: list[float], fair: float | None, threads: int) -> None:
    at_s, window_s, busy, own, foreign, steal, runnable, run_s, wait_s, quota = values
    wild = Sample(
        at_s,
        window_s,
        busy,
        own,
        foreign,
        steal,
        runnable,
        run_s,
        wait_s,
        threads,
        True,
        quota,
        fair,
    )
    for sample in (wild, replace(wild, at_s=99.5, window_s=1.0)):
        kept, reasons = believable(sample, 100.0)
        if kept is None:
            assert len(reasons) == 1
        else:
            assert MIN_AVAILABILITY <= of_sample(kept) <= 1.0
