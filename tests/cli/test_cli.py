"""The command: data on stdout, one clear line on stderr, exit code 0 only on success."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.cli.running import deadheat, start
from tests.client.test_client import DEVICE_KEYS, PLACEMENT_KEYS, REPORT_KEYS
from tests.waiting import wait_until

from deadheat.client import Client, LocalCluster

RNG = np.random.default_rng(13)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    np.save(tmp_path / "A.npy", RNG.standard_normal((800, 900)))
    np.save(tmp_path / "B.npy", RNG.standard_normal((900, 700)))
    return tmp_path


def test_run_writes_numpys_product_and_show_tells_how(cluster: LocalCluster, files: Path) -> None:
    out = files / "C.npy"
    made = deadheat(
        *("run", "matmul", str(files / "A.npy"), str(files / "B.npy"), "-o", str(out)),
        *("--scheduler", cluster.address),
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout == ""
    assert "800 x 700 float64" in made.stderr
    expected = np.load(files / "A.npy") @ np.load(files / "B.npy")
    assert np.allclose(np.load(out), expected, rtol=1e-12, atol=1e-12)

    shown = deadheat("job", "show", "last", "--json", "--scheduler", cluster.address)
    report = json.loads(shown.stdout)
    assert report.keys() == REPORT_KEYS
    assert {key for device in report["devices"] for key in device} == DEVICE_KEYS
    assert {key for placement in report["placements"] for key in placement} == PLACEMENT_KEYS
    assert report["state"] == "done"

    for_people = deadheat("job", "show", "last", "--scheduler", cluster.address)
    assert "finish spread" in for_people.stdout
    listed = deadheat("jobs", "--json", "--scheduler", cluster.address)
    assert report["id"] in [job["id"] for job in json.loads(listed.stdout)["jobs"]]
    explained = deadheat("explain", "last", "--scheduler", cluster.address)
    assert "strips of rows" in explained.stdout
    explained = deadheat("explain", "last", "--json", "--scheduler", cluster.address)
    assert json.loads(explained.stdout)["plans"]


def test_run_here_needs_no_scheduler(files: Path) -> None:
    out = files / "C.npy"
    operands = (str(files / "A.npy"), str(files / "B.npy"))
    nowhere = ("--scheduler", "127.0.0.1:1")
    made = deadheat("run", "matmul", *operands, "--where", "local", "-o", str(out), *nowhere)
    assert made.returncode == 0, made.stderr
    assert "800 x 700 float64" in made.stderr
    assert "in this process" in made.stderr
    expected = np.load(files / "A.npy") @ np.load(files / "B.npy")
    assert np.allclose(np.load(out), expected)
    refused = deadheat(
        *("run", "matmul", *operands, "--where", "local", "-o", str(out), "--timeout", "5")
    )
    assert refused.returncode == 1
    assert "timeout" in refused.stderr


def test_run_where_it_is_faster(cluster: LocalCluster, files: Path) -> None:
    out, at = files / "C.npy", ("--scheduler", cluster.address, "--json")
    matrices = (str(files / "A.npy"), str(files / "B.npy"))
    for kind in ("matmul", "chain"):
        made = deadheat("run", kind, *matrices, "--where", "auto", "-o", str(out), *at)
        report = json.loads(made.stdout)
        assert report.keys() == REPORT_KEYS
        assert (report["id"], report["kind"], report["state"]) == (None, kind, "done")
        limited = deadheat(
            *("run", kind, *matrices, "--where", "auto", "-o", str(out), *at, "--timeout", "60")
        )
        assert json.loads(limited.stdout)["id"] is not None


def test_submit_wait_result(cluster: LocalCluster, files: Path) -> None:
    at = {"DEADHEAT_SCHEDULER": cluster.address}
    a, b = str(files / "A.npy"), str(files / "B.npy")
    job_id = deadheat("submit", "matmul", a, b, environment=at).stdout.strip()
    assert deadheat("job", "wait", job_id, environment=at).returncode == 0
    out = files / "C.npy"
    assert deadheat("job", "result", job_id, "-o", str(out), environment=at).returncode == 0
    assert np.allclose(np.load(out), np.load(a) @ np.load(b))
    cancelled = deadheat("job", "cancel", job_id, environment=at)
    assert cancelled.returncode == 1
    assert f"job {job_id} is done" in cancelled.stderr


def test_nodes_are_listed_drained_and_resumed(cluster: LocalCluster) -> None:
    at = {"DEADHEAT_SCHEDULER": cluster.address}
    found = json.loads(deadheat("nodes", "--json", environment=at).stdout)
    assert {node["name"] for node in found["nodes"]} == {"local-0", "local-1"}
    assert "local-0/cpu" in deadheat("nodes", environment=at).stdout
    assert deadheat("node", "drain", "local-0", "--reason", "test", environment=at).returncode == 0
    with Client(cluster.address) as client:
        states = {node["name"]: node["state"] for node in client.nodes()}
        assert states["local-0"] in ("draining", "drained")
        assert deadheat("node", "resume", "local-0", environment=at).returncode == 0
        wait_until(lambda: client.nodes()[0]["state"] == "up", "the node to be up")
    unknown = deadheat("node", "drain", "nobody", environment=at)
    assert unknown.returncode == 1
    assert unknown.stderr == "error: there is no node 'nobody'\n"


def corrupt(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:500])


def pickled(path: Path) -> None:
    np.save(path, np.array([[{}]], dtype=object))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: (d / "B.npy").unlink(), "B.npy: No such file"),
        (lambda d: corrupt(d / "B.npy"), "B.npy: truncated"),
        (lambda d: pickled(d / "B.npy"), "B.npy: holds pickled Python objects"),
        (lambda d: (d / "B.npy").write_text("hello"), "B.npy: not a .npy file"),
        (lambda d: np.save(d / "B.npy", np.ones((5, 5))), "inner sizes 900 and 5 differ"),
        (lambda d: np.save(d / "B.npy", np.ones((900, 2, 2))), "inner sizes 900 and 2 differ"),
        (lambda d: np.save(d / "B.npy", np.array([["x"]])), "B has dtype <U1"),
    ],
)
def test_bad_operands_leave_one_line_and_no_file(
    cluster: LocalCluster, files: Path, spoil: Callable[[Path], object], words: str
) -> None:
    spoil(files)
    before = sorted(files.iterdir())
    made = deadheat(
        *("run", "matmul", str(files / "A.npy"), str(files / "B.npy"), "-o", str(files / "C.npy")),
        *("--scheduler", cluster.address),
    )
    assert made.returncode == 1
    assert words in made.stderr
    assert len(made.stderr.splitlines()) == 1
    assert "Traceback" not in made.stderr
    assert sorted(files.iterdir()) == before


@pytest.mark.parametrize(
    ("output", "words"),
    [("nowhere/C.npy", "No such file or directory"), (".", "is a directory")],
)
def test_an_output_that_cannot_be_written_is_said_before_the_work(
    cluster: LocalCluster, files: Path, output: str, words: str
) -> None:
    with Client(cluster.address) as client:
        jobs = len(client.reports())
        made = deadheat(
            *("run", "matmul", str(files / "A.npy"), str(files / "B.npy")),
            *("-o", str(files / output), "--scheduler", cluster.address),
        )
        assert made.returncode == 1
        assert words in made.stderr
        assert len(client.reports()) == jobs


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("job", "show", "j0"), 1, "error: there is no job 'j0' on this scheduler"),
        (("job", "result", "j0", "-o", "/tmp/x.npy"), 1, "there is no job 'j0'"),
        (("jobs", "--limit", "0"), 2, "Invalid value for '--limit'"),
        (("jbos",), 2, "No such command 'jbos'. Did you mean 'jobs'?"),
        (("run", "matmul", "a.npy"), 2, "Missing argument 'B.npy'"),
        (("db", "check", "--state-dir", "/nonexistent"), 1, "there is no database"),
        (("scheduler", "--listen", "0.0.0.0:1"), 1, "--insecure"),
        (("agent", "--cpus", "none"), 1, "'none' is not a core"),
    ],
)
def test_wrong_arguments_get_one_clear_line(
    cluster: LocalCluster, arguments: tuple[str, ...], code: int, words: str
) -> None:
    at = {"DEADHEAT_SCHEDULER": cluster.address}
    found = deadheat(*arguments, environment=at)
    assert (found.returncode, words in found.stderr) == (code, True), found.stderr
    assert found.stdout == ""
    assert "Traceback" not in found.stderr


def test_a_scheduler_that_is_not_there_is_one_line(files: Path) -> None:
    at = {"DEADHEAT_SCHEDULER": "127.0.0.1:9"}
    for arguments in (("jobs",), ("nodes",), ("job", "show", "last")):
        found = deadheat(*arguments, environment=at)
        assert found.returncode == 1
        assert found.stderr == "error: no scheduler answers at 127.0.0.1:9: Connection refused\n"


def test_a_cluster_without_agents_is_said_to_be_so() -> None:
    with LocalCluster([]) as empty:
        found = deadheat("nodes", environment={"DEADHEAT_SCHEDULER": empty.address})
    assert found.returncode == 0
    assert found.stdout.split()[:2] == ["DEVICE", "STATE"]
    assert found.stderr == "no agent has registered yet; start one with: deadheat agent\n"


def test_ctrl_c_cancels_the_job_and_says_so(cluster: LocalCluster, tmp_path: Path) -> None:
    np.save(tmp_path / "A.npy", np.ones((6000, 6000)))
    with Client(cluster.address) as client:
        said = [interrupted(client, tmp_path)]
        # It may be interrupted before it has heard of which job that is, and withdraws it then.
        while said[-1] == "interrupted" and len(said) < 10:
            said.append(interrupted(client, tmp_path))
        assert said[-1].endswith(" cancelled"), said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["A.npy"]


def interrupted(client: Client, folder: Path) -> str:
    """What the command says when Ctrl-C ends it while its job runs."""
    known = {report.id for report in client.reports()}
    running = start(
        *("run", "matmul", str(folder / "A.npy"), str(folder / "A.npy")),
        *("-o", str(folder / "C.npy"), "--scheduler", client.address),
    )
    job_id = wait_until(
        lambda: next((r.id for r in client.reports() if r.id not in known), ""), "the job"
    )
    wait_until(lambda: client.report(job_id).state == "running", "the job to run")
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "Traceback" not in errors
    said = errors.splitlines()[-1]
    assert said in ("interrupted", f"job {job_id} cancelled")
    wait_until(lambda: client.report(job_id).state == "cancelled", "the job to be cancelled")
    return said


def test_waiting_for_a_job_that_somebody_cancelled(cluster: LocalCluster) -> None:
    a = np.ones((6000, 6000))
    with Client(cluster.address) as client:
        job = client.submit_matmul(a, a)
        waiting = start("job", "wait", job.id, "--scheduler", cluster.address)
        job.cancel()
        _, errors = waiting.communicate(timeout=60)
    assert (waiting.returncode, errors) == (1, f"error: job {job.id} was cancelled\n")


def test_help_is_light_and_shows_examples() -> None:
    code = (
        "import sys; from deadheat.cli.main import main; code = main(['--help']);"
        "heavy = {'numpy', 'grpc', 'google.protobuf', 'sqlalchemy', 'rich'} & set(sys.modules);"
        "assert not heavy, heavy; sys.exit(code)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert "deadheat run matmul A.npy B.npy -o C.npy" in found.stdout


def test_every_command_has_help() -> None:
    from deadheat.cli.main import _COMMANDS

    for name, _, _ in _COMMANDS:
        found = deadheat(name, "--help")
        assert found.returncode == 0, found.stderr
        assert f"Usage: deadheat {name}" in found.stdout


def test_version() -> None:
    from deadheat.runtime.version import VERSION

    assert deadheat("--version").stdout == f"deadheat {VERSION}\n"


def test_doctor_reports_in_words(cluster: LocalCluster) -> None:
    at = {"DEADHEAT_SCHEDULER": cluster.address}
    found = deadheat("doctor", environment=at)
    assert "2 of 2 nodes up; this client shares memory" in found.stdout
    document = json.loads(deadheat("doctor", "--json", environment=at).stdout)
    subjects = {finding["subject"] for finding in document["findings"]}
    assert {"versions", "cores", "shared memory", "scheduler"} <= subjects
    nobody = deadheat("doctor", "--scheduler", "127.0.0.1:9")
    assert "start one with: deadheat up" in nobody.stdout


def test_db_commands(tmp_path: Path) -> None:
    state = ("--state-dir", str(tmp_path / "state"))
    assert deadheat("db", "upgrade", *state).returncode == 0
    assert deadheat("db", "check", *state).returncode == 0
    copy = tmp_path / "copy.db"
    assert deadheat("db", "backup", str(copy), *state).returncode == 0
    again = deadheat("db", "backup", str(copy), *state)
    assert again.returncode == 1
    assert "exists already" in again.stderr
    assert copy.stat().st_size > 0
    assert (tmp_path / "state" / "deadheat.db").stat().st_size > 0
