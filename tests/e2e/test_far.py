"""A cluster whose agent streams every block, over a network that breaks and in little memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.e2e.far import far_cluster
from tests.e2e.networks import needs_namespaces
from tests.e2e.usage import Usage, peaks
from tests.proxies import Fault

from deadheat.client import Client

pytestmark = [pytest.mark.root, needs_namespaces]

RNG = np.random.default_rng(23)
MIB = 1 << 20


def integers(rows: int, columns: int) -> np.ndarray:
    """Of which products are exact in float64, whatever the order of summation."""
    return RNG.integers(-8, 9, (rows, columns)).astype(np.float64)


def test_what_breaks_on_its_way_to_and_from_an_agent_is_moved_again(tmp_path: Path) -> None:
    a, b = integers(1500, 1000), integers(1000, 1400)
    with far_cluster(tmp_path) as found, Client(found.address) as client:
        faults = [
            Fault("reset", 3 * MIB),
            Fault("flip", 2 * MIB + 55),
            Fault("truncate", 2 * MIB),
            Fault("reset", 3 * MIB, to_client=False),
            Fault("flip", 2 * MIB + 55, to_client=False),
            Fault("truncate", 2 * MIB, to_client=False),
        ]
        found.blocks.add(*faults)
        for _ in range(3):
            assert np.array_equal(client.submit_matmul(a, b).result(60), a @ b)
            a = a + 1
        assert all(fault.happened.is_set() for fault in faults)


def test_jobs_of_far_more_than_the_agents_memory_are_right_side_by_side(tmp_path: Path) -> None:
    # Each job needs 12 MiB of 16, so that the blocks of one have to go for another's.
    jobs = [(integers(640, 1024), integers(1024, 640)) for _ in range(6)]
    with far_cluster(tmp_path, agent_memory="16MiB") as found, Client(found.address) as client:
        with peaks(found.agent) as peak:
            running = [client.submit_matmul(a, b) for a, b in jobs]
            for job, (a, b) in zip(running, jobs):
                assert np.array_equal(job.result(60), a @ b)
            # B of the first job has gone long since.
            a, b = jobs[0]
            assert np.array_equal(client.submit_matmul(a, b).result(60), a @ b)
        assert peak.memfd[found.agent] <= 16 * MIB


def test_operands_and_result_may_be_larger_than_all_memory(tmp_path: Path) -> None:
    a, b = integers(8192, 1024), integers(1024, 512)  # 64 MiB, 4 MiB and 32 MiB.
    np.save(tmp_path / "A.npy", a)
    limits = {"memory": "40MiB", "agent_memory": "24MiB"}
    with far_cluster(tmp_path, **limits) as found, Client(found.address) as client:
        before = Usage.of(found.agent).anonymous_bytes
        with peaks(found.agent) as peak:
            result = client.submit_matmul(str(tmp_path / "A.npy"), b).result(60)
        assert np.array_equal(result, a @ b)
        assert peak.memfd[found.agent] <= 24 * MIB
        assert peak.anonymous[found.agent] - before < 32 * MIB


def test_a_store_that_is_killed_while_blocks_stream_costs_no_wrong_element(tmp_path: Path) -> None:
    a, b = integers(2400, 1600), integers(1600, 1000)
    with far_cluster(tmp_path) as found, Client(found.address) as client:
        for to_client in (True, False):
            # It is killed in mid-stream: what moves is held back until that is done.
            stall = Fault("stall", 4 * MIB, to_client=to_client)
            found.blocks.add(stall)
            job = client.submit_matmul(a, b)
            assert stall.happened.wait(30)
            stalled = found.blocks
            found.kill_store()
            stalled.release()
            assert np.array_equal(job.result(90), a @ b)
