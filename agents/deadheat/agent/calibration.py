"""Calibrations on disk: measured once for a machine and its library, then read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from google.protobuf import json_format
from google.protobuf.message import DecodeError

from deadheat.agent.probes import procfs
from deadheat.runtime import logs
from deadheat.v1 import agent_pb2 as pb

log = logs.get("calibration")

#: Changes when the way of measuring changes: older files are measured again.
METHOD: Final = 2


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a calibration holds for. The number of threads counts, since they share memory."""

    cpu_model: str
    threads: int
    library: str
    #: "gpu" for a card, whose model then stands in the place of the processor's.
    kind: str = "cpu"

    @staticmethod
    def of(threads: int, library: str) -> Fingerprint:
        return Fingerprint(procfs.cpu_model(), threads, library)

    @property
    def digest(self) -> str:
        text = f"{METHOD}|{self.cpu_model}|{self.threads}|{self.library}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def path_of(cache_dir: Path, fingerprint: Fingerprint) -> Path:
    return cache_dir / "calibration" / f"{fingerprint.kind}-{fingerprint.digest}.json"


def load(cache_dir: Path, fingerprint: Fingerprint) -> list[pb.SpeedPoint] | None:
    """The points of an earlier calibration; None if there is none that can be read."""
    path = path_of(cache_dir, fingerprint)
    try:
        document = json.loads(path.read_text())
        points = json_format.ParseDict({"points": document["points"]}, pb.SpeedPoints()).points
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, DecodeError, json_format.ParseError) as error:
        log.warning(f"calibration {path} cannot be read: {error}", extra=logs.keys("calibration"))
        return None
    return list(points)


def save(cache_dir: Path, fingerprint: Fingerprint, points: list[pb.SpeedPoint]) -> None:
    """Keeps points for the next start; a directory that cannot be written costs seconds then."""
    path = path_of(cache_dir, fingerprint)
    document = {
        "cpu_model": fingerprint.cpu_model,
        "threads": fingerprint.threads,
        "library": fingerprint.library,
        "points": json_format.MessageToDict(pb.SpeedPoints(points=points))["points"],
    }
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(document, indent=1))
        part.replace(path)
    except OSError as error:
        log.warning(f"calibration {path} cannot be kept: {error}", extra=logs.keys("calibration"))
