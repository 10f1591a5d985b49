"""Ray with what one writes by hand: both operands in its object store, a task for each strip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import ray

from benchmarks.peers import Array, BasePeer, one_blas_thread, strips


def _multiply(a: Array, b: Array) -> Array:
    product: Array = np.matmul(a, b)
    return product


_strip = ray.remote(_multiply)


class Peer(BasePeer):
    name = "Ray"
    #: Strips of rows.
    choices = (2, 4, 8, 16)

    def start(self, cores: Sequence[int]) -> None:
        with one_blas_thread():
            ray.init(num_cpus=len(cores), include_dashboard=False, log_to_driver=False)

    def matmul(self, a: Array, b: Array) -> Array:
        right = ray.put(b)
        parts = [_strip.remote(a[rows], right) for rows in strips(len(a), self.choice)]
        return np.concatenate(ray.get(parts))

    def stop(self) -> None:
        ray.shutdown()
