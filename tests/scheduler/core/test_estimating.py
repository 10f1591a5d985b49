"""Estimates: the plan a job would get, added up by device, and no trace of it in the world."""

from __future__ import annotations

import copy
import itertools

import pytest
from tests.scheduler.core.harness import Pool
from tests.scheduler.planner.builders import product

from deadheat.runtime.errors import LimitReached, Unavailable
from deadheat.runtime.programs import Gemm, MatrixType, Operand, Operation, Program
from deadheat.scheduler.core import admission, estimating
from deadheat.scheduler.core.estimating import Estimate
from deadheat.scheduler.core.events import JobPolicy
from deadheat.scheduler.planner.inputs import Cut


def pool_of(*gflops: float, host: str = "host") -> Pool:
    pool = Pool()
    for number, speed in enumerate(gflops):
        pool.join(f"n{number}", speed, host=host)
        pool.sample(f"n{number}")
    return pool


def summary(pool: Pool, program: Program, policy: JobPolicy | None = None) -> Estimate:
    given = estimating.problem(pool.core.world, program, policy or JobPolicy())
    return estimating.summary(given, estimating.solve(given, pool.now))


def test_an_estimate_is_the_plan_that_the_job_gets() -> None:
    pool = pool_of(30.0, 60.0)
    found = summary(pool, product(4096, 4096, 4096))
    job = pool.submit(4096, 4096, 4096)
    assert found.makespan_s == pytest.approx(job.predicted_makespan_s)
    assert found.bytes_lower_bound == job.bytes_lower_bound
    shares = {device.node: device.share for device in found.devices}
    assert shares["n1"] == pytest.approx(2 * shares["n0"], rel=1e-2)
    assert sum(shares.values()) == pytest.approx(1.0)


def test_an_estimate_leaves_no_trace() -> None:
    pool = pool_of(30.0, 60.0)
    pool.submit(4096, 4096, 4096)
    before = copy.deepcopy(pool.core.world.__dict__)
    estimating.estimate(pool.core.world, product(2000, 2000, 2000), JobPolicy(), pool.now)
    after = pool.core.world.__dict__
    assert str(after["jobs"]) == str(before["jobs"])
    assert after["serial"] == before["serial"]
    assert after["subtasks"].keys() == before["subtasks"].keys()
    assert after["_effects"] == []
    assert after["_deadlines"] == before["_deadlines"]


def test_a_busy_device_is_ready_later() -> None:
    pool = pool_of(50.0)
    program = product(4096, 4096, 4096)
    alone_s = summary(pool, program).makespan_s
    pool.submit(4096, 4096, 4096)
    found = summary(pool, program)
    assert alone_s is not None
    assert found.makespan_s == pytest.approx(2 * alone_s, rel=0.01)
    assert found.devices[0].ready_s == pytest.approx(alone_s, rel=0.01)


def test_memory_is_that_of_operands_and_result_on_the_device() -> None:
    (device,) = summary(pool_of(50.0), product(3000, 2000, 1000)).devices
    assert device.memory_bytes == 8 * (3000 * 2000 + 2000 * 1000 + 3000 * 1000)
    assert (device.bytes_in, device.bytes_out) == (0, 0)


def test_bytes_are_those_that_cross_a_network() -> None:
    found = summary(pool_of(50.0, host="elsewhere"), product(3000, 2000, 1000))
    (device,) = found.devices
    assert device.bytes_in == 8 * (3000 * 2000 + 2000 * 1000)
    assert device.bytes_out == 8 * 3000 * 1000
    assert found.bytes_to_move == device.bytes_in + device.bytes_out
    assert device.transfer_s > 0


def test_alternatives_cost_no_less() -> None:
    found = summary(pool_of(20.0, 40.0, 80.0), product(4096, 4096, 4096))
    assert found.makespan_s is not None
    assert len(found.alternatives) >= 2
    for other in found.alternatives:
        assert other.makespan_s is not None
        assert other.makespan_s >= found.makespan_s * (1 - 1e-9)


def test_the_cut_is_the_one_that_was_asked_for() -> None:
    found = summary(pool_of(20.0, 80.0), product(4096, 4096, 4096), JobPolicy(cut=Cut.EQUAL))
    assert [device.share for device in found.devices] == [0.5, 0.5]


