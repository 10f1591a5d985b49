"""Holding processes to a part of a core, by a quota of their control group.

Version 2 (cpu.max) where it has the cpu controller, else version 1 (cpu.cfs_quota_us). It needs the
right to make groups, mostly root's: a case that cannot have one is left out and says why. Groups
are made at the root of the hierarchy, where version 2 allows a group beside processes. Where the
controller is mounted nowhere, version 1's is mounted for as long as it is needed.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.measuring import LeftOut

#: The kernel's own default.
PERIOD_US = 100_000
ENDING_TRIES = 40
MOUNTS = Path("/proc/self/mounts")
_numbers = itertools.count()


@dataclass(frozen=True)
class Hierarchy:
    """Where control groups are made, and by which rules."""

    folder: Path
    version: int

    @staticmethod
    def find(mounts: Path = MOUNTS) -> Hierarchy:
        """The mounted hierarchy that has the cpu controller; raises LeftOut."""
        found: list[Hierarchy] = []
        for line in mounts.read_text().splitlines() if mounts.exists() else []:
            _, folder, kind, options, *_ = line.split()
            if kind == "cgroup2":
                controllers = Path(folder) / "cgroup.controllers"
                if controllers.exists() and "cpu" in controllers.read_text().split():
                    found.append(Hierarchy(Path(folder), 2))
            elif kind == "cgroup" and "cpu" in options.split(","):
                found.append(Hierarchy(Path(folder), 1))
        if not found:
            raise LeftOut("no mounted control group hierarchy has the cpu controller")
        return found[0]


class Held:
    """A group of processes that together get at most a part of one core."""

    def __init__(self, folder: Path, parent: Path) -> None:
        self._folder = folder
        self._parent = parent

    def add(self, pid: int) -> None:
        (self._folder / "cgroup.procs").write_text(str(pid))

    def add_tree(self, pid: int) -> None:
        """A process and all that it has started; what they start later belongs to it as well."""
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            self.add(process.pid)

    def end(self) -> None:
        """Whoever is left goes back where nobody is held."""
        for pid in (self._folder / "cgroup.procs").read_text().split():
            try:
                (self._parent / "cgroup.procs").write_text(pid)
            except ProcessLookupError:
                continue
        # Those who are just ending still count for a moment.
        for _ in range(ENDING_TRIES):
            try:
                self._folder.rmdir()
            except OSError:
                time.sleep(0.05)
            else:
                return


@contextmanager
def held(share: float, hierarchy: Hierarchy | None = None) -> Iterator[Held]:
    """A group held to `share` of a core while the block runs; raises LeftOut."""
    with ExitStack() as stack:
        if hierarchy is None:
            try:
                hierarchy = Hierarchy.find()
            except LeftOut as reason:
                hierarchy = stack.enter_context(_mounted(reason))
        yield stack.enter_context(_group(share, hierarchy))


@contextmanager
def _mounted(reason: LeftOut) -> Iterator[Hierarchy]:
    with tempfile.TemporaryDirectory(prefix="deadheat-cgroup-") as folder:
        mount = ["mount", "-t", "cgroup", "-o", "cpu", "cgroup", folder]
        try:
            subprocess.run(mount, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            # What was missing in the first place says more than that it could not be mounted.
            raise reason from None
        try:
            yield Hierarchy(Path(folder), 1)
        finally:
            subprocess.run(["umount", folder], check=True)


@contextmanager
def _group(share: float, hierarchy: Hierarchy) -> Iterator[Held]:
    folder = hierarchy.folder / f"deadheat-bench-{os.getpid()}-{next(_numbers)}"
    quota_us = round(share * PERIOD_US)
    try:
        folder.mkdir()
        if hierarchy.version == 2:
            control = hierarchy.folder / "cgroup.subtree_control"
            if "cpu" not in control.read_text().split():
                control.write_text("+cpu")
            (folder / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
        else:
            (folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (folder / "cpu.cfs_quota_us").write_text(str(quota_us))
    except OSError as error:
        with suppress(OSError):
            folder.rmdir()
        raise LeftOut(f"a control group with a quota cannot be had here: {error}") from None
    group = Held(folder, hierarchy.folder)
    try:
        yield group
    finally:
        group.end()
