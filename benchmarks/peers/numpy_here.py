"""NumPy in this process, with one BLAS thread for each core."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.peers import Array, BasePeer


class Peer(BasePeer):
    name = "NumPy"

    def start(self, cores: Sequence[int]) -> None:
        self._limits = threadpool_limits(len(cores), "blas")

    def matmul(self, a: Array, b: Array) -> Array:
        return np.matmul(a, b)

    def stop(self) -> None:
        self._limits.restore_original_limits()
