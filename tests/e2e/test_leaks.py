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
WARM_UP, JOBS = 600, 1000
#: A descriptor for each tenth job would be a hundred.
MOST_DESCRIPTORS = 20
#: A page for each job would be nearly 4 MiB.
MOST_BYTES = 3 << 20
SMALL = np.arange(16.0 * 16).reshape(16, 16)
#: Past the limit for inline matrices: mapped by the near agent, streamed to and from the far one.
LARGE = np.random.default_rng(2).integers(-4, 5, (256, 256)).astype(np.float64)
AT_ONCE = 50
LARGE_EACH = 10


def run(client: Client, jobs: int) -> None:
    small, large = SMALL @ SMALL, LARGE @ LARGE
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
                    client._loop.call(client._transfers.give_up(result.matrix_id))


def test_a_thousand_jobs_leave_every_process_as_it_was(tmp_path: Path) -> None:
    with far_cluster(tmp_path, agent_memory="8MiB", has_near_agent=True) as found:
        pids = {
            "scheduler": found.scheduler,
            "store": found.store,
            "far agent": found.agent,
            "executor": found.executor,
            "near agent": found.near_agent or 0,
        }
        arenas = arena_directory(Path("/dev/shm"), tmp_path / "state")

        def rest() -> dict[str, Usage]:
            return {name: Usage.of(pid) for name, pid in pids.items()}

        with Client(found.address) as client:
            run(client, WARM_UP)
            before, files = rest(), len(list(arenas.iterdir()))
            run(client, JOBS)

            def problems() -> list[str]:
                return [
                    f"{name}: {before[name]} became {now}"
                    for name, now in rest().items()
                    if now.descriptors > before[name].descriptors + MOST_DESCRIPTORS
                    or now.anonymous_bytes > before[name].anonymous_bytes + MOST_BYTES
                ]

            # What was released last is given back in a moment.
            try:
                wait_until(lambda: not problems(), "what was before", timeout_s=5)
            except AssertionError:
                raise AssertionError(problems()) from None
            assert len(list(arenas.iterdir())) <= files + MOST_DESCRIPTORS
