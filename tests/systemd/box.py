"""A box: a systemd of its own, booted in namespaces over this machine's file system.

It has its own processes, mounts, network and hostname; what it writes is gone with it. Needs root
and the right to mount; `why_not` says what is missing. Killing its first process ends all of it.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.waiting import wait_until

INSIDE = Path(__file__).parent / "box_inside.py"
#: Where the box has this interpreter, what it imports, and the command: where every user may go.
PREFIX = Path("/opt/deadheat")
COMMAND = PREFIX / "bin/deadheat"
NEEDED = (
    "setpriv",
    "unshare",
    "nsenter",
    "mount",
    "pivot_root",
    "systemctl",
    "ip",
    "systemd-sysusers",
)
NAMESPACES = ("--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup")
#: A box ends with whoever has started it.
UNSHARE = ("setpriv", "--pdeathsig=KILL", "unshare", *NAMESPACES, "--fork", "--kill-child=KILL")
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


@functools.cache
def why_not() -> str:
    """What keeps this machine from having a box; nothing if it can."""
    if os.getuid() != 0:
        return "a box with a systemd needs root"
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    for name in NEEDED:
        if shutil.which(name, path=path) is None:
            return f"a box needs the command {name} (Debian: systemd, iproute2, util-linux)"
    if not Path("/lib/systemd/systemd").exists():
        return "a box needs /lib/systemd/systemd (Debian: systemd)"
    if _cgroup_root() is None:
        return "a box needs a cgroup2 hierarchy"
    tried = subprocess.run(
        [*UNSHARE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode != 0:
        return f"a box needs namespaces and mounts: {tried.stderr.strip()}"
    try:
        with _own_cgroup(f"deadheat-try-{os.getpid()}"):
            return ""
    except OSError as error:
        return f"a box needs a control group of its own: {error}"


def _cgroup_root() -> Path | None:
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    return None


@contextmanager
def _own_cgroup(name: str) -> Iterator[Path]:
    root = _cgroup_root()
    assert root is not None
    group = root / name
    group.mkdir()
    try:
        yield group
    finally:
        for directory, _, _ in os.walk(group, topdown=False):
            path = Path(directory)
            wait_until(lambda path=path: _removed(path), f"the end of {path}")  # type: ignore[misc]


def _removed(path: Path) -> bool:
    with suppress(OSError):
        path.rmdir()
    return not path.exists()


@dataclass(frozen=True)
class Box:
    """A running one. `pid` is its first process, as the host sees it."""

    pid: int

    def start(self, *command: str) -> subprocess.Popen[str]:
        inside = ["nsenter", "-t", str(self.pid), "-a", "--", "env", "-i"]
        inside += [f"{key}={value}" for key, value in ENVIRONMENT.items()]
        return subprocess.Popen(
            [*inside, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *command: str, check: bool = True, timeout_s: float = 150.0) -> str:
        """Runs a command inside; its stdout. Fails with its stderr."""
        process = self.start(*command)
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        if check and process.returncode != 0:
            raise AssertionError(f"{command}: code {process.returncode}\n{out}{err}")
        return out

    def path(self, inside: str) -> Path:
        """A file of the box, from outside."""
        return Path(f"/proc/{self.pid}/root") / inside.lstrip("/")


def _binds() -> tuple[dict[str, str], dict[str, str]]:
    """What the box needs of this interpreter, and the variables that lead there.

    A virtual environment in somebody's home is not seen by a system unit: its parts appear below
    /opt, where a real installation would be.
    """
    binds = {sys.base_prefix: f"{PREFIX}/python"}
    standard = sysconfig.get_path("stdlib", vars={"base": sys.base_prefix})
    found = [Path(part) for part in sys.path if part and Path(part).is_dir()]
    ours = [path for path in found if not path.is_relative_to(standard)]
    ours += [path for path in found if "site-packages" in path.parts and path not in ours]
    for index, path in enumerate(ours):
        binds[str(path)] = f"{PREFIX}/lib/{index}"
    paths = ":".join(f"{PREFIX}/lib/{index}" for index in range(len(ours)))
    libraries = f"{PREFIX}/python/lib"
    return binds, {
        "PYTHONPATH": paths,
        "PYTHONHOME": f"{PREFIX}/python",
        "LD_LIBRARY_PATH": libraries,
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _write_command(box: Box, environment: Mapping[str, str]) -> None:
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    exports = "".join(f"export {key}={value}\n" for key, value in environment.items())
    script = box.path(str(COMMAND))
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(f'#!/bin/sh\n{exports}exec {PREFIX}/python/bin/{name} -m deadheat.cli "$@"\n')
    script.chmod(0o755)


@contextmanager
def booted(base: Path, log: Path) -> Iterator[Box]:
    """A box whose systemd says that it is running; `base` is an empty directory."""
    binds, environment = _binds()
    with _own_cgroup(f"deadheat-box-{os.getpid()}") as group, log.open("w") as output:
        process = subprocess.Popen(
            [
                *("sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(group)),
                *(*UNSHARE, sys.executable, "-I", str(INSIDE), str(base), json.dumps(binds)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
        )
        try:
            box = Box(wait_until(lambda: _first_process(process, log), "a systemd in the box"))
            states = ("running", "degraded")
            wait_until(
                lambda: box.run("systemctl", "is-system-running", check=False).strip() in states,
                f"the box to boot, see {log}",
            )
            _write_command(box, environment)
            yield box
        finally:
            if pid := _first_process(process, log, must_run=False):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.kill()
            process.wait()


def _first_process(process: subprocess.Popen[bytes], log: Path, *, must_run: bool = True) -> int:
    """The box's systemd; 0 until there is one."""
    if must_run and process.poll() is not None:
        raise AssertionError(f"the box did not boot:\n{log.read_text()}")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    with suppress(OSError, IndexError):
        pid = int(children.read_text().split()[0])
        if not must_run or Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
            return pid
    return 0
