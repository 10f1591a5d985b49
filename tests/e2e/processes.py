"""Real daemons for end-to-end tests, each with a log, and what they leave behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.conftest import CORES
from tests.waiting import wait_until

from deadheat.runtime.children import Child
from deadheat.store.daemon import arena_directory


def is_alive(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text[text.rindex(")") + 2] != "Z"


def children_of(pid: int) -> list[int]:
    """Processes that a daemon has started, and those that these have."""
    found: list[int] = []
    with suppress(OSError):  # It, or one of its threads, may end while we look.
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                for child in map(int, (thread / "children").read_text().split()):
                    found += [child, *children_of(child)]
    return found


def command_of(pid: int) -> bytes:
    """Its words, each with a zero at its end; none once it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


class Daemons:
    """A scheduler and agents on one state directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state_dir = directory / "state"
        self.started: list[Child] = []

    def scheduler(self, listen: str = "127.0.0.1:0", *arguments: str) -> Child:
        child = self._start(
            "deadheat.scheduler",
            ["--state-dir", str(self.state_dir), "--listen", listen, *arguments],
        )
        child.wait_ready(90)
        return child

    def agent(self, address: str, name: str, core: int = 0, *arguments: str) -> Child:
        child = self._start(
            "deadheat.agent",
            [
                *("--scheduler", address, "--name", name, "--cpus", str(CORES[core])),
                *("--gpus", "none"),
                *(("--shares-cpus",) if len(CORES) == 1 else ()),
                *arguments,
            ],
        )
        child.wait_ready(150)
        return child

    def _start(self, module: str, arguments: list[str]) -> Child:
        log = self.directory / f"{len(self.started)}-{module.rpartition('.')[2]}.log"
        child = Child(module, arguments, log_path=log)
        self.started.append(child)
        return child

    def arenas(self) -> list[Path]:
        """What is left in shared memory."""
        directory = arena_directory(Path("/dev/shm"), self.state_dir)
        return sorted(directory.iterdir()) if directory.exists() else []


@contextmanager
def daemons(directory: Path) -> Iterator[Daemons]:
    found = Daemons(directory)
    try:
        yield found
    finally:
        for child in reversed(found.started):
            if child.process.poll() is None:
                child.process.send_signal(signal.SIGCONT)
            child.stop()


def kill_and_see_no_orphans(child: Child) -> None:
    """SIGKILL; nothing that it started is left soon afterwards."""
    offspring = children_of(child.pid)
    assert offspring
    os.kill(child.pid, signal.SIGKILL)
    child.process.wait()
    see_the_end_of(offspring)


def see_the_end_of(orphans: Sequence[int]) -> None:
    """They end within a second of their parent, by their own clocks, which begin when they hear of
    it: a machine that others use lets them, and us, wait. Nothing else would end them."""
    wait_until(
        lambda: not any(is_alive(pid) for pid in orphans),
        "the end of processes whose parent is gone",
        timeout_s=15.0,
    )
