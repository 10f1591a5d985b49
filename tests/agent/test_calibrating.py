"""Calibration: in quiet, resumed where it was interrupted, for one machine and one library."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.running import deadheat
from tests.conftest import CORES

from deadheat.agent.calibrating import PATIENCE_S, QUIET, Calibrator
from deadheat.agent.calibration import Fingerprint, Measured, load
from deadheat.v1 import agent_pb2 as pb
from deadheat.v1 import types_pb2

HERE = Fingerprint("a cpu", 2, "a blas 1.0")
WANTED = [
    pb.SpeedPoint(
        data_type=types_pb2.DATA_TYPE_FLOAT64, rows=rows, inner=8, columns=8, op=pb.SPEED_OP_PRODUCT
    )
    for rows in (1, 2, 3, 4)
]


class Interrupted(Exception):
    pass


class Machine:
    """A virtual clock, others' load by the clock, and an executor that takes a second a point."""

    def __init__(self, folder: Path, load_at: Callable[[float], float | None]) -> None:
        self.folder, self.load_at = folder, load_at
        self.now = 0.0
        self.measured: list[tuple[float, int]] = []
        self.stops_at = 0

    def run(self, fingerprint: Fingerprint = HERE, *, anew: bool = False) -> list[Measured]:
        calibrator = Calibrator(
            self.folder,
            fingerprint,
            WANTED,
            self._measure,
            self._foreign,
            clock=lambda: self.now,
            sleep=self._sleep,
        )
        return asyncio.run(calibrator.run(anew=anew))

    async def _measure(self, point: pb.SpeedPoint) -> pb.SpeedPoint:
        if len(self.measured) + 1 == self.stops_at:
            raise Interrupted
        self.measured.append((self.now, point.rows))
        self.now += 1.0
        found = pb.SpeedPoint(seconds=0.5)
        found.MergeFrom(point)
        found.seconds = 0.5 * point.rows
        return found

    async def _foreign(self) -> float | None:
        return self.load_at(self.now)

    async def _sleep(self, seconds: float) -> None:
        self.now += seconds


def rows(machine: Machine) -> list[int]:
    return [row for _, row in machine.measured]


def test_what_is_known_is_not_measured_again_but_when_asked(tmp_path: Path) -> None:
    machine = Machine(tmp_path, lambda _: 0.0)
    points = machine.run()
    assert [one.point.seconds for one in points] == [0.5, 1.0, 1.5, 2.0]
    assert rows(machine) == [1, 2, 3, 4]
    assert machine.run() == points
    assert rows(machine) == [1, 2, 3, 4]
    machine.run(anew=True)
    assert rows(machine) == [1, 2, 3, 4] * 2


def test_one_that_was_interrupted_is_gone_on_with(tmp_path: Path) -> None:
    machine = Machine(tmp_path, lambda _: 0.0)
    machine.stops_at = 3
    with pytest.raises(Interrupted):
        machine.run()
    assert len(load(tmp_path, HERE)) == 2
    again = Machine(tmp_path, lambda _: 0.0)
    assert len(again.run()) == 4
    assert rows(again) == [3, 4]


@pytest.mark.parametrize(
    "other", [Fingerprint("a cpu", 3, "a blas 1.0"), Fingerprint("a cpu", 2, "a blas 1.1")]
)
def test_another_library_or_pool_is_measured_anew(tmp_path: Path, other: Fingerprint) -> None:
    machine = Machine(tmp_path, lambda _: 0.0)
    machine.run()
    machine.run(other)
    assert rows(machine) == [1, 2, 3, 4] * 2


def test_a_directory_that_cannot_be_written_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    machine = Machine(tmp_path / "file", lambda _: 0.0)
    assert len(machine.run()) == len(WANTED)
    said = [one for one in caplog.messages if "cannot be kept" in one]
    assert len(said) == 1


def test_it_waits_for_quiet(tmp_path: Path) -> None:
    """Others work in two bursts, together shorter than its patience."""
    machine = Machine(tmp_path, lambda now: 0.9 if now < 3.0 or 4.0 <= now < 7.0 else None)
    # A load that nobody knows yet is waited for, too.
    machine.load_at = lambda now: None if now < 0.5 else 0.9 if now < 3 or 4 <= now < 7 else 0.1
    points = machine.run()
    assert all(not (at < 3.0 or 4.0 <= at < 7.0) for at, _ in machine.measured)
    assert {one.foreign for one in points} == {0.1}


def test_a_machine_that_is_never_quiet_is_known_too_and_again_when_it_is(tmp_path: Path) -> None:
    machine = Machine(tmp_path, lambda _: 0.8)
    assert [one.foreign for one in machine.run()] == [0.8] * 4
    assert machine.measured[0][0] == pytest.approx(PATIENCE_S, abs=0.5)
    # The patience is for all points together.
    assert machine.now == pytest.approx(PATIENCE_S + 4, abs=0.5)
    machine.run()
    assert rows(machine) == [1, 2, 3, 4]
    machine.load_at = lambda _: QUIET / 2
    assert [one.foreign for one in machine.run()] == [QUIET / 2] * 4
    assert rows(machine) == [1, 2, 3, 4] * 2


def test_the_command_measures_shows_and_keeps(tmp_path: Path) -> None:
    arguments = ("agent", "calibrate", "--cpus", str(CORES[0]), "--cache-dir", str(tmp_path))
    first = deadheat(*arguments, timeout_s=150)
    assert first.returncode == 0, first.stderr
    lines = first.stdout.splitlines()
    assert "1 thread, numpy" in lines[0]
    assert lines[1].split() == ["TYPE", "WHAT", "SHAPE", "TIME", "RATE", "FOREIGN"]
    assert any(line.split()[:2] == ["float64", "product"] for line in lines)
    again = deadheat(*arguments, "--json")
    assert "calibrating" not in again.stderr
    found = json.loads(again.stdout)
    assert len(found["points"]) == len(lines) - 2
    assert all(point["flops"] > 0 for point in found["points"])
    told = deadheat("doctor", "--json", environment={"DEADHEAT_CACHE_DIR": str(tmp_path)})
    (finding,) = (
        one for one in json.loads(told.stdout)["findings"] if one["subject"] == "calibration"
    )
    assert "float64" in finding["text"]


def test_options_of_the_daemon_are_not_lost_on_the_way_to_a_command() -> None:
    ran = deadheat("agent", "--cpus", "0", "calibrate")
    assert ran.returncode == 2
    assert "give options after 'calibrate'" in ran.stderr
