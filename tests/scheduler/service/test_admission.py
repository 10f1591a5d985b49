"""Admission: what is planned on the loop and what aside, and who is told to come back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast

import pytest
from tests.scheduler.core.harness import Pool
from tests.scheduler.planner.builders import product

from deadheat.runtime.errors import DeadheatError, LimitReached, TimedOut
from deadheat.runtime.programs import Gemm, MatrixType, Operand, Program, gemm_program
from deadheat.scheduler.core.admission import StoreLimits
from deadheat.scheduler.core.events import JobPolicy
from deadheat.scheduler.service.admission import MAX_WAITING_ESTIMATES, Admission
from deadheat.scheduler.service.shell import INLINE_PLANNING, Shell

T = TypeVar("T")


@dataclass
class FakeWriter:
    is_stalled: bool = False
    problem: str = ""


@dataclass
class FakeShell:
    """The parts of a shell that admission uses; its planner's thread can be held up."""

    pool: Pool
    writer: FakeWriter = field(default_factory=FakeWriter)
    store_limits: StoreLimits = StoreLimits(1 << 50, 1 << 50)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    aside: int = 0
    at_once: int = 0
    most_at_once: int = 0

    @property
    def core(self) -> object:
        return self.pool.core

    @property
    def clock(self) -> FakeShell:
        return self

    def now(self) -> float:
        return self.pool.now

    async def plan_aside(self, solve: Callable[[float], T]) -> T:
        self.aside += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await self.gate.wait()
        self.at_once -= 1
        return solve(self.pool.now)


def admission_of(devices: int, host: str = "host") -> tuple[FakeShell, Admission]:
    pool = Pool()
    for number in range(devices):
        pool.join(f"n{number}", host=host)
    shell = FakeShell(pool)
    return shell, Admission(cast("Shell", shell))


SMALL = gemm_program(
    tuple(Operand(name, MatrixType(2, 2, "float64"), inline=bytes(32)) for name in "AB"), Gemm()
)
LARGE = product(4096, 4096, 4096)


def test_a_small_pool_is_planned_on_the_spot() -> None:
    async def run() -> None:
        shell, admission = admission_of(2)
        found = await admission.estimate(LARGE, JobPolicy())
        assert found.makespan_s is not None
        assert shell.aside == 0

    asyncio.run(run())


def test_a_large_pool_is_planned_aside_one_at_a_time_and_the_queue_is_bounded() -> None:
    async def run() -> None:
        shell, admission = admission_of(INLINE_PLANNING + 1)
        asked = [
            asyncio.create_task(admission.estimate(LARGE, JobPolicy()))
            for _ in range(MAX_WAITING_ESTIMATES)
        ]
        await asyncio.sleep(0)
        with pytest.raises(LimitReached, match="16 estimates are waiting; the limit is 16"):
            await admission.estimate(LARGE, JobPolicy())
        shell.gate.set()
        found = await asyncio.gather(*asked)
        assert all(one.makespan_s is not None for one in found)
        assert (shell.aside, shell.most_at_once) == (MAX_WAITING_ESTIMATES, 1)
        # Somebody who gives up leaves the queue.
        shell.gate.clear()
        gone = asyncio.create_task(admission.estimate(LARGE, JobPolicy()))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        shell.gate.set()
        assert (await admission.estimate(LARGE, JobPolicy())).makespan_s is not None

    asyncio.run(run())


@pytest.mark.parametrize(
    ("host", "policy", "error", "words"),
    [
        ("host", JobPolicy(timeout_s=0.1), TimedOut, "not finished within 0.1 s, by prediction"),
        ("elsewhere", JobPolicy(), LimitReached, "more memory than any device has"),
    ],
)
def test_estimate_and_submission_refuse_alike(
    host: str, policy: JobPolicy, error: type[DeadheatError], words: str
) -> None:
    async def run() -> None:
        _, admission = admission_of(1, host)
        huge = product(1 << 10, 1 << 27, 1 << 10)
        found = await admission.estimate(huge, policy)
        assert found.refusal is not None
        assert (found.refusal.code, words in found.refusal.message) == (error.code, True)
        with pytest.raises(error, match=words):
            await admission.check(huge, policy)

    asyncio.run(run())


def test_what_the_store_could_never_hold_is_refused_before_there_is_a_job() -> None:
    async def run() -> None:
        shell, admission = admission_of(1)
        size = LARGE.types[LARGE.results[0]].size_bytes
        shell.store_limits = StoreLimits(size - 1, size)
        await admission.check(LARGE, JobPolicy())
        shell.store_limits = StoreLimits(size - 1, size - 1)
        found = await admission.estimate(LARGE, JobPolicy())
        assert found.refusal is not None
        assert found.refusal.code == LimitReached.code
        words = r"'C' has 128.0 MiB; the store may take 128.0 MiB of memory and .* disk \(settings:"
        with pytest.raises(LimitReached, match=words):
            await admission.check(LARGE, JobPolicy())
        # Each of them would go in, but not all.
        both = Program(
            LARGE.operands,
            (LARGE.operations[0], replace(LARGE.operations[0], result="D")),
            ("C", "D"),
        )
        shell.store_limits = StoreLimits(size, size - 1)
        with pytest.raises(LimitReached, match=r"all results together have 256.0 MiB; the store"):
            await admission.check(both, JobPolicy())
        shell.store_limits = StoreLimits(size, size)
        await admission.check(both, JobPolicy())

    asyncio.run(run())


def test_who_would_wait_is_not_refused() -> None:
    async def run() -> None:
        shell, admission = admission_of(0)
        found = await admission.estimate(LARGE, JobPolicy(timeout_s=0.1))
        assert (found.refusal, found.note) == (None, "waiting: no agent is connected")
        await admission.check(LARGE, JobPolicy(timeout_s=0.1))
        shell.pool.join("n0")
        shell.pool.nodes["n0"].is_connected = False
        found = await admission.estimate(LARGE, JobPolicy())
        assert found.note == "waiting: n0/cpu: its node is silent"
        assert [out.device for out in found.left_out] == ["n0/cpu"]

    asyncio.run(run())


def test_a_stalled_database_lets_nobody_in_but_answers_what_it_would_cost() -> None:
    async def run() -> None:
        shell, admission = admission_of(1)
        shell.writer = FakeWriter(is_stalled=True, problem="disk full")
        found = await admission.estimate(LARGE, JobPolicy())
        assert found.makespan_s is not None
        assert found.refusal is not None
        assert "disk full" in found.refusal.message
        with pytest.raises(LimitReached, match="disk full"):
            await admission.check(SMALL, JobPolicy())

    asyncio.run(run())


def test_a_small_job_without_a_limit_is_not_planned_twice() -> None:
    async def run() -> None:
        shell, admission = admission_of(INLINE_PLANNING + 1, "elsewhere")
        await admission.check(SMALL, JobPolicy())
        assert shell.aside == 0
        shell.gate.set()
        await admission.check(SMALL, JobPolicy(timeout_s=10.0))
        await admission.check(LARGE, JobPolicy())
        assert shell.aside == 2

    asyncio.run(run())
