"""What real daemons tell a service manager, by a plain datagram socket and without root."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.conftest import CORES
from tests.runtime.listening import Listener, listening
from tests.waiting import wait_until

from deadheat.agent import daemon as agent_daemon
from deadheat.runtime.settings import AgentSettings, Sources


class Running:
    """A daemon as a service manager starts it."""

    def __init__(self, process: subprocess.Popen[bytes], manager: Listener) -> None:
        self.process = process
        self.manager = manager

    def signal(self, number: int) -> None:
        self.process.send_signal(number)


@contextmanager
def supervised(
    directory: Path, name: str, arguments: Sequence[str], *, watchdog_us: int = 200_000
) -> Iterator[Running]:
    address = directory / f"{name}.notify"
    variables = {"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": str(watchdog_us)}
    with listening(address) as manager, (directory / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", f"deadheat.{name}", *arguments],
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            yield Running(process, manager)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
            process.wait(60)


def scheduler_arguments(directory: Path) -> list[str]:
    return ["--state-dir", str(directory / "state"), "--listen", "127.0.0.1:0"]


def test_a_scheduler_says_ready_when_its_port_answers_and_its_store_is_up(tmp_path: Path) -> None:
    with supervised(tmp_path, "scheduler", scheduler_arguments(tmp_path)) as running:
        extending = running.manager.wait_for_key("EXTEND_TIMEOUT_USEC")
        assert extending["STATUS"] == "bringing the database up to date"
        ready = running.manager.wait_for_key("READY")
        address = ready["STATUS"].removeprefix("serving on ").split(": ")[0]
        assert json.loads(nodes(address)) == {"nodes": []}
        assert "0 of 0 nodes up, 0 jobs running, 0 waiting" in ready["STATUS"]
        running.signal(signal.SIGTERM)
        assert running.manager.wait_for_key("STOPPING")["STOPPING"] == "1"
        assert running.process.wait(60) == 0


def nodes(address: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "deadheat.cli", "nodes", "--json", "--scheduler", address],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_the_watchdog_is_fed_by_a_scheduler_that_runs_and_not_by_a_stopped_one(
    tmp_path: Path,
) -> None:
    with supervised(tmp_path, "scheduler", scheduler_arguments(tmp_path)) as running:
        running.manager.wait_for_key("READY")
        for _ in range(3):
            running.manager.wait_for_key("WATCHDOG")
        running.signal(signal.SIGSTOP)
        wait_until(lambda: is_stopped(running.process.pid), "a stopped process")
        running.manager.drain()
        running.manager.messages.clear()
        with pytest.raises(AssertionError, match="in vain"):
            running.manager.wait_for_key("WATCHDOG", timeout_s=0.5)
        running.signal(signal.SIGCONT)
        running.manager.wait_for_key("WATCHDOG")


def is_stopped(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return stat[stat.rindex(")") + 2] == "T"


def test_a_scheduler_reloads_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    config = tmp_path / "deadheat.toml"
    config.write_text("")
    arguments = [*scheduler_arguments(tmp_path), "--config", str(config)]
    with supervised(tmp_path, "scheduler", arguments) as running:
        running.manager.wait_for_key("READY")
        for text, words in (
            ("[scheduler]\nlog_level = 'debug'\n", ""),
            ("[scheduler]\nlog_level = 'loud'\n", "'loud' may be debug, info, warning, error"),
            ("[scheduler]\ndisk = '1G'\n", "a restart is needed for disk_bytes"),
        ):
            config.write_text(text)
            running.signal(signal.SIGHUP)
            assert int(running.manager.wait_for_key("RELOADING")["MONOTONIC_USEC"]) > 0
            status = running.manager.wait_for_key("READY")["STATUS"]
            assert words in status
            assert ("refused" in status) == ("loud" in text)
        assert running.process.poll() is None


def test_an_agent_is_ready_when_it_is_registered_and_says_how_it_is(tmp_path: Path) -> None:
    with supervised(tmp_path, "scheduler", scheduler_arguments(tmp_path)) as scheduler:
        ready = scheduler.manager.wait_for_key("READY")
        address = ready["STATUS"].removeprefix("serving on ").split(": ")[0]
        arguments = ["--scheduler", address, "--name", "n1", "--cpus", str(CORES[0])]
        with supervised(tmp_path, "agent", arguments) as agent:
            status = agent.manager.wait_for_key("READY", 150)["STATUS"]
            assert status == f"n1: registered with {address}, 0 sub-tasks at hand"
            assert [node["name"] for node in json.loads(nodes(address))["nodes"]] == ["n1"]
            scheduler.manager.wait_for(
                lambda message: "1 of 1 nodes up" in message.get("STATUS", ""), "a node up"
            )
            agent.manager.wait_for_key("WATCHDOG")
            scheduler.process.kill()
            agent.manager.wait_for(
                lambda message: "waiting for the scheduler" in message.get("STATUS", ""),
                "a status that tells of the scheduler's end",
            )
            # It is well all the same: a restart would not bring the scheduler back.
            agent.manager.wait_for_key("WATCHDOG")
            agent.signal(signal.SIGTERM)
            agent.manager.wait_for_key("STOPPING")
            assert agent.process.wait(60) == 0


def test_an_agent_without_a_scheduler_is_ready_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No machine's boot waits for another machine."""
    monkeypatch.setattr(agent_daemon, "AWAY_S", 0.1)
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    flags = {"scheduler": "127.0.0.1:9", "name": "n1", "cpus": str(CORES[0])}
    affinity = os.sched_getaffinity(0)

    async def run(manager: Listener) -> None:
        settings = AgentSettings.load(Sources("agent", flags))
        running = asyncio.create_task(agent_daemon.Daemon(settings).run(None, None))
        ready = await asyncio.to_thread(manager.wait_for_key, "READY", 150)
        assert ready["STATUS"].startswith("n1: waiting for the scheduler at 127.0.0.1:9")
        why = "n1: waiting for the scheduler at 127.0.0.1:9: registering with"
        await asyncio.to_thread(
            manager.wait_for, lambda message: why in message.get("STATUS", ""), "the reason"
        )
        os.kill(os.getpid(), signal.SIGTERM)
        await running

    try:
        with listening(tmp_path / "notify") as manager:
            asyncio.run(run(manager))
    finally:
        os.sched_setaffinity(0, affinity)
