"""`deadheat install-units`: what goes where, what is left alone, what is refused."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.cli.running import deadheat

from deadheat.cli import installation
from deadheat.cli.main import root
from deadheat.runtime.errors import InvalidInput, PermissionRefused

UNITS = "usr/local/lib/systemd/system"


def install(root: Path, *options: str) -> list[Path]:
    made = deadheat("install-units", "--root", str(root), "--exec", "/opt/dh/deadheat", *options)
    assert made.returncode == 0, made.stderr
    assert made.stderr == ""
    return [Path(line) for line in made.stdout.splitlines()]


def test_it_prints_what_it_wrote_and_puts_the_command_in(tmp_path: Path) -> None:
    written = install(tmp_path, "--no-gpu")
    assert {str(path.relative_to(tmp_path)) for path in written} == {
        *(f"{UNITS}/{name}" for name in installation.UNITS),
        "usr/local/lib/sysusers.d/deadheat.conf",
        "etc/deadheat/environment",
    }
    for path in written:
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
    unit = (tmp_path / UNITS / "deadheat-agent.service").read_text()
    assert "\nExecStart=/opt/dh/deadheat agent\n" in unit
    assert list(tmp_path.rglob(".*")) == []


def test_a_second_run_replaces_units_and_keeps_what_is_the_administrators(tmp_path: Path) -> None:
    install(tmp_path)
    unit, environment = (
        tmp_path / UNITS / "deadheat-agent.service",
        tmp_path / "etc/deadheat/environment",
    )
    unit.write_text("old")
    environment.write_text("DEADHEAT_SCHEDULER=10.0.0.1:7433\n")
    written = install(tmp_path)
    assert "Type=notify" in unit.read_text()
    assert environment.read_text() == "DEADHEAT_SCHEDULER=10.0.0.1:7433\n"
    assert environment not in written


def test_gpus_are_opened_when_asked_for_and_closed_again(tmp_path: Path) -> None:
    drop_ins = [
        tmp_path / path.relative_to("/") for path in installation.drop_ins(installation.GPU_DROP_IN)
    ]
    install(tmp_path, "--gpu")
    assert all(path.exists() for path in drop_ins)
    install(tmp_path, "--no-gpu")
    assert not any(path.exists() for path in drop_ins)


def test_idle_agents_are_so_beside_other_groups_too(tmp_path: Path) -> None:
    paths = installation.drop_ins(installation.IDLE_DROP_IN)
    install(tmp_path, "--no-gpu", "--idle")
    for path in paths:
        assert "\nCPUWeight=idle\n" in (tmp_path / path.relative_to("/")).read_text()
    install(tmp_path, "--no-gpu")
    assert all((tmp_path / path.relative_to("/")).exists() for path in paths)
    install(tmp_path, "--no-idle")
    assert not any((tmp_path / path.relative_to("/")).exists() for path in paths)


def test_a_users_own_units_go_to_the_users_own_places(tmp_path: Path) -> None:
    places = {"XDG_DATA_HOME": str(tmp_path / "d"), "XDG_CONFIG_HOME": str(tmp_path / "c")}
    made = deadheat("install-units", "--user", environment=places)
    assert made.returncode == 0, made.stderr
    assert "systemctl --user" in made.stderr
    unit = (tmp_path / "d/systemd/user/deadheat-scheduler.service").read_text()
    assert f"\nExecStart={installation.own_command()} scheduler\n" in unit
    assert "User=" not in unit
    assert (tmp_path / "c/deadheat/environment").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--exec", "deadheat"), "give the absolute path"),
        (("--user", "--gpu"), "--gpu is for system units"),
        (("--user", "--idle"), "--idle is for system units"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    made = deadheat("install-units", "--root", str(tmp_path), *options)
    assert made.returncode == 2
    assert words in made.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "usr").write_text("")
    made = deadheat("install-units", "--root", str(tmp_path), "--exec", "/usr/bin/true")
    assert made.returncode == 1
    assert str(tmp_path / "usr") in made.stderr
    assert "Traceback" not in made.stderr


def test_who_is_not_root_is_told_so(tmp_path: Path) -> None:
    arguments = ["install-units", "--exec", "/usr/bin/true", "--root"]
    # As root, so that all that is imported is there when this process is somebody else.
    assert CliRunner().invoke(root, [*arguments, str(tmp_path / "once")]).exit_code == 0
    closed = tmp_path / "closed"
    closed.mkdir(0o500)
    nobody, before = 65534, os.geteuid()
    if before == 0:
        os.seteuid(nobody)
    try:
        found = CliRunner().invoke(root, [*arguments, str(closed)])
    finally:
        os.seteuid(before)
    assert isinstance(found.exception, PermissionRefused)
    assert "system units are root's: run this as root, or say --user" in str(found.exception)


def test_an_interpreter_that_system_units_cannot_reach_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/home/somebody/venv/bin/python")
    with pytest.raises(InvalidInput, match="is in /home, which system units do not see"):
        installation.check_reachable()
    monkeypatch.setattr(installation, "HIDDEN", ())
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "python").touch()
    monkeypatch.setattr(sys, "executable", str(closed / "python"))
    with pytest.raises(InvalidInput, match="entered by its owner only"):
        installation.check_reachable()


def test_a_path_is_quoted_as_systemd_reads_it() -> None:
    assert installation.quoted(Path("/opt/dh/bin/deadheat")) == "/opt/dh/bin/deadheat"
    assert installation.quoted(Path("/opt/my tools/100%")) == '"/opt/my tools/100%%"'
