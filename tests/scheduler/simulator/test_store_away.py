"""Jobs while the store is away for some seconds, and after."""

from __future__ import annotations

import pytest
from tests.scheduler.simulator.builders import check_cover, device, done, scenario, share_of

from deadheat.scheduler.core.machine import JobState
from deadheat.scheduler.planner.inputs import Cut
from deadheat.scheduler.simulator.outcome import Result, run_one


def with_and_without_store(devices: list[dict[str, object]]) -> tuple[Result, Result]:
    """The same job, with the store there, and with it away from second 1 to 6."""
    store = {"away": [[1.0, 5.0]]}
    calm, shaken = scenario(devices), scenario(devices, store=store)
    return run_one(calm, Cut.BALANCED), run_one(shaken, Cut.BALANCED)


def test_transfers_wait_for_a_store_that_is_away_and_go_on_where_they_were() -> None:
    remote = [device("near", bandwidth_gbps=1.0), device("far", bandwidth_gbps=0.2)]
    calm, shaken = with_and_without_store(remote)
    for result in (calm, shaken):
        (report,) = result.reports
        assert report.state is JobState.DONE
        check_cover(report)
    assert calm.makespan_s
    assert shaken.makespan_s
    # Operands were on their way: at most the time that it was away is lost, and nothing is moved
    # again. What is here already is computed meanwhile.
    assert calm.makespan_s < shaken.makespan_s <= calm.makespan_s + 5.0 + 0.5
    moved = [result.reports[0].bytes_moved or 0 for result in (calm, shaken)]
    assert moved[1] <= 1.05 * moved[0]


def test_who_has_all_that_it_needs_computes_while_the_store_is_away() -> None:
    calm, shaken = with_and_without_store([device(count=2)])
    (report,) = shaken.reports
    check_cover(report)
    assert shaken.makespan_s == calm.makespan_s


def test_seals_and_what_is_mapped_wait_for_the_store() -> None:
    """A chain's second product is given to nobody before the first one's result is sealed; and who
    is given something cannot begin before the store has given it."""
    chain: list[dict[str, object]] = [{"kind": "chain", "dims": [3000, 3000, 3000, 3000]}]
    plain = run_one(scenario([device(count=2)], chain), Cut.BALANCED).reports[0]
    first, second = dict.fromkeys(p.operation for p in plain.placements)
    end_s = max(p.finish_s or 0.0 for p in done(plain) if p.operation == first)
    for away_s in (end_s - 0.1, 0.0005):
        store = {"away": [[away_s, 4.0]]}
        report = run_one(scenario([device(count=2)], chain, store=store), Cut.BALANCED).reports[0]
        assert report.state is JobState.DONE
        check_cover(report)
        waiting = second if away_s > 1.0 else first
        starts_s = [p.start_s for p in done(report) if p.operation == waiting]
        assert all(start_s is not None and start_s >= away_s + 4.0 for start_s in starts_s)
        assert report.makespan_s is not None
        assert plain.makespan_s is not None
        assert report.makespan_s == pytest.approx(plain.makespan_s + 4.0, abs=0.2)


def test_a_device_that_is_lost_while_the_store_is_away_begins_nothing() -> None:
    faults: list[dict[str, object]] = [
        {"at_s": 1.0, "device": "d-0", "kind": "lost"},
        {"at_s": 2.0, "device": "d-1", "kind": "stopped"},
        {"at_s": 9.0, "device": "d-1", "kind": "back"},
    ]
    store = {"away": [[0.0005, 6.0]]}
    (report,) = run_one(
        scenario([device(count=3)], faults=faults, store=store), Cut.BALANCED
    ).reports
    assert report.state is JobState.DONE
    check_cover(report)
    assert share_of(report, "d-0") == 0.0
