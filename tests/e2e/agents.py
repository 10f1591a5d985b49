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
    child = Child(
        "deadheat.agent", ["--scheduler", address, "--name", name, "--cpus", cores, *shares]
    )
    try:
        child.wait_ready(150)
        yield child
    finally:
        child.stop()
