"""The parts that the simulator is made of: supply, panels, the store's port, reports."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scheduler.simulator.builders import device, scenario

from deadheat.agent.executors.panels import Panels
from deadheat.runtime.programs import GemmShape, Rectangle
from deadheat.scheduler.planner.inputs import Cut
from deadheat.scheduler.simulator import panels
from deadheat.scheduler.simulator.curves import Curve, share_of, supply_of
from deadheat.scheduler.simulator.network import Network, Transfer
from deadheat.scheduler.simulator.outcome import run_one, simulate
from deadheat.scheduler.simulator.reports import report_as_dict
from deadheat.scheduler.simulator.scenario import Sharing

# Supply


#: Nothing at all, or something: what rounds to nothing is not a rate.
RATES = st.one_of(st.just(0.0), st.floats(1e-6, 2.0))


@given(
    st.lists(st.tuples(st.floats(0.1, 10.0), RATES), min_size=1, max_size=6),
    st.floats(0.0, 50.0),
)
def test_when_is_the_inverse_of_at(steps: list[tuple[float, float]], at_s: float) -> None:
    times_s = [0.0]
    for lasts_s, _ in steps[1:]:
        times_s.append(times_s[-1] + lasts_s)
    curve = Curve(times_s, [rate for _, rate in steps])
    reached = curve.at(at_s)
    when_s = curve.when(reached)
    assert when_s <= at_s + 1e-6
    assert curve.at(when_s) == pytest.approx(reached, abs=1e-9)


def test_what_never_comes_is_at_infinity() -> None:
    curve = Curve([0.0, 2.0], [1.0, 0.0])
    assert curve.when(2.0) == 2.0
    assert curve.when(2.5) == math.inf


@pytest.mark.parametrize(
    ("load", "sharing", "share"),
    [
        (0.0, Sharing.TAKEN, 1.0),
        (0.7, Sharing.TAKEN, 0.3),
        (1.0, Sharing.TAKEN, 0.0),
        (0.0, Sharing.FAIR, 1.0),
        (0.3, Sharing.FAIR, 0.7),
        (0.7, Sharing.FAIR, 0.5),
        (2.0, Sharing.FAIR, 1 / 3),
    ],
)
def test_shares_beside_others(load: float, sharing: Sharing, share: float) -> None:
    assert share_of(load, sharing) == pytest.approx(share)


def test_faults_and_load_make_one_supply() -> None:
    found = scenario(
        [device(foreign=[[4.0, 0.5]])],
        faults=[
            {"at_s": 1.0, "device": "d", "kind": "stopped"},
            {"at_s": 2.0, "device": "d", "kind": "back"},
            {"at_s": 3.0, "device": "d", "kind": "slow", "factor": 0.5},
        ],
    )
    supply = supply_of(found.devices[0], found.faults)
    assert [supply.effort.rate(t) for t in (0.5, 1.5, 2.5, 3.5, 4.5)] == [1, 0, 1, 0.5, 0.25]
    # A slow device's counters show nothing.
    assert [supply.cpu.rate(t) for t in (0.5, 1.5, 2.5, 3.5, 4.5)] == [1, 0, 1, 1, 0.5]


# Panels: the same as those of the real executor


def _real(rectangle: Rectangle, inner: int) -> Panels:
    return Panels(rectangle, GemmShape(rectangle.rows, inner, rectangle.columns, "float64"), 1)


def _take_all(real: Panels) -> list[Rectangle]:
    found = []
    while panel := real.take():
        real.finish(panel)
        found.append(panel.rectangle)
    return found


def _as_rectangles(layout: panels.Layout, home: Rectangle) -> list[Rectangle]:
    found: list[Rectangle] = []
    left, top = 0, -1
    for panel in layout.panels:
        left = left if panel.top == top else 0
        top = panel.top
        found.append(
            Rectangle(
                home.row_start + panel.top,
                home.row_start + panel.bottom,
                home.column_start + left,
                home.column_start + panel.right,
            )
        )
        left = panel.right
    return found


sides = st.integers(1, 5000)


@settings(deadline=None)
@given(sides, sides, st.integers(1, 20_000), st.floats(0.0, 1.0), st.floats(0.0, 1.2))
def test_panels_and_what_is_given_back_are_those_of_the_executor(
    rows: int, columns: int, inner: int, started: float, kept: float
) -> None:
    home = Rectangle(48, 48 + rows, 16, 16 + columns)
    flops = 2.0 * inner
    sizes = panels.sizes_of(flops, home.area, 0.0)
    layout = panels.lay_out(rows, columns, sizes)
    assert _as_rectangles(layout, home) == _take_all(_real(home, inner))
    count = int(started * len(layout.panels))
    real = _real(home, inner)
    for _ in range(count):
        taken = real.take()
        assert taken is not None
        real.finish(taken)
    assert home.row_start + layout.row_done(count) == real.row_done
    keep_area = int(kept * home.area)
    released, after = panels.release(layout, count, keep_area, home, sizes)
    assert released == real.release(keep_area)
    assert _as_rectangles(after, home)[count:] == _take_all(real)
    assert after.areas[-1] + sum(piece.area for piece in released) == home.area


def test_a_huge_sub_task_has_a_bounded_number_of_panels() -> None:
    area = (1 << 20) ** 2
    layout = panels.lay_out(1 << 20, 1 << 20, panels.sizes_of(2.0 * (1 << 20), area, 1e9))
    assert len(layout.panels) < 3 * panels.MAX_PANELS
    assert layout.areas[-1] == area


# The store's port


def _drain(network: Network) -> list[tuple[float, object]]:
    ended = []
    while (next_s := network.next_s()) < math.inf:
        ended += [(next_s, owner) for owner in network.take_ended(next_s)]
    return ended


def test_transfers_share_the_port_evenly_and_slow_links_leave_theirs_to_others() -> None:
    network = Network(10.0)
    network.start("slow", 4.0, 2.0, 0.0)
    network.start("fast", 8.0, 10.0, 0.0)
    network.start("wide", 16.0, 20.0, 0.0)
    # 2 for the slow one and 4 for each other, then 8 for the last.
    ended = _drain(network)
    assert [owner for _, owner in ended] == ["slow", "fast", "wide"]
    assert [end_s for end_s, _ in ended] == pytest.approx([2.0, 2.0, 2.8])


def test_while_the_store_is_away_nothing_moves_and_then_all_goes_on() -> None:
    network = Network(10.0)
    network.start("a", 20.0, 10.0, 0.0)
    network.start("b", 20.0, 10.0, 0.0)
    network.pause(1.0, is_paused=True)
    assert network.next_s() == math.inf
    late = network.start("late", 5.0, 10.0, 2.0)
    gone = network.start("gone", 5.0, 10.0, 3.0)
    assert network.stop(gone, 10.0, 4.0) == pytest.approx(5.0)
    network.pause(11.0, is_paused=False)
    # 15 bytes of each of the first two are left, and all 5 of the late one.
    ended = _drain(network)
    assert [owner for _, owner in ended] == [late.owner, "a", "b"]
    assert [end_s for end_s, _ in ended] == pytest.approx([12.5, 14.5, 14.5])


def test_a_transfer_that_is_stopped_gives_its_share_back() -> None:
    network = Network(10.0)
    first = network.start("a", 100.0, 10.0, 0.0)
    network.start("b", 20.0, 10.0, 0.0)
    assert network.stop(first, 10.0, 2.0) == pytest.approx(90.0)
    ((end_s, owner),) = _drain(network)
    assert owner == "b"
    assert end_s == pytest.approx(3.0)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0.0, 5.0), st.floats(0.0, 100.0), st.sampled_from([1.0, 3.0, 10.0])),
        min_size=1,
        max_size=12,
    ),
    st.floats(1.0, 20.0),
)
def test_every_transfer_ends_and_none_is_faster_than_its_link_or_the_port(
    starts: list[tuple[float, float, float]], port: float
) -> None:
    network = Network(port)
    begun: dict[int, Transfer] = {}
    ends_s: dict[int, float] = {}
    waiting = sorted(enumerate(starts), key=lambda item: item[1][0])
    while waiting or network.next_s() < math.inf:
        next_s = network.next_s()
        if waiting and waiting[0][1][0] <= next_s:
            index, (at_s, size, bandwidth) = waiting.pop(0)
            begun[index] = network.start(index, size, bandwidth, at_s)
        else:
            ends_s |= dict.fromkeys(network.take_ended(next_s), next_s)
    assert ends_s.keys() == begun.keys()
    for index, (at_s, size, bandwidth) in enumerate(starts):
        assert ends_s[index] - at_s >= size / min(bandwidth, port) * (1 - 1e-6) - 1e-6
    total = sum(size for _, size, _ in starts)
    assert max(ends_s.values()) >= total / port * (1 - 1e-6) - 1e-6


# Reports


def test_reports_have_the_keys_of_the_contract() -> None:
    from deadheat.client import reports

    found = run_one(scenario([device(count=2)]), Cut.BALANCED)
    document = report_as_dict(found.reports[0])
    assert list(document) == list(reports.Report.__slots__)
    devices, placements = document["devices"], document["placements"]
    assert isinstance(devices, list)
    assert isinstance(placements, list)
    assert set(devices[0]) == set(reports._DEVICE_KEYS)
    assert set(placements[0]) == {
        *("operation", "rows", "cols", "node", "device", "attempt", "predicted_start_s"),
        *("predicted_finish_s", "start_s", "finish_s", "state"),
    }
    assert document["started_at"] == "2000-01-01T00:00:00.000000Z"
    assert document["barriers"] == []


def test_a_simulated_chain_tells_its_barrier() -> None:
    from deadheat.client import reports
    from deadheat.v1 import job_pb2

    chain: list[dict[str, object]] = [{"kind": "chain", "dims": [2000, 2000, 2000, 2000]}]
    found = run_one(scenario([device(count=2)], chain), Cut.BALANCED)
    document = report_as_dict(found.reports[0])
    assert isinstance(document["barriers"], list)
    (barrier,) = document["barriers"]
    assert list(barrier) == list(reports._barrier(job_pb2.Barrier(), job_pb2.Job()))
    assert isinstance(document["makespan_s"], float)
    assert barrier["share"] == pytest.approx(barrier["wait_s"] / document["makespan_s"])


def test_the_document_is_json_without_nan() -> None:
    faults: list[dict[str, object]] = [{"at_s": 0.5, "device": "d", "kind": "lost"}]
    outcome = simulate(scenario([device()], faults=faults), stopwatch=lambda: 0.0)
    document = json.loads(json.dumps(outcome.as_dict(), allow_nan=False))
    assert document["baselines"]["oracle"] == {"makespan_s": None, "finish_spread": None}
    assert document["jobs"][0]["error"]["code"] == "timed_out"
