"""Cases and records as a run would leave them, without measuring."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from benchmarks import cases
from benchmarks.cases import Case
from benchmarks.measuring import Figure, LeftOut, summary

MACHINE: dict[str, Any] = {
    "cpu": "A processor", "cores": 2, "memory_gib": 24.0, "blas": "openblas 0.3.30",
    "numpy": "2.4.0", "python": "3.11.7", "kernel": "Linux 6.18", "date": "2026-01-02",
}  # fmt: skip


def versus(peer: str, load: str, size: int, ratio: float, target: float | None) -> dict[str, Any]:
    """A record of deadheat against one peer."""
    values = [ratio - 0.1, ratio, ratio + 0.1]
    name = {"numpy_here": "NumPy", "ray_strips": "Ray"}[peer]
    case = f"{load}, n = {size}"
    figures = [
        summary(case, f"{name}'s time / ours", values, target=target, at_least=True),
        summary(case, "ours", [9.0, 9.1], "s"),
    ]
    return {
        "name": f"{name.lower()}-{load}-{size}",
        "module": "versus",
        "given": {"peer": peer, "size": size, "load": load},
        "figures": [figure.as_dict() for figure in figures],
        "took_s": 100.0,
        "machine": MACHINE,
    }


class Counted:
    """Stands for the modules of all cases: counts how often each is run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs: list[dict[str, Any]] = []
        monkeypatch.setattr(cases, "import_module", lambda name: self)

    def run(self, **given: Any) -> Iterator[Figure]:
        self.runs.append(given)
        if given.get("lacks"):
            raise LeftOut(given["lacks"])
        yield Figure("a case", "a figure", 1.0, target=2.0)
        if given.get("breaks"):
            raise RuntimeError(given["breaks"])


def case(name: str, estimate_s: float = 10.0, **given: Any) -> Case:
    return Case(name, "sample", estimate_s, given)
