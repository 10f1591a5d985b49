"""MPI, as one writes it: B to everybody, equal strips of A's rows, the product gathered.

The operands are rank 0's from the start, and its clock is the one that counts. Ranks that have
nothing to do sleep instead of spinning, so that they do not disturb the other side's turn.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import ONE_THREAD, Array, BasePeer, NotInstalled, strips

GO_TAG = 7
PAUSE_S = 0.001


class Peer(BasePeer):
    name = "MPI, equal cut"

    def start(self, cores: Sequence[int]) -> None:
        try:
            import mpi4py
        except ImportError as error:
            raise NotInstalled(str(error)) from None
        del mpi4py
        beside = Path(sys.executable).with_name("mpiexec")
        command = str(beside) if beside.exists() else shutil.which("mpiexec")
        if command is None:
            raise NotInstalled("mpiexec")
        self._directory = tempfile.TemporaryDirectory(prefix="deadheat-mpi-", dir="/dev/shm")
        self._loaded: tuple[int, int] | None = None
        self._process = subprocess.Popen(
            [command, "-n", str(len(cores)), sys.executable, "-m", __name__, self._directory.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ONE_THREAD},
        )
        self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise NotInstalled("the ranks did not start")
        return line

    def timed(self, a: Array, b: Array) -> tuple[float, Array]:
        directory = Path(self._directory.name)
        if self._loaded != (id(a), id(b)):
            np.save(directory / "a.npy", a)
            np.save(directory / "b.npy", b)
            self._loaded = id(a), id(b)
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        seconds = float(self._answer())
        return seconds, np.load(directory / "c.npy")

    def matmul(self, a: Array, b: Array) -> Array:
        return self.timed(a, b)[1]

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._directory.cleanup()


def _product(comm: Any, a: Array | None, b: Array | None) -> Array | None:
    """One product; operands and result are rank 0's."""
    rank, size = comm.Get_rank(), comm.Get_size()
    sizes = comm.bcast(None if a is None or b is None else (*a.shape, b.shape[1], a.dtype.str))
    m, k, n, dtype = sizes
    cuts = strips(m, size)
    if b is None:
        b = np.empty((k, n), dtype)
    comm.Bcast(b)
    mine = np.empty((cuts[rank].stop - cuts[rank].start, k), dtype)
    counts = [cut.stop - cut.start for cut in cuts]
    whole = None if a is None else [a, [count * k for count in counts]]
    comm.Scatterv(whole, mine)
    product = np.empty((m, n), dtype) if rank == 0 else None
    gathered = None if product is None else [product, [count * n for count in counts]]
    comm.Gatherv(np.matmul(mine, b), gathered)
    return product


def _serve(directory: Path) -> None:
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    others = range(1, comm.Get_size())
    if comm.Get_rank():
        while True:
            while not comm.Iprobe(source=0, tag=GO_TAG):
                time.sleep(PAUSE_S)
            if not comm.recv(source=0, tag=GO_TAG):
                return
            _product(comm, None, None)
    print("ready", flush=True)
    while sys.stdin.readline():
        a, b = np.load(directory / "a.npy"), np.load(directory / "b.npy")
        started_s = time.perf_counter()
        for rank in others:
            comm.send(True, rank, GO_TAG)
        product = _product(comm, a, b)
        seconds = time.perf_counter() - started_s
        assert product is not None
        np.save(directory / "c.npy", product)
        print(seconds, flush=True)
    for rank in others:
        comm.send(False, rank, GO_TAG)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
