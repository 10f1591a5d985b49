"""`deadheat simulate`: every scenario that the documents show, and bad ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deadheat.cli.main import main

SCENARIOS = Path(__file__).resolve().parent.parent.parent / "docs" / "scenarios"
SMALL = '[[device]]\nname = "d"\ncount = 2\n[[job]]\nm = 2048\nk = 2048\nn = 2048\n'


@pytest.mark.skipif(not SCENARIOS.exists(), reason="needs the source tree")
@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_scenarios_in_the_documents_run(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", str(path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"jobs", "planning", "baselines"}
    assert set(document["baselines"]) == {"equal", "peak", "one_minus_utilization", "oracle"}
    assert all(job["state"] == "done" for job in document["jobs"])
    assert document["planning"]["calls"] >= len(document["jobs"])


def test_there_are_scenarios_for_every_kind_of_fault() -> None:
    if not SCENARIOS.exists():
        pytest.skip("needs the source tree")
    text = "".join(path.read_text() for path in SCENARIOS.glob("*.toml"))
    for kind in ("lost", "stopped", "slow", "back"):
        assert f'kind = "{kind}"' in text
    assert "away = " in text


def test_people_get_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    assert main(["simulate", str(path)]) == 0
    out = capsys.readouterr().out
    for word in ("job-0", "d-0", "d-1", "this run", "one minus utilization", "oracle"):
        assert word in out


def test_baselines_can_be_left_out_and_the_seed_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "small.toml"
    path.write_text(SMALL.replace("count = 2", "count = 2\nnoise = 0.2"))
    documents = []
    for seed in ("1", "1", "2"):
        assert main(["simulate", str(path), "--json", "--no-baselines", "--seed", seed]) == 0
        documents.append(json.loads(capsys.readouterr().out))
    assert documents[0]["baselines"] == {}
    assert documents[0]["jobs"] == documents[1]["jobs"] != documents[2]["jobs"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "device is empty"),
        ("seed = ", "Invalid value"),
        (SMALL + "colour = 1\n", "job[0].colour is unknown"),
        (SMALL.replace("count = 2", "speed_gflops = -1.0"), "device[0].speed_gflops is -1.0"),
        (SMALL.replace("count = 2", "speed_gflops = nan"), "device[0].speed_gflops is nan"),
        ("\xff", "device is empty"),
    ],
)
def test_a_bad_scenario_is_one_line(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(text.encode("latin-1"))
    assert main(["simulate", str(path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert str(path) in captured.err
    if text != "\xff":
        assert said in captured.err


def test_a_file_that_is_not_there_is_one_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "/nowhere.toml"]) == 2
    assert "/nowhere.toml" in capsys.readouterr().err
