"""A real agent beside a stub of NVML: GPUs in `nodes`, lost and hanging while a job runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.agent.nvml import H100, LOST, STATE_VARIABLE, T4, Stub
from tests.cli.running import deadheat
from tests.conftest import CORES
from tests.waiting import wait_until

from deadheat.client import Client, ClusterError, LocalCluster


@pytest.fixture
def driver(nvml_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """The stub as every child's NVML; this process does not load it."""
    before = os.environ.get("LD_LIBRARY_PATH", "")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{nvml_library.parent}:{before}".rstrip(":"))
    stub = Stub(tmp_path / "nvml.state")
    monkeypatch.setenv(STATE_VARIABLE, str(stub.state))
    yield stub
    stub.end()


def gpu(client: Client, number: int = 0) -> Any:
    (node,) = client.nodes()
    assert node["state"] == "up"
    return next(one for one in node["devices"] if one["id"].endswith(f"/gpu{number}"))


@pytest.mark.parametrize(
    "fault",
    [f"fail DeviceGetMemoryInfo {LOST} GPU-a", "hang DeviceGetUtilizationRates 30000 GPU-a"],
    ids=["lost", "hanging"],
)
def test_a_gpu_that_goes_in_mid_job_disturbs_neither_job_nor_node(driver: Stub, fault: str) -> None:
    driver.say(H100, T4)
    random = np.random.default_rng(1)
    a, b = random.random((3000, 2000)), random.random((2000, 2500))
    with (
        LocalCluster([{"cpus": [CORES[0]], "name": "n"}]) as cluster,
        Client(cluster.address) as client,
    ):
        wait_until(lambda: gpu(client)["busy"], "its load")
        found = gpu(client)
        assert (found["kind"], found["model"], found["busy"]) == ("gpu", "NVIDIA H100", 0.37)
        assert found["foreign"] == 0.37
        job = client.submit_matmul(a, b)
        driver.say(H100, T4.replace("util=0", "util=90"), fault)
        # The other GPU's new load arrives: the agent goes on looking, and saying.
        wait_until(lambda: gpu(client, 1)["busy"] == 0.9, "the other GPU's load")
        words = "GPU is lost" if "fail" in fault else "the driver does not answer"
        wait_until(lambda: words in (gpu(client)["problem"] or ""), "what is wrong with it")
        assert gpu(client)["busy"] is None
        shown = deadheat("nodes", environment={"DEADHEAT_SCHEDULER": cluster.address}).stdout
        assert any(one.startswith("n/gpu0: ") and words in one for one in shown.splitlines())
        np.testing.assert_allclose(job.result(timeout=120), a @ b)
        driver.say(H100.replace("util=37", "util=55"), T4)
        wait_until(lambda: gpu(client)["busy"] == 0.55, "it to be back")


def test_a_gpu_that_an_agent_counts_on_and_that_is_not_there_is_missed_in_nodes(
    driver: Stub,
) -> None:
    driver.say(T4)
    agent = {"cpus": [CORES[0]], "name": "n", "gpus": "GPU-a"}
    with LocalCluster([agent]) as cluster, Client(cluster.address) as client:
        found = wait_until(lambda: (client.nodes()[0]["host"] or {}).get("problem"), "the word")
        assert (
            found == "GPUs are missing: NVML does not show GPU-a, which this agent was told to use"
        )
        shown = deadheat("nodes", environment={"DEADHEAT_SCHEDULER": cluster.address}).stdout
        assert f"n: {found}" in shown.splitlines()


def test_of_two_agents_with_one_gpu_the_second_is_refused_with_its_uuid(driver: Stub) -> None:
    driver.say(H100, T4)
    agents: list[dict[str, Any]] = [
        {"cpus": [CORES[0]], "name": name, "gpus": gpus, "shares_cpus": True}
        for name, gpus in (("one", [0, 1]), ("two", ["GPU-a"]))
    ]
    words = "agent '(one|two)' has the card GPU-a already, as (one|two)/gpu0; give other --gpus"
    with pytest.raises(ClusterError, match=words):
        LocalCluster(agents)
    agents[0]["gpus"] = [1]
    with LocalCluster(agents) as cluster, Client(cluster.address) as client:
        ids = {device["id"] for node in client.nodes() for device in node["devices"]}
        assert ids == {"one/cpu", "one/gpu0", "two/cpu", "two/gpu0"}


def test_a_gpu_that_appears_late_is_registered_then_and_shown_with_all_figures(
    driver: Stub,
) -> None:
    driver.unload()
    with (
        LocalCluster([{"cpus": [CORES[0]], "name": "n"}]) as cluster,
        Client(cluster.address) as client,
    ):
        (node,) = client.nodes()
        assert [one["kind"] for one in node["devices"]] == ["cpu"]
        assert node["devices"][0]["gpu"] is None
        driver.say(T4)
        wait_until(lambda: len(client.nodes()[0]["devices"]) == 2, "the GPU")
        driver.say(T4, H100)
        wait_until(lambda: len(client.nodes()[0]["devices"]) == 3, "another GPU")
        found = wait_until(
            lambda: gpu(client, 1) if (gpu(client, 1)["gpu"] or {}).get("power_watts") else None,
            "its figures",
        )
        assert found is not None
        assert found["model"] == "NVIDIA H100"
        assert found["gpu"] == {
            "memory_busy": 0.12,
            "power_watts": 310.5,
            "power_limit_watts": 700.0,
            "temperature_celsius": 64.0,
            "clock_hz": 1.755e9,
            "clock_max_hz": 1.98e9,
            "pcie_generation": 4,
            "pcie_generation_max": 5,
            "pcie_lanes": 16,
            "pcie_in_bytes_per_s": 1e6,
            "pcie_out_bytes_per_s": 2e6,
            "throttle": ["power cap"],
            "processes": 0,
            "memory_used_bytes": 2048 << 20,
        }
        # What a driver does not say is null.
        assert gpu(client, 0)["gpu"]["pcie_lanes"] in (None, 0)
