"""What the cores can give, by others' measure than our own: a bare NumPy loop on each.

One process for each core, pinned, with one BLAS thread, all at once, under the same hog or quota as
the job. Efficiency is (work / sum of these speeds) / makespan, the speeds integrated over the job
where they change.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from benchmarks.limits import Held
from benchmarks.peers import ONE_THREAD

#: Products of this size run at their best rate, and take a fraction of a second.
SIZE = 2048
SECONDS = 3.0

_LOOP = """
import os, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
import numpy as np
size, seconds = int(sys.argv[2]), float(sys.argv[3])
a = np.random.default_rng(1).standard_normal((size, size))
product = a @ a
print("ready", flush=True)
sys.stdin.readline()
parent, work, told, started_s = os.getppid(), 0.0, False, time.perf_counter()
while os.getppid() == parent:
    np.matmul(a, a, out=product)
    work += 2.0 * size**3
    elapsed_s = time.perf_counter() - started_s
    if elapsed_s >= seconds and not told:
        told = True
        print(work / elapsed_s, flush=True)
"""


def speeds_flops(
    cores: Sequence[int],
    limits: Mapping[int, Held] | None = None,
    *,
    seconds: float = SECONDS,
    size: int = SIZE,
) -> list[float]:
    """What each core gives while all are used; `limits` holds back the loops of some cores."""
    with ExitStack() as stack:
        loops = []
        for core in cores:
            process = subprocess.Popen(
                [sys.executable, "-c", _LOOP, str(core), str(size), str(seconds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, **ONE_THREAD},
            )
            stack.callback(process.communicate)
            # Whoever is done first goes on until all are: they are measured with each other.
            stack.callback(process.kill)
            if limits and core in limits:
                limits[core].add(process.pid)
            loops.append(process)
        for loop in loops:
            assert loop.stdout is not None
            loop.stdout.readline()
        for loop in loops:
            assert loop.stdin is not None
            loop.stdin.write("go\n")
            loop.stdin.flush()
        return [float(loop.stdout.readline()) for loop in loops if loop.stdout]


def efficiency(work_flops: float, makespan_s: float, spans: Sequence[tuple[float, float]]) -> float:
    """`spans` are (from which second of the job on, sum of speeds); the first is from 0.

    >>> efficiency(100.0, 12.0, [(0.0, 10.0)])
    0.8333333333333334
    >>> efficiency(90.0, 10.0, [(0.0, 10.0), (4.0, 5.0)])
    1.2857142857142858
    """
    ends_s = [start_s for start_s, _ in spans[1:]] + [makespan_s]
    could = sum(
        (min(end_s, makespan_s) - min(start_s, makespan_s)) * speed
        for (start_s, speed), end_s in zip(spans, ends_s)
    )
    return work_flops / could


def between(before: Sequence[float], after: Sequence[float]) -> float:
    """The sum of speeds during a job, from those before and after it."""
    return statistics.mean((sum(before), sum(after)))
