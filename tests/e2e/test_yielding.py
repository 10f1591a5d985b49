"""Agents that give way, come once, or have to be gone: real daemons, a real hog, a real clock."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cli.running import deadheat
from tests.conftest import CORES
from tests.e2e.processes import children_of, daemons, is_alive
from tests.waiting import wait_until

from deadheat.agent.presence import LEAD_S
from deadheat.client import Client, Job
from deadheat.runtime.children import Child

RNG = np.random.default_rng(23)
WHOLE = RNG.integers(-4, 5, (5000, 5000)).astype(np.float64)
SMALL = RNG.standard_normal((700, 700))

needs_two_cores = pytest.mark.skipif(len(CORES) < 2, reason="a hog and another core")


@contextmanager
def hog(core: int) -> Iterator[subprocess.Popen[bytes]]:
    code = f"import os\nos.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def device(client: Client, node: str) -> dict[str, Any]:
    found = next(one for one in client.nodes() if one["name"] == node)
    return {"state": found["state"], **found["devices"][0]}


def progress_of(job: Job) -> float:
    return job._last.progress if job._last else 0.0


def ended(child: Child) -> Callable[[], bool]:
    return lambda: child.process.poll() is not None


def set_bound(config: Path, child: Child, above: str) -> None:
    """Above which an agent gives way, from now on."""
    config.write_text(f"[agent]\nyield_above = '{above}'\n")
    child.process.send_signal(signal.SIGHUP)


def key(placement: dict[str, Any]) -> tuple[object, ...]:
    """What stays as it is, also of one that is given back in part."""
    return (
        placement["node"],
        placement["attempt"],
        placement["rows"][0],
        placement["cols"][0],
    )


def is_used(core: int) -> bool:
    """Whether others take most of a core on which nothing of ours runs: measured for a second."""

    def times() -> tuple[int, int]:
        lines = Path("/proc/stat").read_text().splitlines()
        (line,) = (line for line in lines if line.split()[0] == f"cpu{core}")
        # user, nice, system, idle, iowait, irq, softirq, steal
        found = [int(word) for word in line.split()[1:9]]
        return found[3] + found[4], sum(found)

    idle, total = times()
    time.sleep(1.0)
    idle_after, total_after = times()
    return idle_after - idle < 0.5 * (total_after - total)


@needs_two_cores
def test_a_device_whose_owner_works_gives_the_rest_of_a_job_to_the_other(tmp_path: Path) -> None:
    config = tmp_path / "deadheat.toml"
    config.write_text("")
    with daemons(tmp_path) as found:
        address = str(found.scheduler().ready["address"])
        found.agent(address, "one", 0)
        two = found.agent(address, "two", -1, "--config", str(config))
        with Client(address) as client:
            job = client.submit_matmul(WHOLE, WHOLE)
            wait_until(lambda: progress_of(job) > 0.1, "the job to be on its way")
            with hog(CORES[-1]):
                # Not before: on a machine that others use it would have taken nothing at all.
                set_bound(config, two, "30%")
                why = wait_until(lambda: device(client, "two")["yields"], "it to give way")
                assert "above 30%" in why
                before = {key(p) for p in client.report(job.id).placements}
                assert np.array_equal(job.result(120), WHOLE @ WHOLE)
                # All that came afterwards is the other one's, and so is what comes now.
                placements = client.report(job.id).placements
                assert {p["node"] for p in placements if p["state"] == "done"} == {"one", "two"}
                assert {p["node"] for p in placements if key(p) not in before} <= {"one"}
                assert any(p["attempt"] > 1 for p in placements if p["node"] == "one")
                assert np.allclose(client.matmul(SMALL, SMALL, where="cluster"), SMALL @ SMALL)
                nodes = {p["node"] for p in client.report("last").placements}
                assert nodes == {"one"}
                wait_until(lambda: device(client, "two")["state"] == "up", "it to be heard of")
            # The hog took all of it; of what others take now, most machines have less.
            set_bound(config, two, "90%")
            wait_until(
                lambda: not device(client, "two")["yields"] or is_used(CORES[-1]),
                "it to take work again",
            )


def test_in_its_owners_hours_an_agent_takes_nothing_and_a_reload_changes_that(
    tmp_path: Path,
) -> None:
    config = tmp_path / "deadheat.toml"
    config.write_text('[agent]\nyield_hours = ["00:00-12:00", "12:00-24:00"]\n')
    with daemons(tmp_path) as found:
        address = str(found.scheduler().ready["address"])
        one = found.agent(address, "one", 0, "--config", str(config))
        with Client(address) as client:
            wait_until(lambda: device(client, "one")["yields"], "it to give way")
            job = client.submit_matmul(SMALL, SMALL)
            note = wait_until(lambda: client._get(job.id).note, "why the job waits")
            assert "it gives way (these are its owner's hours" in note
            told = "these are its owner's hours, "
            shown = deadheat("nodes", "--scheduler", address).stdout
            assert f"\none/cpu gives way: {told}" in shown
            assert shown.splitlines()[1].split()[:2] == ["one/cpu", "yields"]
            examined = deadheat("doctor", "--json", "--scheduler", address).stdout
            findings = json.loads(examined)["findings"]
            assert any(one["text"].startswith(f"one/cpu: {told}") for one in findings)
            config.write_text("[agent]\nyield_hours = []\n")
            one.process.send_signal(signal.SIGHUP)
            assert np.allclose(job.result(60), SMALL @ SMALL)
            assert device(client, "one")["yields"] is None


def test_one_that_came_once_leaves_when_no_job_is_open(tmp_path: Path) -> None:
    with daemons(tmp_path) as found:
        address = str(found.scheduler().ready["address"])
        one = found.agent(address, "one", 0, "--once")
        with Client(address) as client:
            # Nothing was to do when it came, and it waits for something.
            wait_until(lambda: device(client, "one")["busy"] is not None, "a sample of it")
            assert one.process.poll() is None
            # It stands still until both are there: after the first one alone it might leave.
            one.process.send_signal(signal.SIGSTOP)
            first, second = (client.submit_matmul(SMALL, SMALL) for _ in range(2))
            one.process.send_signal(signal.SIGCONT)
            assert np.allclose(first.result(60), SMALL @ SMALL)
            assert np.allclose(second.result(60), SMALL @ SMALL)
            wait_until(ended(one), "its end")
            assert one.process.returncode == 0
            wait_until(lambda: device(client, "one")["state"] == "lost", "its goodbye to be heard")
            assert {p["node"] for p in client.report(second.id).placements} == {"one"}


@needs_two_cores
def test_one_that_has_to_be_gone_is_gone_in_time_and_loses_nothing(tmp_path: Path) -> None:
    with daemons(tmp_path) as found:
        address = str(found.scheduler().ready["address"])
        started_s = time.monotonic()
        found.agent(address, "one", 0)
        # Its time begins with it: some of it is for starting, as long as this machine takes.
        here_s = round(LEAD_S + 6.0 + 3.0 * (time.monotonic() - started_s))
        two = found.agent(address, "two", -1, "--until", f"{here_s}s")
        registered_s = time.monotonic()
        offspring = children_of(two.pid)
        ends_s: list[float] = []

        def wait() -> None:
            two.process.wait()
            ends_s.append(time.monotonic())

        waiting = threading.Thread(target=wait)
        waiting.start()
        with Client(address) as client:
            while not ends_s:
                result = client.submit_matmul(WHOLE, WHOLE).result(120)
            waiting.join()
            # The job that was running when it left is whole, and nothing of it runs any more.
            assert np.array_equal(result, WHOLE @ WHOLE)
            assert two.process.returncode == 0
            assert ends_s[0] - registered_s < here_s
            wait_until(lambda: device(client, "two")["state"] == "lost", "its goodbye to be heard")
        assert offspring
        assert not any(is_alive(pid) for pid in offspring)


def test_a_time_that_is_too_near_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deadheat.agent", "--scheduler", "127.0.0.1:9"]
    ran = subprocess.run([*command, "--until", "2s"], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "--until 2s is in 2 s; leaving takes 10" in ran.stderr
    ran = subprocess.run(
        [*command, "--until", "slurm"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert "--until: slurm: SLURM_JOB_END_TIME is ''" in ran.stderr
