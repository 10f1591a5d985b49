"""Models across the deaths of daemons: kept whole or not at all, and served again."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tests.client.kept_models import Array, close, held_at, network, samples
from tests.client.networks import numpys, same
from tests.e2e.processes import daemons
from tests.waiting import wait_until

from deadheat.client import Client, DeadheatError, nn
from deadheat.runtime.children import Child


def kill(child: Child) -> None:
    os.kill(child.pid, signal.SIGKILL)
    child.process.wait()


def test_models_survive_the_scheduler_and_are_served_again(tmp_path: Path) -> None:
    with daemons(tmp_path) as started:
        scheduler = started.scheduler()
        address = str(scheduler.ready["address"])
        started.agent(address, "a")
        x = samples(4)
        with Client(address) as client:
            assert client.models.save("m", network(1), note="first") == 1
            assert client.models.save("m", network(2)) == 2
            assert client.models.save("m", network(3)) == 3
            client.models.delete("m", 3)
            assert close(client.models.forward("m", x), numpys(network(2), x))
            kept = wait_until(lambda: len(h := held_at(address)) == 8 and h, "8 matrices")
            kill(scheduler)
            started.scheduler(address)
            # The same client calls on: it may repeat what nobody heard.
            assert client.models.show("m", 1).metadata == {"note": "first"}
            assert held_at(address) == kept
            for version in (1, 2):
                assert same(client.models.load("m", version), network(version))
            assert client.models.save("m", network(4)) == 4
            (made,) = wait_until(lambda: served(client, x), "the agent to come back")
            assert close(made, numpys(network(4), x))
            client.models.delete("m")
            wait_until(lambda: not held_at(address), "the matrices to be given up")


def served(client: Client, x: Array) -> list[Array]:
    """What came of a call, if something did."""
    try:
        return [client.models.forward("m", x, timeout=5)]
    except DeadheatError:
        return []


def test_a_crash_while_models_are_saved_leaves_whole_ones_only(tmp_path: Path) -> None:
    with daemons(tmp_path) as started:
        scheduler = started.scheduler()
        address = str(scheduler.ready["address"])
        acknowledged: dict[int, int] = {}
        enough = threading.Event()

        def save(seed: int) -> None:
            with Client(address) as client:
                while not enough.is_set():
                    try:
                        version = client.models.save("m", network(seed), seed=seed)
                    except DeadheatError:  # It was killed under us.
                        return
                    acknowledged[version] = seed
                    seed += 10

        with ThreadPoolExecutor(3) as threads:
            for seed in (1, 2, 3):
                threads.submit(save, seed)
            wait_until(lambda: len(acknowledged) >= 6, "some versions")
            kill(scheduler)
            enough.set()
        known = dict(acknowledged)
        again = started.scheduler(address)
        with Client(address) as client:
            found = client.models.list("m")
            versions = {model.version: model.metadata["seed"] for model in found}
            # Whatever was acknowledged is there; one more for each client may be.
            assert known.items() <= versions.items()
            assert len(versions) <= len(known) + 3
            for version, seed in versions.items():
                assert same(client.models.load("m", version), network(seed))
            # Nothing else is held: what was uploaded for no model expires as other uploads do.
            assert len(held_at(address)) == 4 * len(versions)
            assert client.models.save("m", network(1)) == max(versions) + 1
        assert again.process.poll() is None


def test_calls_go_on_when_the_store_and_an_agent_are_killed(tmp_path: Path) -> None:
    with daemons(tmp_path) as started:
        scheduler = started.scheduler()
        address = str(scheduler.ready["address"])
        agents = [started.agent(address, "a"), started.agent(address, "b", 1)]
        mlp = nn.MLP([600, 400, 8], seed=1)
        x = np.random.default_rng(1).standard_normal((40, 600)).astype("float32")
        expected = numpys(mlp, x)
        with Client(address) as client, ThreadPoolExecutor(4) as threads:
            client.models.save("m", mlp)
            stop = threading.Event()
            wrong: list[int] = []
            right: list[int] = []

            def call(at: int) -> None:
                while not stop.is_set():
                    at = (at + 1) % len(x)
                    try:
                        made = client.models.forward("m", x[at])
                    except DeadheatError:
                        continue  # Said with its cause; the next call may go through.
                    ok = np.allclose(made, expected[at], rtol=1e-4, atol=1e-4)
                    (right if ok else wrong).append(at)

            for number in range(4):
                threads.submit(call, number)
            try:
                wait_until(lambda: len(right) > 20, "calls")
                kill(agents[0])
                os.kill(int(str(scheduler.ready["store_pid"])), signal.SIGKILL)
                before = len(right)
                wait_until(lambda: len(right) > before + 40, "calls after the deaths", timeout_s=60)
            finally:
                stop.set()
            assert not wrong
            assert same(client.models.load("m"), mlp)
