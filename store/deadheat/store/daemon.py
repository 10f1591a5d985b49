"""The store process: a catalog, its gRPC service, its descriptor socket; ends with its parent."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import hashlib
import json
import os
import resource
import secrets
import shutil
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import psutil

from deadheat.runtime import logs, rpc
from deadheat.runtime.children import announce_ready, watch_parent
from deadheat.runtime.credentials import TlsFiles
from deadheat.runtime.errors import Conflict, DeadheatError, InvalidInput
from deadheat.runtime.settings import DEFAULT_MEMORY_SHARE
from deadheat.store.arenas import ArenaPool
from deadheat.store.catalog import Catalog
from deadheat.store.descriptors import DescriptorServer
from deadheat.store.matrices import Store
from deadheat.store.service import MatrixServicer
from deadheat.v1.matrix_pb2_grpc import add_MatrixServiceServicer_to_server

log = logs.get("store")

#: What an asked-for stop and a lost parent leave for copying matrices from memory to disk.
STOP_BUDGET_S: Final = 3.0
ORPHAN_BUDGET_S: Final = 0.5
#: What the kernel takes as the path of a Unix socket (sockaddr_un, its end counted).
MAX_SOCKET_PATH: Final = 107


@dataclass(frozen=True, slots=True)
class StoreOptions:
    state_dir: Path
    memory_dir: Path
    listen: str
    tls: TlsFiles | None
    memory_bytes: int | None
    disk_bytes: int
    ephemeral: bool
    parent_fd: int | None
    ready_fd: int | None


def arena_directory(memory_dir: Path, state_dir: Path) -> Path:
    """Where the arenas of the store with this state directory lie."""
    digest = hashlib.sha256(str(state_dir).encode()).hexdigest()[:12]
    return memory_dir / f"deadheat-{os.getuid()}-{digest}"


def sweep_abandoned(memory_dir: Path) -> None:
    """Removes arenas of this user's stores that died and whose state directory is gone too."""
    for directory in memory_dir.glob(f"deadheat-{os.getuid()}-*"):
        with suppress(OSError, ValueError, KeyError):
            state_dir = Path(json.loads((directory / "owner").read_text())["state_dir"])
            if state_dir.exists():
                continue
            with open(directory / "lock", "a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory)


def _open_directory(options: StoreOptions) -> tuple[Path, int]:
    """Makes and locks the arena directory; the lock lasts as long as this process."""
    if not options.memory_dir.is_dir():
        raise InvalidInput(
            f"memory_dir {options.memory_dir} is not a directory", field="memory_dir"
        )
    sweep_abandoned(options.memory_dir)
    directory = arena_directory(options.memory_dir, options.state_dir)
    directory.mkdir(mode=0o700, exist_ok=True)
    if directory.is_symlink() or directory.stat().st_uid != os.getuid():
        raise Conflict(f"{directory} is not ours")
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Conflict(f"another store uses {directory}") from None
    (directory / "owner").write_text(json.dumps({"state_dir": str(options.state_dir)}))
    return directory, lock


def _memory_limit(options: StoreOptions) -> int:
    if options.memory_bytes is not None:
        return options.memory_bytes
    room = os.statvfs(options.memory_dir)
    free = min(room.f_bavail * room.f_frsize, psutil.virtual_memory().available)
    return int(DEFAULT_MEMORY_SHARE * free)


def _socket_path(directory: Path) -> Path:
    path = directory / "control"
    length = len(os.fsencode(path))
    if length > MAX_SOCKET_PATH:
        raise InvalidInput(
            f"memory_dir makes a socket path of {length} bytes, {path}; the limit is "
            f"{MAX_SOCKET_PATH}",
            field="memory_dir",
        )
    return path


async def serve(options: StoreOptions) -> None:
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[float] = loop.create_future()

    def stop_within(budget_s: float) -> None:
        if not stop.done():
            stop.set_result(budget_s)

    loop.add_signal_handler(signal.SIGTERM, stop_within, STOP_BUDGET_S)
    loop.add_signal_handler(signal.SIGINT, stop_within, STOP_BUDGET_S)
    watch_parent(options.parent_fd, lambda: loop.call_soon_threadsafe(stop_within, ORPHAN_BUDGET_S))

    directory, lock = _open_directory(options)
    disk = options.state_dir / "matrices"
    disk.mkdir(mode=0o700, exist_ok=True)
    pool = ArenaPool(directory, _memory_limit(options))
    catalog = Catalog(pool, disk, options.disk_bytes)
    for problem in catalog.rebuild():
        log.warning(f"a matrix is lost: {problem}", extra=logs.keys("rebuild"))
    store = Store(catalog)

    server = grpc.aio.server(interceptors=[rpc.ErrorInterceptor()], options=rpc.server_options())
    add_MatrixServiceServicer_to_server(MatrixServicer(store), server)
    port = rpc.open_port(server, options.listen, options.tls)
    # The scheduler's own way in: only this user can reach the directory.
    control = f"unix:{_socket_path(directory)}"
    (directory / "control").unlink(missing_ok=True)
    server.add_insecure_port(control)
    await server.start()
    name, ticket = f"deadheat-{secrets.token_hex(8)}", secrets.token_urlsafe(24)
    descriptors = DescriptorServer(store, name, ticket)
    sweeper = loop.create_task(store.sweep())
    announce_ready(
        options.ready_fd,
        {
            "port": port,
            "control": control,
            "descriptor_socket": name,
            "ticket": ticket,
            "memory_bytes": pool.limit_bytes,
            "disk_bytes": options.disk_bytes,
        },
    )

    budget_s = await stop
    sweeper.cancel()
    await server.stop(grace=0.1)
    # Grants end with their connections; whoever is still connected may still write.
    await store.shut_down(budget_s, discard=options.ephemeral)
    descriptors.close()
    with suppress(OSError):
        if not any(directory.glob("arena-*")):
            shutil.rmtree(directory)
    os.close(lock)


def _parse(arguments: list[str] | None) -> StoreOptions:
    parser = argparse.ArgumentParser(prog="python -m deadheat.store")
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--memory-dir", type=Path, required=True)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--tls", type=Path, nargs=3, metavar=("CERT", "KEY", "CA"))
    parser.add_argument("--memory", type=int)
    parser.add_argument("--disk", type=int, required=True)
    parser.add_argument("--ephemeral", action="store_true")
    parser.add_argument("--parent-fd", type=int)
    parser.add_argument("--ready-fd", type=int)
    found = parser.parse_args(arguments)
    return StoreOptions(
        state_dir=found.state_dir,
        memory_dir=found.memory_dir,
        listen=found.listen,
        tls=TlsFiles(*found.tls) if found.tls else None,
        memory_bytes=found.memory,
        disk_bytes=found.disk,
        ephemeral=found.ephemeral,
        parent_fd=found.parent_fd,
        ready_fd=found.ready_fd,
    )


def _raise_descriptor_limit() -> None:
    """Each matrix in memory has two descriptors; the usual 1,024 are for programs that use select,
    and whoever may have more has to ask."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main(arguments: list[str] | None = None) -> int:
    logs.configure()
    _raise_descriptor_limit()
    try:
        asyncio.run(serve(_parse(arguments)))
    except DeadheatError as error:
        sys.stderr.write(f"error: {error.message}\n")
        return 1
    return 0
