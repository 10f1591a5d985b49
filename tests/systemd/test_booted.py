"""Real units under a real systemd: started, stopped, killed, frozen, reloaded, several of a kind.

One box for all; every test starts what it needs and may find it running.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from tests.conftest import CORES
from tests.systemd.box import COMMAND, Box, booted, why_not
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "a box can be had"),
]
SCHEDULER, AGENT = "deadheat-scheduler.service", "deadheat-agent.service"
#: As the units have it, but sooner: nobody wants to watch half a minute of silence.
HASTE = "[Service]\nWatchdogSec=4\nRestartSec=100ms\n"
CONFIG = "/etc/deadheat/deadheat.toml"
RNG = np.random.default_rng(6)


@dataclass(frozen=True)
class Host:
    """A box with our units installed."""

    box: Box

    def systemctl(self, *arguments: str) -> str:
        return self.box.run("systemctl", *arguments)

    def show(self, unit: str, name: str) -> str:
        return self.systemctl("show", unit, "--property", name, "--value").strip()

    def deadheat(self, *arguments: str) -> str:
        return self.box.run(str(COMMAND), *arguments)

    def start(self, *units: str) -> None:
        """Returns when they have said READY."""
        self.systemctl("start", *units)

    def nodes(self) -> dict[str, str]:
        found = json.loads(self.deadheat("nodes", "--json"))["nodes"]
        return {node["name"]: node["state"] for node in found}

    def journal(self, unit: str) -> str:
        return self.box.run("journalctl", "--no-pager", "-o", "cat", "-u", unit)

    def write(self, path: str, text: str) -> None:
        outside = self.box.path(path)
        outside.parent.mkdir(parents=True, exist_ok=True)
        outside.write_text(text)

    def drop_in(self, unit: str, name: str, text: str | None) -> None:
        path = f"/etc/systemd/system/{unit}.d/{name}.conf"
        if text is None:
            self.box.path(path).unlink(missing_ok=True)
        else:
            self.write(path, text)
        self.systemctl("daemon-reload")

    def wait_for_status(self, unit: str, words: str) -> None:
        wait_until(
            lambda: words in self.show(unit, "StatusText"),
            f"{words!r} in the status of {unit}: {self.show(unit, 'StatusText')}",
        )

    def executor_of(self, unit: str) -> int:
        """Its process number inside the box."""
        main = self.show(unit, "MainPID")
        return int(self.box.run("cat", f"/proc/{main}/task/{main}/children").split()[0])


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    base, logs = tmp_path_factory.mktemp("box"), tmp_path_factory.mktemp("log")
    with booted(base, logs / "box.log") as box:
        found = Host(box)
        subprocess.run(
            [
                *(sys.executable, "-m", "deadheat.cli", "install-units"),
                *("--root", str(box.path("/")), "--exec", str(COMMAND)),
            ],
            check=True,
            capture_output=True,
        )
        box.run("systemd-sysusers")
        for unit in (SCHEDULER, AGENT, "deadheat-agent@.service"):
            found.drop_in(unit, "haste", HASTE)
        yield found


def product(host: Host, *, environment: Mapping[str, str] | None = None) -> dict[str, object]:
    """A product done under the units, compared with NumPy's; the job's report."""
    a, b = RNG.standard_normal((700, 600)), RNG.standard_normal((600, 500))
    for name, matrix in (("A", a), ("B", b)):
        np.save(host.box.path(f"/tmp/{name}.npy"), matrix)
    command = [str(COMMAND), "run", "matmul", "/tmp/A.npy", "/tmp/B.npy", "-o", "/tmp/C.npy"]
    host.box.run("env", *(f"{k}={v}" for k, v in (environment or {}).items()), *command)
    assert np.allclose(np.load(host.box.path("/tmp/C.npy")), a @ b, rtol=1e-12, atol=1e-12)
    shown = host.box.run(
        "env", *(f"{k}={v}" for k, v in (environment or {}).items()), str(COMMAND),
        "job", "show", "last", "--json",
    )  # fmt: skip
    report: dict[str, object] = json.loads(shown)
    return report


def test_a_started_scheduler_serves_and_a_started_agent_is_registered(host: Host) -> None:
    host.start(SCHEDULER)
    assert host.nodes() == {}
    assert "serving on 127.0.0.1:7433" in host.show(SCHEDULER, "StatusText")
    host.start(AGENT)
    assert list(host.nodes().values()) == ["up"]
    assert "registered with 127.0.0.1:7433" in host.show(AGENT, "StatusText")
    host.wait_for_status(SCHEDULER, "1 of 1 nodes up")


def test_a_job_is_done_in_shared_memory_though_the_units_have_different_users(host: Host) -> None:
    host.start(SCHEDULER, AGENT)
    report = product(host)
    assert report["state"] == "done"
    assert report["bytes_moved"] == 0
    owners = {
        host.box.run("stat", "-c", "%u", f"/proc/{host.show(unit, 'MainPID')}").strip()
        for unit in (SCHEDULER, AGENT)
    }
    assert len(owners) == 2
    assert "0" not in owners


@pytest.mark.parametrize("unit", [AGENT, SCHEDULER])
def test_a_frozen_daemon_is_restarted_by_the_watchdog(host: Host, unit: str) -> None:
    host.start(SCHEDULER, AGENT)
    before, restarts = host.show(unit, "MainPID"), int(host.show(unit, "NRestarts"))
    host.box.run("kill", "-STOP", before)
    wait_until(lambda: int(host.show(unit, "NRestarts")) > restarts, f"a restart of {unit}")
    wait_until(lambda: host.show(unit, "ActiveState") == "active", f"{unit} to be back")
    assert host.show(unit, "MainPID") != before
    assert "Watchdog timeout" in host.journal(unit)
    # Where it was when it was frozen, for whoever asks why.
    assert "Fatal Python error: Aborted" in host.journal(unit)
    wait_until(lambda: list(host.nodes().values()) == ["up"], "the agent to be registered again")
    assert product(host)["state"] == "done"


@pytest.mark.parametrize("unit", [AGENT, SCHEDULER])
def test_a_killed_daemon_is_restarted_and_results_in_memory_are_still_there(
    host: Host, unit: str
) -> None:
    host.start(SCHEDULER, AGENT)
    np.save(host.box.path("/tmp/A.npy"), np.eye(400))
    job = host.deadheat("submit", "matmul", "/tmp/A.npy", "/tmp/A.npy").strip()
    host.deadheat("job", "wait", job)
    before, restarts = host.show(unit, "MainPID"), int(host.show(unit, "NRestarts"))
    host.box.run("kill", "-KILL", before)
    wait_until(lambda: int(host.show(unit, "NRestarts")) > restarts, f"a restart of {unit}")
    wait_until(lambda: host.show(unit, "ActiveState") == "active", f"{unit} to be back")
    host.deadheat("job", "result", job, "-o", "/tmp/R.npy")
    assert np.array_equal(np.load(host.box.path("/tmp/R.npy")), np.eye(400))
    wait_until(lambda: list(host.nodes().values()) == ["up"], "the agent to be registered again")


def test_a_stop_is_clean_and_quick(host: Host) -> None:
    host.start(SCHEDULER, AGENT)
    for unit in (AGENT, SCHEDULER):
        host.systemctl("stop", unit)
        assert host.show(unit, "Result") == "success"
        assert host.show(unit, "ExecMainStatus") == "0"
        assert host.show(unit, "ActiveState") == "inactive"
        left = host.box.run("sh", "-c", f"cat /sys/fs/cgroup/system.slice/{unit}/cgroup.procs || :")
        assert left == ""


def policies(host: Host, unit: str) -> set[str]:
    """What the kernel's scheduler thinks of an executor's threads."""
    shown = host.box.run("chrt", "--all-tasks", "--pid", str(host.executor_of(unit)))
    return {line.rpartition(" ")[2] for line in shown.splitlines() if "policy" in line}


def may_become_normal(host: Host, unit: str) -> bool:
    """Whether the unit's LimitNICE= took effect: it takes a capability that containers lack."""
    assert host.show(unit, "LimitNICE") == "20"
    limits = host.box.run("cat", f"/proc/{host.show(unit, 'MainPID')}/limits")
    (line,) = (line for line in limits.splitlines() if line.startswith("Max nice priority"))
    return int(line.split()[3]) >= 20


