"""Those we are measured against, one module each, behind one small interface.

Each module has a class `Peer`. What it needs is the optional group `bench`; a peer that is not
installed is left out, by name. All run on the same cores (the affinity of this process, which their
workers inherit) with one BLAS thread for each worker.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import pairwise
from typing import Any, ClassVar

from benchmarks.measuring import LeftOut

Array = Any

NAMES = (
    "numpy_here",
    "dask_distributed",
    "ray_strips",
    "joblib_strips",
    "mpi_equal",
    "starpu_dmda",
)
ONE_THREAD = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


class NotInstalled(LeftOut):
    """What a peer needs is not here."""


class BasePeer(ABC):
    """A way to multiply. `choices` are settings of which the fastest is used."""

    name: ClassVar[str]
    choices: ClassVar[Sequence[int]] = (0,)

    def __init__(self) -> None:
        self.choice = self.choices[0]

    @abstractmethod
    def start(self, cores: Sequence[int]) -> None:
        """Starts its workers; raises NotInstalled."""

    @abstractmethod
    def matmul(self, a: Array, b: Array) -> Array:
        """NumPy in, NumPy out. None if it cannot say its result."""

    def timed(self, a: Array, b: Array) -> tuple[float, Array]:
        """Seconds of one product, end to end, and the product."""
        started_s = time.perf_counter()
        product = self.matmul(a, b)
        return time.perf_counter() - started_s, product

    def workers(self) -> list[int]:
        """The processes that multiply, for those of whom one is held back."""
        raise LeftOut(f"{self.name} does not say which its workers are")

    @abstractmethod
    def stop(self) -> None:
        """Ends its workers."""


def load(name: str) -> BasePeer:
    """The peer of a module; raises NotInstalled."""
    try:
        peer: BasePeer = import_module(f"benchmarks.peers.{name}").Peer()
    except ImportError as error:
        raise NotInstalled(f"not installed: {error}") from None
    return peer


@contextmanager
def started(name: str, cores: Sequence[int]) -> Iterator[BasePeer]:
    """A peer with its workers on these cores."""
    peer = load(name)
    peer.start(cores)
    try:
        yield peer
    finally:
        peer.stop()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Processes that are started in this block have one BLAS thread each."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def strips(rows: int, count: int) -> list[slice]:
    """Rows in `count` strips of nearly one height."""
    cuts = [rows * k // count for k in range(count + 1)]
    return [slice(start, stop) for start, stop in pairwise(cuts)]
