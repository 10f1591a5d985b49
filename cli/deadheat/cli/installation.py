"""Which unit files go where, with which command in them, and whether that command can run there.

The files are those of `deploy/systemd`, shipped in the wheel as `deadheat/cli/units`. Units go to
where locally installed software has its own, so that /etc stays the administrator's: `systemctl
edit` and drop-ins there win, and a newer deadheat may replace what this one wrote.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from deadheat.runtime.errors import InvalidInput

SHIPPED_COMMAND: Final = "/usr/bin/deadheat"
CONFIG_DIR: Final = Path("/etc/deadheat")
UNITS: Final = (
    "deadheat-scheduler.service",
    "deadheat-agent.service",
    "deadheat-agent@.service",
)
#: Units of agents, which drop-ins are for.
AGENTS: Final = UNITS[1:]
GPU_DROP_IN: Final = "gpu.conf"
IDLE_DROP_IN: Final = "idle.conf"
SYSTEM_UNITS: Final = Path("/usr/local/lib/systemd/system")
#: What ProtectHome= and PrivateTmp= hide from a system unit.
HIDDEN: Final = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))


@dataclass(frozen=True, slots=True)
class Installed:
    """A file to be; one that is the administrator's is never replaced."""

    path: Path
    text: str
    is_configuration: bool = False


def shipped(name: str) -> str:
    found = resources.files("deadheat.cli").joinpath("units", *name.split("/"))
    return found.read_text(encoding="utf-8")


def system_files(command: str, *, gpu: bool, idle: bool = False) -> list[Installed]:
    units, sysusers = SYSTEM_UNITS, Path("/usr/local/lib/sysusers.d/deadheat.conf")
    found = [Installed(units / name, _with_command(shipped(name), command)) for name in UNITS]
    for drop_in, is_wanted in ((GPU_DROP_IN, gpu), (IDLE_DROP_IN, idle)):
        if is_wanted:
            found += [Installed(path, shipped(drop_in)) for path in drop_ins(drop_in)]
    found.append(Installed(sysusers, shipped("deadheat.sysusers")))
    found.append(Installed(CONFIG_DIR / "environment", shipped("environment"), True))
    return found


def drop_ins(name: str) -> list[Path]:
    """Where a drop-in of the agents' units goes."""
    return [SYSTEM_UNITS / f"{unit}.d" / name for unit in AGENTS]


def user_files(command: str, environment: Mapping[str, str]) -> list[Installed]:
    home = Path.home()
    units = Path(environment.get("XDG_DATA_HOME") or home / ".local/share") / "systemd/user"
    config = Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "deadheat"
    found = [
        Installed(units / name, _with_command(shipped(f"user/{name}"), command)) for name in UNITS
    ]
    text = shipped("environment").replace(str(CONFIG_DIR), str(config))
    return [*found, Installed(config / "environment", text, True)]


def write(files: list[Installed], root: Path) -> Iterator[Path]:
    """Writes each in one step below `root`, and yields what it wrote."""
    for file in files:
        path = root / file.path.relative_to("/")
        if file.is_configuration and path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
                opened.write(file.text)
            Path(part).chmod(0o644)
            Path(part).replace(path)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise
        yield path


def _with_command(unit: str, command: str) -> str:
    return unit.replace(f"ExecStart={SHIPPED_COMMAND} ", f"ExecStart={command} ")


def quoted(path: Path) -> str:
    """A path as a word of a unit's ExecStart=."""
    text = str(path).replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return (
        f'"{text}"' if text != str(path) or any(c.isspace() or c in "'$;" for c in text) else text
    )


def own_command() -> str:
    """What starts this very deadheat again: its script, else its interpreter and module."""
    script = Path(sys.executable).parent / "deadheat"
    if script.exists():
        return quoted(script)
    return f"{quoted(Path(sys.executable))} -m deadheat.cli"


def check_reachable() -> None:
    """Refuses if a system unit, whose user is nobody's and who sees no homes, could not start this
    deadheat."""
    for path in (Path(sys.executable), Path(sys.executable).resolve(), Path(__file__).resolve()):
        for hidden in HIDDEN:
            if path.is_relative_to(hidden):
                raise InvalidInput(
                    f"{path} is in {hidden}, which system units do not see: install deadheat "
                    "elsewhere (python3 -m venv /opt/deadheat), or say --exec PATH, or --user",
                    field="exec",
                )
        for part in path.parents:
            if not part.stat().st_mode & 0o001:
                raise InvalidInput(
                    f"{part} can be entered by its owner only, and system units run as other "
                    "users: install deadheat elsewhere (python3 -m venv /opt/deadheat), or say "
                    "--exec PATH, or --user",
                    field="exec",
                )
