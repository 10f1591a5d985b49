"""`make bench-full`: deadheat against each peer on the same cores, resumable case by case.

Each case is one peer, one size and one load. Both sides are started on the same cores, take turns,
and every product is checked; what is reported is the peer's time / ours, the median of the ratios
of neighbouring turns, with their range. A case that has its JSON file already is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.measuring import REPEATS, hog
from deadheat.client import Client, LocalCluster

RESULTS = Path(__file__).parent / "results" / "full"
PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- bench-full: begin -->", "<!-- bench-full: end -->"
SIZES = (2048, 4096, 8192)
LOADS = ("idle", "hog")
#: By then agents have noticed a hog.
NOTICED_S = 3.0


@dataclass(frozen=True)
class Case:
    peer: str
    size: int
    load: str
    cores: tuple[int, ...]
    repeats: int = REPEATS

    @property
    def path(self) -> Path:
        return RESULTS / f"{self.load}-{self.size}-{self.peer}.json"

    def known(self) -> dict[str, Any] | None:
        """What was measured before under the same conditions."""
        if not self.path.exists():
            return None
        found: dict[str, Any] = json.loads(self.path.read_text())
        return found if found["case"] == json.loads(json.dumps(asdict(self))) else None


def operands(size: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(size)
    return rng.standard_normal((size, size)), rng.standard_normal((size, size))


def check(product: Any, a: Any, b: Any) -> None:
    """Freivalds' check: a wrong element shows in the product with a vector."""
    x = np.random.default_rng(3).standard_normal(b.shape[1])
    expected = a @ (b @ x)
    scale = np.abs(a) @ (np.abs(b) @ np.abs(x))
    assert product.shape == (a.shape[0], b.shape[1])
    assert (np.abs(product @ x - expected) <= 1e-12 * scale).all(), "a wrong product"


@contextmanager
def started(name: str, cores: Sequence[int]) -> Iterator[peers.BasePeer]:
    peer = peers.load(name)
    peer.start(cores)
    try:
        yield peer
    finally:
        peer.stop()


def measure(case: Case) -> dict[str, Any]:
    """Runs a case; raises NotInstalled."""
    a, b = operands(case.size)
    load = hog(None) if case.load == "hog" else nullcontext()
    with (
        started(case.peer, case.cores) as peer,
        LocalCluster() as cluster,
        Client(cluster.address) as client,
        load,
    ):
        if case.load == "hog":
            time.sleep(NOTICED_S)
        return {"case": asdict(case), **turns(case, peer, client, a, b)}


def turns(case: Case, peer: peers.BasePeer, client: Client, a: Any, b: Any) -> dict[str, Any]:
    def ours() -> float:
        started_s = time.perf_counter()
        product = client.matmul(a, b, where="cluster")
        seconds = time.perf_counter() - started_s
        check(product, a, b)
        return seconds

    def theirs() -> float:
        seconds, product = peer.timed(a, b)
        if product is not None:
            check(product, a, b)
        return seconds

    tried: dict[int, float] = {}
    for choice in peer.choices:
        peer.choice = choice
        theirs()  # The first call also starts what starts late.
        tried[choice] = theirs()
    peer.choice = min(tried, key=lambda choice: tried[choice])
    ours()
    pairs = [(ours(), theirs()) for _ in range(case.repeats)]
    ratios = [their_s / our_s for our_s, their_s in pairs]
    return {
        "name": peer.name,
        "choice": peer.choice,
        "ours_s": [our_s for our_s, _ in pairs],
        "theirs_s": [their_s for _, their_s in pairs],
        "ratio": statistics.median(ratios),
        "low": min(ratios),
        "high": max(ratios),
    }


def table(results: Sequence[dict[str, Any]]) -> str:
    """Peers as rows, loads and sizes as columns."""
    columns = sorted({(r["case"]["load"] != "idle", r["case"]["size"]) for r in results})
    rows: dict[str, dict[tuple[bool, int], str]] = {name: {} for name in peers.NAMES}
    titles: dict[str, str] = {}
    for r in results:
        case = r["case"]
        titles[case["peer"]] = r["name"]
        cell = f"{r['ratio']:.2f} ({r['low']:.2f} to {r['high']:.2f})"
        rows[case["peer"]][case["load"] != "idle", case["size"]] = cell
    heads = [f"{'one hog' if is_busy else 'idle'}, n = {size}" for is_busy, size in columns]
    lines = [f"| their time / ours | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name, cells in rows.items():
        if cells:
            found = " | ".join(cells.get(column, "") for column in columns)
            lines.append(f"| {titles[name]} | {found} |")
    return "\n".join(lines)


def write_page(results: Sequence[dict[str, Any]]) -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    cores = len(results[0]["case"]["cores"])
    stamp = f"float64, {cores} cores, {time.strftime('%Y-%m-%d')}, median (range)."
    PAGE.write_text(f"{before}{BEGIN}\n{stamp}\n\n{table(results)}\n{END}{after}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", nargs="+", default=peers.NAMES, choices=peers.NAMES)
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parser.add_argument("--loads", nargs="+", default=LOADS, choices=LOADS)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--again", action="store_true", help="also what has been measured")
    parser.add_argument("--page", action="store_true", help="write the table into the page")
    chosen = parser.parse_args()
    cores = tuple(sorted(os.sched_getaffinity(0)))
    RESULTS.mkdir(parents=True, exist_ok=True)
    results = []
    for load in chosen.loads:
        for size in chosen.sizes:
            for name in chosen.peers:
                case = Case(name, size, load, cores, chosen.repeats)
                found = None if chosen.again else case.known()
                if found is None:
                    try:
                        found = measure(case)
                    except peers.NotInstalled as error:
                        print(f"{name}: left out, not installed: {error}", flush=True)
                        continue
                    case.path.write_text(json.dumps(found, indent=1))
                ratio = f"{found['ratio']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
                print(f"{load:<5} n = {size:<5} {found['name']:<20} / ours: {ratio}", flush=True)
                results.append(found)
    if results:
        print(f"\n{table(results)}")
        if chosen.page:
            write_page(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
