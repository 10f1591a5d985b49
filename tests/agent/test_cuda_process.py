"""A real executor process of a card: starts or says why not, is calibrated, dies and comes back."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.agent import cards
from tests.agent.test_executor import Harness

from deadheat.agent.cardpool import TF32_SWITCHES
from deadheat.agent.executors.bounds import STREAMS
from deadheat.agent.executors.link import Command, ExecutorLink
from deadheat.runtime.errors import ClusterError
from deadheat.v1 import local_pb2
from deadheat.v1.agent_pb2 import SPEED_OP_TF32_PRODUCT

RNG = np.random.default_rng(9)
SMALL = RNG.random((300, 200)), RNG.random((200, 250))


class CardHarness(Harness):
    """The same, with an executor of the stub's card."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.events: asyncio.Queue[local_pb2.ExecutorEvent] = asyncio.Queue()
        self.deaths: asyncio.Queue[str] = asyncio.Queue()
        command = Command(
            "deadheat.agent.executors.cuda",
            environment,
            without=TF32_SWITCHES,
            name="the card's executor",
            start_timeout_s=60.0,
        )
        self.link = ExecutorLink(
            STREAMS, "normal", self.events.put_nowait, self.deaths.put_nowait, command
        )


def with_card(
    test: Callable[[CardHarness, local_pb2.ExecutorReady], Awaitable[None]],
    environment: dict[str, str],
) -> None:
    async def run() -> None:
        harness = CardHarness(environment)
        try:
            await test(harness, await harness.link.start())
        finally:
            await harness.link.stop()

    asyncio.run(run())


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "cards.json"


def test_it_computes_in_the_mapping(state: Path) -> None:
    async def test(harness: CardHarness, ready: local_pb2.ExecutorReady) -> None:
        assert ready.threads == STREAMS
        assert "Stub Card" in ready.library
        assert "cuBLAS 120803" in ready.library
        result = harness.run(*SMALL)
        finished = await harness.next("finished")
        assert np.allclose(result, SMALL[0] @ SMALL[1])
        # The stopwatch counts, not what our cores did for it.
        assert finished.progress.cpu_s == 0
        assert finished.progress.wall_s > 0

    with_card(test, cards.environment(state))


def _variables(pid: int) -> set[str]:
    found = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return {line.partition(b"=")[0].decode() for line in found}


def test_variables_that_decide_over_tf32_do_not_reach_it(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in TF32_SWITCHES:
        monkeypatch.setenv(name, "1")

    async def test(harness: CardHarness, _: local_pb2.ExecutorReady) -> None:
        names = _variables(harness.link.pid)
        assert cards.STATE_VARIABLE in names
        assert not names & TF32_SWITCHES

    with_card(test, cards.environment(state))


def test_a_sticky_error_ends_the_process_with_its_reason_and_a_new_one_goes_on(
    state: Path,
) -> None:
    async def test(harness: CardHarness, _: local_pb2.ExecutorReady) -> None:
        first = harness.link.pid
        cards.say(state, any_={"sticky": 719, "once": True})
        harness.run(*SMALL)
        reason = await asyncio.wait_for(harness.deaths.get(), 60)
        assert "cudaError719" in reason
        while harness.link.pid == first:
            await asyncio.sleep(0.01)
        result = harness.run(*SMALL, name="again")
        await harness.next("finished")
        assert np.allclose(result, SMALL[0] @ SMALL[1])

    with_card(test, cards.environment(state))


def test_out_of_memory_is_said_of_the_task_only(state: Path) -> None:
    async def test(harness: CardHarness, _: local_pb2.ExecutorReady) -> None:
        cards.say(state, any_={"memory_bytes": 1000})
        harness.run(*SMALL)
        while True:
            event = await asyncio.wait_for(harness.events.get(), 60)
            if event.HasField("failed"):
                break
        assert event.failed.failure.code == "limit_reached"
        cards.say(state)
        result = harness.run(*SMALL, name="again")
        await harness.next("finished")
        assert np.allclose(result, SMALL[0] @ SMALL[1])

    with_card(test, cards.environment(state))


@pytest.mark.parametrize(
    ("card", "path", "words"),
    [
        ({"absent": True}, None, "cudaError100"),
        ({"sticky": 46}, None, "cudaError46"),
        ({"memory_bytes": 100}, None, "OutOfMemoryError"),
        ({}, "", "CuPy cannot be imported"),
    ],
    ids=["no card", "broken", "full", "no CuPy"],
)
def test_what_cannot_start_says_why_and_is_not_started_again(
    state: Path, card: dict[str, Any], path: str | None, words: str
) -> None:
    environment = cards.environment(state)
    if path is not None:
        if "cupy" in sys.modules or _has_cupy():
            pytest.skip("CuPy is installed here")
        environment["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
    cards.say(state, any_=card)

    async def run() -> None:
        harness = CardHarness(environment)
        try:
            with pytest.raises(ClusterError, match=words):
                await harness.link.start()
            assert harness.deaths.empty()
        finally:
            await harness.link.stop()

    asyncio.run(run())


def _has_cupy() -> bool:
    import importlib.util

    return importlib.util.find_spec("cupy") is not None


def test_a_dtype_that_the_card_does_not_do_gets_no_speed(state: Path) -> None:
    async def test(harness: CardHarness, _: local_pb2.ExecutorReady) -> None:
        cards.say(state, any_={"refuses": ["bfloat16", "int32"]})
        harness.link.send(local_pb2.ExecutorRequest(calibrate=local_pb2.Calibrate()))
        points = list((await harness.next("calibrated")).points)
        from deadheat.runtime.dtypes import BY_WIRE

        products = {BY_WIRE[p.data_type].name for p in points if p.op == 1}
        in_tf32 = {BY_WIRE[p.data_type].name for p in points if p.op == SPEED_OP_TF32_PRODUCT}
        assert in_tf32 == {"float32"}
        assert {"float64", "float32", "float16", "complex128", "int8", "bool"} <= products
        assert not products & {"bfloat16", "int32"}
        assert all(point.seconds > 0 for point in points)

    with_card(test, cards.environment(state))
