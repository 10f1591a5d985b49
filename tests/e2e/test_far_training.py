"""A training whose agent streams samples and states, over a network that breaks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.e2e.far import far_cluster
from tests.e2e.networks import needs_namespaces
from tests.proxies import Fault

from deadheat.client import Client, Offline, nn

pytestmark = [pytest.mark.root, needs_namespaces]


def test_a_training_on_another_host_takes_the_same_steps(tmp_path: Path) -> None:
    rng = np.random.default_rng(53)
    x, y = rng.standard_normal((5000, 200)), rng.integers(0, 5, 5000)
    networks = [nn.MLP([200, 300, 5], dtype="float64", seed=1) for _ in range(2)]
    options = {"epochs": 4, "batch_size": 500, "learning_rate": 0.1, "momentum": 0.5, "seed": 2}
    with far_cluster(tmp_path) as found, Client(found.address) as client:
        found.blocks.add(Fault("reset", 1 << 20), Fault("flip", (1 << 20) + 55))
        made = client.train(networks[0], x, y, **options)  # type: ignore[arg-type]
        (device,) = client.report(made.job).devices
    Offline().train(networks[1], x, y, **options)  # type: ignore[arg-type]
    for a, b in zip(networks[0].parameters, networks[1].parameters, strict=True):
        assert np.abs(a - b).max() <= 1e-11 * np.abs(b).max()
    # Samples went there once; the state came and went with each epoch.
    state_bytes = 2 * networks[0].parameters[0].nbytes
    assert x.nbytes <= device["bytes_in"] <= 2 * x.nbytes + 8 * state_bytes
