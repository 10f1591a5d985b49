"""Daemons as operators know them: start, stop, kill, restart, refuse."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from tests.cli.running import start
from tests.e2e.processes import (
    Daemons,
    children_of,
    command_of,
    daemons,
    is_alive,
    kill_and_see_no_orphans,
    see_the_end_of,
)
from tests.waiting import wait_until

from deadheat.client import Client, ClusterError, Job, LocalCluster

RNG = np.random.default_rng(17)
A = RNG.standard_normal((700, 700))
BIG = np.ones((5000, 5000))
#: By then a daemon that was told to stop is killed, and has not ended in order.
STOP_S = 60.0


def cluster_of_two(found: Daemons) -> str:
    address = str(found.scheduler().ready["address"])
    found.agent(address, "one", 0)
    found.agent(address, "two", -1)
    return address


def progress_of(job: Job) -> float:
    return job._last.progress if job._last else 0.0


def test_three_daemons_by_hand_multiply_and_record_every_placement(tmp_path: Path) -> None:
    with daemons(tmp_path) as found:
        address = cluster_of_two(found)
        with Client(address) as client:
            big = RNG.standard_normal((2500, 2500))
            job = client.submit_matmul(big, big)
            assert np.allclose(job.result(), big @ big)
            placements = job.report().placements
        with sqlite3.connect(found.state_dir / "deadheat.db") as db:
            rows = db.execute(
                "SELECT row_start, row_stop, predicted_start_s, predicted_finish_s, start_s,"
                " finish_s, state FROM placements WHERE job_id = ? AND state = 'done'",
                (job.id,),
            ).fetchall()
        done = [p for p in placements if p["state"] == "done"]
        assert len(rows) == len(done)
        assert all(None not in row for row in rows)
        assert {(row[0], row[1]) for row in rows} == {tuple(p["rows"]) for p in done}


def test_sigterm_ends_each_daemon_in_order(tmp_path: Path) -> None:
    with daemons(tmp_path) as found:
        address = cluster_of_two(found)
        scheduler, one, two = found.started
        with Client(address) as client:
            job = client.submit_matmul(BIG, BIG)
            wait_until(lambda: client.report(job.id).state == "running", "the job to run")
            # An agent that is told to stop gives its rows back, and the other one finishes.
            assert one.stop(STOP_S) == 0
            assert (job.result(120) == len(BIG)).all()
            # What is kept goes to disk, as far as there is time: here nothing is.
            for result in job._last.results if job._last else ():
                client._link.call(client._link.transfers.give_up(result.matrix_id))
            expected = {"one": "lost", "two": "up"}
            wait_until(
                lambda: {node["name"]: node["state"] for node in client.nodes()} == expected,
                "the goodbye of one of them to be heard",
            )
        assert two.stop(STOP_S) == 0
        assert scheduler.stop(STOP_S) == 0
        assert found.arenas() == []


def test_a_killed_agent_leaves_the_exact_result_to_the_other(tmp_path: Path) -> None:
    with daemons(tmp_path) as found:
        address = cluster_of_two(found)
        _, one, _ = found.started
        a = RNG.integers(-4, 5, (5000, 5000)).astype(np.float64)
        with Client(address) as client:
            job = client.submit_matmul(a, a)
            wait_until(lambda: progress_of(job) > 0.2, "the job to be on its way")
            kill_and_see_no_orphans(one)
            result = job.result(120)
            # Integers in float64: any order of summation is exact.
            assert np.array_equal(result, a @ a)
            report = job.report()
            assert {d["node"] for d in report.devices if d["share"]} <= {"one", "two"}
            assert any(p["attempt"] > 1 for p in report.placements)


def test_a_killed_scheduler_leaves_nothing_and_its_successor_has_everything(
    tmp_path: Path,
) -> None:
    with daemons(tmp_path) as found:
        address = cluster_of_two(found)
        scheduler = found.started[0]
        with Client(address) as client:
            job = client.submit_matmul(A, A)
            assert np.allclose(job.result(), A @ A)
        kill_and_see_no_orphans(scheduler)
        assert found.arenas() == []
        again = found.scheduler(address)
        assert again.ready["address"] == address
        with Client(address) as client:
            assert client.report("last").id == job.id
            assert client.report("last").state == "done"
            assert np.allclose(client.result(job.id), A @ A)
            # After the fault has healed new work completes, without a restart of the agents.
            wait_until(lambda: [n["state"] for n in client.nodes()] == ["up", "up"], "both agents")
            assert np.allclose(client.matmul(A, A), A @ A)


def test_a_job_outlives_the_scheduler_that_accepted_it(tmp_path: Path) -> None:
    with daemons(tmp_path) as found:
        address = cluster_of_two(found)
        a = RNG.integers(-4, 5, (5000, 5000)).astype(np.float64)
        with Client(address) as client:
            job = client.submit_matmul(a, a)
            wait_until(lambda: progress_of(job) > 0.1, "the job to be on its way")
            os.kill(found.started[0].pid, signal.SIGKILL)
            found.started[0].process.wait()
            found.scheduler(address)
            assert np.array_equal(job.result(120), a @ a)
            # The agents went on with what they had: nothing was lost, nothing made twice.
            placements = job.report().placements
            # (A re-balance may take back what nobody has begun.)
            assert all(p["state"] == "done" or p["start_s"] is None for p in placements)
            first = [p for p in placements if p["attempt"] == 1]
            assert {p["node"] for p in first} == {"one", "two"}
            assert sum(p["rows"][1] - p["rows"][0] for p in first) > 2500


def test_a_killed_store_is_started_again_and_the_job_goes_on(tmp_path: Path) -> None:
    with daemons(tmp_path) as found:
        address = cluster_of_two(found)
        store = int(str(found.started[0].ready["store_pid"]))
        with Client(address) as client:
            job = client.submit_matmul(BIG, BIG)
            wait_until(lambda: client.report(job.id).state == "running", "the job to run")
            os.kill(store, signal.SIGKILL)
            assert (job.result(120) == len(BIG)).all()
            assert np.allclose(client.matmul(A, A), A @ A)


def test_a_killed_executor_is_replaced_and_the_agent_lives(tmp_path: Path) -> None:
    with daemons(tmp_path) as found:
        address = cluster_of_two(found)
        _, one, _ = found.started
        with Client(address) as client:
            job = client.submit_matmul(BIG, BIG)
            wait_until(lambda: client.report(job.id).state == "running", "the job to run")
            (executor,) = children_of(one.pid)
            os.kill(executor, signal.SIGKILL)
            assert (job.result(120) == len(BIG)).all()
            assert is_alive(one.pid)
            wait_until(lambda: children_of(one.pid), "a new executor")
            assert np.allclose(client.matmul(A, A), A @ A)


def test_one_state_directory_one_scheduler(tmp_path: Path) -> None:
    with daemons(tmp_path) as found:
        found.scheduler()
        with pytest.raises(ClusterError, match="is in use by another scheduler"):
            found.scheduler()


def test_a_port_in_use_is_said_in_one_line(tmp_path: Path) -> None:
    with daemons(tmp_path) as found, socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ClusterError, match="the port is in use") as caught:
            found.scheduler(address)
        assert len(str(caught.value).splitlines()) == 1


def test_agents_with_the_same_core_are_refused_by_name(tmp_path: Path) -> None:
    with daemons(tmp_path) as found:
        address = str(found.scheduler().ready["address"])
        found.agent(address, "one", 0)
        if len(os.sched_getaffinity(0)) > 1:
            with pytest.raises(ClusterError, match="agent 'one' on this host has cores"):
                found.agent(address, "two", 0)


def test_up_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    state = ("--state-dir", str(tmp_path / "state"), "--listen", "127.0.0.1:0")
    up = start("up", *state)
    assert up.stderr is not None
    address = up.stderr.readline().split()[2].rstrip(",")
    with Client(address) as client:
        assert np.allclose(client.matmul(A, A), A @ A)
    offspring = children_of(up.pid)
    up.send_signal(signal.SIGINT)
    assert up.wait(STOP_S) == 0
    up.communicate()
    assert not any(is_alive(pid) for pid in offspring)


def test_a_killed_up_leaves_no_process_and_no_shared_memory(tmp_path: Path) -> None:
    state = ("--state-dir", str(tmp_path / "state"), "--listen", "127.0.0.1:0")
    up = start("up", *state)
    assert up.stderr is not None
    address = up.stderr.readline().split()[2].rstrip(",")
    with Client(address) as client:
        job = client.submit_matmul(A, A)
        job.result()
    offspring = children_of(up.pid)
    up.kill()
    up.communicate()
    see_the_end_of(offspring)
    assert Daemons(tmp_path).arenas() == []
    with LocalCluster(state_dir=tmp_path / "state") as again, Client(again.address) as client:
        assert np.allclose(client.result(job.id), A @ A)
        assert client.report("last").id == job.id


def test_up_starts_what_died_again(tmp_path: Path) -> None:
    up = start("up", "--state-dir", str(tmp_path / "state"), "--listen", "127.0.0.1:0")
    assert up.stderr is not None
    address = up.stderr.readline().split()[2].rstrip(",")
    try:
        # Looked for first: with a daemon go the processes that it has started.
        commands = {pid: command_of(pid) for pid in children_of(up.pid)}
        daemons_ = [
            pid
            for pid, command in commands.items()
            if b"deadheat.scheduler" in command or b"deadheat.agent\0" in command
        ]
        assert len(daemons_) == 2
        for pid in daemons_:
            os.kill(pid, signal.SIGKILL)
        see_the_end_of(daemons_)
        with Client(wait_until(lambda: _reachable(address), "the new scheduler")) as client:
            assert np.allclose(client.submit_matmul(A, A).result(60), A @ A)
    finally:
        up.terminate()
        up.communicate(timeout=STOP_S)


def _reachable(address: str) -> str:
    try:
        Client(address).close()
    except ClusterError:
        return ""
    return address


def test_a_users_script_that_is_killed_takes_its_cluster_with_it(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import numpy as np, time\n"
        "from deadheat.client import Client, LocalCluster\n"
        "cluster = LocalCluster()\n"
        "client = Client(cluster.address)\n"
        "kept = client.matmul(np.ones((900, 900)), np.ones((900, 900)))\n"
        "print(cluster.state_dir, flush=True)\n"
        "time.sleep(100)\n"
    )
    script = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert script.stdout is not None
    state_dir = Path(script.stdout.readline().strip())
    offspring = children_of(script.pid)
    script.kill()
    script.communicate()
    see_the_end_of(offspring)
    found = Daemons(tmp_path)
    found.state_dir = state_dir
    assert found.arenas() == []
