"""Scenario files: what they may say, and what is said of a bad one."""

from __future__ import annotations

import math
from typing import Any

import pytest
from tests.scheduler.simulator.builders import device, matmul, scenario

from deadheat.runtime.errors import InvalidInput
from deadheat.scheduler.planner.inputs import Cut
from deadheat.scheduler.simulator.parsing import parse
from deadheat.scheduler.simulator.scenario import FaultKind, JobKind, Sharing


def test_everything_optional_has_a_default() -> None:
    found = parse({"device": [{"name": "d"}], "job": [{"m": 1, "k": 2, "n": 3}]})
    (one,) = found.devices
    assert one.bandwidth_bytes_per_s is None
    assert (one.kind, one.noise, one.foreign, one.sharing) == ("cpu", 0.0, (), Sharing.TAKEN)
    (job,) = found.jobs
    assert (job.kind, job.dims, job.dtype, job.at_s) == (JobKind.MATMUL, (1, 2, 3), "float64", 0.0)
    assert (found.seed, found.faults, found.cut) == (0, (), Cut.BALANCED)


def test_units_are_those_of_the_names() -> None:
    found = scenario(
        [device(speed_gflops=50, memory_gb=16.0, bandwidth_gbps=1.0, latency_ms=0.3, count=2)],
        store={"bandwidth_gbps": 2.0},
        policy={"cut": "one-minus-utilization"},
    )
    first, second = found.devices
    assert (first.name, second.name) == ("d-0", "d-1")
    assert first.speed_flops == 5e10
    assert first.memory_bytes == 16_000_000_000
    assert first.bandwidth_bytes_per_s == 1.25e8
    assert first.latency_s == pytest.approx(3e-4)
    assert found.port_bytes_per_s == 2.5e8
    assert found.cut is Cut.ONE_MINUS_UTILIZATION


def test_the_store_is_as_fast_as_the_fastest_link_unless_it_says_so() -> None:
    found = scenario([device("a"), device("b", bandwidth_gbps=8.0)])
    assert found.port_bytes_per_s == 1e9


def test_chains_and_faults_are_read() -> None:
    found = scenario(
        [device()],
        [{"kind": "chain", "dims": [2, 3, 4], "dtype": "float32", "timeout_s": 9}],
        [{"at_s": 1, "device": "d", "kind": "slow", "factor": 0.5}],
    )
    assert found.jobs[0].dims == (2, 3, 4)
    assert found.jobs[0].timeout_s == 9.0
    (fault,) = found.faults
    assert (fault.kind, fault.factor) == (FaultKind.SLOW, 0.5)


def _with(**changes: Any) -> dict[str, Any]:
    return {"device": [device()], "job": [matmul()], **changes}


def _device(**changes: Any) -> dict[str, Any]:
    return _with(device=[device(**changes)])


def _job(**changes: Any) -> dict[str, Any]:
    return _with(job=[matmul(**changes)])


def _fault(**changes: Any) -> dict[str, Any]:
    return _with(fault=[{"at_s": 1.0, "device": "d", "kind": "lost", **changes}])


