"""What real sub-tasks teach: first ones, noise, outliers, flushes, false claims."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.scheduler.planner.builders import model

from deadheat.runtime.programs import GemmShape
from deadheat.scheduler.planner.history import (
    CALIBRATION_SAMPLES,
    MAX_BIAS,
    MIN_BIAS,
    SpeedHistory,
    Verdict,
)
from deadheat.scheduler.planner.speed import MAX_POINTS, Kind, SpeedModel

SHAPE = GemmShape(2048, 2048, 2048, "float64")
KIND = Kind.of(SHAPE)


def history(gflops: float = 50.0) -> SpeedHistory:
    return SpeedHistory.of_claims(model(gflops).points)


def taught(
    known: SpeedHistory, gflops: float, times: int, shape: GemmShape = SHAPE
) -> SpeedHistory:
    for _ in range(times):
        known, _ = known.learn(shape, shape.flops / (gflops * 1e9))
    return known


def gflops(known: SpeedHistory, shape: GemmShape = SHAPE) -> float:
    """What a plan would reckon with."""
    return shape.flops / known.expected_s(shape) / 1e9


def test_the_first_of_a_kind_says_nothing() -> None:
    known, verdict = history().learn(SHAPE, 1e3)
    assert verdict is Verdict.FIRST
    assert gflops(known) == pytest.approx(50.0)
    # And again after each start of the executor.
    _, verdict = taught(known, 40.0, 3).after_start().learn(SHAPE, 1e3)
    assert verdict is Verdict.FIRST


def test_a_speed_somewhat_off_is_followed_at_once_and_then_learnt() -> None:
    known = taught(history(), 35.0, 3)
    assert gflops(known) == pytest.approx(35.0, rel=0.15)
    known = taught(known, 35.0, 20)
    assert gflops(known) == pytest.approx(35.0, rel=0.01)
    # The points have taken it over; the bias has nothing left to say.
    assert known.bias == pytest.approx(1.0, abs=0.02)


def test_one_hiccup_changes_nothing_but_its_count() -> None:
    known = taught(history(), 50.0, 5)
    after, verdict = known.learn(SHAPE, 100 * SHAPE.flops / 50e9)
    assert verdict is Verdict.OUTLIER
    assert (after.model, after.bias) == (known.model, known.bias)
    assert after.counts[KIND].outliers == 1


def test_as_many_outliers_as_samples_start_a_kind_anew() -> None:
    known = taught(history(), 50.0, 5)
    samples = known.counts[KIND].samples
    assert samples == CALIBRATION_SAMPLES + 4
    known = taught(known, 5.0, samples - 1)
    # Plans did not wait for it.
    assert known.bias < 0.3
    known, verdict = known.learn(SHAPE, SHAPE.flops / 5e9)
    assert verdict is Verdict.FLUSHED
    assert gflops(known) == pytest.approx(5.0)
    # Only that kind: what is known of thin products stays.
    thin = GemmShape(8, 512, 512, "float64")
    assert gflops(known, thin) == pytest.approx(50.0)


def test_a_long_good_history_does_not_take_as_long_to_overturn() -> None:
    known = taught(history(), 50.0, 1000)
    known = taught(known, 5.0, 20)
    assert gflops(known) == pytest.approx(5.0)


@pytest.mark.parametrize("factor", [0.01, 0.3, 3.0, 100.0])
def test_a_false_claim_is_bounded_by_what_is_delivered(factor: float) -> None:
    known = taught(history(50.0 * factor), 50.0, 5)
    assert gflops(known) == pytest.approx(50.0, rel=0.2)


def test_what_was_never_measured_is_learnt_from_the_second_on() -> None:
    shape = GemmShape(512, 512, 512, "int64")
    known = taught(history(), 2.0, 2, shape)
    assert gflops(known, shape) == pytest.approx(2.0)
    assert known.bias == 1.0


@pytest.mark.parametrize("seconds", [math.nan, math.inf, 0.0, -1.0, 1e-9])
def test_measurements_that_cannot_be_are_refused(seconds: float) -> None:
    known = taught(history(), 50.0, 2)
    assert known.learn(SHAPE, seconds) == (known, Verdict.REFUSED)


def test_points_are_bounded_and_the_nearest_are_merged() -> None:
    known = history()
    for step in range(60):
        shape = GemmShape(64 + 97 * step, 2048, 2048, "float64")
        known = taught(known, 50.0, 2, shape)
    assert len(known.model.by_kind[KIND]) <= MAX_POINTS
    assert gflops(known) == pytest.approx(50.0, rel=1e-6)


def test_equal_claims_are_told_from_others() -> None:
    assert history(50.0).calibration == history(50.0).calibration != history(51.0).calibration
    assert history(50.0).model is history(50.0).model


noises = st.lists(st.floats(0.9, 1.1), min_size=10, max_size=40)


@given(st.floats(0.6, 1.6), noises)
def test_learning_converges_under_noise(truth: float, noise: list[float]) -> None:
    known = history()
    for factor in (1.0, *noise, *noise):
        known, _ = known.learn(SHAPE, SHAPE.flops / (50e9 * truth) * factor)
    assert gflops(known) == pytest.approx(50.0 * truth, rel=0.12)


steps = st.lists(
    st.tuples(st.integers(64, 5000), st.floats(1e-3, 1e3, exclude_min=True)), max_size=30
)


@given(steps, st.integers(64, 5000), st.integers(64, 5000))
def test_whatever_is_learnt_more_work_never_takes_less_time(
    measured: list[tuple[int, float]], first: int, second: int
) -> None:
    known = history()
    for size, seconds in measured:
        known, _ = known.learn(GemmShape(size, size, size, "float64"), seconds)
    small, large = sorted([first, second])
    times = [known.model.seconds(GemmShape(n, n, n, "float64")) for n in (small, large)]
    assert times[0] <= times[1] * (1 + 1e-9)
    assert MIN_BIAS <= known.bias <= MAX_BIAS
    assert all(point.is_sane for point in known.model.points)
    # What it took over from the model before is what it would work out itself.
    anew = SpeedModel(known.model.points)
    assert anew == known.model
    assert hash(anew) == hash(known.model)
    assert anew.seconds(SHAPE) == known.model.seconds(SHAPE)
