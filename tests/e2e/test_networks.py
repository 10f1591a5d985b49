"""Three hosts without a shared file: mutual TLS, and every block by gRPC alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import CORES
from tests.e2e.networks import Certificates, Host, hosts, needs_namespaces
from tests.waiting import wait_until

pytestmark = [pytest.mark.root, needs_namespaces]

#: Each daemon gets mounts of its own with an empty shared memory, as on a host of its own.
OWN_MEMORY = 'mount -t tmpfs tmpfs /dev/shm && exec "$@"'


@contextmanager
def daemon(host: Host, log: Path, module: str, *arguments: str) -> Iterator[None]:
    with open(log, "ab") as output:
        process = subprocess.Popen(
            host.command(
                *("unshare", "--mount", "sh", "-c", OWN_MEMORY, "sh"),
                *(sys.executable, "-m", module, *arguments),
            ),
            stdout=output,
            stderr=output,
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(15)


def command(host: Host, certificates: Certificates, *arguments: str) -> str:
    found = subprocess.run(
        host.command(
            *("unshare", "--mount", "sh", "-c", OWN_MEMORY, "sh"),
            *(sys.executable, "-m", "deadheat.cli", *arguments),
        ),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **certificates.environment(host.address)},
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_three_hosts_with_mutual_tls_multiply_by_streaming(tmp_path: Path) -> None:
    with hosts(3) as (first, second, third):
        certificates = Certificates.issue(
            tmp_path / "pki", [host.address for host in (first, second, third)]
        )
        address = f"{first.address}:7433"
        scheduler = ("--state-dir", str(tmp_path / "state"), "--listen", address)
        agents = [
            ("--scheduler", address, "--name", f"agent{k}", "--cpus", str(core))
            for k, core in enumerate((CORES[0], CORES[-1]))
        ]
        with (
            daemon(
                first,
                tmp_path / "scheduler.log",
                "deadheat.scheduler",
                *scheduler,
                *certificates.flags(first.address),
            ),
            daemon(
                second,
                tmp_path / "agent0.log",
                "deadheat.agent",
                *agents[0],
                *certificates.flags(second.address),
            ),
            daemon(
                third,
                tmp_path / "agent1.log",
                "deadheat.agent",
                *agents[1],
                *certificates.flags(third.address),
            ),
        ):
            at = ("--scheduler", address)

            def both_up() -> bool:
                try:
                    found = command(third, certificates, "nodes", "--json", *at)
                except AssertionError:
                    return False
                nodes = json.loads(found)["nodes"]
                return [node["state"] for node in nodes] == ["up", "up"]

            wait_until(both_up, "both agents", timeout_s=60)
            rng = np.random.default_rng(3)
            a, b = rng.standard_normal((1500, 1200)), rng.standard_normal((1200, 1400))
            np.save(tmp_path / "A.npy", a)
            np.save(tmp_path / "B.npy", b)
            # From the third host: nothing of the scheduler's is on it.
            command(
                third,
                certificates,
                *("run", "matmul", str(tmp_path / "A.npy"), str(tmp_path / "B.npy")),
                *("-o", str(tmp_path / "C.npy"), *at),
            )
            assert np.allclose(np.load(tmp_path / "C.npy"), a @ b, rtol=1e-11, atol=1e-11)
            report = json.loads(command(third, certificates, "job", "show", "last", "--json", *at))
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
