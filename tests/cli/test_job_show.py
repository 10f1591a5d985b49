"""`deadheat job show`: what devices waited for one another, where they had to."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests.cli.running import deadheat

from deadheat.cli.commands.jobs import MAX_BARRIERS, print_barriers
from deadheat.client import Client, LocalCluster, nn

RNG = np.random.default_rng(71)
BARRIER_KEYS = {"after", "predicted_wait_s", "wait_s", "share", "devices"}


def test_barriers_are_told_with_what_they_took_of_the_time(cluster: LocalCluster) -> None:
    at = ("--scheduler", cluster.address)
    x = RNG.standard_normal((2000, 400))
    with Client(cluster.address) as client:
        # A baseline keeps all of a network's barriers, so there is one after each layer.
        job = client.submit_forward(nn.MLP([400, 500, 300, 10]), x, cut="equal")
        job.result()
        report = job.report()
        told = json.loads(client.explain(job.id, as_json=True))["barriers"]
    assert [barrier["after"] for barrier in report.barriers] == ["gemm1", "gemm2"]
    assert report.makespan_s
    for barrier, same in zip(report.barriers, told, strict=True):
        assert barrier.keys() == BARRIER_KEYS
        assert {key: barrier[key] for key in same} == same
        assert barrier["predicted_wait_s"] > 0
        assert barrier["share"] == pytest.approx(barrier["wait_s"] / report.makespan_s)
        assert 1 <= barrier["devices"] <= 2
    shown = deadheat("job", "show", job.id, "--json", *at)
    assert json.loads(shown.stdout)["barriers"] == report.barriers
    for_people = deadheat("job", "show", job.id, *at).stdout.splitlines()
    table = for_people[next(i for i, line in enumerate(for_people) if "BARRIER" in line) :]
    assert table[0].split("  ")[0] == "BARRIER"
    assert [line.split("  ")[0] for line in table[1:]] == ["after gemm1", "after gemm2", "together"]
    assert all(line.rstrip().endswith("%") for line in table[1:])


def test_where_the_only_barrier_is_the_end_there_is_nothing_to_tell(cluster: LocalCluster) -> None:
    a = RNG.standard_normal((900, 900))
    with Client(cluster.address) as client:
        job = client.submit_matmul(a, a)
        job.result()
        assert job.report().barriers == []
    shown = deadheat("job", "show", job.id, "--scheduler", cluster.address)
    assert "finish spread" in shown.stdout
    assert "BARRIER" not in shown.stdout


@pytest.mark.parametrize("share", [0.01, None])
def test_of_many_those_that_cost_most_are_listed(
    capsys: pytest.CaptureFixture[str], share: float | None
) -> None:
    found = [
        {"after": f"epoch{n}", "predicted_wait_s": 0.5, "wait_s": n / 10, "share": share}
        for n in range(MAX_BARRIERS + 8)
    ]
    print_barriers(found)
    lines = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    listed = [f"after epoch{n}" for n in range(8, MAX_BARRIERS + 8)]
    assert lines == ["BARRIER", *listed, "and 8 others", "together"]


def test_what_they_took_together_is_their_sum(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("a", "b")
    print_barriers(
        [{"after": name, "predicted_wait_s": 0.25, "wait_s": 0.5, "share": 0.125} for name in names]
    )
    together = capsys.readouterr().out.splitlines()[-1]
    assert together.split() == ["together", "500.0", "ms", "1.00", "s", "25.0%"]
    print_barriers([{"after": "a", "predicted_wait_s": 0.25, "wait_s": 0.5, "share": None}])
    only = capsys.readouterr().out.splitlines()[-1]
    assert only.split() == ["after", "a", "250.0", "ms", "500.0", "ms", "-"]
