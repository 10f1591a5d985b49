"""An agent on this host for which it is another one: it reaches the daemons through proxies only.

Its network namespace has nothing but loopback, and there the proxies listen; so it cannot map the
store's memory and streams, and what it streams can be broken.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from tests.conftest import CORES
from tests.e2e.networks import ip
from tests.e2e.processes import children_of, daemons
from tests.proxies import Proxy, proxy
from tests.waiting import wait_until

from deadheat.client import Client

_SERIAL = count()


@dataclass
class FarCluster:
    """A scheduler with its store here, and one agent that is far away."""

    address: str
    scheduler: int
    store: int
    agent: int
    #: Between the far agent and the store.
    blocks: Proxy
    namespace: str
    _running: ExitStack

    def kill_store(self) -> None:
        """And a proxy for the next one, as that has a port of its own."""
        os.kill(self.store, signal.SIGKILL)
        before = self.blocks.target[1]
        port = wait_until(lambda: _other_port(self.address, before), "the next store")
        assert port
        (self.store,) = children_of(self.scheduler)
        self.blocks = self._running.enter_context(
            proxy(port, listen_port=port, namespace=self.namespace)
        )

    @property
    def executor(self) -> int:
        (found,) = children_of(self.agent)
        return found


@contextmanager
def far_cluster(
    directory: Path,
    *,
    memory: str = "1GiB",
    agent_memory: str = "1GiB",
) -> Iterator[FarCluster]:
    namespace = f"dhf{os.getpid()}-{next(_SERIAL)}"
    with daemons(directory) as found, ExitStack() as running:
        ready = found.scheduler("127.0.0.1:0", "--memory", memory).ready
        ip("netns", "add", namespace)
        running.callback(subprocess.run, ["ip", "netns", "del", namespace], check=False)
        ip("-n", namespace, "link", "set", "lo", "up")
        address = str(ready["address"])
        port = int(address.rpartition(":")[2])
        store_port = _store_port(address)
        running.enter_context(proxy(port, listen_port=port, namespace=namespace))
        blocks = running.enter_context(
            proxy(store_port, listen_port=store_port, namespace=namespace)
        )
        agent = running.enter_context(
            _far_agent(namespace, directory / "far.log", address, agent_memory)
        )
        with Client(address) as client:
            wait_until(
                lambda: {n["name"] for n in client.nodes() if n["state"] == "up"} == {"far"},
                "the agents",
                timeout_s=150,
            )
        store = int(str(ready["store_pid"]))
        scheduler = found.started[0].pid
        yield FarCluster(address, scheduler, store, agent, blocks, namespace, running)


def _store_port(address: str) -> int:
    with Client(address) as client:
        return int(client._link.connection._store.port)


def _other_port(address: str, before: int) -> int | None:
    port = _store_port(address)
    return None if port == before else port


@contextmanager
def _far_agent(namespace: str, log: Path, address: str, memory: str) -> Iterator[int]:
    core = str(CORES[-1])
    with open(log, "ab") as output:
        process = subprocess.Popen(
            [
                *("ip", "netns", "exec", namespace, sys.executable, "-m", "deadheat.agent"),
                *("--scheduler", address, "--name", "far", "--cpus", core, "--memory", memory),
                *("--shares-cpus", "--gpus", "none"),
            ],
            stdout=output,
            stderr=output,
        )
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(60)
