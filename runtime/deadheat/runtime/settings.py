"""Settings: a frozen value for each kind of process, made once at the edge.

A value comes from the flag, else the environment (DEADHEAT_ and the key in capitals), else the
table of this process in the TOML file, else what systemd has prepared, else the default. What is
wrong is said with the key.
"""

from __future__ import annotations

import math
import os
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from deadheat.runtime import moments, places, rpc
from deadheat.runtime.credentials import TlsFiles, check_exposure, is_loopback
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.hosts import host_name
from deadheat.runtime.units import GIB, parse_bytes

DEFAULT_SCHEDULER: Final = "127.0.0.1:7433"
#: Shared memory for matrices: this share of what the tmpfs has free when the store starts.
DEFAULT_MEMORY_SHARE: Final = 0.6
DEFAULT_DISK_BYTES: Final = 64 * GIB
#: The tables of a file that all processes of a machine share.
TABLES: Final = ("scheduler", "agent", "client")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")

T = TypeVar("T")


class Sources:
    """Where the settings of one process come from."""

    def __init__(
        self,
        table: str,
        flags: Mapping[str, object],
        *,
        environment: Mapping[str, str] | None = None,
        config: Path | None = None,
    ) -> None:
        self.environment = os.environ if environment is None else environment
        self._again = (table, flags, environment, config)
        self._flags = flags
        config = config or places.config_file(self.environment)
        self._file = _read_table(config, table) if config else {}
        self._config = config
        self._known: set[str] = set()

    def get(self, key: str, parse: Callable[[Any], T], default: T) -> T:
        self._known.add(key)
        variable = f"DEADHEAT_{key.upper()}"
        for raw, name in (
            (self._flags.get(key), f"--{key.replace('_', '-')}"),
            (self.environment.get(variable), variable),
            (self._file.get(key), f"{self._config}: {key}"),
        ):
            if raw is None or raw == "":
                continue
            try:
                return parse(raw)
            except InvalidInput as error:
                raise InvalidInput(f"{name}: {error.message}", field=key) from None
            except (TypeError, ValueError) as error:
                raise InvalidInput(f"{name} is {raw!r}: {error}", field=key) from None
        return default

    def again(self) -> Sources:
        """The same sources, the file as it is now."""
        table, flags, environment, config = self._again
        return Sources(table, flags, environment=environment, config=config)

    def finish(self) -> None:
        """Refuses keys in the file that nobody asked for."""
        unknown = sorted(set(self._file) - self._known)
        if unknown:
            known = ", ".join(sorted(self._known))
            raise InvalidInput(
                f"{self._config}: unknown key {unknown[0]!r}; known are {known}", field=unknown[0]
            )


def _read_table(config: Path, table: str) -> Mapping[str, object]:
    try:
        document = tomllib.loads(config.read_text())
    except OSError as error:
        raise InvalidInput(f"{config}: {error.strerror}", field="config") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{config}: {error}", field="config") from None
    # A table that nobody reads would be a setting that its author believes in.
    unknown = sorted(set(document) - set(TABLES))
    if unknown:
        known = ", ".join(f"[{name}]" for name in TABLES)
        raise InvalidInput(f"{config}: unknown {unknown[0]!r}; known are {known}", field=unknown[0])
    found = document.get(table, {})
    if not isinstance(found, dict):
        raise InvalidInput(f"{config}: {table} must be a table", field=table)
    return found


def parse_flag(raw: object) -> bool:
    if isinstance(raw, bool):
        return raw
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if str(raw).lower() not in words:
        raise InvalidInput(f"{raw!r} is neither yes nor no")
    return words[str(raw).lower()]


def parse_size(raw: object) -> int:
    """Bytes, as a number or as text with a unit; raises InvalidInput for none at all."""
    is_number = isinstance(raw, int) and not isinstance(raw, bool)
    size = int(str(raw)) if is_number else parse_bytes(str(raw), field="size")
    if size < 1:
        raise InvalidInput(f"size is {raw!r}; it must be more than nothing, like 512M or 1.5G")
    return size


def parse_cpus(raw: object, sys: Path = Path("/sys")) -> tuple[int, ...]:
    """Cores as a list or as text; `node:1` stands for those of a NUMA node, as sysfs has them.

    >>> parse_cpus("0,2-3")
    (0, 2, 3)
    """
    cpus: set[int] = set()
    parts = [str(part) for part in raw] if isinstance(raw, (list, tuple)) else str(raw).split(",")
    for part in parts:
        if part.strip().startswith("node:"):
            cpus.update(_cpus_of_node(part.strip(), sys))
            continue
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise InvalidInput(f"{part!r} is not a core; give a list like 0,2-3")
        if dash and int(last) < int(first):
            raise InvalidInput(f"{part.strip()!r} runs backwards; write {last}-{first}")
        cpus.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(cpus))


