"""`make bench`: every case, or those named; exit code 0 only if every target holds.

A name also stands for all cases that begin with it: `planner` for `planner_time` and the others.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from importlib import import_module
from pathlib import Path

from benchmarks.measuring import Figure

CASES = (
    "command",
    "small",
    "latency",
    "dead_heat",
    "planner_exact",
    "planner_scenarios",
    "planner_time",
    "planner_crowds",
    "planner_scale",
)
RESULTS = Path(__file__).parent / "results"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=CASES, metavar="CASE", help=", ".join(CASES))
    chosen: list[str] = []
    for name in parser.parse_args().cases:
        meant = [case for case in CASES if case == name or case.startswith(f"{name}_")]
        if not meant:
            parser.error(f"unknown case {name!r}; there are {', '.join(CASES)}")
        chosen += meant
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    figures: list[Figure] = []
    for name in chosen:
        for figure in import_module(f"benchmarks.{name}").run():
            print(figure, flush=True)
            figures.append(figure)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.write_text(json.dumps([figure.as_dict() for figure in figures], indent=1))
    missed = [figure for figure in figures if figure.holds is False]
    print(f"\n{len(missed)} of {sum(f.holds is not None for f in figures)} targets missed; {path}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
