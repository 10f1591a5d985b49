"""Water-filling: exact, optimal, monotone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadheat.runtime.errors import LimitReached
from deadheat.scheduler.planner.balance import balance, level, weighted

ready_times = st.floats(0, 10)
unit_times = st.floats(0.01, 10)
devices = st.lists(st.tuples(ready_times, unit_times), min_size=1, max_size=12)


def arrays(pairs: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([e for e, _ in pairs]), np.array([w for _, w in pairs])


@given(devices, st.integers(0, 10_000))
def test_shares_are_all_the_units_and_finish_together(
    pairs: list[tuple[float, float]], units: int
) -> None:
    ready_s, unit_s = arrays(pairs)
    found = balance(units, ready_s, unit_s)
    assert found.shares.sum() == units
    assert (found.shares >= 0).all()
    used = found.shares > 0
    if units:
        # Nobody could have taken one unit less without somebody else ending later.
        later = ready_s + unit_s * (found.shares + 1)
        assert found.makespan_s <= later.min() * (1 + 1e-9)
        assert found.makespan_s == pytest.approx(found.finish_s[used].max())


@given(st.lists(st.tuples(ready_times, unit_times), min_size=1, max_size=4), st.integers(1, 12))
def test_the_integer_cut_is_the_best_there_is(pairs: list[tuple[float, float]], units: int) -> None:
    ready_s, unit_s = arrays(pairs)
    best = min(
        max(e + w * x for (e, w), x in zip(pairs, cut) if x)
        for cut in itertools.product(range(units + 1), repeat=len(pairs))
        if sum(cut) == units
    )
    assert balance(units, ready_s, unit_s).makespan_s == pytest.approx(best, rel=1e-9)


@given(devices, st.tuples(ready_times, unit_times), st.integers(1, 10_000))
def test_one_more_device_never_makes_it_later(
    pairs: list[tuple[float, float]], more: tuple[float, float], units: int
) -> None:
    before = balance(units, *arrays(pairs)).makespan_s
    after = balance(units, *arrays([*pairs, more])).makespan_s
    assert after <= before * (1 + 1e-9)


@given(devices, st.integers(1, 10_000), st.integers(0, 11), st.floats(0.1, 1))
def test_a_faster_device_never_makes_it_later(
    pairs: list[tuple[float, float]], units: int, which: int, factor: float
) -> None:
    faster = list(pairs)
    ready, unit = faster[which % len(pairs)]
    faster[which % len(pairs)] = (ready, unit * factor)
    before = balance(units, *arrays(pairs)).makespan_s
    assert balance(units, *arrays(faster)).makespan_s <= before * (1 + 1e-9)


@given(devices, st.integers(1, 10_000), st.randoms(use_true_random=False))
def test_the_order_of_devices_does_not_matter(
    pairs: list[tuple[float, float]], units: int, random: object
) -> None:
    shuffled = list(pairs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    before = balance(units, *arrays(pairs)).makespan_s
    assert balance(units, *arrays(shuffled)).makespan_s == pytest.approx(before, rel=1e-9)


@given(devices, st.integers(1, 1000), st.sampled_from([0.125, 8.0, 1024.0]))
def test_only_ratios_of_times_matter(
    pairs: list[tuple[float, float]], units: int, factor: float
) -> None:
    scaled = [(e * factor, w * factor) for e, w in pairs]
    assert (balance(units, *arrays(pairs)).shares == balance(units, *arrays(scaled)).shares).all()


@given(
    st.lists(st.tuples(ready_times, unit_times, st.integers(0, 50)), min_size=1, max_size=8),
    st.integers(0, 400),
)
def test_memory_bounds_are_kept_or_the_cut_is_refused(
    triples: list[tuple[float, float, int]], units: int
) -> None:
    ready_s, unit_s = arrays([(e, w) for e, w, _ in triples])
    caps = np.array([cap for _, _, cap in triples])
    if caps.sum() < units:
        with pytest.raises(LimitReached, match="hold"):
            balance(units, ready_s, unit_s, caps)
        return
    found = balance(units, ready_s, unit_s, caps)
    assert found.shares.sum() == units
    assert (found.shares <= caps).all()
    open_ones = found.shares < caps
    if units and open_ones.any():
        later = (ready_s + unit_s * (found.shares + 1))[open_ones]
        assert found.makespan_s <= max(later.min(), found.finish_s[~open_ones].max(initial=0)) * (
            1 + 1e-9
        )


@given(devices, st.floats(0.5, 10_000))
def test_the_level_is_where_the_work_done_is_the_work(
    pairs: list[tuple[float, float]], units: float
) -> None:
    ready_s, unit_s = arrays(pairs)
    time_s = level(units, ready_s, unit_s, np.full(len(pairs), np.inf))
    done = np.maximum(0, (time_s - ready_s) / unit_s).sum()
    assert done == pytest.approx(units, rel=1e-6)


def test_a_device_that_starts_too_late_gets_nothing() -> None:
    found = balance(100, np.array([0.0, 0.0, 60.0]), np.array([1.0, 1.0, 0.001]))
    assert found.shares.tolist() == [50, 50, 0]


def test_weights_are_kept_to_the_unit() -> None:
    found = weighted(10, np.array([1.0, 1.0, 1.0]), np.zeros(3), np.ones(3))
    assert sorted(found.shares.tolist()) == [3, 3, 4]
