"""Every case with its sizes and targets: the quick ones of `make bench`, all of `make bench-full`.

A case is a module of this folder with a function `run`, and what it is given. A target stands only
where its own size is measured. Estimates are for two cores of 60 GFLOP/s each in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

from benchmarks.measuring import Figure

#: A rehearsal runs everything, small and once, to see that it does.
REHEARSED_SIZE = 1024


@dataclass(frozen=True)
class Case:
    name: str
    module: str
    estimate_s: float
    given: dict[str, Any] = field(default_factory=dict)

    def run(self) -> Iterator[Figure]:
        figures: Iterator[Figure] = import_module(f"benchmarks.{self.module}").run(**self.given)
        return figures

    def rehearsed(self) -> Case:
        """The same, small and once."""
        small: dict[str, Any] = {}
        if "size" in self.given:
            small["size"] = REHEARSED_SIZE
        if self.module in REPEATED:
            small["repeats"] = 1
        if self.module == "training":
            small |= {"samples": 2048, "epochs": 1, "hog_epochs": 1, "with_targets": False}
        if "gib" in self.given:
            small["gib"] = 0.25
        if "chains" in self.given:
            small["chains"] = 2
        if self.module == "forward":
            small |= {"size": 256, "batch": 1024}
        return replace(self, given={**self.given, **small})


#: Those whose repeats can be chosen.
REPEATED = (
    "versus",
    "held_back",
    "late_hog",
    "three_hosts",
    "serving",
    "chains",
    "forward",
    "training",
)


def versus(peer: str, load: str, size: int, estimate_s: float, **given: Any) -> Case:
    short = peer.partition("_")[0]
    kind = "-f32" if given.get("dtype") == "float32" else ""
    name = f"{short}-{load}-{size}{kind}"
    return Case(name, "versus", estimate_s, {"peer": peer, "size": size, "load": load, **given})


OURS = (
    Case("command", "command", 2),
    Case("small", "small", 8),
    Case("latency", "latency", 15),
    Case("sampling", "sampling", 10),
    Case("dead_heat", "dead_heat", 60),
)
PLANNER = (
    Case("planner_exact", "planner_exact", 3),
    Case("planner_scenarios", "planner_scenarios", 75),
    Case("planner_time", "planner_time", 4),
    Case("planner_crowds", "planner_crowds", 12),
)
#: Where there is a card; takes no time elsewhere.
GPU = Case("gpu", "gpu", 400, {"size": 16384})
SCALE = Case("planner_scale", "planner_scale", 115)
#: What agents see, against the truth.
AGENTS = Case("agents", "agents", 235)

NUMPY, DASK, RAY = "numpy_here", "dask_distributed", "ray_strips"
OTHERS = ("joblib_strips", "mpi_equal", "starpu_dmda")
NUMPY_IDLE_4096 = versus(NUMPY, "idle", 4096, 25, target=0.90)
DASK_IDLE_4096 = versus(DASK, "idle", 4096, 52, target=2.2)
BREAKDOWN = Case("breakdown", "breakdown", 26)
SERVING = Case("serving", "serving", 28, {"target": 5.0})
CHAINS = Case("chains", "chains", 55, {"chains": 4, "repeats": 3})
FORWARD = Case("forward", "forward", 35, {"repeats": 3})
#: Fewer samples and epochs than the promise is about, in both of what is compared.
TRAINING_QUICK = Case("training", "training", 46, {"samples": 8192, "epochs": 4, "hog_epochs": 2})
TRAINING = Case("training-20000", "training", 375)
SAME_B = Case("same-b", "same_operand", 18, {"size": 2048, "target": 0.60})

#: At most ten minutes together.
QUICK = (
    *OURS,
    *PLANNER,
    NUMPY_IDLE_4096,
    BREAKDOWN,
    DASK_IDLE_4096,
    Case("held-4096", "held_back", 50, {"size": 4096}),
    TRAINING_QUICK,
    SAME_B,
    SERVING,
    FORWARD,
    CHAINS,
)

#: At most ninety minutes together; those first whose targets say most.
FULL = (
    versus(NUMPY, "idle", 8192, 130, target=0.95),
    versus(NUMPY, "hog", 8192, 195, target=1.0, bound_target=0.88),
    versus(NUMPY, "pinned", 8192, 225, target=1.10),
    NUMPY_IDLE_4096,
    BREAKDOWN,
    versus(NUMPY, "idle", 8192, 75, dtype="float32", target=0.92),
    DASK_IDLE_4096,
    versus(DASK, "hog", 4096, 70, target=2.2),
    versus(DASK, "idle", 8192, 240, target=1.6),
    versus(DASK, "hog", 8192, 325, target=1.6),
    versus(RAY, "idle", 8192, 150, target=1.0),
    versus(RAY, "hog", 8192, 225, target=1.25),
    versus(RAY, "held", 8192, 250, target=1.3),
    Case("held-8192", "held_back", 145, {"size": 8192, "target": 0.93, "spread_target": 0.03}),
    Case("late-hog-8192", "late_hog", 185, {"size": 8192, "target": 0.90, "spread_target": 0.05}),
    Case(
        "three-hosts-6144",
        "three_hosts",
        105,
        {"size": 6144, "target": 1.15, "makespan_target": 1.20},
    ),
    TRAINING,
    SAME_B,
    SERVING,
    Case("forward-2048", "forward", 65),
    Case("chains-100", "chains", 1600, {"chains": 100, "repeats": 7}),
    Case("memory-4gib", "memory", 30, {"gib": 4.0, "target_mib": 64.0}),
    *OURS,
    *PLANNER,
    SCALE,
    AGENTS,
    *(versus(peer, load, 4096, 35) for peer in OTHERS for load in ("idle", "hog")),
)


def chosen(cases: tuple[Case, ...], names: list[str]) -> list[Case]:
    """Those of a name, or whose name begins with it; ValueError if there is none."""
    if not names:
        return list(cases)
    found: list[Case] = []
    for name in names:
        meant = [c for c in cases if c.name == name] or [
            c for c in cases if c.name.startswith((f"{name}_", f"{name}-"))
        ]
        if not meant:
            known = ", ".join(case.name for case in cases)
            raise ValueError(f"unknown case {name!r}; there are {known}")
        found += [case for case in meant if case not in found]
    return found
