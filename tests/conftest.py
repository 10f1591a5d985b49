"""Fixtures that several test modules share: a cache for calibrations, and a cluster of two."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from deadheat.client import Client, LocalCluster

#: Agents of one core each; a machine with one core shares it.
CORES = sorted(os.sched_getaffinity(0))
TWO_AGENTS = [
    {"cpus": [CORES[0]], "shares_cpus": len(CORES) == 1},
    {"cpus": [CORES[-1]], "shares_cpus": len(CORES) == 1},
]

# A shell that starts tests in the background has them ignore Ctrl-C, and so would our processes.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No test depends on how fast the machine is; what it takes to repeat a failure is printed.
# CI tries the same examples every time; whoever runs them elsewhere looks for new ones.
settings.register_profile(
    "deadheat", deadline=None, print_blob=True, derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("deadheat")


@pytest.fixture(scope="session", autouse=True)
def calibration_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Calibrations are made once for the whole run, and never the user's own are touched."""
    directory = tmp_path_factory.mktemp("cache")
    before = os.environ.get("DEADHEAT_CACHE_DIR")
    os.environ["DEADHEAT_CACHE_DIR"] = str(directory)
    os.environ.pop("DEADHEAT_SCHEDULER", None)
    yield directory
    if before is None:
        del os.environ["DEADHEAT_CACHE_DIR"]
    else:
        os.environ["DEADHEAT_CACHE_DIR"] = before


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    """A scheduler, its store and two agents, shared by tests that leave it as they found it."""
    with LocalCluster(TWO_AGENTS) as running:
        yield running


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster.address) as connected:
        yield connected
