"""Epochs that two agents share, in real processes: one device's steps, whoever is killed."""

from __future__ import annotations

import os
import signal
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.client.test_epochs import check_same
from tests.e2e.processes import daemons
from tests.waiting import wait_until

from deadheat.client import Client, LocalCluster, Offline, nn
from deadheat.client.nn.losses import Epoch

#: Steps that take so long that gradients on their way are little of it.
RNG = np.random.default_rng(61)
X = RNG.standard_normal((8192, 300))
Y = RNG.integers(0, 10, len(X))
OPTIONS: dict[str, Any] = {"batch_size": 4096, "learning_rate": 0.02, "momentum": 0.9, "seed": 7}
#: Whether it pays depends on who else uses the machine: it is looked at so often.
TRIES = 20


def mlp() -> nn.MLP:
    return nn.MLP([300, 900, 900, 10], "tanh", dtype="float64", seed=3)


def expected(epochs: int) -> nn.MLP:
    network = mlp()
    Offline().train(network, X, Y, epochs=epochs, **OPTIONS)
    return network


def shared_epochs(client: Client, job: str) -> dict[str, set[str]]:
    """The devices of each epoch that has more than one."""
    found: dict[str, set[str]] = {}
    for placement in client.report(job).placements:
        found.setdefault(str(placement["operation"]), set()).add(str(placement["device"]))
    return {name: devices for name, devices in found.items() if len(devices) > 1}


def test_two_agents_take_one_devices_steps_and_say_how(cluster: LocalCluster) -> None:
    right = expected(2)
    with Client(cluster.address) as client:
        for _ in range(TRIES):
            network = mlp()
            made = client.train(network, X, Y, epochs=2, **OPTIONS)
            check_same(network, right, 1e-9)
            if shared_epochs(client, made.job):
                break
        else:
            raise AssertionError(client.explain(made.job))
        placements = client.report(made.job).placements
        # One row for each device and epoch.
        rows = [(p["operation"], p["device"]) for p in placements]
        assert len(rows) == len(set(rows))
        assert all(p["state"] == "done" for p in placements)
        text = client.explain(made.job)
        assert "an epoch, shared: of each batch's rows each device takes its part" in text
        assert "of which gradients take" in text
        assert [epoch.steps for epoch in made.epochs] == [2, 2]


def test_a_step_that_is_too_small_takes_one_device_and_says_so(cluster: LocalCluster) -> None:
    with Client(cluster.address) as client:
        small = nn.MLP([20, 30, 5], seed=1)
        x, y = X[:1000, :20].astype("float32"), Y[:1000] % 5
        made = client.train(small, x, y, epochs=2, batch_size=50, seed=1)
        assert not shared_epochs(client, made.job)
        assert "its steps are too small to share: with " in client.explain(made.job)


def at_work(client: Client) -> list[str]:
    """The nodes that are at an epoch now."""
    placements = client.report("last").placements
    return [str(p["node"]) for p in placements if p["state"] in ("assigned", "running")]


def test_an_agent_that_is_killed_in_mid_epoch_ends_the_epoch_and_not_the_training(
    tmp_path: Path,
) -> None:
    epochs = 12
    with daemons(tmp_path) as found:
        address = str(found.scheduler().ready["address"])
        agents = {name: found.agent(address, name, at) for name, at in (("one", 0), ("two", -1))}
        network, killed = mlp(), list[str]()
        with Client(address) as client:

            def kill(_: Epoch) -> None:
                """The one that is the root, if both are at an epoch now."""
                if killed or len(active := at_work(client)) < 2:
                    return
                root = agents[active[0]]
                # Without it the epoch does not end: it still is at it when it is killed.
                os.kill(root.pid, signal.SIGSTOP)
                if len(at_work(client)) == 2:
                    killed.append(active[0])
                    os.kill(root.pid, signal.SIGKILL)
                else:
                    os.kill(root.pid, signal.SIGCONT)

            made = client.train(network, X, Y, epochs=epochs, on_epoch=kill, **OPTIONS)
            report = client.report(made.job)
        assert killed, report.placements
        assert len(made.epochs) == epochs
        check_same(network, expected(epochs), 1e-8)
        torn = [p for p in report.placements if p["state"] in ("superseded", "failed")]
        assert {p["node"] for p in torn} == {"one", "two"}
        # It was worked anew by whoever is left.
        (name,) = {p["operation"] for p in torn}
        again = [p for p in report.placements if p["operation"] == name and p["attempt"] == 2]
        assert {p["node"] for p in again} == {"one", "two"} - set(killed)


def test_a_scheduler_that_is_killed_among_shared_epochs_hears_their_ends_from_the_agents(
    tmp_path: Path,
) -> None:
    epochs, kills = 12, 3
    with daemons(tmp_path) as found:
        started = [found.scheduler()]
        address = str(started[0].ready["address"])
        for name, at in (("one", 0), ("two", -1)):
            found.agent(address, name, at)
        network = mlp()
        with Client(address) as client:

            def kill(epoch: Epoch) -> None:
                if epoch.number % 3 == 0 and len(started) <= kills:
                    os.kill(started[-1].pid, signal.SIGKILL)
                    started[-1].process.wait()
                    started.append(found.scheduler(address))

            made = client.train(network, X, Y, epochs=epochs, on_epoch=kill, **OPTIONS)
            report = client.report(made.job)
        assert len(started) == kills + 1
        assert len(made.epochs) == epochs
        check_same(network, expected(epochs), 1e-8)
        done = [p for p in report.placements if p["state"] == "done"]
        assert {p["state"] for p in report.placements} <= {"done", "superseded"}
        # What agents said of their ends was heard and recorded, whoever was there when they ended.
        assert all(p["start_s"] is not None and p["finish_s"] is not None for p in done)
        assert {p["operation"] for p in done} == {f"epoch{n + 1}" for n in range(epochs)}
        rows = [(p["operation"], p["device"]) for p in done]
        assert len(rows) == len(set(rows))


def test_a_cancelled_training_ends_on_all_devices(cluster: LocalCluster) -> None:
    with Client(cluster.address) as client:

        def cancel(_: Epoch) -> None:
            client.cancel("last")

        with pytest.raises(CancelledError):
            client.train(mlp(), X, Y, epochs=400, on_epoch=cancel, **OPTIONS)
        assert client.report("last").state == "cancelled"
        # Both are free for others.
        product = client.matmul(np.ones((900, 900)), np.ones((900, 900)), where="cluster")
        assert (product == 900).all()
        wait_until(lambda: all(n["state"] == "up" for n in client.nodes()), "both agents")
