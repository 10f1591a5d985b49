"""Children: ready when they say so, gone when their parent is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.waiting import wait_until

from deadheat.runtime.children import ORPHAN_LIMIT_S, Child
from deadheat.runtime.errors import ClusterError
from deadheat.runtime.notify import watchdog_interval_s

PARENT = """
import sys, time
from deadheat.runtime.children import Child
child = Child("tests.runtime.a_child", sys.argv[1:])
child.wait_ready(60)
print(child.pid, flush=True)
time.sleep(100)
"""


def is_alive(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text[text.rindex(")") + 2] != "Z"


def start_parent(*arguments: str) -> tuple[subprocess.Popen[str], int]:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent.parent,
    )
    assert parent.stdout is not None
    return parent, int(parent.stdout.readline())


@pytest.mark.parametrize("arguments", [(), ("--stuck",)])
def test_a_child_ends_within_a_second_of_its_killed_parent(arguments: tuple[str, ...]) -> None:
    parent, pid = start_parent(*arguments)
    assert is_alive(pid)
    parent.kill()
    parent.communicate()
    # By its own clock: how soon a busy machine lets it run, and us see it, is another matter.
    assert ORPHAN_LIMIT_S < 1.0
    wait_until(lambda: not is_alive(pid), "the orphan's end")


def test_a_stopped_child_ends_with_its_own_exit_code(tmp_path: Path) -> None:
    child = Child("tests.runtime.a_child", log_path=tmp_path / "log")
    assert child.wait_ready(60) == {"answer": 42}
    assert child.stop(60.0) == 0


def test_ctrl_c_is_for_the_parent_but_the_session_is_shared(tmp_path: Path) -> None:
    child = Child("tests.runtime.a_child", log_path=tmp_path / "log")
    child.wait_ready(60)
    try:
        assert os.getpgid(child.pid) == child.pid
        # The kernel's autogroups weigh sessions.
        assert os.getsid(child.pid) == os.getsid(0)
    finally:
        child.stop()


def test_a_child_that_refuses_to_start_says_why_in_one_line(tmp_path: Path) -> None:
    child = Child("tests.runtime.a_child", ["--refuse"], log_path=tmp_path / "log")
    with pytest.raises(ClusterError, match=r"^the port is in use$"):
        child.wait_ready(60)
    child.stop()


def test_a_child_that_dies_at_its_start_is_quoted(tmp_path: Path) -> None:
    child = Child("tests.runtime.no_such_module", log_path=tmp_path / "log")
    with pytest.raises(ClusterError, match="No module named"):
        child.wait_ready(60)
    child.stop()


def test_the_watchdog_is_fed_at_half_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert watchdog_interval_s() == 15.0
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert watchdog_interval_s() is None