def _cpus_of_node(part: str, sys: Path) -> tuple[int, ...]:
    number = part.removeprefix("node:")
    path = sys / f"devices/system/node/node{number}/cpulist"
    text = path.read_text().strip() if number.isdecimal() and path.exists() else ""
    if not text:
        raise InvalidInput(f"{part!r}: this machine has no cores on such a NUMA node")
    return parse_cpus(text)


def _parse_path(raw: object) -> Path:
    return Path(str(raw)).expanduser().absolute()


def _parse_address(raw: object) -> str:
    rpc.split_address(str(raw))
    return str(raw)


def _state_dir(sources: Sources) -> Path:
    """The flag, else DEADHEAT_STATE_DIR, else systemd's directory, else the user's."""
    environment = sources.environment
    home = environment.get("XDG_STATE_HOME") or "~/.local/state"
    systemd = environment.get("STATE_DIRECTORY", "").split(":")[0]
    return sources.get("state_dir", _parse_path, _parse_path(systemd or f"{home}/deadheat"))


def cache_dir(environment: Mapping[str, str] | None = None) -> Path:
    """Where calibrations are kept: they may be lost, but then they cost seconds again."""
    found = os.environ if environment is None else environment
    home = found.get("XDG_CACHE_HOME") or "~/.cache"
    systemd = found.get("CACHE_DIRECTORY", "").split(":")[0]
    return _parse_path(found.get("DEADHEAT_CACHE_DIR") or systemd or f"{home}/deadheat")


def _tls(sources: Sources) -> TlsFiles | None:
    files = {
        key: sources.get(key, _parse_path, places.credential(sources.environment, key))
        for key in ("tls_cert", "tls_key", "tls_ca")
    }
    certificate, key, authority = files.values()
    if certificate and key and authority:
        return TlsFiles(certificate, key, authority)
    missing = [name for name, path in files.items() if path is None]
    if len(missing) < 3:
        raise InvalidInput(f"{missing[0]} is missing; TLS needs tls_cert, tls_key and tls_ca")
    return None


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    state_dir: Path
    listen: str
    insecure: bool
    tls: TlsFiles | None
    #: Shared memory that matrices may take; None: a share of what is free.
    memory_bytes: int | None
    disk_bytes: int
    memory_dir: Path
    #: Everything is thrown away when the daemon ends (a LocalCluster in a temporary directory).
    ephemeral: bool
    log_level: str

    @staticmethod
    def load(sources: Sources) -> SchedulerSettings:
        settings = SchedulerSettings(
            state_dir=_state_dir(sources),
            listen=sources.get("listen", _parse_address, DEFAULT_SCHEDULER),
            insecure=sources.get("insecure", parse_flag, False),
            tls=_tls(sources),
            memory_bytes=sources.get("memory", parse_size, None),
            disk_bytes=sources.get("disk", parse_size, DEFAULT_DISK_BYTES),
            memory_dir=sources.get("memory_dir", _parse_directory, Path("/dev/shm")),
            ephemeral=sources.get("ephemeral", parse_flag, False),
            log_level=sources.get("log_level", _parse_level, "info"),
        )
        sources.finish()
        check_exposure(rpc.split_address(settings.listen)[0], settings.tls, settings.insecure)
        return settings


@dataclass(frozen=True, slots=True)
class AgentSettings:
    scheduler: str
    tls: TlsFiles | None
    name: str
    cpus: tuple[int, ...]
    #: What operands and results of its sub-tasks may take here.
    memory_bytes: int | None
    politeness: str
    #: The load of others, as a fraction of a device, above which it takes no work; None: none.
    yield_above: float | None
    #: When nothing here takes work.
    yield_hours: tuple[moments.Hours, ...]
    #: It leaves when it has worked and no job is open any more.
    once: bool
    #: When it has to be gone, as `moments.parse_moment` reads it when the agent starts; or empty.
    until: str
    shares_cpus: bool
    #: Whether cores of several NUMA nodes are a device for each: "split", "whole", or "auto".
    numa: str
    #: "all", "none", or UUIDs and numbers of GPUs, separated by commas.
    gpus: str
    #: Where other agents get blocks and exchange gradients: HOST:PORT, "off", or empty for this
    #: host's own address.
    peers: str
    cache_dir: Path
    log_level: str

    @staticmethod
    def load(sources: Sources, allowed: tuple[int, ...] | None = None) -> AgentSettings:
        """`allowed` are the cores that this process was started with, if it has left some since."""
        if allowed is None:
            allowed = tuple(sorted(os.sched_getaffinity(0)))
        settings = AgentSettings(
            scheduler=sources.get("scheduler", _parse_address, DEFAULT_SCHEDULER),
            tls=_tls(sources),
            name=sources.get("name", _parse_name, host_name()),
            cpus=sources.get("cpus", parse_cpus, allowed),
            memory_bytes=sources.get("memory", parse_size, None),
            politeness=sources.get("politeness", _parse_politeness, "normal"),
            yield_above=sources.get("yield_above", _parse_above, None),
            yield_hours=sources.get("yield_hours", moments.parse_hours, ()),
            once=sources.get("once", parse_flag, False),
            until=sources.get("until", _parse_until(sources.environment), ""),
            shares_cpus=sources.get("shares_cpus", parse_flag, False),
            numa=sources.get("numa", parse_numa, "auto"),
            gpus=sources.get("gpus", parse_gpus, "all"),
            peers=sources.get("peers", _parse_peers, ""),
            cache_dir=sources.get("cache_dir", _parse_path, cache_dir(sources.environment)),
            log_level=sources.get("log_level", _parse_level, "info"),
        )
        sources.finish()
        if settings.peers not in ("", "off"):
            _check_peers(settings.peers, settings.tls)
        outside = sorted(set(settings.cpus) - set(allowed))
        if outside or not settings.cpus:
            raise InvalidInput(
                f"cpus is {list(settings.cpus)}; this process may use {list(allowed)}", field="cpus"
            )
        return settings


