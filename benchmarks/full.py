"""`make bench-full`: every case, resumable case by case, and the page that shows them.

A case that has its JSON file already is not measured again, unless its parameters have changed,
it failed or was left out. After a run, or with --page alone, docs/performance.md and its pictures
are made of what is kept.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from benchmarks.cases import FULL, Case, chosen
from benchmarks.keeping import Record, Shelf, counted, is_measured, measured

RESULTS = Path(__file__).parent / "results" / "full"
REHEARSALS = Path(__file__).parent / "results" / "rehearsed"


def run(
    cases: list[Case], shelf: Shelf, *, is_again: bool = False, budget_s: float | None = None
) -> tuple[list[Record], list[Case]]:
    """What is known of the cases, measured as far as it has to be; and those left for want of
    time: none is begun that should not end within the budget."""
    records: list[Record] = []
    left: list[Case] = []
    started_s = time.perf_counter()
    for number, case in enumerate(cases, 1):
        known = None if is_again else shelf.known(case)
        if known and is_measured(known):
            print(f"[{number}/{len(cases)}] {case.name}: measured {known['machine']['date']}")
            records.append(known)
            continue
        elapsed_s = time.perf_counter() - started_s
        if budget_s is not None and elapsed_s + case.estimate_s > budget_s:
            left.append(case)
            continue
        print(
            f"[{number}/{len(cases)}] {case.name}: about {case.estimate_s:.0f} s, "
            f"{elapsed_s / 60:.1f} min so far",
            flush=True,
        )
        record = measured(case)
        print(f"{'':<24} took {record['took_s']:.0f} s, estimated {case.estimate_s:.0f} s")
        shelf.keep(case, record)
        records.append(record)
    return records, left


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME",
                        help=", ".join(case.name for case in FULL))  # fmt: skip
    parser.add_argument("--again", action="store_true", help="also what has been measured")
    parser.add_argument("--budget", type=float, metavar="MINUTES",
                        help="begin no case that should not end within it")  # fmt: skip
    parser.add_argument("--page", action="store_true", help="only the page; measure nothing")
    parser.add_argument("--list", action="store_true", help="the cases and how long they take")
    parser.add_argument("--rehearse", action="store_true",
                        help="small and once, to see that all run; the page stays")  # fmt: skip
    given = parser.parse_args(arguments)
    try:
        cases = chosen(FULL, given.only)
    except ValueError as error:
        parser.error(str(error))
    if given.list:
        for case in cases:
            print(f"{case.name:<24} {case.estimate_s:5.0f} s")
        print(f"{'together':<24} {sum(case.estimate_s for case in cases) / 60:5.1f} min")
        return 0
    if given.page:
        return _write_page()
    shelf = Shelf(REHEARSALS if given.rehearse else RESULTS)
    if given.rehearse:
        cases = [case.rehearsed() for case in cases]
    budget_s = None if given.budget is None else 60.0 * given.budget
    records, left = run(cases, shelf, is_again=given.again, budget_s=budget_s)
    if not given.rehearse:
        _write_page()
    return _told(records, left)


def _told(records: list[Record], left: list[Case]) -> int:
    print()
    for record in records:
        for key in ("left_out", "failed"):
            if key in record:
                print(f"{key.replace('_', ' ')}: {record['name']}: {record[key]}")
    for case in left:
        print(f"no time left: {case.name}, about {case.estimate_s:.0f} s")
    missed, targets = counted(records)
    print(f"{missed} of {targets} targets missed; {len(left)} of {len(records) + len(left)} left")
    return 1 if missed or left or any("failed" in record for record in records) else 0


def _write_page() -> int:
    """Imports what draws only here: measuring does without."""
    from benchmarks import page

    shelf = Shelf(RESULTS)
    found = [(case, shelf.known(case)) for case in FULL]
    page.write(
        [record for _, record in found if record],
        unmeasured=[case.name for case, record in found if record is None],
    )
    print(f"written: {page.PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
