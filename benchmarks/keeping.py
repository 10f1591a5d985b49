"""What a case measured, kept in a JSON file of its own, so that a long run can be resumed."""

from __future__ import annotations

import gc
import json
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.cases import Case
from benchmarks.measuring import Figure, LeftOut

Record = dict[str, Any]
#: A case that takes so many times its estimate, and this besides, hangs.
MOST_ESTIMATES, MOST_MORE_S = 4.0, 180.0


def measured(case: Case) -> Record:
    """Runs a case and prints its figures; what goes wrong is in the record, and costs no other."""
    record: Record = {"name": case.name, "module": case.module, "given": case.given}
    figures: list[Figure] = []
    started_s = time.perf_counter()
    try:
        with _limited(MOST_ESTIMATES * case.estimate_s + MOST_MORE_S):
            for figure in case.run():
                print(figure, flush=True)
                figures.append(figure)
    except LeftOut as error:
        record["left_out"] = str(error)
        print(f"{case.name:<24} left out: {error}", flush=True)
    except Exception as error:  # noqa: BLE001 - a peer may raise anything; the others go on.
        traceback.print_exc()
        record["failed"] = f"{type(error).__name__}: {error}"
        print(f"{case.name:<24} FAILED: {record['failed']}", flush=True)
    record["took_s"] = round(time.perf_counter() - started_s, 1)
    record["figures"] = [figure.as_dict() for figure in figures]
    record["machine"] = machine.facts()
    gc.collect()
    return record


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def too_long(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def is_measured(record: Record) -> bool:
    return "left_out" not in record and "failed" not in record


def counted(records: list[Record]) -> tuple[int, int]:
    """Targets missed, and all targets."""
    judged = [f["holds"] for r in records for f in r["figures"] if f["holds"] is not None]
    return judged.count(False), len(judged)


class Shelf:
    """A folder with a file for each case."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def known(self, case: Case) -> Record | None:
        """What is kept of a case with the same parameters."""
        path = self._path(case)
        if not path.exists():
            return None
        record: Record = json.loads(path.read_text())
        same = record["given"] == json.loads(json.dumps(case.given))
        return record if same and record["module"] == case.module else None

    def keep(self, case: Case, record: Record) -> None:
        """Whole or not at all: an interrupted run leaves no half a file."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(case)
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(record, indent=1))
        partial.replace(path)

    def _path(self, case: Case) -> Path:
        return self._folder / f"{case.name}.json"
