"""The page: tables and pictures of what is kept, and nothing that was not measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import page
from tests.benchmarks.samples import MACHINE, versus

RECORDS = [
    versus("numpy_here", "idle", 8192, 0.97, 0.95),
    versus("ray_strips", "idle", 8192, 0.9, 1.0),
    versus("ray_strips", "hog", 4096, 1.5, None),
    {
        "name": "far", "module": "three_hosts", "given": {}, "figures": [], "took_s": 0.0,
        "machine": MACHINE, "left_out": "network namespaces need root",
    },
]  # fmt: skip


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "page.md"
    path.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    page.write(RECORDS, unmeasured=["later"], page=path)
    return path


def test_what_is_written_is_between_the_markers(written: Path) -> None:
    text = written.read_text()
    assert text.startswith(f"before\n{page.BEGIN}\n")
    assert text.endswith(f"{page.END}\nafter\n")
    assert "\nold\n" not in text


def test_targets_stand_beside_the_measured_and_what_misses_is_plain(written: Path) -> None:
    text = written.read_text()
    assert (
        "| idle, n = 8192 | NumPy's time / ours | 0.97 (0.87 to 1.07) | at least 0.95 | holds |"
    ) in text
    assert "| Ray's time / ours | 0.9 (0.8 to 1) | at least 1 | **MISSED** |" in text
    assert "1 of 2 targets hold" in text


def test_peers_are_rows_and_what_was_not_measured_stays_empty(written: Path) -> None:
    text = written.read_text()
    assert "| their time / ours | idle, n = 8192 | one hog, floating, n = 4096 |" in text
    assert "| NumPy | 0.97 (0.87 to 1.07) |  |" in text
    assert "| Ray | 0.9 (0.8 to 1) | 1.5 (1.4 to 1.6) |" in text


def test_the_machine_and_what_is_missing_are_named(written: Path) -> None:
    text = written.read_text()
    assert "A processor, 2 cores, 24 GiB; openblas 0.3.30" in text
    assert "- `far`: left out, network namespaces need root" in text
    assert "- `later`: not measured yet" in text


def test_the_same_records_give_the_same_bytes(written: Path) -> None:
    pictures = sorted((written.parent / "pictures").iterdir())
    assert [picture.name for picture in pictures] == ["peers.svg", "targets.svg"]
    before = [path.read_bytes() for path in (written, *pictures)]
    page.write(RECORDS, unmeasured=["later"], page=written)
    assert [path.read_bytes() for path in (written, *pictures)] == before


def test_nothing_measured_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(f"{page.BEGIN}\n{page.END}\n")
    page.write([], unmeasured=["later"], page=path)
    assert "Not measured yet." in path.read_text()
    assert not (tmp_path / "pictures").exists()
