"""Cards and cores of one agent share products: a real cluster over the stubs of NVML and CuPy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.agent import cards
from tests.agent.nvml import H100, STATE_VARIABLE, T4, Stub
from tests.conftest import CORES
from tests.waiting import wait_until

from deadheat.client import Client, LocalCluster
from deadheat.runtime.errors import InvalidInput

IDLE = H100.replace("util=37", "util=0")


@pytest.fixture
def driver(nvml_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """The stubs as every child's NVML and CuPy."""
    before = os.environ.get("LD_LIBRARY_PATH", "")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{nvml_library.parent}:{before}".rstrip(":"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    stub = Stub(tmp_path / "nvml.state")
    monkeypatch.setenv(STATE_VARIABLE, str(stub.state))
    for name, value in cards.environment(tmp_path / "cards.json").items():
        monkeypatch.setenv(name, value)
    yield stub
    stub.end()


def devices(client: Client) -> dict[str, Any]:
    return {one["id"]: one for node in client.nodes() for one in node["devices"]}


def computing(client: Client, *names: str) -> bool:
    found = devices(client)
    return all(name in found and found[name]["speed_flops"] for name in names)


def test_two_cards_and_the_cores_share_a_product(driver: Stub) -> None:
    driver.say(IDLE, T4)
    random = np.random.default_rng(1)
    a, b = random.random((4000, 1500)), random.random((1500, 4000))
    agent = {"cpus": [CORES[0]], "name": "n", "gpus": [0, "GPU-b"]}
    with LocalCluster([agent]) as cluster, Client(cluster.address) as client:
        wait_until(lambda: computing(client, "n/gpu0", "n/gpu1"), "both cards", timeout_s=120)
        assert "float16" in devices(client)["n/gpu0"]["speed_flops"]
        job = client.submit_matmul(a, b, cut="equal")
        np.testing.assert_allclose(job.result(timeout=120), a @ b, rtol=1e-10)
        shares = {one["device"]: one["share"] for one in job.report().as_dict()["devices"]}
        assert set(shares) == {"n/cpu", "n/gpu0", "n/gpu1"}
        assert sum(shares.values()) == pytest.approx(1.0)
        job = client.submit_matmul(a.astype(np.float16), b.astype(np.float16))
        expected = a.astype(np.float16).astype(np.float32) @ b.astype(np.float16).astype(np.float32)
        np.testing.assert_allclose(job.result(timeout=120).astype(np.float32), expected, rtol=2e-3)


def test_only_the_cards_part_of_a_product_is_tf32_and_only_if_asked(driver: Stub) -> None:
    driver.say(IDLE)
    random = np.random.default_rng(5)
    # All a little above 1, which is what ten bits leave of them.
    a, b = (1 + random.integers(1, 4, (2, 2000, 500)) * 2.0**-13).astype(np.float32)
    exact = a.astype(np.float64) @ b.T.astype(np.float64)
    # 500 times the two least differences are 0.12, and rounding in float32 is nothing to that.
    off = 0.05
    with (
        LocalCluster([{"cpus": [CORES[0]], "name": "n"}]) as cluster,
        Client(cluster.address) as client,
    ):
        wait_until(lambda: computing(client, "n/gpu0"), "the card", timeout_s=120)
        for precision in ("strict", "tf32"):
            job = client.submit_matmul(a, b.T, cut="equal", precision=precision)
            far = np.abs(job.result(timeout=120) - exact).max(axis=1) > off
            report = job.report()
            rows = dict.fromkeys(range(2000), "")
            for done in (one for one in report.placements if one["state"] == "done"):
                rows.update(dict.fromkeys(range(*done["rows"]), done["device"]))
            by_card = np.array([device == "n/gpu0" for device in rows.values()])
            assert by_card.any()
            assert not by_card.all()
            assert (far == (by_card & (precision == "tf32"))).all()
            assert report.precision == precision


def test_a_card_that_breaks_in_mid_job_costs_no_result(driver: Stub, tmp_path: Path) -> None:
    driver.say(IDLE)
    random = np.random.default_rng(2)
    a, b = random.random((3000, 1500)), random.random((1500, 3000))
    with (
        LocalCluster([{"cpus": [CORES[0]], "name": "n"}]) as cluster,
        Client(cluster.address) as client,
    ):
        wait_until(lambda: computing(client, "n/gpu0"), "the card", timeout_s=120)
        # Its first product does not end before it breaks.
        cards.say(tmp_path / "cards.json", any_={"slow_s": 600.0})
        job = client.submit_matmul(a, b, cut="equal")
        cards.say(tmp_path / "cards.json", any_={"sticky": 700})
        np.testing.assert_allclose(job.result(timeout=120), a @ b, rtol=1e-10)
        log = cluster.logs / "agent-n.log"
        wait_until(lambda: "cudaError700" in log.read_text(), "the reason in the log")


def test_a_card_without_an_executor_is_left_out_with_its_reason(
    driver: Stub, tmp_path: Path
) -> None:
    driver.say(IDLE)
    cards.say(tmp_path / "cards.json", any_={"absent": True})
    a = np.random.default_rng(3).random((900, 900))
    with (
        LocalCluster([{"cpus": [CORES[0]], "name": "n"}]) as cluster,
        Client(cluster.address) as client,
    ):
        log = cluster.logs / "agent-n.log"
        wait_until(lambda: "n/gpu0 does not compute" in log.read_text(), "the reason", timeout_s=60)
        # The log has it before the scheduler has.
        wait_until(
            lambda: "cudaError100" in (devices(client)["n/gpu0"]["problem"] or ""), "it in nodes"
        )
        assert devices(client)["n/gpu0"]["speed_flops"] == {}
        job = client.submit_matmul(a, a)
        np.testing.assert_allclose(job.result(timeout=60), a @ a)
        assert "cudaError100" in str(client.explain(job.id))


def test_several_agents_have_the_cards_that_they_name(driver: Stub) -> None:
    driver.say(IDLE, T4)
    agents: list[dict[str, Any]] = [
        {"cpus": [CORES[0]], "name": "one", "gpus": ["GPU-b"], "shares_cpus": True},
        {"cpus": [CORES[0]], "name": "two", "shares_cpus": True},
    ]
    with LocalCluster(agents) as cluster, Client(cluster.address) as client:
        wait_until(lambda: len(devices(client)) == 3, "the devices")
        assert devices(client)["one/gpu0"]["model"] == "Tesla T4"


def test_gpus_that_cannot_be_are_refused() -> None:
    with pytest.raises(InvalidInput, match="may be a number"):
        LocalCluster([{"gpus": ["first"]}])
