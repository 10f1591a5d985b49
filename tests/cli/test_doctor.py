"""`deadheat doctor` on recorded machines and with a stub of NVML: what an operator reads."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from tests.agent import nvml
from tests.agent.machines import plant
from tests.cli.running import deadheat

from deadheat.agent.probes.gpus import Gpu, Gpus
from deadheat.cli import checks_gpu, checks_machine
from deadheat.cli.checks import room_in
from deadheat.cli.findings import Finding


def examine(name: str, root: Path, cpus: Iterable[int]) -> dict[str, Finding]:
    plant(name, root)
    machine = checks_machine.Machine(
        frozenset(cpus), 7, root, root / "proc", root / "sys", root / "sys/fs/cgroup"
    )
    return {finding.subject: finding for finding in checks_machine.examine(machine)}


def test_a_laptop_without_limits_is_well(tmp_path: Path) -> None:
    found = examine("laptop", tmp_path, range(16))
    assert {finding.verdict for finding in found.values()} == {"ok"}
    assert "16 of 16 cores may be used, 12th Gen Intel" in found["cores"].text
    assert "4 physical" not in found["kinds of core"].text
    assert "12 physical" in found["kinds of core"].text
    assert "8 fast and 8 efficient" in found["kinds of core"].text
    assert found["quota"].text.startswith("none")


def test_a_step_of_a_slurm_job_is_told_its_limits(tmp_path: Path) -> None:
    found = examine("slurm_step", tmp_path, [0, 1, 8, 9])
    assert found["cores"].text.endswith("0-1,8-9, a cpuset allows no others")
    assert "4 cores' worth" in found["quota"].text
    assert found["throttling"].verdict == "ok"
    assert "3.0 GiB of 8.0 GiB free in the control group" in found["memory"].text
    assert found["pressure"].text.startswith("no /proc/pressure")
    by_hand = examine("slurm_step", tmp_path, [0])
    assert by_hand["cores"].text.endswith("0, by affinity (taskset)")
    whole = examine("slurm_step", tmp_path, range(16))
    assert "NUMA nodes 0: 0-3,8-11, 1: 4-7,12-15" in whole["kinds of core"].text
    assert "2.0 times as far" in whole["kinds of core"].text
    assert "makes each a device of its own" in whole["kinds of core"].text


def test_a_container_that_is_held_back_is_told_so(tmp_path: Path) -> None:
    found = examine("pod", tmp_path, range(8))
    assert "1.5 cores' worth" in found["quota"].text
    assert found["throttling"].text == "held back in 40% of periods so far, 41.5 s in all"
    assert found["throttling"].advice
    assert (found["memory"].verdict, found["container"].verdict) == ("bad", "note")
    assert found["pressure"].verdict == "note"
    assert "cpu 62%" in found["pressure"].text


def test_a_kernel_that_says_little_is_no_error(tmp_path: Path) -> None:
    found = examine("big_little", tmp_path, range(8))
    assert "4 fast and 4 efficient" in found["kinds of core"].text
    assert found["memory"].verdict == "ok"


def test_missing_and_ailing_gpus_are_bad_and_none_is_a_note() -> None:
    def judge(found: Gpus, *bus: str) -> list[tuple[str, str]]:
        findings = checks_gpu.judge(found, {}, bus, in_container=False)
        return [(one.subject, one.verdict) for one in findings]

    lost = Gpu("GPU-a", "H100", problem="GPU is lost")
    assert judge(Gpus(0.0)) == [("gpus", "note")]
    assert judge(Gpus(0.0, (lost,)), "0000:01:00.0") == [("gpu", "bad")]
    hot = Gpu("GPU-a", "H100", busy=0.5, throttle=("heat",))
    assert judge(Gpus(0.0, (hot,))) == [("gpu", "note")]


def test_room_on_disks_is_told_and_too_little_is_bad(tmp_path: Path) -> None:
    well = room_in(tmp_path / "new", "things are there", "elsewhere")
    assert (well.verdict, well.advice) == ("ok", "")
    assert f"free in {tmp_path / 'new'}: things are there" in well.text
    full = room_in(tmp_path, "things are there", "elsewhere", 1 << 62)
    assert (full.verdict, full.advice) == ("bad", "elsewhere")


def test_it_looks_where_the_configuration_says(tmp_path: Path) -> None:
    text = f'[agent]\ncache_dir = "{tmp_path}/kept"\n[scheduler]\nstate_dir = "{tmp_path}/state"\n'
    (tmp_path / "deadheat.toml").write_text(text)
    environment = {
        "CONFIGURATION_DIRECTORY": str(tmp_path),
        "DEADHEAT_CACHE_DIR": "",  # It would win.
        "DEADHEAT_STATE_DIR": "",
    }
    shown = deadheat("doctor", "--scheduler", "127.0.0.1:9", environment=environment).stdout
    assert f"free in {tmp_path}/kept: calibrations" in shown
    assert f"none in {tmp_path}/kept/calibration; the first agent makes one" in shown
    assert f"free in {tmp_path}/state: a scheduler here" in shown
    (tmp_path / "deadheat.toml").write_text("x")
    shown = deadheat("doctor", "--json", environment=environment).stdout
    ailing = [one for one in json.loads(shown)["findings"] if "deadheat.toml" in one["text"]]
    assert [one["subject"] for one in ailing] == ["settings"] * 3
    assert not any(one["advice"] for one in ailing), "to start anything would not help"


def test_no_silent_fall_back() -> None:
    none, bus = Gpus(0.0, problem="no driver"), ("0000:01:00.0",)
    (found,) = checks_gpu.judge(none, {}, bus, in_container=False)
    assert (found.subject, found.verdict) == ("gpus missing", "bad")
    assert "does not use the CPU in a GPU's place" in found.advice


def test_the_command_shows_the_stub_gpus(tmp_path: Path) -> None:
    library, state = nvml.build(tmp_path), tmp_path / "state"
    environment = {
        "LD_LIBRARY_PATH": f"{library.parent}:{os.environ.get('LD_LIBRARY_PATH', '')}",
        nvml.STATE_VARIABLE: str(state),
    }
    nvml.Stub(state).say(nvml.H100, nvml.T4, "fail DeviceGetMemoryInfo 15 GPU-b")
    arguments = ("doctor", "--json", "--scheduler", "127.0.0.1:9")
    findings = json.loads(deadheat(*arguments, environment=environment).stdout)["findings"]
    texts = [(one["verdict"], one["text"]) for one in findings if one["subject"] == "gpu"]
    assert texts[0][0] == "note"
    assert "NVIDIA H100 GPU-a: busy 37%, 2.0 GiB of 80.0 GiB used, 64 C" in texts[0][1]
    assert "1.75 of 1.98 GHz, 310 of 700 W, PCIe 4 x16; held back by: power cap" in texts[0][1]
    assert texts[1][0] == "bad"
    assert "Tesla T4 GPU-b: GPU is lost" in texts[1][1]


def test_settings_that_give_way_now_are_told_and_broken_ones_are_bad() -> None:
    def told(**settings: str) -> list[tuple[str, str]]:
        environment = {f"DEADHEAT_{key.upper()}": value for key, value in settings.items()}
        ran = deadheat("doctor", "--json", "--scheduler", "127.0.0.1:9", environment=environment)
        found = json.loads(ran.stdout)["findings"]
        subjects = ("giving way", "settings")
        return [(one["verdict"], one["text"]) for one in found if one["subject"] in subjects]

    assert told() == []
    (found,) = told(yield_above="0.6", yield_hours="00:00-12:00,12:00-24:00")
    assert found[0] == "note"
    assert found[1].startswith(
        "an agent takes no work while others use more than 60% and from 00:00"
    )
    assert found[1].endswith("(now)")
    (found,) = told(yield_above="2")
    assert found[0] == "bad"
    assert "DEADHEAT_YIELD_ABOVE: '2' must be a fraction" in found[1]
