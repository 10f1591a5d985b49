"""A thousand jobs leave each process as it was: its memory, descriptors, shared memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.e2e.far import far_cluster
from tests.e2e.networks import needs_namespaces
from tests.e2e.usage import Usage
from tests.waiting import wait_until

from deadheat.client import Client
from deadheat.store.daemon import arena_directory

pytestmark = [pytest.mark.root, needs_namespaces]

#: The scheduler remembers the last 512 jobs: no more of them than that count for what it grows by.
#: What the allocator keeps in between blocks that come and go levels out after about a thousand
#: (Python's own objects are level from the first hundred on, by tracemalloc).
WARM_UP, JOBS, LAST = 1100, 850, 150
#: A descriptor for each tenth job would be a hundred.
MOST_DESCRIPTORS = 20
#: A page for each job would be 3.3 MiB. What allocators keep comes and goes: of several batches the
#: least counts.
MOST_BYTES = 5 << 19
SMALL = np.arange(16.0 * 16).reshape(16, 16)
#: Past the limit for inline matrices: mapped by the client, streamed to and from the agent.
LARGE = np.random.default_rng(2).integers(-4, 5, (256, 256)).astype(np.float64)
AT_ONCE = 50
LARGE_EACH = 10


def run(client: Client, jobs: int, pids: dict[str, int]) -> dict[str, Usage]:
    """Runs them; returns the least that each process had after the last few batches."""
    small, large = SMALL @ SMALL, LARGE @ LARGE
    seen: list[dict[str, Usage]] = []
    for _ in range(0, jobs, AT_ONCE):
        running = []
        for k in range(AT_ONCE):
            a, expected = (SMALL, small) if k % LARGE_EACH else (LARGE, large)
            running.append((client.submit_matmul(a, a), expected))
        for job, expected in running:
            assert np.array_equal(job.result(60), expected)
        # Results are kept to be fetched again; whoever wants none of them says so.
        for job, _ in running:
            for result in job._last.results if job._last else ():
                if result.matrix_id:
                    client._link.loop.call(client._link.transfers.give_up(result.matrix_id))
        seen.append({name: Usage.of(pid) for name, pid in pids.items()})
    return {
        name: Usage(
            min(one[name].anonymous_bytes for one in seen[-LAST // AT_ONCE :]),
            min(one[name].descriptors for one in seen[-LAST // AT_ONCE :]),
        )
        for name in pids
    }


def test_a_thousand_jobs_leave_every_process_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # glibc has up to eight arenas for each core, which threads fill by and by.
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    with far_cluster(tmp_path, agent_memory="8MiB") as found, Client(found.address) as client:
        pids = {
            "scheduler": found.scheduler,
            "store": found.store,
            "agent": found.agent,
            "executor": found.executor,
        }
        arenas = arena_directory(Path("/dev/shm"), tmp_path / "state")
        before, files = run(client, WARM_UP, pids), len(list(arenas.iterdir()))
        after = run(client, JOBS, pids)
        grown = {
            name: (before[name], now)
            for name, now in after.items()
            if now.descriptors > before[name].descriptors + MOST_DESCRIPTORS
            or now.anonymous_bytes > before[name].anonymous_bytes + MOST_BYTES
        }
        assert grown == {}
        wait_until(
            lambda: len(list(arenas.iterdir())) <= files + MOST_DESCRIPTORS,
            "shared memory to be what it was",
        )