def test_who_may_not_work_is_left_out_with_the_reason() -> None:
    pool = pool_of(50.0, 50.0)
    pool.core.world.nodes["n1"].is_connected = False
    found = summary(pool, product(4096, 4096, 4096))
    assert [(out.device, out.reason) for out in found.left_out] == [
        ("n1/cpu", "its node is silent")
    ]


def chained(*dims: int) -> Program:
    """((A0 @ A1) @ A2) ..., each product on the one before."""
    operands = [
        Operand(f"A{i}", MatrixType(rows, columns, "float64"), matrix_id=f"m{i}")
        for i, (rows, columns) in enumerate(itertools.pairwise(dims))
    ]
    operations = [Operation("C1", ("A0", "A1"), Gemm())]
    operations += [
        Operation(f"C{i}", (f"C{i - 1}", f"A{i}"), Gemm()) for i in range(2, len(operands))
    ]
    return Program(tuple(operands), tuple(operations), (operations[-1].result,))


def test_an_operation_waits_for_what_it_reads() -> None:
    pool = pool_of(50.0, 50.0)
    program = chained(2048, 2048, 2048, 2048)
    found = summary(pool, program)
    one = summary(pool, chained(2048, 2048, 2048))
    assert found.makespan_s is not None
    assert one.makespan_s is not None
    assert found.makespan_s == pytest.approx(2 * one.makespan_s, rel=0.02)
    assert sum(device.share for device in found.devices) == pytest.approx(1.0)
    alone = next(other for other in found.alternatives if "single" in other.name)
    assert alone.makespan_s == pytest.approx(2 * found.makespan_s, rel=0.05)


def test_an_empty_product_costs_nothing() -> None:
    found = summary(pool_of(50.0), product(0, 100, 100))
    assert (found.makespan_s, found.devices, found.bytes_to_move) == (0.0, [], 0)


def test_without_devices_or_room_there_is_no_plan() -> None:
    program = product(1 << 10, 1 << 27, 1 << 10)  # 16 of its rows are 16 GiB.
    with pytest.raises(Unavailable, match="no device may be used"):
        estimating.estimate(Pool().core.world, program, JobPolicy(), 0.0)
    remote = pool_of(50.0, host="elsewhere")
    with pytest.raises(LimitReached, match=r"more memory than any .* 17179869184 bytes"):
        estimating.estimate(remote.core.world, program, JobPolicy(), remote.now)


@pytest.mark.parametrize(
    ("timeout_s", "makespan_s", "words"),
    [
        (None, 1e9, ""),
        (2.0, 2.0, ""),
        (0.5, 90.0, "not finished within 0.5 s, by prediction: it would take 1m 30s on this"),
    ],
)
def test_a_time_limit_is_compared_with_the_prediction(
    timeout_s: float | None, makespan_s: float, words: str
) -> None:
    refusal = admission.time_refusal(JobPolicy(timeout_s=timeout_s), makespan_s)
    if not words:
        assert refusal is None
    else:
        assert refusal is not None
        assert refusal.code == "timed_out"
        assert words in refusal.message


def test_there_is_room_until_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pool_of(50.0)
    pool.submit()
    assert admission.room_refusal(pool.core.world) is None
    stalled = admission.room_refusal(pool.core.world, "disk full")
    assert stalled is not None
    assert stalled.message == "no new jobs: the database cannot be written (disk full)"
    monkeypatch.setattr(admission, "MAX_OPEN_JOBS", 1)
    full = admission.room_refusal(pool.core.world)
    assert full is not None
    assert full.message == "1 jobs are open; the limit is 1"


def test_what_is_worked_in_rounds_is_estimated_as_a_whole() -> None:
    def found(memory_bytes: int) -> estimating.Estimate:
        pool = Pool()
        pool.join("far", host="elsewhere", memory_bytes=memory_bytes)
        return summary(pool, product(2896, 2896, 2896))

    once, often = found(1 << 34), found(24 << 20)
    assert once.rounds == 1
    assert 33 <= often.rounds <= 45
    assert [device.share for device in often.devices] == [pytest.approx(1.0)]
    assert often.makespan_s is not None
    assert once.makespan_s is not None
    assert often.makespan_s > once.makespan_s
    assert often.bytes_to_move is not None
    assert often.bytes_to_move > 4 * once.bytes_to_move  # type: ignore[operator]
    assert often.bytes_lower_bound == pytest.approx(often.bytes_to_move, rel=0.1)
    assert often.devices[0].finish_s == pytest.approx(often.makespan_s, rel=0.01)
    assert often.devices[0].memory_bytes <= 24 << 20
