"""Generates the Python stubs from proto/, and with --check only says whether they are fresh."""

from __future__ import annotations

import argparse
import filecmp
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent / "proto"
PACKAGE = "deadheat/v1"


def generate(out: Path) -> list[Path]:
    """Writes the stubs below `out`; returns their paths relative to it."""
    # protoc looks for its plug-ins on the path: those of this environment come first.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, "PATH": path}
    sources = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob(f"{PACKAGE}/*.proto"))
    for options, chosen in (
        (["--python_out", "--mypy_out"], sources),
        (["--grpc_python_out", "--mypy_grpc_out"], [s for s in sources if _has_service(s)]),
    ):
        command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(ROOT)]
        command += [
            f"{option}=quiet:{out}" if "mypy" in option else f"{option}={out}" for option in options
        ]
        command += chosen
        subprocess.run(command, check=True, env=environment)
    return sorted(path.relative_to(out) for path in out.glob(f"{PACKAGE}/*_pb2*"))


def _has_service(source: str) -> bool:
    return "\nservice " in (ROOT / source).read_text()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        for stale in ROOT.glob(f"{PACKAGE}/*_pb2*"):
            stale.unlink()
        generate(ROOT)
        return 0
    with tempfile.TemporaryDirectory() as directory:
        fresh = generate(Path(directory))
        committed = sorted(path.relative_to(ROOT) for path in ROOT.glob(f"{PACKAGE}/*_pb2*"))
        stale_names = {path.name for path in set(fresh) ^ set(committed)}
        for path in set(fresh) & set(committed):
            if not filecmp.cmp(Path(directory) / path, ROOT / path, shallow=False):
                stale_names.add(path.name)
    if stale_names:
        print(f"stale stubs, run `make proto`: {', '.join(sorted(stale_names))}")
    return 1 if stale_names else 0


if __name__ == "__main__":
    sys.exit(main())
