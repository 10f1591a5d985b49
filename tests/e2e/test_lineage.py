"""Real daemons: agents that are killed in a chain, and a store that comes back without matrices."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from contextlib import suppress
from pathlib import Path

import numpy as np
from tests.e2e.processes import Daemons, daemons, kill_and_see_no_orphans
from tests.waiting import wait_until

from deadheat.client import Client, Job

RNG = np.random.default_rng(23)
#: Any order of summation is exact: products of five are below 2**53.
X = RNG.integers(0, 2, (2500, 2500)).astype(np.float64)


def cluster_of_two(found: Daemons) -> str:
    address = str(found.scheduler().ready["address"])
    found.agent(address, "one", 0)
    found.agent(address, "two", -1)
    return address


def progress_of(job: Job) -> float:
    return job._last.progress if job._last else 0.0


def sealed_results(found: Daemons) -> list[Path]:
    """The sidecars of intermediates that are complete."""
    sidecars = []
    for path in found.arenas():
        if path.suffix == ".json":
            with suppress(FileNotFoundError):  # The store drops those that nobody needs any more.
                entry = json.loads(path.read_text())
                if entry["is_sealed"] and entry["request_id"].startswith("result-"):
                    sidecars.append(path)
    return sidecars


def stop(pid: int) -> None:
    """It does nothing more: not before all of its threads stand still."""
    os.kill(pid, signal.SIGSTOP)

    def stands_still() -> bool:
        try:
            stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
        except OSError:  # A thread has ended meanwhile.
            return False
        return all(stat[stat.rindex(")") + 2] == "T" for stat in stats)

    wait_until(stands_still, "a stopped process")


def submitted(client: Client) -> Job:
    """Four products, each of which needs the one before it whole."""
    x = client.put(X)
    made = x
    for _ in range(4):
        made = (x @ made).relu()
    return client.submit(made)


def expected() -> np.ndarray:
    made = X
    for _ in range(4):
        made = X @ made
    return made


def test_an_agent_that_is_killed_in_a_chain_costs_only_its_rows(tmp_path: Path) -> None:
    with daemons(tmp_path) as found:
        address = cluster_of_two(found)
        with Client(address) as client:
            job = submitted(client)
            wait_until(lambda: progress_of(job) > 0.3, "the first product's end")
            kill_and_see_no_orphans(found.started[1])
            assert np.array_equal(job.result(120), expected())
            done = [p for p in job.report().placements if p["state"] == "done"]
            # What the killed one had made of the first product lies in the store.
            assert "one" in {p["node"] for p in done if p["operation"] == "gemm1"}
            for name in ("gemm1", "gemm2", "gemm3", "gemm4"):
                own = [p for p in done if p["operation"] == name]
                sides = [(*p["rows"], *p["cols"]) for p in own]
                assert sum((r1 - r0) * (c1 - c0) for r0, r1, c0, c1 in sides) == X.size


def test_intermediates_that_the_store_has_lost_are_made_again(tmp_path: Path) -> None:
    with daemons(tmp_path) as found:
        address = cluster_of_two(found)
        store = int(str(found.started[0].ready["store_pid"]))
        with Client(address) as client:
            job = submitted(client)
            wait_until(lambda: bool(sealed_results(found)), "an intermediate")
            stop(store)  # So that none is sealed or dropped while we look.
            gone = sealed_results(found)
            for sidecar in gone:
                sidecar.unlink()
            os.kill(store, signal.SIGKILL)
            assert np.array_equal(job.result(120), expected())
            assert gone
        with sqlite3.connect(found.state_dir / "deadheat.db") as db:
            kinds = [kind for (kind,) in db.execute("SELECT kind FROM events")]
        assert "matrix_lost" in kinds


def test_an_operand_that_the_store_has_lost_fails_the_job_by_name(tmp_path: Path) -> None:
    with daemons(tmp_path) as found:
        address = cluster_of_two(found)
        store = int(str(found.started[0].ready["store_pid"]))
        with Client(address) as client:
            job = submitted(client)
            wait_until(lambda: bool(sealed_results(found)), "an intermediate")
            stop(store)
            for sidecar in found.arenas():
                if sidecar.suffix == ".json":
                    sidecar.unlink()
            os.kill(store, signal.SIGKILL)
            error = job.exception(120)
        assert error is not None
        assert "operand lost: 'x1'" in str(error)