@dataclass(frozen=True, slots=True)
class ClientSettings:
    scheduler: str
    #: Whether somebody chose that address, so that no other cluster may take its place.
    is_explicit: bool
    tls: TlsFiles | None

    @staticmethod
    def load(sources: Sources) -> ClientSettings:
        chosen = sources.get("scheduler", _parse_address, "")
        settings = ClientSettings(
            scheduler=chosen or DEFAULT_SCHEDULER, is_explicit=bool(chosen), tls=_tls(sources)
        )
        sources.finish()
        return settings


def _parse_name(raw: object) -> str:
    name = str(raw)
    if not 0 < len(name) <= 64 or not all(c.isalnum() or c in "-_." for c in name):
        raise InvalidInput(f"{name!r} must be 1 to 64 letters, digits, '-', '_' or '.'")
    return name


def _parse_level(raw: object) -> str:
    if str(raw).lower() not in LOG_LEVELS:
        raise InvalidInput(f"{raw!r} may be {', '.join(LOG_LEVELS)}")
    return str(raw).lower()


def _parse_directory(raw: object) -> Path:
    path = _parse_path(raw)
    if not path.is_dir():
        raise InvalidInput(f"{path} is not a directory")
    return path


def _check_peers(address: str, tls: TlsFiles | None) -> None:
    host = rpc.split_address(address)[0]
    if tls is None and not is_loopback(host):
        raise InvalidInput(
            f"peers is {address}, which other machines can reach: give --tls-cert, --tls-key and "
            "--tls-ca, or --peers off",
            field="peers",
        )


def _parse_peers(raw: object) -> str:
    return "off" if raw == "off" else _parse_address(raw)


def _parse_above(raw: object) -> float:
    """A fraction of a device, also as per cent."""
    text = str(raw).strip()
    number = text.removesuffix("%")
    try:
        above = float(number) / (100 if number != text else 1)
    except ValueError:
        above = math.nan
    if not 0 < above < 1:
        raise InvalidInput(f"{raw!r} must be a fraction between 0 and 1, like 0.5 or 50%")
    return above


def _parse_until(environment: Mapping[str, str]) -> Callable[[object], str]:
    def parse(raw: object) -> str:
        moments.parse_moment(str(raw), time.time(), environment)
        return str(raw)

    return parse


def parse_gpus(raw: object) -> str:
    """Which GPUs: "all", "none", or a list (also as text, with commas) of numbers in NVML's order
    and of UUIDs or their beginnings; raises InvalidInput for anything else."""
    words = list(raw) if isinstance(raw, list | tuple) else str(raw).split(",")
    parts = [str(word).strip() for word in words]
    if parts in (["all"], ["none"]):
        return parts[0]
    for part in parts:
        if not part.isdecimal() and not part.startswith(("GPU-", "MIG-")):
            raise InvalidInput(f"{part!r} may be a number, GPU-... or MIG-...; or all, or none")
    return ",".join(parts) or "none"


def parse_numa(raw: object) -> str:
    """Raises InvalidInput that lists the choices."""
    if raw not in ("auto", "split", "whole"):
        raise InvalidInput(f"{raw!r} may be auto, split or whole")
    return str(raw)


def _parse_politeness(raw: object) -> str:
    if raw not in ("normal", "idle"):
        raise InvalidInput(f"{raw!r} may be normal or idle")
    return str(raw)
