"""Child processes that never outlive their parent, and that say when they are ready.

A daemon starts by `python -m`, never by a fork of ours or by a spawn that re-imports the user's
script. It holds the read end of a pipe whose write end only its parent has: end of file means
that the parent is gone, also after SIGKILL. On a second pipe it says once where it listens.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from deadheat.runtime import notify
from deadheat.runtime.errors import ClusterError, TimedOut

#: A stranded child that has not ended by itself so long after its parent is made to.
ORPHAN_LIMIT_S: Final = 0.9
#: How much of a failed child's log goes into the error.
LOG_TAIL_BYTES: Final = 2000
_LOG_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


class Child:
    """A running daemon. `ready` is what it said on its ready pipe."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str] = (),
        *,
        log_path: Path | None = None,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.name = module.removeprefix("deadheat.")
        self.log_path = log_path
        self.ready: dict[str, object] = {}
        parent_read, self._parent_write = os.pipe()
        self._ready_read, ready_write = os.pipe()
        output = os.open(log_path, _LOG_FLAGS, 0o600) if log_path else os.dup(2)
        try:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", module, *arguments),
                    *("--parent-fd", str(parent_read), "--ready-fd", str(ready_write)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**notify.environment_of_a_child(os.environ), **(environment or {})},
                pass_fds=(parent_read, ready_write, *pass_fds),
                # A process group of its own, since Ctrl-C is for the parent; but its session,
                # since the kernel's autogroups weigh sessions: what a user's own process would get
                # beside another that he runs, its helpers get too, neither more nor less.
                process_group=0,
            )
        finally:
            os.close(parent_read)
            os.close(ready_write)
            os.close(output)

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_ready(self, timeout_s: float) -> dict[str, object]:
        """Blocks until the child has said that it serves; raises ClusterError if it dies first."""
        deadline = time.monotonic() + timeout_s
        data = b""
        while not data.endswith(b"\n"):
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not select.select([self._ready_read], [], [], left_s)[0]:
                raise TimedOut(f"{self.name} was not ready within {timeout_s:.0f} s{self._tail()}")
            piece = os.read(self._ready_read, 4096)
            if not piece:
                self.process.wait(5)
                raise ClusterError(self._last_words())
            data += piece
        self.ready = json.loads(data)
        return self.ready

    def stop(self, timeout_s: float = 5.0) -> int:
        """SIGTERM, and SIGKILL if that does not end it in time; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._close_pipes()
        return self.process.returncode

    def abandon(self) -> None:
        """Lets the child see that it is alone, and does not wait for it."""
        self._close_pipes()

    def _close_pipes(self) -> None:
        for descriptor in (self._parent_write, self._ready_read):
            with suppress(OSError):
                os.close(descriptor)
        self._parent_write = self._ready_read = -1

    def _last_words(self) -> str:
        """A daemon that refuses to start says why in one line; that line is the message."""
        tail = self._tail()
        for line in reversed(tail.splitlines()):
            if line.startswith("error: "):
                return line.removeprefix("error: ")
        return f"{self.name} ended with code {self.process.returncode} at its start{tail}"

    def _tail(self) -> str:
        if not self.log_path:
            return ""
        text = self.log_path.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
        return f"; the end of {self.log_path}:\n{text}" if text else ""


def announce_ready(ready_fd: int | None, facts: Mapping[str, object]) -> None:
    """In the child: says that it serves."""
    if ready_fd is not None:
        os.write(ready_fd, json.dumps(facts).encode() + b"\n")
        os.close(ready_fd)


def watch_parent(parent_fd: int | None, on_gone: Callable[[], object]) -> None:
    """In the child: calls `on_gone` from a thread when the parent has ended, and sees to it that
    this process ends too, even if its event loop is stuck."""
    if parent_fd is None:
        return
    descriptor = parent_fd

    def watch() -> None:
        while os.read(descriptor, 1):
            pass
        on_gone()
        time.sleep(ORPHAN_LIMIT_S)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
