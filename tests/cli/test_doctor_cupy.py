"""`deadheat doctor` on CuPy: what a tired operator reads, and what he is to type."""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from tests.agent import cards, nvml
from tests.cli.running import deadheat

from deadheat.agent import calibration
from deadheat.cli.checks_cupy import Survey, judge
from deadheat.v1 import agent_pb2 as pb
from deadheat.v1 import types_pb2

NONE = Survey({}, "550.54", 12040)
WELL = Survey(
    {"cupy-cuda12x": "14.0.1"}, "550.54", 12040, "14.0.1", 12090, "NVIDIA H100, driver 12040"
)


@pytest.mark.parametrize(
    ("found", "verdict", "words", "advice"),
    [
        (
            NONE,
            "bad",
            (
                "not installed, so no GPU computes here; it has to fit the driver (550.54), which "
                "speaks CUDA 12.4"
            ),
            'pip install "deadheat[cuda12]"',
        ),
        (replace(NONE, driver_cuda=13000), "bad", "CUDA 13.0", 'pip install "deadheat[cuda13]"'),
        (replace(NONE, driver_cuda=15000), "bad", "CUDA 15.0", 'pip install "deadheat[cuda13]"'),
        (
            replace(NONE, driver_cuda=None),
            "bad",
            "which does not say its CUDA",
            'pip install "deadheat[cuda12]"',
        ),
        (
            replace(NONE, driver="470.1", driver_cuda=11040),
            "bad",
            "the driver (470.1), which speaks CUDA 11.4, is too old: CuPy needs CUDA 12 or newer",
            "install driver 525 or newer",
        ),
        (
            WELL,
            "ok",
            (
                "cupy-cuda12x 14.0.1, CUDA runtime 12.9, fits the driver (550.54), which speaks "
                "CUDA 12.4; it computes on NVIDIA H100"
            ),
            "",
        ),
        # A newer driver runs what is built for an older CUDA.
        (replace(WELL, driver_cuda=13010), "ok", "CUDA 13.1", ""),
        (
            replace(WELL, distributions={"cupy-cuda13x": "14.0.1"}, problem="version insufficient"),
            "bad",
            "cupy-cuda13x 14.0.1 is for CUDA 13, too new for the driver (550.54)",
            (
                'pip uninstall cupy-cuda13x; then pip install "deadheat[cuda12]". Or install '
                "driver 580 or newer"
            ),
        ),
        (
            replace(WELL, distributions={"cupy": "14.0.1"}, runtime_cuda=13000),
            "bad",
            "cupy 14.0.1 is for CUDA 13",
            "pip uninstall cupy;",
        ),
        (
            replace(WELL, distributions={"cupy-cuda12x": "14.0", "cupy-cuda13x": "14.0"}),
            "bad",
            "installed more than once (cupy-cuda12x 14.0, cupy-cuda13x 14.0)",
            "pip uninstall cupy-cuda12x cupy-cuda13x; then",
        ),
        (
            replace(WELL, distributions={"cupy-cuda12x": "13.6.0"}),
            "bad",
            "13.6.0 is too old: deadheat needs 14",
            'pip install --upgrade "deadheat[cuda12]"',
        ),
        (
            replace(WELL, library=None, problem="ImportError: libcublas.so.12"),
            "bad",
            "is installed, but computes nothing: ImportError: libcublas.so.12",
            "which brings CUDA's libraries",
        ),
    ],
)
def test_what_there_is_is_told_with_what_to_do(
    found: Survey, verdict: str, words: str, advice: str
) -> None:
    told = judge(found)
    assert told.verdict == verdict
    assert words in told.text
    assert advice in told.advice
    assert bool(told.advice) == (verdict == "bad")


