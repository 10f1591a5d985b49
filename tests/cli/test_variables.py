"""Misspelt variables are told on stderr, before a command does without them."""

from __future__ import annotations

import pytest
from tests.cli.running import deadheat


@pytest.mark.parametrize("command", [("db", "--help"), ("agent", "calibrate", "--cpus", "none")])
def test_a_misspelt_variable_is_told_once_and_the_nearest_one_named(
    command: tuple[str, ...],
) -> None:
    made = deadheat(*command, environment={"DEADHEAT_LOGLEVEL": "debug", "DEADHEAT_NAME": "n"})
    told = [line for line in made.stderr.splitlines() if "environment variable" in line]
    nearest = "did you mean DEADHEAT_LOG_LEVEL?"
    assert told == [f"warning: nobody reads the environment variable DEADHEAT_LOGLEVEL; {nearest}"]
    assert "environment variable" not in made.stdout