def test_a_reload_changes_what_can_change_and_names_what_waits(host: Host) -> None:
    host.start(SCHEDULER, AGENT)
    before = host.show(AGENT, "MainPID"), host.executor_of(AGENT)
    assert policies(host, AGENT) == {"SCHED_OTHER"}
    host.write(CONFIG, '[agent]\npoliteness = "idle"\nlog_level = "debug"\n')
    host.systemctl("reload", AGENT)
    wait_until(lambda: policies(host, AGENT) == {"SCHED_IDLE"}, "idle threads")
    host.write(CONFIG, '[agent]\nname = "other"\n[scheduler]\nlisten = "127.0.0.1:1"\n')
    host.systemctl("reload", AGENT, SCHEDULER)
    host.wait_for_status(AGENT, "a restart is needed for name")
    host.wait_for_status(SCHEDULER, "a restart is needed for listen")
    assert (host.show(AGENT, "MainPID"), host.executor_of(AGENT)) == before
    allowed = may_become_normal(host, AGENT)
    if not allowed:
        host.wait_for_status(AGENT, "politeness")
    host.box.path(CONFIG).unlink()
    host.systemctl("reload" if allowed else "restart", AGENT)
    host.systemctl("reload", SCHEDULER)
    wait_until(lambda: policies(host, AGENT) == {"SCHED_OTHER"}, "normal threads")
    for unit in (AGENT, SCHEDULER):
        wait_until(lambda unit=unit: "restart" not in host.show(unit, "StatusText"), "no note")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "words"),
    [("[agent\n", "Expected"), ('[agent]\npoliteness = "rude"\n', "'rude' may be normal or idle")],
)
def test_a_broken_file_keeps_the_old_configuration_and_says_so(
    host: Host, text: str, words: str
) -> None:
    host.start(SCHEDULER, AGENT)
    before = host.show(AGENT, "MainPID")
    host.write(CONFIG, text)
    host.systemctl("reload", AGENT)
    host.wait_for_status(AGENT, "refused and the old one holds")
    assert words in host.show(AGENT, "StatusText")
    assert words in host.journal(AGENT)
    assert (host.show(AGENT, "MainPID"), host.show(AGENT, "ActiveState")) == (before, "active")
    host.box.path(CONFIG).unlink()
    host.systemctl("reload", AGENT)
    wait_until(lambda: "refused" not in host.show(AGENT, "StatusText"), "a clean status")
    assert product(host)["state"] == "done"


