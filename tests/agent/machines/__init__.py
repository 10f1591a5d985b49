"""Recorded trees of /proc and /sys of other machines, a line for each file: path = contents."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent


def plant(name: str, root: Path) -> Path:
    """Writes a machine's files below `root`."""
    for line in (HERE / f"{name}.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        path, _, contents = line.partition(" =")
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        text = contents.strip().replace("\\n", "\n").replace("\\t", "\t")
        file.write_text(f"{text}\n")
    return root
