"""Control groups: what the kernel's bookkeeping of a process allows and grants it.

Both versions are read, and the mixtures of them: version 1 wherever it has the cpu controller
(cpu.shares, cpu.cfs_quota_us), else version 2 (cpu.weight, cpu.max). Everything is read at every
level from the outermost to the process's own, since a quota or a weight anywhere on the way binds.

A weight is relative to that of a thread of ordinary priority, which groups have too unless they
are told otherwise: 1024 shares are 1, and so is a weight of 100.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deadheat.agent.probes import procfs

CGROUPS: Final = Path("/sys/fs/cgroup")
#: A group or thread that only gets what nobody else wants (WEIGHT_IDLEPRIO over 1024).
IDLE_WEIGHT: Final = 3 / 1024
#: Each step of niceness is a tenth of a core more or less, hence this factor (sched(7)).
NICE_STEP: Final = 1.25


@dataclass(frozen=True, slots=True)
class Group:
    """A level of the hierarchy that competes with its siblings by weight."""

    path: str
    weight: float


def thread_weight(nice: int, *, is_idle: bool) -> float:
    return IDLE_WEIGHT if is_idle else NICE_STEP**-nice


class Cgroups:
    """Reads the files below `root` (as mounted at /sys/fs/cgroup) for processes of `proc`."""

    def __init__(self, root: Path = CGROUPS, proc: Path = procfs.PROC) -> None:
        self._root = root
        self._proc = proc

    def groups(self, pid: int) -> tuple[Group, ...]:
        """The groups that a process is in, outermost first; none for one that has ended."""
        is_unified, levels = self.levels(pid, "cpu")
        found: list[Group] = []
        for folder in levels[1:]:
            weight = _weight(folder, is_unified=is_unified)
            if weight is None:
                # The controller ends here: what is below competes as if it were in this group.
                break
            found.append(Group(str(folder), weight))
        return tuple(found) or self._autogroup(pid)

    def quota_cores(self, pid: int) -> float:
        """The cores' worth of time that the tightest level allows; infinity where none does."""
        is_unified, levels = self.levels(pid, "cpu")
        return min((_quota(folder, is_unified=is_unified) for folder in levels), default=math.inf)

    def levels(self, pid: int, controller: str) -> tuple[bool, list[Path]]:
        """Whether a controller is version 2's, and the folders on the way, root first."""
        unified = None
        for line in _lines(self._proc / str(pid) / "cgroup"):
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                for name in (controllers, controller):
                    if (self._root / name).is_dir():
                        return False, list(_walk(self._root / name, path))
            elif not controllers:
                unified = path
        if unified is None:
            return True, []
        is_hybrid = (self._root / "unified").is_dir()
        return True, list(_walk(self._root / "unified" if is_hybrid else self._root, unified))

    def _autogroup(self, pid: int) -> tuple[Group, ...]:
        """Processes outside of all groups are grouped by session, if the kernel is told to: then
        sessions share evenly however many threads they have (sched(7), "The autogroup feature")."""
        if _text(self._proc / "sys/kernel/sched_autogroup_enabled") != "1":
            return ()
        name, _, nice = _text(self._proc / str(pid) / "autogroup").partition(" nice ")
        return (Group(name, NICE_STEP ** -int(nice)),) if nice else ()


def _walk(root: Path, path: str) -> Iterator[Path]:
    """A folder and those below it on the way to a path, as far as they are to be seen: a container
    may know its path on the host and see only its own part."""
    yield root
    for part in path.strip("/").split("/"):
        root /= part
        if not part or part == ".." or not root.is_dir():
            return
        yield root


def _weight(folder: Path, *, is_unified: bool) -> float | None:
    if _text(folder / "cpu.idle") == "1":
        return IDLE_WEIGHT
    text = _text(folder / ("cpu.weight" if is_unified else "cpu.shares"))
    return int(text) / (100 if is_unified else 1024) if text else None


def _quota(folder: Path, *, is_unified: bool) -> float:
    if is_unified:
        quota, _, period = _text(folder / "cpu.max").partition(" ")
    else:
        quota = _text(folder / "cpu.cfs_quota_us")
        period = _text(folder / "cpu.cfs_period_us")
    # "max", -1, or no such file.
    if not quota.isdecimal() or not period.isdecimal() or int(period) == 0:
        return math.inf
    return int(quota) / int(period)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _lines(path: Path) -> list[str]:
    return _text(path).splitlines()
