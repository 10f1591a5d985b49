"""Whole scenarios, through the real core and planner."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.scheduler.simulator.builders import (
    check_cover,
    device,
    done,
    matmul,
    scenario,
    share_of,
)

from deadheat.runtime.errors import JobFailed, TimedOut
from deadheat.scheduler.core.machine import JobState
from deadheat.scheduler.planner.inputs import Cut
from deadheat.scheduler.planner.pricing import LAST_BYTES
from deadheat.scheduler.simulator.oracle import capacity, oracle_makespan_s
from deadheat.scheduler.simulator.outcome import run_one, simulate

FLOPS = 2.0 * 4096**3


def test_equal_devices_share_equally_and_end_together() -> None:
    result = run_one(scenario([device(count=4)]), Cut.BALANCED)
    (report,) = result.reports
    assert report.state is JobState.DONE
    check_cover(report)
    assert result.makespan_s == pytest.approx(FLOPS / 4e10, rel=0.03)
    assert result.spread is not None
    assert result.spread < 0.02
    assert result.efficiency is not None
    assert 0.97 < result.efficiency <= 1.0


def test_the_same_seed_gives_the_same_outcome_and_another_one_another() -> None:
    one = scenario([device(count=3, noise=0.1), device("g", kind="gpu", speed_gflops=40.0)])
    first, second = (run_one(one, Cut.BALANCED).reports for _ in range(2))
    assert first == second
    other = run_one(dataclasses.replace(one, seed=2), Cut.BALANCED).reports
    assert other != first


def test_every_job_is_reported_in_order_and_covered() -> None:
    jobs = [
        matmul(1024 * (1 + index % 3), at_s=index / 10, user="ab"[index % 2]) for index in range(9)
    ]
    result = run_one(scenario([device(count=3, noise=0.05)], jobs), Cut.BALANCED)
    assert [report.id for report in result.reports] == [f"job-{index}" for index in range(9)]
    for report in result.reports:
        assert report.state is JobState.DONE
        check_cover(report)


def test_a_chain_is_computed() -> None:
    chain: dict[str, object] = {
        "kind": "chain",
        "dims": [2048, 256, 4096, 128, 2048],
        "dtype": "float32",
    }
    found = scenario([device(count=3)], [chain])
    result = run_one(found, Cut.BALANCED)
    (report,) = result.reports
    assert (report.kind, report.state) == ("chain", JobState.DONE)
    check_cover(report)
    best_s = oracle_makespan_s(found, capacity(found))
    assert best_s is not None
    assert result.makespan_s is not None
    assert best_s <= result.makespan_s


def test_a_tiny_job_travels_inline() -> None:
    result = run_one(scenario([device(count=2, bandwidth_gbps=0.001)], [matmul(32)]), Cut.BALANCED)
    (report,) = result.reports
    assert report.state is JobState.DONE
    assert report.bytes_moved == 0


# What others do on the devices


def test_a_load_step_in_mid_run_is_noticed() -> None:
    half = device("b", foreign=[[4.0, 0.6]])
    found = scenario([device("a"), half], [matmul(6144)])
    balanced, equal = run_one(found, Cut.BALANCED), run_one(found, Cut.EQUAL)
    (report,) = balanced.reports
    assert report.resplits >= 1
    assert share_of(report, "b") < 0.45
    assert balanced.makespan_s is not None
    assert equal.makespan_s is not None
    assert balanced.makespan_s < 0.85 * equal.makespan_s
    assert balanced.spread is not None
    assert equal.spread is not None
    assert balanced.spread < 0.06 < equal.spread


def test_taken_load_leaves_the_rest_and_fair_load_an_even_share() -> None:
    makespans_s = {}
    for sharing, load in (("taken", 0.75), ("fair", 0.75), ("fair", 1.0), ("fair", 3.0)):
        loaded = device(foreign=[[0.0, load]], sharing=sharing)
        result = run_one(scenario([loaded], [matmul(2048)]), Cut.BALANCED)
        makespans_s[sharing, load] = result.makespan_s
    alone_s = 2.0 * 2048**3 / 1e10
    assert makespans_s["taken", 0.75] == pytest.approx(4 * alone_s, rel=0.02)
    assert makespans_s["fair", 0.75] == pytest.approx(2 * alone_s, rel=0.02)
    assert makespans_s["fair", 1.0] == pytest.approx(2 * alone_s, rel=0.02)
    assert makespans_s["fair", 3.0] == pytest.approx(4 * alone_s, rel=0.02)


def test_a_device_that_others_use_gets_less() -> None:
    busy = device("busy", foreign=[[0.0, 0.5]])
    jobs = [matmul(4096, at_s=3.0)]
    (report,) = run_one(scenario([device("free"), busy], jobs), Cut.BALANCED).reports
    assert share_of(report, "busy") == pytest.approx(1 / 3, abs=0.03)


# Links


def test_a_remote_device_waits_for_columns_and_computes_while_rows_travel() -> None:
    local = run_one(scenario([device()], [matmul(2048)]), Cut.BALANCED)
    remote = run_one(scenario([device(bandwidth_gbps=1.0)], [matmul(2048)]), Cut.BALANCED)
    (report,) = remote.reports
    one = 8 * 2048**2
    assert report.bytes_moved == 3 * one
    assert local.makespan_s is not None
    assert remote.makespan_s is not None
    # All of B, the first eighth of A, and what is left of C at the end.
    waited = (one + 256 * 2048 * 8) / 1.25e8
    assert waited <= remote.makespan_s - local.makespan_s <= waited + 6e6 / 1.25e8


@pytest.mark.parametrize("bandwidth_gbps", [0.2, 1.0, 10.0])
@pytest.mark.parametrize("size", [1024, 2048, 4096])
def test_what_the_plan_says_of_overlap_comes_true(size: int, bandwidth_gbps: float) -> None:
    one = scenario([device(bandwidth_gbps=bandwidth_gbps)], [matmul(size)])
    (report,) = run_one(one, Cut.BALANCED).reports
    assert report.makespan_s is not None
    assert report.predicted_makespan_s is not None
    assert report.makespan_s <= 1.04 * report.predicted_makespan_s
    # What goes when all is computed is predicted at its most; bands decide how much of it is left.
    unsure_s = min(8 * size**2, LAST_BYTES) / (bandwidth_gbps * 1.25e8)
    assert report.makespan_s + unsure_s >= 0.96 * report.predicted_makespan_s


def test_rows_that_were_given_away_are_not_fetched() -> None:
    devices = [device("a", bandwidth_gbps=0.5), device("b", bandwidth_gbps=0.5)]
    faults: list[dict[str, object]] = [
        {"at_s": 2.5, "device": "a", "kind": "slow", "factor": 0.1},
    ]
    (report,) = run_one(scenario(devices, faults=faults), Cut.BALANCED).reports
    assert report.state is JobState.DONE
    assert report.resplits
    check_cover(report)
    whole = 8 * 4096**2
    # Rows of A and elements of C move once, B to both; a re-balance adds some blocks.
    assert report.bytes_moved is not None
    assert report.bytes_moved < 5.0 * whole


def test_all_who_stream_share_the_port_of_the_store() -> None:
    devices = [device(count=4, bandwidth_gbps=1.0, speed_gflops=1000.0)]
    narrow = run_one(scenario(devices), Cut.EQUAL)
    wide = run_one(scenario(devices, store={"bandwidth_gbps": 4.0}), Cut.EQUAL)
    assert narrow.makespan_s is not None
    assert wide.makespan_s is not None
    assert narrow.makespan_s > 3.0 * wide.makespan_s


# Faults


def test_what_a_lost_device_had_is_done_by_the_others() -> None:
    faults: list[dict[str, object]] = [{"at_s": 2.0, "device": "d-1", "kind": "lost"}]
    (report,) = run_one(scenario([device(count=3)], faults=faults), Cut.BALANCED).reports
    assert report.state is JobState.DONE
    check_cover(report)
    assert report.resplits >= 1
    assert all(p.finish_s is None or p.finish_s < 2.1 for p in done(report) if p.device == "d-1")


def test_a_stopped_device_does_not_hold_up_the_job() -> None:
    faults: list[dict[str, object]] = [{"at_s": 2.0, "device": "d-1", "kind": "stopped"}]
    result = run_one(scenario([device(count=3)], faults=faults), Cut.BALANCED)
    (report,) = result.reports
    assert report.state is JobState.DONE
    check_cover(report)


def test_a_device_that_was_stopped_for_a_moment_goes_on() -> None:
    faults: list[dict[str, object]] = [
        {"at_s": 1.0, "device": "d-1", "kind": "stopped"},
        {"at_s": 2.0, "device": "d-1", "kind": "back"},
    ]
    (report,) = run_one(scenario([device(count=2)], faults=faults), Cut.BALANCED).reports
    assert report.state is JobState.DONE
    check_cover(report)
    assert 0.3 < share_of(report, "d-1") < 0.5


@pytest.mark.parametrize("kind", ["lost", "stopped"])
def test_a_device_that_comes_back_late_works_again(kind: str) -> None:
    faults: list[dict[str, object]] = [
        {"at_s": 1.0, "device": "d-1", "kind": kind},
        {"at_s": 20.0, "device": "d-1", "kind": "back"},
    ]
    jobs = [matmul(), matmul(at_s=25.0)]
    result = run_one(scenario([device(count=2)], jobs, faults), Cut.BALANCED)
    for report in result.reports:
        assert report.state is JobState.DONE
        check_cover(report)
    assert share_of(result.reports[1], "d-1") == pytest.approx(0.5, abs=0.05)


def test_a_silently_slow_device_keeps_less() -> None:
    faults: list[dict[str, object]] = [
        {"at_s": 1.0, "device": "d-1", "kind": "slow", "factor": 0.25}
    ]
    result = run_one(scenario([device(count=2)], faults=faults), Cut.BALANCED)
    (report,) = result.reports
    check_cover(report)
    assert share_of(report, "d-1") < 0.4
    assert result.efficiency is not None
    assert result.efficiency > 0.9


def test_a_pool_that_is_gone_fails_the_job_with_the_reason() -> None:
    faults: list[dict[str, object]] = [{"at_s": 0.5, "device": "d", "kind": "lost"}]
    result = run_one(scenario([device()], faults=faults), Cut.BALANCED)
    (report,) = result.reports
    assert report.state is JobState.FAILED
    assert report.failure is not None
    assert report.failure.code == TimedOut.code
    assert "its node is lost" in report.failure.message
    assert (result.makespan_s, result.efficiency) == (None, None)


def test_a_job_that_takes_longer_than_it_may_fails() -> None:
    slow: list[dict[str, object]] = [{"at_s": 1.0, "device": "d", "kind": "slow", "factor": 0.5}]
    found = scenario([device()], [matmul(timeout_s=16.0)], slow)
    (report,) = run_one(found, Cut.BALANCED).reports
    assert report.state is JobState.FAILED
    assert report.finished_at_s == pytest.approx(16.0)


def test_long_idle_times_cost_nothing() -> None:
    jobs = [matmul(1024), matmul(1024, at_s=9e6)]
    result = run_one(scenario([device(count=2)], jobs), Cut.BALANCED)
    assert [report.state for report in result.reports] == [JobState.DONE] * 2
    assert result.reports[1].started_at_s == pytest.approx(9e6)


# What runs are compared with


def test_the_outcome_has_all_baselines_and_the_stopwatch_only_measures() -> None:
    found = scenario([device("a"), device("b", speed_gflops=30.0)])
    ticks = iter(range(1000))
    outcome = simulate(found, stopwatch=lambda: float(next(ticks)))
    document = outcome.as_dict()
    assert document["planning"] == {"calls": 1, "p50_s": 1.0, "p99_s": 1.0}
    assert set(outcome.baselines) == {"equal", "peak", "one_minus_utilization", "oracle"}
    ours_s = outcome.result.makespan_s
    assert ours_s == run_one(found, Cut.BALANCED).makespan_s
    assert ours_s is not None
    equal_s = outcome.baselines["equal"][0]
    assert equal_s is not None
    assert equal_s == pytest.approx(2 * ours_s, rel=0.1)
    for makespan_s, _ in outcome.baselines.values():
        assert makespan_s is not None
        assert outcome.baselines["oracle"][0] is not None
        assert makespan_s >= outcome.baselines["oracle"][0]


def test_the_oracle_knows_what_comes() -> None:
    faults: list[dict[str, object]] = [
        {"at_s": 1.0, "device": "a", "kind": "lost"},
        {"at_s": 2.0, "device": "a", "kind": "back"},
        {"at_s": 3.0, "device": "b", "kind": "slow", "factor": 0.5},
    ]
    loaded = device("b", foreign=[[2.0, 0.5]])
    found = scenario([device("a"), loaded], [matmul(2048), matmul(2048, at_s=0.5)], faults)
    pool = capacity(found)
    assert [pool.rate(t) for t in (0.5, 1.5, 2.5, 3.5)] == [2e10, 1e10, 1.5e10, 1.25e10]
    work = 2 * 2.0 * 2048**3
    best_s = oracle_makespan_s(found, pool)
    assert best_s is not None
    assert pool.at(best_s) == pytest.approx(work)


kinds = st.sampled_from(["lost", "stopped", "slow", "back"])


@st.composite
def scenarios(draw: st.DrawFn) -> tuple[list[dict[str, object]], ...]:
    count = draw(st.integers(1, 4))
    devices: list[dict[str, object]] = []
    for index in range(count):
        sharing = draw(st.sampled_from(["taken", "fair"]))
        most = 0.9 if sharing == "taken" else 3.0
        steps = draw(st.lists(st.floats(0.0, most), max_size=3))
        changes: dict[str, object] = {
            "speed_gflops": draw(st.floats(5.0, 50.0)),
            "noise": draw(st.sampled_from([0.0, 0.05, 0.3])),
            "foreign": [[2.0 * at, load] for at, load in enumerate(steps)],
            "sharing": sharing,
        }
        if draw(st.booleans()):
            changes["bandwidth_gbps"] = draw(st.floats(1.0, 10.0))
        devices.append(device(f"d{index}", **changes))
    sizes = st.integers(1, 1536)
    jobs: list[dict[str, object]] = []
    for at_s in sorted(draw(st.lists(st.floats(0.0, 4.0), min_size=1, max_size=3))):
        m, k, n = draw(sizes), draw(sizes), draw(sizes)
        jobs.append({"at_s": at_s, "m": m, "k": k, "n": n, "timeout_s": 300.0})
    moments_s = sorted(draw(st.lists(st.floats(0.0, 5.0), max_size=3)))
    faults: list[dict[str, object]] = []
    for at_s in moments_s:
        kind = draw(kinds)
        fault: dict[str, object] = {
            "at_s": at_s,
            "device": f"d{draw(st.integers(0, count - 1))}",
            "kind": kind,
        }
        faults.append({**fault, "factor": 0.3} if kind == "slow" else fault)
    return devices, jobs, faults


@st.composite
def absences(draw: st.DrawFn) -> list[list[float]]:
    """When the store is away: not at all, or up to twice, of which the second is later."""
    found = []
    for index in range(draw(st.integers(0, 2))):
        at_s = 4.0 * index + draw(st.floats(0.0, 2.0))
        found.append([at_s, draw(st.floats(0.01, 1.9))])
    return found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scenarios(), absences(), st.sampled_from(Cut))
def test_every_job_of_any_scenario_is_covered_or_fails_with_a_reason(
    tables: tuple[list[dict[str, object]], ...], away: list[list[float]], cut: Cut
) -> None:
    found = scenario(*tables, store={"away": away})
    result = run_one(found, cut)
    assert len(result.reports) == len(found.jobs)
    for report in result.reports:
        if report.state is JobState.DONE:
            check_cover(report)
        else:
            assert report.state is JobState.FAILED
            assert report.failure is not None
            assert report.failure.code in (TimedOut.code, JobFailed.code)
            assert report.failure.message
    best_s = oracle_makespan_s(found, capacity(found))
    if result.makespan_s is not None and all(not d.noise for d in found.devices):
        assert best_s is not None
        assert best_s <= result.makespan_s * (1 + 1e-9)


def test_what_memories_do_not_hold_is_worked_in_rounds_and_ends_together() -> None:
    speeds = {"a": (50.0, 0.1), "b": (30.0, 0.05), "c": (10.0, 0.1)}
    devices = [
        device(name, speed_gflops=speed, memory_gb=memory, bandwidth_gbps=10.0, noise=0.03)
        for name, (speed, memory) in speeds.items()
    ]
    result = run_one(scenario(devices, [matmul(6000)]), Cut.BALANCED)
    (report,) = result.reports
    assert report.state is JobState.DONE
    check_cover(report)
    assert result.placements > 50
    assert result.spread is not None
    assert result.spread < 0.05
    assert result.efficiency is not None
    assert result.efficiency > 0.65
