"""A cluster whose agent streams every block, over a network that breaks and in little memory."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from tests.e2e.far import FarCluster, far_cluster
from tests.e2e.networks import needs_namespaces
from tests.proxies import Fault
from tests.waiting import wait_until

from deadheat.client import Client

pytestmark = [pytest.mark.root, needs_namespaces]

RNG = np.random.default_rng(23)
MIB = 1 << 20


def integers(rows: int, columns: int) -> np.ndarray:
    """Of which products are exact in float64, whatever the order of summation."""
    return RNG.integers(-8, 9, (rows, columns)).astype(np.float64)


def test_what_breaks_on_its_way_to_and_from_an_agent_is_moved_again(tmp_path: Path) -> None:
    a, b = integers(1500, 1000), integers(1000, 1400)
    with far_cluster(tmp_path) as found, Client(found.address) as client:
        faults = [
            Fault("reset", 3 * MIB),
            Fault("flip", 2 * MIB + 55),
            Fault("truncate", 2 * MIB),
            Fault("reset", 3 * MIB, to_client=False),
            Fault("flip", 2 * MIB + 55, to_client=False),
            Fault("truncate", 2 * MIB, to_client=False),
        ]
        found.blocks.add(*faults)
        for _ in range(3):
            assert np.array_equal(client.submit_matmul(a, b).result(60), a @ b)
            a = a + 1
        assert all(fault.happened.is_set() for fault in faults)
