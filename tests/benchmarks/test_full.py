"""The long run: what it measured it keeps, and what cannot be measured stops nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks import __main__ as quick
from benchmarks import full, page
from benchmarks.cases import FULL, QUICK, chosen
from benchmarks.keeping import Shelf, counted, measured
from tests.benchmarks.samples import Counted, case


def test_a_case_is_not_measured_twice_with_the_same_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, shelf = Counted(monkeypatch), Shelf(tmp_path)
    full.run([case("one", size=4)], shelf)
    records, left = full.run([case("one", size=4), case("two")], shelf)
    assert module.runs == [{"size": 4}, {}]
    assert [record["name"] for record in records] == ["one", "two"]
    assert not left
    full.run([case("one", size=5)], shelf)
    full.run([case("one", size=5)], shelf, is_again=True)
    assert module.runs[2:] == [{"size": 5}, {"size": 5}]


def test_an_interrupted_run_keeps_what_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, shelf = Counted(monkeypatch), Shelf(tmp_path)
    cases = [case("one"), case("two", breaks="the peer died"), case("three")]
    records, _ = full.run(cases, shelf)
    assert records[1]["failed"] == "RuntimeError: the peer died"
    assert "failed" not in records[2]
    # What failed is tried again, what is there is not.
    full.run(cases, shelf)
    assert len(module.runs) == 4


def test_a_case_is_left_out_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Counted(monkeypatch)
    records, _ = full.run([case("far", lacks="it needs root")], Shelf(tmp_path))
    assert records[0]["left_out"] == "it needs root"
    assert "left out: it needs root" in capsys.readouterr().out
    assert counted(records) == (0, 0)


def test_no_case_is_begun_that_would_not_end_within_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, shelf = Counted(monkeypatch), Shelf(tmp_path)
    long, short = case("long", estimate_s=600.0), case("short", estimate_s=1.0)
    records, left = full.run([long, short], shelf, budget_s=60.0)
    assert [record["name"] for record in records] == ["short"]
    assert left == [long]
    assert len(module.runs) == 1


def test_a_file_that_is_half_written_is_never_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Counted(monkeypatch)
    shelf, one = Shelf(tmp_path), case("one")
    shelf.keep(one, measured(one))
    assert [path.name for path in tmp_path.iterdir()] == ["one.json"]
    assert (shelf.known(one) or {})["figures"][0]["holds"] is True


def test_the_page_alone_measures_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = Counted(monkeypatch)
    written: list[list[str]] = []
    monkeypatch.setattr(full, "RESULTS", tmp_path)
    monkeypatch.setattr(page, "write", lambda records, unmeasured: written.append(unmeasured))
    assert full.main(["--page"]) == 0
    assert not module.runs
    assert written == [[one.name for one in FULL]]


def test_all_cases_fit_their_time_and_have_names_of_their_own() -> None:
    assert sum(one.estimate_s for one in QUICK) <= 600
    assert sum(one.estimate_s for one in FULL) <= 90 * 60
    assert len({one.name for one in FULL}) == len(FULL)


def test_the_quick_run_names_what_it_has_no_time_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = Counted(monkeypatch)
    monkeypatch.setattr(quick, "RESULTS", tmp_path)
    monkeypatch.setattr(quick, "QUICK", (case("short"), case("long", estimate_s=601.0)))
    assert quick.main([]) == 1
    assert len(module.runs) == 1
    assert "no time left: long, about 601 s" in capsys.readouterr().out
    (path,) = tmp_path.glob("*.json")
    kept = json.loads(path.read_text())
    assert kept["cases"][0]["figures"][0]["target"] == 2.0
    assert {"cpu", "cores", "blas", "numpy", "kernel", "date"} <= set(kept["machine"])
    # What is asked for by name is measured, however long it takes.
    assert quick.main(["long"]) == 0


def test_a_name_stands_for_all_that_begin_with_it() -> None:
    assert {one.name for one in chosen(FULL, ["ray"])} == {
        "ray-idle-8192", "ray-hog-8192", "ray-held-8192"
    }  # fmt: skip
    assert [one.name for one in chosen(FULL, ["command"])] == ["command"]
    with pytest.raises(ValueError, match="unknown case 'nobody'"):
        chosen(FULL, ["nobody"])


def test_a_rehearsal_is_small_and_once() -> None:
    ours = chosen(FULL, ["held-8192"])[0].rehearsed()
    assert (ours.given["size"], ours.given["repeats"]) == (1024, 1)