@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
def test_two_instances_on_one_host_work_on_their_own_cores(host: Host) -> None:
    host.systemctl("stop", AGENT)
    host.start(SCHEDULER)
    names = ("zero", "one")
    for name, core in zip(names, CORES):
        host.write(f"/etc/deadheat/{name}/environment", f"DEADHEAT_CPUS={core}\n")
    zero, one = (f"deadheat-agent@{name}.service" for name in names)
    try:
        host.start(zero)
        # The other's calibration would be the same: it is handed on, to whatever user comes next.
        caches = [f"/var/cache/private/deadheat-agent-{name}" for name in names]
        host.box.run("cp", "-r", *caches)
        host.start(one)
        assert "calibrating" not in host.journal(one)
        up = [name for name, state in host.nodes().items() if state == "up"]
        assert sorted(name.rpartition("-")[2] for name in up) == ["one", "zero"]
        for unit, core in ((zero, CORES[0]), (one, CORES[1])):
            status = host.box.run("cat", f"/proc/{host.executor_of(unit)}/status")
            assert f"Cpus_allowed_list:\t{core}\n" in status
        product(host)
    finally:
        host.systemctl("stop", zero, one)


def test_a_dynamic_user_finds_what_it_left(host: Host) -> None:
    """The agent its calibration; a scheduler that was made one, its database."""
    host.start(SCHEDULER, AGENT)
    host.systemctl("restart", AGENT)
    assert host.show(AGENT, "DynamicUser") == "yes"
    assert host.journal(AGENT).count("calibrating") == 1
    jobs = host.deadheat("jobs", "--json")
    host.drop_in(SCHEDULER, "dynamic", "[Service]\nUser=\nDynamicUser=yes\n")
    try:
        host.systemctl("restart", SCHEDULER)
        host.systemctl("restart", SCHEDULER)
        assert host.deadheat("jobs", "--json") == jobs
        owner = host.box.run("stat", "-c", "%u", "/var/lib/private/deadheat/deadheat.db")
        assert 61184 <= int(owner) <= 65519, "not a dynamic user"
    finally:
        host.drop_in(SCHEDULER, "dynamic", None)
        host.systemctl("stop", SCHEDULER)
        host.box.run("sh", "-c", "chown -R deadheat:deadheat /var/lib/private/deadheat")


def test_tls_files_come_as_credentials_that_only_root_can_read(host: Host) -> None:
    trustme = pytest.importorskip("trustme")
    host.systemctl("stop", SCHEDULER, AGENT)
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    files = {
        "cert.pem": b"".join(blob.bytes() for blob in issued.cert_chain_pems),
        "key.pem": issued.private_key_pem.bytes(),
        "ca.pem": authority.cert_pem.bytes(),
    }
    directory = "/etc/deadheat/tls"
    for name, content in files.items():
        host.write(f"{directory}/{name}", content.decode())
        host.box.path(f"{directory}/{name}").chmod(0o600)
    host.write("/etc/deadheat/scheduler.environment", "DEADHEAT_LISTEN=0.0.0.0:7433\n")
    host.start(SCHEDULER, AGENT)
    keys = {"CERT": "cert.pem", "KEY": "key.pem", "CA": "ca.pem"}
    environment = {f"DEADHEAT_TLS_{key}": f"{directory}/{name}" for key, name in keys.items()}
    assert product(host, environment=environment)["state"] == "done"
    assert "WITHOUT TLS" not in host.journal(SCHEDULER).rpartition("Starting")[2]
