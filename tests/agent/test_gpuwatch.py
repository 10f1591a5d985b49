"""GPUs by name: those that come late, and those that should be there and are not."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from tests.agent.nvml import H100, T4, Stub
from tests.waiting import wait_until

from deadheat.agent import gpuwatch
from deadheat.agent.executors.bounds import STREAMS
from deadheat.agent.gpuwatch import GpuWatch
from deadheat.agent.probes.gpus import Gpu
from deadheat.v1 import agent_pb2 as pb


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent begins without GPUs that do not answer at once. These do, on a busy machine too."""
    monkeypatch.setattr(gpuwatch, "FIRST_ANSWER_S", 20.0)


def card(root: Path, address: str) -> None:
    folder = root / "sys/bus/pci/devices" / address
    folder.mkdir(parents=True)
    (folder / "vendor").write_text("0x10de\n")
    (folder / "class").write_text("0x030200\n")


def test_names_are_given_once_and_kept(stub: Stub, tmp_path: Path) -> None:
    stub.say(H100)
    probe = stub.probe()
    appeared: list[pb.DeviceInfo] = []
    watch = GpuWatch("n", probe, appeared.append, root=tmp_path, environment={})
    (first,) = asyncio.run(watch.first())
    assert (first.id, first.model, first.memory_bytes) == ("n/gpu0", "NVIDIA H100", 81920 << 20)
    assert first.uuid == "GPU-a"
    stub.say(T4, H100)
    late = wait_until(
        lambda: next((one for one in probe.latest().devices if one.uuid == "GPU-b"), None), "T4"
    )
    assert late is not None
    watch.appear(late)
    watch.appear(late)
    watch.appear(Gpu("GPU-a", "NVIDIA H100"))
    assert [(one.id, one.uuid) for one in appeared] == [("n/gpu1", "GPU-b")]
    assert watch.ids == {"GPU-a": "n/gpu0", "GPU-b": "n/gpu1"}


def test_missing_ones_are_said_loudly_and_once(
    stub: Stub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    card(tmp_path, "0000:01:00.0")
    stub.unload()
    probe = stub.probe()
    watch = GpuWatch("n", probe, lambda _: None, root=tmp_path, environment={}, interval_s=0.01)

    async def run() -> None:
        assert await watch.first() == []
        assert watch.missing.startswith("1 on the bus (0000:01:00.0), 0 in NVML (")
        watching = asyncio.get_running_loop().create_task(watch.run())
        await asyncio.sleep(0.1)
        stub.say(H100)
        while watch.missing:
            await asyncio.sleep(0.01)
        stub.unload()
        watching.cancel()

    with caplog.at_level(logging.INFO):
        asyncio.run(asyncio.wait_for(run(), 30))
    told = [r for r in caplog.records if r.getMessage().startswith("GPUs are missing")]
    assert [record.levelname for record in told] == ["ERROR", "INFO"]
    assert told[1].getMessage() == "GPUs are missing: none any more"


def test_only_those_are_named_that_are_for_this_agent(stub: Stub, tmp_path: Path) -> None:
    stub.say(H100)
    probe = stub.probe()
    appeared: list[pb.DeviceInfo] = []
    watch = GpuWatch(
        "n", probe, appeared.append, setting="GPU-b,GPU-z", root=tmp_path, environment={}
    )
    assert asyncio.run(watch.first()) == []
    assert watch.missing == "NVML does not show GPU-b, GPU-z, which this agent was told to use"
    stub.say(H100, T4)
    late = wait_until(
        lambda: next((one for one in probe.latest().devices if one.uuid == "GPU-b"), None), "T4"
    )
    assert late is not None
    watch.appear(Gpu("GPU-a", "NVIDIA H100"))
    watch.appear(late)
    assert watch.ids == {"GPU-b": "n/gpu0"}
    assert [(one.id, one.threads) for one in appeared] == [("n/gpu0", STREAMS)]


def test_who_wants_none_misses_none(stub: Stub, tmp_path: Path) -> None:
    card(tmp_path, "0000:01:00.0")
    stub.unload()
    watch = GpuWatch(
        "n", stub.probe(), lambda _: None, setting="none", root=tmp_path, environment={}
    )
    assert asyncio.run(watch.first()) == []
    assert watch.missing == ""
