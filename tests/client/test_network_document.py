"""The how-to's training runs as it stands there, and learns digits."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "howto" / "networks.md"


def test_the_training_in_the_how_to_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    # Neither a scheduler that runs here nor this user's own is to be used.
    monkeypatch.setenv("DEADHEAT_STATE_DIR", str(tmp_path / "state"))
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    (code,) = (block for block in blocks if "load_digits" in block)
    script = tmp_path / "training.py"
    script.write_text(code)
    found = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert found.returncode == 0, found.stderr
    loss, right = found.stdout.splitlines()
    assert loss.startswith("loss ")
    assert float(right.removeprefix("right: ").removesuffix("%")) > 85
