"""The tutorial runs as it stands there, and its network reads digits."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "tutorials" / "digits.md"


def test_the_tutorial_runs_and_learns_digits(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    script = tmp_path / "digits.py"
    script.write_text("\n".join(blocks))
    found = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert found.returncode == 0, found.stderr
    said = found.stdout
    assert "epoch 40: loss 0.0" in said
    assert "(train): done" in said
    right = re.search(r"right: ([\d.]+)%", said)
    assert right
    assert float(right[1]) > 95
