"""A cluster whose agent streams every block, over a network that breaks and in little memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.conftest import TWO_AGENTS
from tests.e2e.far import far_cluster
from tests.e2e.networks import needs_namespaces
from tests.e2e.usage import Usage, peaks
from tests.proxies import Fault
from tests.waiting import wait_until

from deadheat.client import Client, LimitReached, LocalCluster

pytestmark = [pytest.mark.root, needs_namespaces]

RNG = np.random.default_rng(23)
MIB = 1 << 20
#: What a process may need beside the blocks that its memory limit is for: chunks on their way, what
#: BLAS packs a panel into. It does not grow with the matrices.
SLACK_BYTES = 48 * MIB


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


def test_blocks_go_while_others_are_in_use_and_results_stay_right(tmp_path: Path) -> None:
    # The operands of all jobs are 32 MiB; 16 MiB are room for two jobs at once, 6 MiB each.
    jobs = [(integers(512, 512), integers(512, 512)) for _ in range(8)]
    with far_cluster(tmp_path, agent_memory="16MiB") as found, Client(found.address) as client:
        with peaks(found.agent) as peak:
            for start in range(0, len(jobs), 2):
                some = jobs[start : start + 2]
                running = [client.submit_matmul(a, b) for a, b in some]
                for job, (a, b) in zip(running, some):
                    assert np.array_equal(job.result(60), a @ b)
            a, b = jobs[0]  # Its blocks have gone long since.
            assert np.array_equal(client.submit_matmul(a, b).result(60), a @ b)
        assert 0 < peak.memfd[found.agent] <= 16 * MIB


def test_what_passes_through_the_cluster_is_not_in_the_schedulers_memory(tmp_path: Path) -> None:
    big, thin = np.ones((4096, 8192)), np.ones((8192, 64))  # 256 MiB.
    with far_cluster(tmp_path) as found, Client(found.address) as client:
        _passes_by(found.scheduler, client, big, thin)


def test_what_is_mapped_is_not_in_the_schedulers_memory() -> None:
    big, thin = np.ones((8192, 8192)), np.ones((8192, 64))  # 512 MiB.
    with LocalCluster(TWO_AGENTS[:1]) as cluster, Client(cluster.address) as client:
        _passes_by(cluster.scheduler.pid, client, big, thin)


def _passes_by(scheduler: int, client: Client, big: np.ndarray, thin: np.ndarray) -> None:
    before = Usage.of(scheduler).anonymous_bytes
    with peaks(scheduler) as peak:
        result = client.submit_matmul(big, thin).result(90)
    assert (result == big.shape[1]).all()
    assert peak.anonymous[scheduler] - before < 64 * MIB


def test_what_does_not_fit_into_any_memory_is_refused_by_name_and_the_next_is_served(
    tmp_path: Path,
) -> None:
    a, b = integers(32, 100_000), integers(100_000, 32)  # 16 rows and columns: 24.4 MiB.
    with far_cluster(tmp_path, agent_memory="24MiB") as found, Client(found.address) as client:
        with pytest.raises(LimitReached, match="far/cpu, has 25165824 bytes"):
            client.submit_matmul(a, b)
        a, b = a[:, :4096], b[:4096]
        assert np.array_equal(client.submit_matmul(a, b).result(60), a @ b)


def test_a_product_of_many_times_the_agents_memory_streams_through(tmp_path: Path) -> None:
    a, b = integers(2896, 2896), integers(2896, 2896)  # 64 MiB each, and the result as well.
    with (
        far_cluster(tmp_path, memory="32MiB", agent_memory="24MiB") as found,
        Client(found.address) as client,
    ):
        assert 30 < (client.estimate(a, b).rounds or 0) < 50
        before = {pid: Usage.of(pid).anonymous_bytes for pid in (found.agent, found.executor)}
        with peaks(found.agent, found.executor) as peak:
            job = client.submit_matmul(a, b)
            assert np.array_equal(job.result(300), a @ b)
        assert 0 < peak.memfd[found.agent] <= 24 * MIB
        for pid, bytes_before in before.items():
            assert peak.anonymous[pid] - bytes_before < SLACK_BYTES
        report = job.report().as_dict()
        assert len(report["placements"]) > 20
        assert report["bytes_moved"] < 1.2 * 36 * 24 * MIB


def test_a_product_of_many_times_the_shared_memory_is_mapped_from_disk() -> None:
    a, b = integers(2896, 2896), integers(2896, 2896)
    with LocalCluster(TWO_AGENTS, memory_bytes=32 * MIB) as cluster, Client(cluster.address) as one:
        assert np.array_equal(one.submit_matmul(a, b).result(120), a @ b)
        # And once more from what is there, with operands that do not fit beside one another.
        lazy = one.put(a) @ one.put(b).T
        assert np.array_equal(one.submit(lazy).result(120), a @ b.T)


def test_jobs_that_fit_one_at_a_time_wait_for_one_another(tmp_path: Path) -> None:
    jobs = [(integers(900, 1000), integers(1000, 900)) for _ in range(3)]  # 20 MiB each.
    with far_cluster(tmp_path, agent_memory="24MiB") as found, Client(found.address) as client:
        with peaks(found.agent) as peak:
            running = [client.submit_matmul(a, b) for a, b in jobs]
            for job, (a, b) in zip(running, jobs):
                assert np.array_equal(job.result(120), a @ b)
        assert 0 < peak.memfd[found.agent] <= 24 * MIB


def test_only_the_ends_of_a_segment_travel(tmp_path: Path) -> None:
    x, w = integers(3000, 400), integers(400, 400)
    with far_cluster(tmp_path) as found, Client(found.address) as client:
        found.blocks.add(Fault("reset", 3 * MIB))
        weights = client.put(w)
        lazy = ((client.put(x) @ weights).relu() * 0.125) @ weights + 1.0
        job = client.submit(lazy)
        assert np.array_equal(job.result(60), (np.maximum(x @ w, 0) * 0.125) @ w + 1.0)
        report = job.report()
        assert len({placement["operation"] for placement in report.placements}) == 1
        (far,) = report.devices
        # Its rows, the weights once, and the result: nothing of what is in between.
        assert far["bytes_in"] <= x.nbytes + w.nbytes + 1024
        assert far["bytes_out"] == x.nbytes


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


def test_an_operand_that_comes_again_is_sent_to_agents_once(tmp_path: Path) -> None:
    """Also by a client that shares the store's memory: there only agents need it to travel."""
    rng = np.random.default_rng(17)
    b = rng.standard_normal((700, 700))
    with far_cluster(tmp_path) as found, Client(found.address) as client:

        def moved() -> int:
            a = rng.standard_normal((600, 700))
            assert np.allclose(client.matmul(a, b, where="cluster"), a @ b, rtol=1e-9, atol=1e-9)
            # What the client made is looked into beside the job.
            wait_until(lambda: not client._link.transfers._looking, "hashes")
            return client.report("last").bytes_moved or 0

        assert client.shares_memory
        first, again, once_more = moved(), moved(), moved()
        assert again == once_more == first - b.nbytes
        b[300, 300] += 1.0
        assert moved() == first
