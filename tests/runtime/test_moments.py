"""Times as people write them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.moments import (
    MINUTES_OF_A_DAY,
    Hours,
    minute_of_day,
    parse_hours,
    parse_moment,
)


@pytest.fixture(autouse=True)
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("hours", "inside", "outside"),
    [
        ("08:00-18:00", ["08:00", "17:59"], ["07:59", "18:00", "00:00"]),
        ("22:00-06:00", ["22:00", "23:59", "00:00", "05:59"], ["06:00", "21:59"]),
        ("00:00-24:00", ["00:00", "23:59"], []),
        ("18:00-24:00", ["18:00", "23:59"], ["00:00"]),
    ],
)
def test_hours_hold_also_over_midnight(hours: str, inside: list[str], outside: list[str]) -> None:
    (found,) = parse_hours(hours)
    for text in (*inside, *outside):
        minute = minute_of_day(at(f"2026-11-25T{text}"))
        assert found.hold(minute) == (text in inside)


@given(start=st.integers(0, MINUTES_OF_A_DAY - 1), stop=st.integers(0, MINUTES_OF_A_DAY - 1))
def test_a_span_and_its_complement_share_out_the_day(start: int, stop: int) -> None:
    if start == stop:
        return
    one, other = Hours(start, stop), Hours(stop, start)
    assert all(one.hold(minute) != other.hold(minute) for minute in range(MINUTES_OF_A_DAY))
    assert parse_hours(str(one)) == (one,)


def test_several_spans_as_text_or_as_a_list() -> None:
    expected = ["08:00-12:00", "22:30-06:00"]
    assert [str(one) for one in parse_hours("8:00-12:00, 22:30-06:00")] == expected
    assert [str(one) for one in parse_hours(["8:00-12:00", "22:30-06:00"])] == expected


@pytest.mark.parametrize(
    "text", ["8-18", "08:00", "08:00-08:00", "24:00-06:00", "08:60-09:00", "25:00-26:00", ""]
)
def test_what_is_no_span_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"08:00-18:00|00:00-24:00"):
        parse_hours(text)
    with pytest.raises(InvalidInput, match="at most 48"):
        parse_hours(["08:00-09:00"] * 49)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90m", "2026-11-25T18:30:00"),
        ("1h30m15s", "2026-11-25T18:30:15"),
        ("1.5h", "2026-11-25T18:30:00"),
        ("17:30", "2026-11-25T17:30:00"),
        ("17:00", "2026-11-26T17:00:00"),
        ("24:00", "2026-11-26T00:00:00"),
        ("2026-12-01T08:00", "2026-12-01T08:00:00"),
        ("2026-11-25T17:30+01:00", "2026-11-25T17:30:00"),
    ],
)
def test_moments_in_all_their_forms(text: str, expected: str) -> None:
    assert parse_moment(text, at("2026-11-25T17:00:00"), {}) == at(expected)


def test_a_time_of_day_is_the_clocks_also_where_a_day_has_25_hours() -> None:
    # Summer time ends at 03:00 on 2026-10-25.
    found = parse_moment("12:00", at("2026-10-24T13:00"), {})
    assert found == at("2026-10-25T12:00")
    assert found - at("2026-10-24T12:00") == 25 * 3600


def test_the_end_of_a_slurm_job_comes_from_its_environment() -> None:
    assert parse_moment("slurm", 1000.0, {"SLURM_JOB_END_TIME": "4600"}) == 4600.0
    with pytest.raises(InvalidInput, match="SLURM_JOB_END_TIME is ''"):
        parse_moment("slurm", 1000.0, {})
    with pytest.raises(InvalidInput, match="later than now"):
        parse_moment("slurm", 5000.0, {"SLURM_JOB_END_TIME": "4600"})


@pytest.mark.parametrize(
    "text", ["", "soon", "90", "-5m", "0s", "400d", "2020-01-01", "9999-13-01"]
)
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"is no time|later than now"):
        parse_moment(text, at("2026-11-25T17:00:00"), {})
