"""`make bench`: the quick cases, or those named; exit code 0 only if every target holds.

A name also stands for all cases that begin with it: `planner` for `planner_time` and the others.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from benchmarks import machine
from benchmarks.cases import AGENTS, GPU, QUICK, SCALE, Case, chosen
from benchmarks.keeping import Record, counted, measured

RESULTS = Path(__file__).parent / "results"
#: All quick cases together; on a machine that is slower than estimated, or not ours alone, the last
#: ones are named instead of begun.
BUDGET_S = 600.0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(c.name for c in QUICK))
    parser.add_argument("--rehearse", action="store_true", help="small and once: does it run?")
    given = parser.parse_args(arguments)
    try:
        # What is too slow for ten minutes runs where it is asked for.
        more = (SCALE, AGENTS, GPU)
        cases = chosen((*QUICK, *more), given.cases) if given.cases else list(QUICK)
    except ValueError as error:
        parser.error(str(error))
    facts = machine.facts()
    print("; ".join(f"{key} {value}" for key, value in facts.items()), flush=True)
    started_s = time.perf_counter()
    records: list[Record] = []
    left: list[Case] = []
    for case in cases:
        elapsed_s = time.perf_counter() - started_s
        if not given.cases and elapsed_s + case.estimate_s > BUDGET_S:
            left.append(case)
        else:
            records.append(measured(case.rehearsed() if given.rehearse else case))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.write_text(json.dumps({"machine": facts, "cases": records}, indent=1))
    for record in records:
        if "left_out" in record:
            print(f"left out: {record['name']}: {record['left_out']}")
    for case in left:
        print(f"no time left: {case.name}, about {case.estimate_s:.0f} s")
    missed, targets = counted(records)
    failed = [record["name"] for record in records if "failed" in record]
    took_s = time.perf_counter() - started_s
    print(f"\n{missed} of {targets} targets missed in {took_s:.0f} s; {path}")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if missed or failed or left else 0


if __name__ == "__main__":
    sys.exit(main())
