"""The harness against peers: what it measured it keeps, and its table goes where it belongs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks import full, peers

CASE = full.Case("numpy_here", 64, "idle", (0, 1), repeats=2)


def result(case: full.Case, ratio: float) -> dict[str, Any]:
    return {"case": asdict(case), "name": "NumPy", "ratio": ratio, "low": ratio, "high": ratio}


def test_a_case_is_not_measured_twice_under_the_same_conditions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full, "RESULTS", tmp_path)
    assert CASE.known() is None
    CASE.path.write_text(json.dumps(result(CASE, 1.5)))
    found = CASE.known()
    assert found is not None
    assert found["ratio"] == 1.5
    assert full.Case("numpy_here", 64, "idle", (0,), repeats=2).known() is None


def test_the_table_is_written_between_its_markers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{full.BEGIN}\nold\n{full.END}\nafter\n")
    monkeypatch.setattr(full, "PAGE", page)
    busy = full.Case("numpy_here", 64, "hog", (0, 1))
    full.write_page([result(CASE, 0.5), result(busy, 2.0)])
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith(f"{full.END}\nafter\n")
    assert "old" not in text
    assert "| NumPy | 0.50 (0.50 to 0.50) | 2.00 (2.00 to 2.00) |" in text


def test_a_wrong_product_is_noticed() -> None:
    a, b = full.operands(40)
    product = a @ b
    full.check(product, a, b)
    product[3, 4] += 1e-3
    with pytest.raises(AssertionError, match="a wrong product"):
        full.check(product, a, b)


def test_numpy_is_a_peer_that_is_always_there() -> None:
    a, b = full.operands(30)
    with full.started("numpy_here", (0,)) as peer:
        seconds, product = peer.timed(a, b)
    assert seconds > 0
    assert np.array_equal(product, a @ b)


def test_a_peer_that_is_not_installed_says_so() -> None:
    with pytest.raises(peers.NotInstalled):
        peers.load("nobody")


def test_strips_cover_all_rows() -> None:
    assert [s.stop - s.start for s in peers.strips(10, 4)] == [2, 3, 2, 3]
