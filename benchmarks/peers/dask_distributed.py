"""Dask distributed: one process for each core, arrays in square chunks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from benchmarks.peers import Array, BasePeer, one_blas_thread

# They are typed in part only.
arrays: Any = import_module("dask.array")
distributed: Any = import_module("distributed")


class Peer(BasePeer):
    name = "Dask"
    #: Chunks on each side.
    choices = (2, 4)

    def start(self, cores: Sequence[int]) -> None:
        # It would rather load data itself; ours are in memory, as everybody's are here.
        warnings.filterwarnings("ignore", message="Sending large graph")
        with one_blas_thread():
            self._cluster = distributed.LocalCluster(
                n_workers=len(cores), threads_per_worker=1, processes=True, dashboard_address=None
            )
        self._client = distributed.Client(self._cluster)

    def matmul(self, a: Array, b: Array) -> Array:
        side = -(-max(*a.shape, *b.shape) // self.choice)
        left = arrays.from_array(a, chunks=(side, side))
        right = arrays.from_array(b, chunks=(side, side))
        return (left @ right).compute(scheduler=self._client)

    def stop(self) -> None:
        self._client.close()
        self._cluster.close()
