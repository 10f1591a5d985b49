"""Three hosts without a shared file: mutual TLS, and every block by gRPC alone."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from tests.e2e.networks import (
    Certificates,
    cluster,
    command,
    daemon,
    hosts,
    needs_namespaces,
)
from tests.waiting import wait_until

pytestmark = [pytest.mark.root, needs_namespaces]

#: Whether both agents get a part depends on who else uses the machine: it is looked at so often.
TRIES = 10


def test_three_hosts_with_mutual_tls_multiply_by_streaming(tmp_path: Path) -> None:
    with cluster(tmp_path) as found:
        at = ("--scheduler", found.address)
        rng = np.random.default_rng(3)
        a, b = rng.standard_normal((1500, 1200)), rng.standard_normal((1200, 1400))
        np.save(tmp_path / "A.npy", a)
        np.save(tmp_path / "B.npy", b)
        # From the third host: nothing of the scheduler's is on it.
        found.command(
            *("run", "matmul", str(tmp_path / "A.npy"), str(tmp_path / "B.npy")),
            # Of a balanced cut a host that is busy with something else may get nothing.
            *("--cut", "equal", "-o", str(tmp_path / "C.npy"), *at),
        )
        assert np.allclose(np.load(tmp_path / "C.npy"), a @ b, rtol=1e-11, atol=1e-11)
        report = json.loads(found.command("job", "show", "last", "--json", *at))
        assert {device["node"] for device in report["devices"]} == {"agent0", "agent1"}
        for device in report["devices"]:
            made = [
                (p["rows"], p["cols"])
                for p in report["placements"]
                if p["node"] == device["node"] and p["state"] == "done"
            ]
            # On a busy machine a re-balance may have cut within rows.
            rows = {row for (start, stop), _ in made for row in range(start, stop)}
            area = sum((r[1] - r[0]) * (c[1] - c[0]) for r, c in made)
            # Its rows of A and all of B came, its part of C went, and nothing else.
            assert device["bytes_in"] >= (len(rows) * 1200 + 1200 * 1400) * 8
            assert device["bytes_out"] == area * 8
        assert report["bytes_moved"] == sum(
            device["bytes_in"] + device["bytes_out"] for device in report["devices"]
        )


def test_an_operand_that_many_jobs_share_is_streamed_once(tmp_path: Path) -> None:
    with cluster(tmp_path) as found:
        module = "tests.e2e.stored_operand"
        arguments = (found.address, "1024", "10", "equal")
        jobs = json.loads(found.command(*arguments, module=module))
    first, *others = (job["bytes_moved"] for job in jobs)
    # A comes and C goes each time; B, which each of two agents needed, only for the first.
    assert first >= 3.9 * 1024 * 1024 * 8
    assert all(moved < 0.6 * first for moved in others), (first, others)


def test_an_operand_that_comes_again_is_moved_once(tmp_path: Path) -> None:
    with cluster(tmp_path) as found:
        module = "tests.e2e.repeated_operand"
        jobs = json.loads(found.command(found.address, "1024", "10", module=module))
    first, *others, changed = (job["bytes_moved"] for job in jobs)
    assert first >= 3.9 * 1024 * 1024 * 8
    assert all(moved < 0.6 * first for moved in others), (first, others)
    # The last B was changed in place: all of it came anew.
    assert changed >= 3.9 * 1024 * 1024 * 8


def test_what_all_agents_need_leaves_the_store_once(tmp_path: Path) -> None:
    size = 2048
    matrix_bytes = size * size * 8
    sent = {}
    for flags in ((), ("--peers", "off")):
        (directory := tmp_path / (flags[-1] if flags else "on")).mkdir()
        with cluster(directory, agents=3, flags=flags) as found:
            before = found.first.sent_bytes()
            module = "tests.e2e.stored_operand"
            arguments = (found.address, str(size), "1", "equal")
            (job,) = json.loads(found.command(*arguments, module=module))
            sent[flags] = found.first.sent_bytes() - before
        # Wherever blocks come from, they count.
        moved = sum(device["bytes_in"] for device in job["devices"])
        assert moved >= 3.9 * matrix_bytes
    # A's rows to three agents, and the result to the client; B once, or three times.
    assert sent[()] < 3.7 * matrix_bytes, sent
    assert sent["--peers", "off"] > 4.9 * matrix_bytes, sent


def test_weights_of_a_served_model_move_once(tmp_path: Path) -> None:
    with cluster(tmp_path, agents=1) as found:
        module = "tests.e2e.served_model"
        said = json.loads(found.command(found.address, "6", module=module))
    first, *others = (report["bytes_moved"] for report in said["reports"])
    assert first >= said["size_bytes"]
    assert all(moved < 0.05 * first for moved in others), (first, others)


def test_a_program_is_computed_by_streaming(tmp_path: Path) -> None:
    with cluster(tmp_path) as found:
        for _ in range(TRIES):
            module = "tests.e2e.streamed_program"
            report = json.loads(found.command(found.address, module=module))
            assert report["kind"] == "program"
            nodes = {device["node"] for device in report["devices"]}
            if nodes == {"agent0", "agent1"}:
                break
        else:
            raise AssertionError(report["devices"])


def test_an_agent_that_is_killed_while_blocks_move_costs_no_wrong_element(tmp_path: Path) -> None:
    with cluster(tmp_path, rate="200mbit") as found:
        at = ("--scheduler", found.address)
        rng = np.random.default_rng(4)
        a, b = rng.standard_normal((2400, 1600)), rng.standard_normal((1600, 1000))
        np.save(tmp_path / "A.npy", a)
        np.save(tmp_path / "B.npy", b)
        paths = [str(tmp_path / f"{name}.npy") for name in "AB"]
        job = found.command("submit", "matmul", *paths, *at).split()[-1]

        def is_given_out() -> bool:
            with closing(sqlite3.connect(tmp_path / "state" / "deadheat.db")) as database:
                query = "select count(*) from placements"
                return bool(database.execute(query).fetchone()[0])

        wait_until(is_given_out, "the job to be given out")
        found.agents[0].kill()
        found.command("job", "wait", job, *at)
        found.command("job", "result", job, "-o", str(tmp_path / "C.npy"), *at)
        report = json.loads(found.command("job", "show", job, "--json", *at))
        assert np.allclose(np.load(tmp_path / "C.npy"), a @ b, rtol=1e-11, atol=1e-11)
        done = [p for p in report["placements"] if p["state"] == "done"]
        area = sum((p["rows"][1] - p["rows"][0]) * (p["cols"][1] - p["cols"][0]) for p in done)
        assert area == 2400 * 1000


def test_without_a_certificate_of_the_right_authority_nobody_gets_in(tmp_path: Path) -> None:
    with hosts(2) as (first, second):
        both = [first.address, second.address]
        ours = Certificates.issue(tmp_path / "pki", both)
        others = Certificates.issue(tmp_path / "other", both)
        address = f"{first.address}:7433"
        scheduler = ("--state-dir", str(tmp_path / "state"), "--listen", address)
        with daemon(
            first,
            tmp_path / "scheduler.log",
            "deadheat.scheduler",
            *scheduler,
            *ours.flags(first.address),
        ):
            wait_until(
                lambda: "serving on" in (tmp_path / "scheduler.log").read_text(), "the scheduler"
            )
            assert command(second, ours, "jobs", "--json", "--scheduler", address)
            for stranger in (others, Certificates(tmp_path / "none")):
                environment = {} if stranger is not others else others.environment(second.address)
                found = subprocess.run(
                    second.command(
                        sys.executable, "-m", "deadheat.cli", "jobs", "--scheduler", address
                    ),
                    capture_output=True,
                    text=True,
                    check=False,
                    env={**os.environ, **environment},
                )
                assert found.returncode == 1
                assert found.stderr.startswith(f"error: no scheduler answers at {address}")
