"""Segments: NumPy's results under every cut, one barrier for a network, and devices that die."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.client.expressions import values
from tests.client.test_lazy import HERE, cut_by, without_chains
from tests.conftest import TWO_AGENTS
from tests.e2e.processes import children_of, command_of
from tests.waiting import wait_until

from deadheat.client import Client, Lazy, LocalCluster
from deadheat.client.lowering import lower
from deadheat.runtime.evaluating import evaluate
from deadheat.runtime.programs import Program
from deadheat.scheduler.planner.joining import joined, segments

Array = np.ndarray[Any, Any]


def lowered(*matrices: Lazy) -> tuple[Program | None, dict[str, Array], tuple[str, ...]]:
    found = lower([matrix.node for matrix in matrices])
    operands = {n: held.array for n, held in found.held.items() if held.array is not None}
    return found.program, operands, tuple(found.outputs)


@settings(max_examples=200)
@given(
    data=st.data(), seed=st.integers(0, 2**32), backwards=st.booleans(), wanted=st.integers(1, 3)
)
def test_random_programs_in_segments_are_numpys_in_whatever_pieces(
    data: st.DataObject, seed: int, backwards: bool, wanted: int
) -> None:
    made = data.draw(values(HERE))[-wanted:]
    program, found, names = lowered(*(value.lazy for value in made))
    if program is not None:
        program = without_chains(program, backwards=backwards)
        program = joined(program, segments(program))
        assert segments(program) == []
        with np.errstate(all="ignore"):
            found |= evaluate(np, program, dict(found), cut_by(seed))
    for value, name in zip(made, names, strict=True):
        value.check(np.asarray(found[name]).reshape(value.array.shape))


LAYERS = ("product", "bias", "relu", "softmax", "residual", "rows", "weights", "slice")


def layer(kind: str, x: Lazy, a: Array, rng: np.random.Generator) -> tuple[Lazy, Array]:
    """One more operation on the same rows, lazily and by NumPy."""
    match kind:
        case "product" | "weights":
            w = rng.uniform(-1, 1, (a.shape[1], int(rng.integers(1, 9))))
            # Weights that are themselves computed come from another segment, or from none.
            return x @ (HERE.put(w / 2) + HERE.put(w / 2) if kind == "weights" else w), a @ w
        case "bias":
            b = rng.uniform(-1, 1, (1, a.shape[1]))
            return x + b, a + b
        case "relu":
            return x.relu(), np.maximum(a, 0)
        case "softmax":
            e = np.exp(a - a.max(axis=1, keepdims=True))
            return x.softmax(), e / e.sum(axis=1, keepdims=True)
        case "residual":
            return x + x.tanh(), a + np.tanh(a)
        case "rows":
            return x * x.sum(axis=1, keepdims=True), a * a.sum(axis=1, keepdims=True)
        case _:
            return x[:, : max(1, a.shape[1] - 1)], a[:, : max(1, a.shape[1] - 1)]


@settings(max_examples=100)
@given(
    st.lists(st.sampled_from(LAYERS), min_size=2, max_size=10),
    st.integers(1, 40),
    st.integers(0, 2**32),
)
def test_random_networks_in_segments_are_numpys_in_whatever_pieces(
    kinds: list[str], rows: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    a: Array = rng.uniform(-1, 1, (rows + 3, 5))
    x = HERE.put(a)[2 : rows + 2]  # A batch of a larger matrix.
    a = a[2 : rows + 2]
    for kind in kinds:
        x, a = layer(kind, x, a, rng)
    program, operands, (name,) = lowered(x)
    assert program is not None
    program = without_chains(program, backwards=False)
    program = joined(program, segments(program))
    found = evaluate(np, program, operands, cut_by(seed))[name]
    assert np.allclose(found, a, rtol=1e-9, atol=1e-9)


def network(client: Client, rows: int, width: int, layers: int = 8) -> tuple[Lazy, Array]:
    """A forward pass with a softmax at its end, lazily and by NumPy."""
    rng = np.random.default_rng(5)
    a: Array = rng.standard_normal((rows, width)).astype(np.float32)
    x = client.put(a)
    for _ in range(layers):
        w = (rng.standard_normal((width, width)) / width**0.5).astype(np.float32)
        b = rng.standard_normal((1, width)).astype(np.float32)
        x, a = (x @ client.put(w) + b).relu(), np.maximum(a @ w + b, 0)
    e = np.exp(a - a.max(axis=1, keepdims=True))
    return x.softmax(), e / e.sum(axis=1, keepdims=True)


def test_a_forward_pass_has_one_barrier_at_its_end(client: Client) -> None:
    lazy, expected = network(client, 3000, 400)
    job = client.submit(lazy)
    found = job.result(timeout=120)
    assert np.allclose(found, expected, rtol=1e-3, atol=1e-6)
    report = job.report()
    assert len({placement["operation"] for placement in report.placements}) == 1
    assert report.predicted_makespan_s is not None
    assert report.predicted_makespan_s > 0.0
    story = job.explain()
    assert "one barrier stays, after" in story
    assert "instead, a barrier after each of these 9" in story


def test_baselines_go_layer_by_layer(client: Client) -> None:
    lazy, expected = network(client, 600, 100, layers=3)
    job = client.submit(lazy, cut="equal")
    assert np.allclose(job.result(timeout=120), expected, rtol=1e-3, atol=1e-6)
    assert len({placement["operation"] for placement in job.report().placements}) == 4


@pytest.mark.parametrize("how", ["agent", "executor"])
def test_a_device_that_dies_in_the_middle_of_a_segment_costs_only_time(how: str) -> None:
    with LocalCluster(TWO_AGENTS) as cluster, Client(cluster.address) as client:
        lazy, expected = network(client, 12_000, 700)
        job = client.submit(lazy)
        victim = cluster.agents[0].process.pid
        if how == "executor":
            (victim,) = (
                child for child in children_of(victim) if b"executors.worker" in command_of(child)
            )

        def running() -> int:
            return sum(p["state"] == "running" for p in job.report().placements)

        def caught() -> bool:
            """Both are in the middle of it, and one of them stands still there."""
            if running() != 2:
                return False
            os.kill(victim, signal.SIGSTOP)
            if running() == 2:
                return True
            os.kill(victim, signal.SIGCONT)
            return False

        wait_until(caught, "both to be in the middle of it")
        os.kill(victim, signal.SIGKILL)
        found = job.result(timeout=180)
        assert np.allclose(found, expected, rtol=1e-3, atol=1e-6)
        assert len({p["operation"] for p in job.report().placements}) == 1
        assert max(p["attempt"] for p in job.report().placements) > 1
