"""Forecasts: now, over a horizon, of stale samples, and of many devices at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.scheduler.planner.test_availability import sample

from deadheat.scheduler.planner.availability import MIN_AVAILABILITY, Sample, of_sample
from deadheat.scheduler.planner.forecast import (
    HALF_LIFE_S,
    PRIOR_DEVIATION,
    STALE_AFTER_S,
    UNKNOWN_DEVIATION,
    AvailabilityState,
    forecast,
    forecast_many,
)


def hog(at_s: float) -> Sample:
    return sample(at_s, busy=1.0, foreign=1.0, foreign_runnable=1)


#: Free for two minutes, then shared with somebody for four seconds.
CHANGED = [sample(float(k)) for k in range(120)] + [hog(120.0 + k) for k in range(4)]


def state_of(samples: list[Sample]) -> AvailabilityState:
    state = AvailabilityState()
    for one in samples:
        state.add(one)
    return state


def test_newer_samples_weigh_more() -> None:
    found = forecast([hog(float(k)) for k in range(5)] + [sample(5.0 + k) for k in range(3)], 8.0)
    assert found.mean > 0.9
    assert found.observed_s == 7.0
    assert 0 < found.deviation < 0.5


def test_a_steady_series_is_weighted_as_by_ages() -> None:
    """The recursive form is the weighted mean over all samples by 0.5 ** (age / half-life)."""
    values = [0.9, 0.5, 0.7, 0.2, 0.6]
    state = state_of([sample(float(k), foreign=1 - v) for k, v in enumerate(values)])
    weights = [0.5 ** ((4 - k) / HALF_LIFE_S) for k in range(5)]
    answers = [of_sample(sample(foreign=1 - v)) for v in values]
    mean = sum(w * v for w, v in zip(weights, answers)) / sum(weights)
    variance = sum(w * (v - mean) ** 2 for w, v in zip(weights, answers)) / sum(weights)
    assert state.fast_mean == pytest.approx(mean)
    assert state.fast_variance == pytest.approx(variance)


def test_unknown_devices_are_tried() -> None:
    for samples in ([], [sample(is_known=False, foreign=1.0)]):
        found = forecast(samples, 5.0, 10.0)
        assert (found.mean, found.deviation) == (1.0, UNKNOWN_DEVIATION)
        assert found.observed_s == -math.inf


def test_a_change_is_believed_for_a_short_plan_and_less_for_a_long_one() -> None:
    now = 123.0
    means = [forecast(CHANGED, now, horizon_s).mean for horizon_s in (0.0, 10.0, 60.0, 600.0)]
    assert means == sorted(means)
    assert means[0] < 0.52
    assert means[1] < 0.53
    assert means[3] > 0.8


def test_the_further_ahead_the_less_sure() -> None:
    deviations = [forecast(CHANGED, 123.0, float(h)).deviation for h in (0, 10, 60, 600)]
    assert deviations == sorted(deviations)
    assert deviations[-1] > 2 * deviations[0]


def test_stale_samples_drift_to_the_usual_and_are_less_sure() -> None:
    fresh, late, later = (forecast(CHANGED, 123.0 + age) for age in (STALE_AFTER_S, 10.0, 60.0))
    assert fresh.mean < late.mean < later.mean
    assert fresh.deviation < late.deviation < later.deviation
    usual = state_of(CHANGED).slow_mean
    forgotten = forecast(CHANGED, 1e6)
    assert forgotten.mean == pytest.approx(usual)
    assert forgotten.deviation > UNKNOWN_DEVIATION


def test_very_old_samples_still_say_something() -> None:
    assert forecast([sample(at_s=0.0, foreign=0.4)], 1e9).mean == pytest.approx(0.6)


def test_samples_that_come_late_or_twice_change_little() -> None:
    state = state_of([hog(float(k)) for k in range(10)])
    before = state.fast_mean
    state.add(sample(3.0))
    state.add(sample(9.0))
    assert before < state.fast_mean < before + 0.1
    assert state.observed_s == 9.0


def test_a_gpu_that_seems_idle_is_not_sure_to_be() -> None:
    steady = [sample(float(k), is_prior=True) for k in range(10)]
    found = forecast(steady, 9.0)
    assert found.mean == 1.0
    assert found.deviation >= PRIOR_DEVIATION


def test_what_the_stopwatch_says_of_a_busy_gpu_holds_until_it_is_idle() -> None:
    state = state_of([sample(float(k), foreign=1.0, is_prior=True) for k in range(10)])
    assert state.at(9.0).mean == pytest.approx(0.5)
    unsure = state.at(9.0).deviation
    for _ in range(8):
        state.check(0.95)
    assert state.at(9.0).mean == pytest.approx(0.95, abs=0.01)
    assert state.at(9.0).deviation < unsure / 5
    for k in range(10, 20):
        state.add(sample(float(k), is_prior=True))
    assert state.at(19.0).mean == pytest.approx(1.0, abs=0.01)
    # What was idle before it was asked says nothing about how true NVML is.
    state.check(0.3)
    assert state.at(19.0).mean == pytest.approx(1.0, abs=0.01)


def test_what_the_kernel_counts_needs_no_checking() -> None:
    state = state_of([hog(float(k)) for k in range(10)])
    state.check(0.95)
    assert state.at(9.0).mean == pytest.approx(0.5)


@given(st.lists(st.floats(), max_size=10), st.floats(0, 1))
def test_no_stopwatch_can_do_harm(delivered: list[float], foreign: float) -> None:
    state = state_of([sample(float(k), foreign=foreign, is_prior=True) for k in range(3)])
    for one in delivered:
        state.check(one)
    assert MIN_AVAILABILITY <= state.at(2.0, 10.0).mean <= 1.0


fractions = st.floats(0, 1)
series = st.lists(st.tuples(st.floats(0, 5), st.floats(1e-3, 5), fractions), max_size=20)


def samples_of(steps: list[tuple[float, float, float]]) -> list[Sample]:
    at_s, found = 0.0, []
    for passed_s, window_s, foreign in steps:
        at_s += passed_s
        found.append(sample(at_s, window_s=window_s, foreign=foreign))
    return found


@given(series, st.floats(-5, 1e6), st.floats(0, 1e6))
def test_a_forecast_is_between_the_least_and_the_most_seen(
    steps: list[tuple[float, float, float]], later_s: float, horizon_s: float
) -> None:
    samples = samples_of(steps)
    now = later_s + (samples[-1].at_s if samples else 0.0)
    found = forecast(samples, now, horizon_s)
    values = [of_sample(one) for one in samples] or [1.0]
    assert min(values) - 1e-9 <= found.mean <= max(values) + 1e-9
    assert math.isfinite(found.deviation)
    assert 0.0 <= found.deviation <= 1.0


@given(st.lists(series, min_size=1, max_size=5), st.floats(0, 1e3), st.floats(0, 1e3))
def test_many_at_once_are_forecast_as_each(
    pool: list[list[tuple[float, float, float]]], now: float, horizon_s: float
) -> None:
    states = [state_of(samples_of(steps)) for steps in pool]
    means, deviations = forecast_many(
        np.array([state.fast_mean for state in states]),
        np.array([state.slow_mean for state in states]),
        np.array([state.fast_variance for state in states]),
        np.array([state.slow_variance for state in states]),
        np.array([state.observed_s for state in states]),
        now,
        horizon_s,
    )
    for state, mean, deviation in zip(states, means, deviations):
        found = state.at(now, horizon_s)
        assert mean == pytest.approx(found.mean)
        assert deviation == pytest.approx(found.deviation, abs=1e-9)
