"""What fails or is interrupted on its way to the cluster leaves nothing there."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.waiting import wait_until

from deadheat.client import Client, LocalCluster
from deadheat.client.connection import LoopThread
from deadheat.runtime.errors import InvalidInput, LimitReached
from deadheat.v1 import job_pb2, matrix_pb2

MIB = 1 << 20


def matrices(client: Client) -> int:
    async def count() -> int:
        request = matrix_pb2.MatrixServiceListRequest()
        return len((await client._link.connection.matrices.List(request, timeout=60)).matrices)

    return client._link.loop.call(count())


def test_operands_of_which_one_does_not_fit_leave_none_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DEADHEAT_DISK", "32MiB")
    with LocalCluster([], memory_bytes=16 * MIB) as small, Client(small.address) as client:
        with pytest.raises(LimitReached, match="of shared memory needed"):
            client.matmul(np.ones((100, 10_000)), np.ones((10_000, 1_000)), where="cluster")
        wait_until(lambda: matrices(client) == 0, "the operand that did fit to go")
        assert client.reports() == []


def test_a_result_that_the_store_could_never_hold_is_refused_and_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DEADHEAT_DISK", "32MiB")
    column = np.ones((4096, 1))
    with LocalCluster([], memory_bytes=16 * MIB) as small, Client(small.address) as client:
        limits = r"128.0 MiB; the store may take 16.0 MiB of memory and 32.0 MiB of disk"
        with pytest.raises(LimitReached, match=limits):
            client.submit_matmul(column, column.T)
        wait_until(lambda: matrices(client) == 0, "the operands to go")
        assert client.reports() == []


def test_who_is_interrupted_while_submitting_leaves_no_job(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted, interrupted = threading.Event(), threading.Event()
    jobs: list[str] = []
    submit = Client._ask_to_submit

    async def slowly(
        self: Client, request: job_pb2.JobServiceSubmitRequest
    ) -> job_pb2.JobServiceSubmitResponse:
        answer = await submit(self, request)
        jobs.append(answer.job_id)
        accepted.set()
        # The answer is on its way until whoever waits for it has been interrupted.
        assert await asyncio.to_thread(interrupted.wait, 60)
        return answer

    monkeypatch.setattr(Client, "_ask_to_submit", slowly)
    calls: list[Any] = []
    call = client._link.loop.submit

    def remembered(work: Any) -> Any:
        calls.append(call(work))
        return calls[-1]

    monkeypatch.setattr(client._link.loop, "submit", remembered)
    a = np.ones((5000, 5000))
    caller = threading.Thread(target=_ignoring, args=(client.submit_matmul, a, a))
    caller.start()
    assert accepted.wait(60)
    # The caller may not have got its future yet.
    (asked,) = wait_until(lambda: calls[:1], "the call")
    assert asked.cancel()
    interrupted.set()
    caller.join(60)
    wait_until(lambda: client.report(jobs[0]).state == "cancelled", "the job to be cancelled")


def _ignoring(function: Any, *arguments: Any) -> None:
    try:
        function(*arguments)
    except BaseException:
        return  # That it is cancelled is what the test does to it.


def test_ctrl_c_waits_until_all_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = LoopThread()
    undone: list[bool] = []
    begun = threading.Event()

    class Pressed:
        """A future at which the user loses patience."""

        def __init__(self, future: Any) -> None:
            self.future = future

        def result(self) -> None:
            begun.wait(60)
            raise KeyboardInterrupt

        def cancel(self) -> None:
            self.future.cancel()

    async def work() -> None:
        try:
            begun.set()
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.1)
            undone.append(True)

    submit = loop.submit
    monkeypatch.setattr(loop, "submit", lambda given: Pressed(submit(given)))
    with pytest.raises(KeyboardInterrupt):
        loop.call(work())
    assert undone == [True]
    loop.stop()


def test_agents_that_cannot_be_are_named_before_anything_starts(tmp_path: Path) -> None:
    wrong: list[tuple[Any, str]] = [
        (2, "agents is 2; it must be a list with a mapping for each agent"),
        ("two", "agents is 'two'; it must be a list"),
        ({"cpus": [0]}, r"agents is {'cpus': \[0\]}; it must be a list"),
        ([5], r"agents\[0\] is 5; it must be a mapping"),
        ([{"name": "a"}, {}, {"name": "a"}], r"agents\[2\] and agents\[0\] have one name, 'a'"),
    ]
    for agents, words in wrong:
        with pytest.raises(InvalidInput, match=words) as caught:
            LocalCluster(agents, state_dir=tmp_path / "state")
        assert caught.value.field == "agents"
    assert not (tmp_path / "state").exists()


def test_what_is_given_up_while_a_client_closes_is_said_to_nobody(cluster: LocalCluster) -> None:
    code = (
        "import asyncio, gc, sys, numpy as np\n"
        "from deadheat.client import Client\n"
        "from deadheat.client.transfers import Transfers\n"
        "async def slowly(self, matrix_id):\n"
        "    await asyncio.sleep(600)\n"
        "with Client(sys.argv[1]) as client:\n"
        "    kept = [client.put(np.ones((300, 300))) for _ in range(3)]\n"
        "    Transfers.give_up = slowly\n"
        "    del kept\n"
        "    gc.collect()\n"
    )
    command = [sys.executable, "-c", code, cluster.address]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
