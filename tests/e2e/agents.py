"""An agent that joins a cluster later, and goes again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.conftest import CORES

from deadheat.runtime.children import Child


@contextmanager
def agent(address: str, cpus: Sequence[int], name: str = "late") -> Iterator[Child]:
    shares = ["--shares-cpus"] if len(CORES) == 1 else []
    cores = ",".join(map(str, cpus))
    own = ["--name", name, "--cpus", cores, "--gpus", "none", *shares]
    child = Child("deadheat.agent", ["--scheduler", address, *own])
    try:
        child.wait_ready(150)
        yield child
    finally:
        child.stop()