BAD: list[tuple[Any, str, str]] = [
    ([], "", "a table"),
    (_with(colour=1), "colour", "unknown"),
    (_with(device=[]), "device", "at least one"),
    (_with(device=None), "device", "at least one"),
    (_with(device={"name": "d"}), "device", "a list"),
    (_with(device=[3]), "device[0]", "a table"),
    (_with(job=[]), "job", "at least one"),
    (_with(seed=-1), "seed", "-1"),
    (_with(seed=1.5), "seed", "1.5"),
    (_with(seed=True), "seed", "True"),
    (_device(colour=1), "device[0].colour", "unknown"),
    (_device(speed_gflops=-3.0), "device[0].speed_gflops", "-3.0"),
    (_device(speed_gflops=0), "device[0].speed_gflops", "above 0"),
    (_device(speed_gflops=math.nan), "device[0].speed_gflops", "nan"),
    (_device(speed_gflops=math.inf), "device[0].speed_gflops", "inf"),
    (_device(speed_gflops="fast"), "device[0].speed_gflops", "'fast'"),
    (_device(speed_gflops=True), "device[0].speed_gflops", "True"),
    (_device(speed_gflops=1e30), "device[0].speed_gflops", "1e+08"),
    (_device(memory_gb=-1), "device[0].memory_gb", "-1"),
    (_device(bandwidth_gbps=0.0), "device[0].bandwidth_gbps", "above 0"),
    (_device(latency_ms=-0.1), "device[0].latency_ms", "-0.1"),
    (_device(noise=-0.1), "device[0].noise", "-0.1"),
    (_device(kind="tpu"), "device[0].kind", "'tpu'"),
    (_device(name=""), "device[0].name", "characters"),
    (_device(name=7), "device[0].name", "characters"),
    (_device(count=0), "device[0].count", "from 1"),
    (_device(count=100_001), "device[0].count", "100000"),
    (_device(sharing="mine"), "device[0].sharing", "'taken' or 'fair'"),
    (_device(foreign=3), "device[0].foreign", "a list"),
    (_device(foreign=[[1.0]]), "device[0].foreign[0]", "[second, load of others]"),
    (_device(foreign=[[1.0, 1.5]]), "device[0].foreign[0][1]", "1.5"),
    (_device(foreign=[[1.0, math.nan]]), "device[0].foreign[0][1]", "nan"),
    (_device(foreign=[[-1.0, 0.5]]), "device[0].foreign[0][0]", "-1.0"),
    (_device(foreign=[[2.0, 0.5], [1.0, 0.0]]), "device[0].foreign[1][0]", "order of time"),
    (_with(device=[device(), device()]), "device[1].name", "two devices 'd'"),
    (_with(device=[device("d-0"), device(count=1)]), "device[1].name", "two devices 'd-0'"),
    (
        _with(device=[device("a", count=60_000), device("b", count=60_000)]),
        "device[1].count",
        "100000",
    ),
    (_job(m=0), "job[0].m", "from 1"),
    (_job(k=-5), "job[0].k", "-5"),
    (_job(n=2.0), "job[0].n", "2.0"),
    (_with(job=[{"m": 1, "k": 1}]), "job[0].n", "None"),
    (_job(dtype="float99"), "job[0].dtype", "float99"),
    (_job(kind="sort"), "job[0].kind", "'sort'"),
    (_job(priority=0.5), "job[0].priority", "0.5"),
    (_job(timeout_s=0), "job[0].timeout_s", "above 0"),
    (_job(dims=[1, 2, 3]), "job[0].dims", "unknown"),
    (_job(at_s=-1.0), "job[0].at_s", "-1.0"),
    (_job(m=1 << 31, k=1 << 31), "job[0]", "bytes"),
    (_with(job=[matmul(at_s=2.0), matmul(at_s=1.0)]), "job[1].at_s", "order of time"),
    (_with(job=[{"kind": "chain", "dims": [2, 3]}]), "job[0].dims", "three"),
    (_with(job=[{"kind": "chain", "dims": [2, 0, 3]}]), "job[0].dims[1]", "0"),
    (_with(job=[{"kind": "chain", "dims": [2] * 80}]), "job[0].dims", "limit"),
    (_with(job=[matmul()] * 10_001), "job", "limit"),
    (_fault(device="x"), "fault[0].device", "'x'"),
    (_fault(kind="burnt"), "fault[0].kind", "'burnt'"),
    (_fault(kind="slow"), "fault[0].factor", "given with"),
    (_fault(kind="slow", factor=-1.0), "fault[0].factor", "-1.0"),
    (_fault(factor=0.5), "fault[0].factor", "unknown"),
    (_fault(at_s=math.inf), "fault[0].at_s", "inf"),
    (
        _with(
            fault=[
                {"at_s": 2.0, "device": "d", "kind": "lost"},
                {"at_s": 1.0, "device": "d", "kind": "back"},
            ]
        ),
        "fault[1].at_s",
        "order of time",
    ),
    (_with(store={"bandwidth_gbps": -1.0}), "store.bandwidth_gbps", "-1.0"),
    (_with(store={"colour": 1}), "store.colour", "unknown"),
    (_with(store=3), "store", "a table"),
    (_with(store={"away": 3.0}), "store.away", "a list"),
    (_with(store={"away": [[1.0]]}), "store.away[0]", "[second, for how many seconds]"),
    (_with(store={"away": [[-1.0, 1.0]]}), "store.away[0][0]", "-1.0"),
    (_with(store={"away": [[1.0, 0.0]]}), "store.away[0][1]", "above 0"),
    (_with(store={"away": [[1.0, math.inf]]}), "store.away[0][1]", "inf"),
    (_with(store={"away": [[1.0, 2.0], [3.0, 1.0]]}), "store.away[1][0]", "one before, 3"),
    (_with(store={"away": [[1.0, 1.0]] * 10_001}), "store.away", "limit"),
    (_with(policy={"cut": "fair"}), "policy.cut", "'fair'"),
    (_with(policy={"colour": 1}), "policy.colour", "unknown"),
]


@pytest.mark.parametrize(("document", "field", "said"), BAD)
def test_a_bad_scenario_is_refused_with_field_value_and_limit(
    document: Any, field: str, said: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(document)
    assert caught.value.field == field or (not field and "scenario" in caught.value.message)
    assert field in caught.value.message
    assert said in caught.value.message
    assert "\n" not in caught.value.message


def test_a_fault_needs_a_kind() -> None:
    with pytest.raises(InvalidInput, match=r"fault\[0\].kind"):
        parse(_with(fault=[{"at_s": 1.0, "device": "d"}]))
