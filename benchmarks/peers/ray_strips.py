"""Ray with what one writes by hand: both operands in its object store, a task for each strip."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import numpy as np
import ray

from benchmarks.peers import Array, BasePeer, one_blas_thread, strips


def _multiply(a: Array, b: Array) -> Array:
    product: Array = np.matmul(a, b)
    return product


def _who() -> int:
    # Long enough that one worker doesn't answer for the others.
    time.sleep(0.5)
    return os.getpid()


_strip = ray.remote(_multiply)
_pid = ray.remote(_who)


class Peer(BasePeer):
    name = "Ray"
    #: Strips of rows.
    choices = (2, 4, 8, 16)

    def start(self, cores: Sequence[int]) -> None:
        with one_blas_thread():
            ray.init(num_cpus=len(cores), include_dashboard=False, log_to_driver=False)
        self._count = len(cores)

    def matmul(self, a: Array, b: Array) -> Array:
        right = ray.put(b)
        parts = [_strip.remote(a[rows], right) for rows in strips(len(a), self.choice)]
        return np.concatenate(ray.get(parts))

    def workers(self) -> list[int]:
        return sorted(set(ray.get([_pid.remote() for _ in range(self._count)])))

    def stop(self) -> None:
        ray.shutdown()
