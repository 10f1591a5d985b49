"""Calibrations on disk: measured once for a machine and its library, then read.

A file holds what has been measured so far: one that was interrupted is gone on with. Other hardware
or another library is another file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.message import DecodeError

from deadheat.agent.probes import procfs
from deadheat.runtime import logs
from deadheat.v1 import agent_pb2 as pb

log = logs.get("calibration")

#: Changes when the way of measuring changes, or what is measured of a card: older files are
#: measured again.
METHODS: Final = {"cpu": 2, "gpu": 3}


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
        text = f"{METHODS[self.kind]}|{self.cpu_model}|{self.threads}|{self.library}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Measured:
    """A point, and what others used of the device meanwhile (a fraction)."""

    point: pb.SpeedPoint
    foreign: float = 0.0


@dataclass(frozen=True, slots=True)
class Kept:
    """A file of calibrations, as people want to see it."""

    path: Path
    fingerprint: Fingerprint
    points: Sequence[Measured]


def path_of(cache_dir: Path, fingerprint: Fingerprint) -> Path:
    return cache_dir / "calibration" / f"{fingerprint.kind}-{fingerprint.digest}.json"


def load(cache_dir: Path, fingerprint: Fingerprint) -> list[Measured]:
    """The points of earlier calibrations; none if there is no file that can be read."""
    path = path_of(cache_dir, fingerprint)
    try:
        return _points(json.loads(path.read_text()))
    except FileNotFoundError:
        return []
    except _UNREADABLE as error:
        log.warning(f"calibration {path} cannot be read: {error}", extra=logs.keys("calibration"))
        return []


def all_kept(cache_dir: Path, kinds: Collection[str] = tuple(METHODS)) -> Iterator[Kept | str]:
    """All files of a directory, those of cores first; a sentence for one that is of no use."""
    for kind in METHODS:
        paths = (cache_dir / "calibration").glob(f"{kind}-*.json") if kind in kinds else ()
        for path in sorted(paths):
            try:
                found = _kept(path, kind)
            except _UNREADABLE as error:
                yield f"{path} cannot be read: {error}"
                continue
            is_used = path == path_of(cache_dir, found.fingerprint)
            yield found if is_used else f"{path} is of an older version, which measured otherwise"


def _kept(path: Path, kind: str) -> Kept:
    document = json.loads(path.read_text())
    model, threads, library = (document[name] for name in ("cpu_model", "threads", "library"))
    return Kept(path, Fingerprint(model, threads, library, kind), _points(document))


_UNREADABLE: Final = (
    *(OSError, ValueError, KeyError, TypeError, DecodeError),
    json_format.ParseError,
)


def _points(document: dict[str, Any]) -> list[Measured]:
    points = json_format.ParseDict({"points": document["points"]}, pb.SpeedPoints()).points
    # Files of before say nothing of others.
    foreign = document.get("foreign") or [0.0] * len(points)
    if len(foreign) != len(points):
        raise ValueError(f"{len(points)} points and {len(foreign)} loads")
    return [Measured(point, float(load)) for point, load in zip(points, foreign)]


def save(
    cache_dir: Path, fingerprint: Fingerprint, points: Sequence[Measured], *, quietly: bool = False
) -> bool:
    """Keeps points for the next start; a directory that cannot be written costs seconds then, and
    is warned of unless `quietly`. Returns whether they are kept."""
    path = path_of(cache_dir, fingerprint)
    message = pb.SpeedPoints(points=[one.point for one in points])
    document = {
        "cpu_model": fingerprint.cpu_model,
        "threads": fingerprint.threads,
        "library": fingerprint.library,
        "points": json_format.MessageToDict(message).get("points", []),
        "foreign": [round(one.foreign, 3) for one in points],
    }
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(document, indent=1))
        part.replace(path)
    except OSError as error:
        if not quietly:
            text = f"calibration {path} cannot be kept: {error}"
            log.warning(text, extra=logs.keys("calibration"))
        return False
    return True
