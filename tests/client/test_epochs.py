"""Training as one job: NumPy's steps, a checkpoint an epoch, and what survives whom."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.client.networks import stored
from tests.client.test_trainings import ANALYTIC, task
from tests.e2e.processes import daemons
from tests.waiting import wait_until

from deadheat.client import Client, InvalidInput, LimitReached, LocalCluster, NotFound, Offline, nn
from deadheat.client.nn import states
from deadheat.client.nn.losses import Epoch

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(43)
#: An epoch of these takes a good part of a second.
X = RNG.standard_normal((20_000, 300))
Y = RNG.integers(0, 10, len(X))
OPTIONS: dict[str, Any] = {"batch_size": 1000, "learning_rate": 0.05, "momentum": 0.9, "seed": 5}


def mlp() -> nn.MLP:
    """Of float64: in float32 rounding is soon a relu that is on rather than off."""
    return nn.MLP([300, 400, 10], dtype="float64", seed=2)


def expected(epochs: int) -> nn.MLP:
    network = mlp()
    Offline().train(network, X, Y, epochs=epochs, **OPTIONS)
    return network


def check_same(found: nn.Sequential, right: nn.Sequential, tolerance: float) -> None:
    for a, b in zip(found.parameters, right.parameters, strict=True):
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


@pytest.fixture(scope="module")
def shared(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster.address) as connected:
        yield connected


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("activation", list(ANALYTIC))
def test_an_epoch_takes_the_steps_that_are_taken_one_by_one(activation: str, loss: Any) -> None:
    networks = []
    for share in (False, True):
        network, x, y = task(activation, loss, rows=41)
        report = Offline().train(
            network, x, y, epochs=3, loss=loss, seed=1, batch_size=9, learning_rate=0.2,
            momentum=0.8, share=share,
        )  # fmt: skip
        networks.append((network, report))
    (ours, here), (theirs, there) = networks
    check_same(ours, theirs, 1e-12)
    assert np.allclose(here.losses, there.losses, rtol=1e-12)
    assert [epoch.steps for epoch in here.epochs] == [5, 5, 5]


def test_layers_need_no_function_between_them_and_no_bias() -> None:
    x, y = RNG.standard_normal((30, 6)), RNG.standard_normal((30, 2))
    made = []
    for share in (False, True):
        layers = [nn.Linear(6, 5, bias=False, dtype="float64", seed=1)]
        layers += [nn.Linear(5, 2, dtype="float64", seed=2)]
        network = nn.Sequential("tanh", nn.Flatten(), *layers, "sigmoid", "softmax", "none")
        Offline().train(network, x, y, epochs=2, loss="mse", seed=3, batch_size=8, share=share)
        made.append(network)
    check_same(made[0], made[1], 1e-12)


def test_a_training_is_one_job_with_a_placement_an_epoch(shared: Client) -> None:
    network, seen = mlp(), list[Epoch]()
    made = shared.train(network, X, Y, epochs=3, on_epoch=seen.append, **OPTIONS)
    check_same(network, expected(3), 1e-8)
    report = shared.report(made.job)
    assert (report.kind, report.state) == ("train", "done")
    names = ["epoch1", "epoch2", "epoch3"]
    # A row for each device: mostly it is one, since these steps are small.
    assert list(dict.fromkeys(p["operation"] for p in report.placements)) == names
    assert len({(p["operation"], p["device"]) for p in report.placements}) == len(report.placements)
    assert all(p["state"] == "done" for p in report.placements)
    assert tuple(seen) == made.epochs
    for number, epoch in enumerate(made.epochs, 1):
        assert (epoch.number, epoch.steps) == (number, 20)
        assert 0 < epoch.seconds < (report.makespan_s or 0)
        assert epoch.waiting is not None
        assert epoch.spread is not None
        assert 0 <= epoch.waiting < 1
        assert 0 <= epoch.spread < 1
    assert made.losses[2] < made.losses[0]
    assert re.search("an epoch, (shared|given to one device): ", shared.explain(made.job))
    assert made.as_dict()["job"] == made.job


def test_states_are_dropped_when_the_next_is_there_and_all_of_them_in_the_end(
    cluster: LocalCluster,
) -> None:
    with Client(cluster.address) as client:
        before = stored(client)

        def few(epoch: Epoch) -> None:
            # Samples, targets, orders, the first state; then the one that is made and that which
            # is read.
            wait_until(lambda: len(stored(client) - before) <= 4 + 2, "spent states to be dropped")

        client.train(mlp(), X, Y, epochs=6, on_epoch=few, **OPTIONS)
        gc.collect()  # States that were gone when they were asked for: exceptions hold frames.
        wait_until(lambda: stored(client) <= before, "all of it to be given up")


def test_a_loss_that_runs_away_fails_the_job_and_keeps_the_last_good_state(shared: Client) -> None:
    before = stored(shared)
    network, x, y = task("relu", "mse", rows=200, dtype="float32")
    kept: list[list[Array]] = [[array.copy() for array in network.parameters]]

    def keep(_: Epoch) -> None:
        kept.append([array.copy() for array in network.parameters])

    with pytest.raises(InvalidInput, match=r"learning_rate 100 is too large; the network's"):
        shared.train(
            network, x, y, epochs=50, learning_rate=100, loss="mse", batch_size=100, on_epoch=keep
        )
    assert all(np.array_equal(a, b) for a, b in zip(network.parameters, kept[-1], strict=True))
    job = shared.report("last")
    assert job.state == "failed"
    assert job.error
    assert job.error["code"] == "invalid_input"
    assert f"epoch {len(kept)}: learning_rate 100" in job.error["message"]
    gc.collect()
    wait_until(lambda: stored(shared) <= before, "the last state to be given up, too")


def test_whoever_raises_in_on_epoch_ends_the_training(shared: Client) -> None:
    def enough(_: Epoch) -> None:
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        shared.train(mlp(), X, Y, epochs=200, on_epoch=enough, **OPTIONS)
    assert shared.report("last").state == "cancelled"


def test_a_cancelled_training_leaves_the_last_epoch_to_the_network(shared: Client) -> None:
    network, told = mlp(), list[int]()

    def cancel(epoch: Epoch) -> None:
        told.append(epoch.number)
        if epoch.number == 1:
            shared.cancel("last")

    with pytest.raises(CancelledError):
        shared.train(network, X, Y, epochs=200, on_epoch=cancel, **OPTIONS)
    placements = shared.report("last").placements
    ended = {p["operation"] for p in placements} - {
        p["operation"] for p in placements if p["state"] != "done"
    }
    # Devices may have ended one more, whose state was not complete when it was cancelled.
    assert 1 <= told[-1] < 200
    assert len(ended) - told[-1] in (0, 1)
    check_same(network, expected(told[-1]), 1e-8)


_TRAINING = """
import sys
from tests.client.test_epochs import OPTIONS, X, Y, mlp
from deadheat.client import Client
with Client(sys.argv[1]) as client:
    client.train(mlp(), X, Y, epochs=4, on_epoch=lambda e: print(e.number, flush=True), **OPTIONS)