class Machine:
    """The stub GPUs, and what pip says of CuPy."""

    def __init__(self, folder: Path) -> None:
        library = nvml.build(folder)
        self.nvml = nvml.Stub(folder / "nvml.state")
        self.cards = folder / "cards.json"
        self._packages = folder / "packages"
        self._packages.mkdir()
        self.environment = {
            "LD_LIBRARY_PATH": f"{library.parent}:{os.environ.get('LD_LIBRARY_PATH', '')}",
            nvml.STATE_VARIABLE: str(self.nvml.state),
            "PYTHONPATH": f"{self._packages}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        }

    def install(self, name: str, version: str) -> None:
        info = self._packages / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        stub = cards.environment(self.cards)
        path = f"{self._packages}{os.pathsep}{stub['PYTHONPATH']}"
        self.environment |= stub | {"PYTHONPATH": path}

    def findings(self, **more: str) -> list[tuple[str, str]]:
        environment = {**self.environment, **more}
        ran = deadheat("doctor", "--json", "--scheduler", "127.0.0.1:9", environment=environment)
        found = json.loads(ran.stdout)["findings"]
        return [(one["verdict"], one["text"]) for one in found if one["subject"] == "cupy"]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    if importlib.util.find_spec("cupy") is not None:
        pytest.skip("CuPy is installed here")
    return Machine(tmp_path)


def test_the_command_says_it_of_a_card_and_nothing_where_there_is_none(machine: Machine) -> None:
    machine.nvml.unload()
    assert machine.findings() == []
    machine.nvml.say(nvml.H100, "cuda 13000")
    ((verdict, text),) = machine.findings()
    assert verdict == "bad"
    assert text.startswith("not installed")
    assert "(999.99.stub), which speaks CUDA 13.0" in text
    ((verdict, text),) = machine.findings(DEADHEAT_GPUS="none")
    assert (verdict, text[:10]) == ("ok", "not needed")
    machine.install("cupy-cuda12x", "14.0.1")
    ((verdict, text),) = machine.findings()
    assert verdict == "ok", text
    assert "CUDA runtime 12.9, fits" in text
    assert "it computes on Stub Card" in text
    cards.say(machine.cards, any_={"memory_bytes": 100})
    ((verdict, text),) = machine.findings()
    assert verdict == "bad"
    assert "computes nothing: the card cannot be used: OutOfMemoryError" in text
    machine.install("cupy-cuda13x", "14.0.1")
    ((verdict, text),) = machine.findings()
    assert verdict == "bad"
    assert "installed more than once" in text


def test_calibrations_of_cards_are_shown_and_those_of_older_versions_named(tmp_path: Path) -> None:
    point = pb.SpeedPoint(
        data_type=types_pb2.DATA_TYPE_FLOAT32,
        rows=1024, inner=1024, columns=1024, seconds=1e-3, op=pb.SPEED_OP_TF32_PRODUCT,
    )  # fmt: skip
    card = calibration.Fingerprint("", 3, "NVIDIA H100, driver 12040, CuPy 14", kind="gpu")
    calibration.save(tmp_path, card, [calibration.Measured(point)])
    older = calibration.path_of(tmp_path, card).with_name("gpu-0123456789abcdef.json")
    older.write_bytes(calibration.path_of(tmp_path, card).read_bytes())
    broken = older.with_name("gpu-1.json")
    broken.write_text("{")
    kept, *sentences = sorted(calibration.all_kept(tmp_path), key=lambda one: isinstance(one, str))
    assert isinstance(kept, calibration.Kept)
    assert kept.fingerprint == card
    assert [str(one).startswith(str(p)) for one, p in zip(sentences, (older, broken))] == [True] * 2
    assert list(calibration.all_kept(tmp_path, ("cpu",))) == []
    environment = {"DEADHEAT_CACHE_DIR": str(tmp_path)}
    arguments = ("doctor", "--json", "--scheduler", "127.0.0.1:9")
    found = json.loads(deadheat(*arguments, environment=environment).stdout)["findings"]
    told = {one["text"]: one["verdict"] for one in found if one["subject"] == "calibration"}
    assert told["NVIDIA H100, driver 12040, CuPy 14: tf32 2.1 TFLOP/s"] == "ok"
    assert len(told) == 3
    arguments = ("agent", "calibrate", "--cpus", str(min(os.sched_getaffinity(0))))
    shown = deadheat(*arguments, "--cache-dir", str(tmp_path)).stdout
    assert "product in TF32" in shown[shown.index("NVIDIA H100, driver 12040, CuPy 14\n") :]
    as_json = json.loads(deadheat(*arguments, "--cache-dir", str(tmp_path), "--json").stdout)
    assert [(one["kind"], one["library"]) for one in as_json["cards"]] == [("gpu", card.library)]
    assert as_json["kind"] == "cpu"
