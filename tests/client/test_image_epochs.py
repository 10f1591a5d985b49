"""Networks of images are trained as others are: one job, a checkpoint an epoch, and what survives
whom."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.client.test_epochs import check_restart, check_same
from tests.client.test_gradients import IMAGES, randomly_biased

from deadheat.client import Client, InvalidInput, LocalCluster, Offline, nn
from deadheat.client.nn.descent import Rule
from deadheat.client.nn.losses import LOSSES, Epoch
from deadheat.client.nn.states import descent_of, packed, unpacked

RNG = np.random.default_rng(47)
#: An epoch of these takes a good part of a second.
X = RNG.standard_normal((2000, 2, 16, 16))
Y = RNG.integers(0, 10, len(X))
OPTIONS: dict[str, Any] = {"batch_size": 100, "learning_rate": 0.02, "momentum": 0.9, "seed": 5}


def network() -> nn.Sequential:
    """Takes images of any size. Without derivatives that jump, where rounding would decide."""
    return nn.Sequential(
        nn.Conv2d(2, 12, 3, padding=1, dtype="float64", seed=1), "tanh", nn.AvgPool2d(2),
        nn.Conv2d(12, 16, 3, dtype="float64", seed=2), "sigmoid", nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(16 * 9, 10, dtype="float64", seed=3),
    )  # fmt: skip


def expected(epochs: int) -> nn.Sequential:
    made = network()
    Offline().train(made, X, Y, epochs=epochs, **OPTIONS)
    return made


@pytest.mark.parametrize("loss", list(LOSSES))
@pytest.mark.parametrize("which", list(IMAGES))
@settings(max_examples=8, deadline=None)
@given(
    rows=st.integers(1, 50),
    batch=st.integers(5, 60),
    momentum=st.sampled_from([0.0, 0.8]),
    seed=st.integers(0, 2**32),
)
def test_an_epoch_takes_the_steps_that_are_taken_one_by_one(
    which: str, loss: Any, rows: int, batch: int, momentum: float, seed: int
) -> None:
    made = []
    for share in (False, True):
        rng = np.random.default_rng(seed)
        one = randomly_biased(IMAGES[which](), rng)
        x = rng.standard_normal((rows, one.inputs))
        y: Any = rng.integers(0, one.outputs, rows)
        if loss == "mse":
            y = rng.standard_normal((rows, one.outputs))
        report = Offline().train(
            one, x, y, epochs=2, loss=loss, seed=1, batch_size=batch, learning_rate=0.05,
            momentum=momentum, share=share,
        )  # fmt: skip
        made.append((one, report))
    (ours, here), (theirs, there) = made
    check_same(ours, theirs, 1e-10)
    assert np.allclose(here.losses, there.losses, rtol=1e-10)


@pytest.mark.parametrize("which", list(IMAGES))
def test_parameters_come_back_from_a_state_as_they_were(which: str) -> None:
    made = randomly_biased(IMAGES[which](), np.random.default_rng(3))
    kind = descent_of(made, "mse", Rule(0.1, 0.5), epochs=3, batch_size=8)
    state = packed(made, kind)
    found = unpacked(made, state)
    for array, right in zip(found, made.parameters, strict=True):
        assert np.array_equal(array, right)
        assert not np.shares_memory(array, state)


def test_a_training_of_images_is_one_job_with_a_placement_an_epoch(cluster: LocalCluster) -> None:
    made, seen = network(), list[Epoch]()
    with Client(cluster.address) as client:
        report = client.train(made, X, Y, epochs=3, on_epoch=seen.append, **OPTIONS)
        check_same(made, expected(3), 1e-8)
        job = client.report(report.job)
        assert (job.kind, job.state) == ("train", "done")
        names = ["epoch1", "epoch2", "epoch3"]
        assert list(dict.fromkeys(p["operation"] for p in job.placements)) == names
        assert tuple(seen) == report.epochs
        for epoch in report.epochs:
            assert epoch.steps == 20
            assert epoch.waiting is not None
            assert epoch.spread is not None
            assert 0 <= epoch.waiting < 1
            assert 0 <= epoch.spread < 1


_TRAINING = """
import sys
from tests.client.test_image_epochs import OPTIONS, X, Y, network
from deadheat.client import Client
with Client(sys.argv[1]) as client:
    told = lambda epoch: print(epoch.number, flush=True)
    client.train(network(), X, Y, epochs=4, on_epoch=told, **OPTIONS)
"""


def test_a_training_of_images_goes_on_without_the_process_that_began_it(
    cluster: LocalCluster,
) -> None:
    """Whoever follows it need not know how large the images are."""
    with subprocess.Popen(
        [sys.executable, "-c", _TRAINING, cluster.address],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "1\n"
        child.kill()
    made, numbers = network(), list[int]()
    with Client(cluster.address) as client:
        report = client.follow(made, "last", on_epoch=lambda epoch: numbers.append(epoch.number))
    assert numbers == [1, 2, 3, 4]
    assert len(report.epochs) == 4
    check_same(made, expected(4), 1e-8)


def test_a_batch_whose_steps_are_too_large_is_refused_before_anything_is_sent(
    cluster: LocalCluster,
) -> None:
    big = nn.Sequential(nn.Conv2d(1, 4096, 1), "relu", nn.Flatten(), nn.Linear(4096 * 4096, 1))
    with (
        Client(cluster.address) as client,
        pytest.raises(InvalidInput, match=r"a step on 64 rows makes \d+ bytes; the limit is 85899"),
    ):
        client.train(
            big, np.zeros((64, 1, 64, 64), "float32"), np.zeros(64, int), epochs=1, batch_size=64
        )


def test_a_scheduler_that_is_killed_and_started_again_goes_on_with_the_training(
    tmp_path: Path,
) -> None:
    made = network()
    check_restart(tmp_path, made, X, Y, epochs=5, **OPTIONS)
    check_same(made, expected(5), 1e-8)
