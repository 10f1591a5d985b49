"""How light the command is: help must not import what it does not need."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from benchmarks.measuring import Figure, alternate, summary


def run() -> Iterator[Figure]:
    def python() -> None:
        subprocess.run([sys.executable, "-c", "pass"], check=True)

    def help_() -> None:
        command = [sys.executable, "-m", "deadheat.cli", "--help"]
        subprocess.run(command, check=True, capture_output=True)

    bare, ours = alternate(python, help_)
    yield summary("command", "deadheat --help", ours, "s", target=0.3)
    yield summary("command", "python -c pass", bare, "s")
