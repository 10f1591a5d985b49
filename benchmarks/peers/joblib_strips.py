"""joblib with loky: a process for each core, large operands in memory-mapped files."""

from __future__ import annotations

from collections.abc import Sequence

import joblib
import numpy as np

from benchmarks.peers import Array, BasePeer, strips


class Peer(BasePeer):
    name = "joblib"
    #: Strips of rows.
    choices = (2, 4, 8)

    def start(self, cores: Sequence[int]) -> None:
        self._backend = joblib.parallel_config("loky", n_jobs=len(cores), inner_max_num_threads=1)
        self._backend.__enter__()
        self._pool = joblib.Parallel().__enter__()

    def matmul(self, a: Array, b: Array) -> Array:
        work = [joblib.delayed(np.matmul)(a[rows], b) for rows in strips(len(a), self.choice)]
        return np.concatenate(self._pool(work))

    def stop(self) -> None:
        self._pool.__exit__(None, None, None)
        self._backend.__exit__(None, None, None)
