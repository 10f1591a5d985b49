"""What every benchmark is made of: alternation, medians with spread, a target beside the figure."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np

#: Repeats of each side of a comparison.
REPEATS = 7
#: Simulations share nothing, so that each core takes its part of them; more would only queue.
PROCESSES = min(2, len(os.sched_getaffinity(0)))

Given = TypeVar("Given")
Found = TypeVar("Found")


class LeftOut(Exception):
    """This machine lacks what a case needs; the text says what."""


@dataclass(frozen=True)
class Figure:
    """One measured number. `target` is a bound from above or below; None is for information."""

    case: str
    name: str
    value: float
    unit: str = ""
    target: float | None = None
    at_least: bool = False
    low: float | None = None
    high: float | None = None
    #: What it is the median of.
    values: tuple[float, ...] = ()

    @property
    def holds(self) -> bool | None:
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "values": list(self.values), "holds": self.holds}

    def __str__(self) -> str:
        spread = "" if self.low is None else f" ({self.low:.4g} to {self.high:.4g})"
        target = ""
        if self.target is not None:
            sign = ">=" if self.at_least else "<="
            target = f"  target {sign} {self.target:g}: {'holds' if self.holds else 'MISSED'}"
        return f"{self.case:<30} {self.name:<44} {self.value:10.4g} {self.unit:<6}{spread}{target}"


def summary(
    case: str,
    name: str,
    values: Sequence[float],
    unit: str = "",
    *,
    target: float | None = None,
    at_least: bool = False,
) -> Figure:
    """The median of repeated measurements, with their range."""
    median = statistics.median(values)
    low, high = min(values), max(values)
    return Figure(case, name, median, unit, target, at_least, low, high, tuple(values))


def percentile(
    case: str,
    name: str,
    values: Sequence[float],
    percent: float,
    *,
    target: float | None = None,
    at_least: bool = False,
) -> Figure:
    """One percentile of many runs, with the range of all of them."""
    value = float(np.percentile(values, percent))
    return Figure(case, name, value, "", target, at_least, min(values), max(values))


def in_processes(work: Callable[[Given], Found], given: Iterable[Given]) -> list[Found]:
    """`work` of each, in the order given, on as many processes as there are cores for them."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        return list(pool.map(work, given, chunksize=4))


def alternate(*sides: Callable[[], object], repeats: int = REPEATS) -> list[list[float]]:
    """Seconds of each side, taken in turn so that a machine's drift meets all of them."""
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(repeats):
        for side, found in zip(sides, times):
            started_s = time.perf_counter()
            side()
            found.append(time.perf_counter() - started_s)
    return times


_HOG = """
import os, sys
if sys.argv[1] != "-":
    os.sched_setaffinity(0, {int(sys.argv[1])})
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


@contextmanager
def hog(core: int | None) -> Iterator[int]:
    """A busy process, pinned to a core or floating; ends with the block, or with us."""
    where = "-" if core is None else str(core)
    process = subprocess.Popen([sys.executable, "-c", _HOG, where], start_new_session=False)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def two_cores() -> tuple[int, int]:
    cores = sorted(os.sched_getaffinity(0))
    return cores[0], cores[-1]