"""


def test_a_training_goes_on_without_the_process_that_began_it(shared: Client) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _TRAINING, shared.address],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "1\n"
        child.kill()
    network, numbers = mlp(), list[int]()
    made = shared.follow(network, "last", on_epoch=lambda epoch: numbers.append(epoch.number))
    assert numbers == [1, 2, 3, 4]
    assert len(made.epochs) == 4
    check_same(network, expected(4), 1e-8)


def test_only_trainings_are_followed_and_by_their_own_networks(shared: Client) -> None:
    made = shared.train(mlp(), X[:1000], Y[:1000], epochs=1, **OPTIONS)
    with pytest.raises(NotFound):
        shared.follow(mlp(), "nothing")
    shared.matmul(np.ones((600, 600)), np.ones((600, 600)), where="cluster")
    with pytest.raises(InvalidInput, match="trains nothing"):
        shared.follow(mlp(), "last")
    assert made.job


def test_a_training_whose_agent_is_killed_in_mid_epoch_goes_on_from_the_last_state(
    tmp_path: Path,
) -> None:
    with daemons(tmp_path) as found:
        address = str(found.scheduler().ready["address"])
        agents = {name: found.agent(address, name, at) for name, at in (("one", 0), ("two", -1))}
        network, killed = mlp(), list[str]()
        with Client(address) as client:

            def at_work() -> list[str]:
                placements = client.report("last").placements
                return [str(p["node"]) for p in placements if p["state"] == "running"]

            def caught() -> str:
                """The node that is at an epoch, which stands still from now on."""
                for name in at_work()[:1]:
                    os.kill(agents[name].pid, signal.SIGSTOP)
                    if name in at_work():
                        return name
                    os.kill(agents[name].pid, signal.SIGCONT)
                return ""

            def kill(epoch: Epoch) -> None:
                if epoch.number >= 2 and not killed:
                    killed.append(wait_until(caught, "an epoch to run"))
                    os.kill(agents[killed[0]].pid, signal.SIGKILL)

            made = client.train(network, X, Y, epochs=12, on_epoch=kill, **OPTIONS)
            placements = client.report(made.job).placements
        check_same(network, expected(12), 1e-8)
        done = dict.fromkeys(p["operation"] for p in placements if p["state"] == "done")
        assert list(done) == [f"epoch{number}" for number in range(1, 13)]
        # What it was at was worked anew by the other one.
        torn = [p for p in placements if p["state"] != "done" and p["node"] == killed[0]]
        (name,) = {p["operation"] for p in torn}
        again = [p for p in placements if p["operation"] == name and p["state"] == "done"]
        assert {p["node"] for p in again} == {"one", "two"} - set(killed)


def check_restart(
    folder: Path, network: nn.Sequential, x: Array, y: Array, *, epochs: int, **options: Any
) -> None:
    """Trains on one agent, whose scheduler is killed and started again after the second epoch."""
    with daemons(folder) as found:
        scheduler = found.scheduler()
        address = str(scheduler.ready["address"])
        found.agent(address, "one", 0)
        with Client(address) as client:

            def kill(epoch: Epoch) -> None:
                if epoch.number == 2:
                    os.kill(scheduler.pid, signal.SIGKILL)
                    scheduler.process.wait()
                    found.scheduler(address)

            made = client.train(network, x, y, epochs=epochs, on_epoch=kill, **options)
            placements = client.report(made.job).placements
        assert len(made.epochs) == epochs
        # Epochs that were over are not worked again.
        assert sum(p["operation"] in ("epoch1", "epoch2") for p in placements) == 2


def test_a_scheduler_that_is_killed_and_started_again_goes_on_with_the_training(
    tmp_path: Path,
) -> None:
    network = mlp()
    check_restart(tmp_path, network, X, Y, epochs=6, **OPTIONS)
    check_same(network, expected(6), 1e-8)


def test_orders_have_a_limit() -> None:
    with pytest.raises(LimitReached, match=r"take 1\.\d+ GiB; the limit is 1 GiB|limit is 1.0 GiB"):
        states.orders(np.random.default_rng(1), 300, 1_000_000)
    with pytest.raises(InvalidInput, match="epochs is 10001; one training has at most 10000"):
        states.orders(np.random.default_rng(1), 10_001, 10)
