"""Three hosts on one machine: network namespaces on a switch, with links of a given rate.

The first has the scheduler, the store and the client; the others have an agent of one core each,
with a shared memory of their own and mutual TLS. Needs root, `ip` and `tc`; without them LeftOut.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measuring import LeftOut, two_cores

COUNT = 3
READY_S = 180.0
#: Mounts of its own with an empty shared memory, as on a host of its own.
OWN_MEMORY = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh")


@dataclass(frozen=True)
class Host:
    """One namespace and its address."""

    namespace: str
    address: str

    def command(self, *arguments: str) -> list[str]:
        return ["ip", "netns", "exec", self.namespace, *arguments]

    def bytes_passed(self) -> tuple[int, int]:
        """How much has come in and gone out."""
        found = _output("ip", "-n", self.namespace, "-s", "-j", "link", "show", "eth0")
        counts = json.loads(found)[0]["stats64"]
        return counts["rx"]["bytes"], counts["tx"]["bytes"]


@dataclass(frozen=True)
class Cluster:
    hosts: Sequence[Host]
    address: str
    environment: dict[str, str]

    def client(self, *arguments: str) -> Any:
        """What `python -m benchmarks.far` says on the first host."""
        found = self._run("benchmarks.far", self.address, *arguments)
        if found.returncode:
            last = self._run("deadheat.cli", "explain", "last", "--scheduler", self.address)
            raise RuntimeError(
                f"the client failed: {found.stderr[-6000:]}\n{last.stdout}{last.stderr}"
            )
        return json.loads(found.stdout)

    def _run(self, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A module's command on the first host."""
        return subprocess.run(
            self.hosts[0].command(sys.executable, "-m", module, *arguments),
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **self.environment},
        )


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def _switched(rate: str) -> Iterator[list[Host]]:
    prefix = f"dhb{os.getpid()}"
    switch = f"{prefix}-sw"
    hosts = [Host(f"{prefix}-{k}", f"10.78.0.{k + 1}") for k in range(COUNT)]
    try:
        for line in (
            f"ip netns add {switch}",
            f"ip -n {switch} link add br0 type bridge",
            f"ip -n {switch} link set br0 up",
        ):
            _output(*line.split())
        for k, host in enumerate(hosts):
            of, to = f"ip -n {host.namespace}", f"ip -n {switch}"
            for line in (
                f"ip netns add {host.namespace}",
                f"{of} link set lo up",
                f"{of} link add eth0 type veth peer name p{k} netns {switch}",
                f"{of} addr add {host.address}/24 dev eth0",
                f"{of} link set eth0 up",
                f"{to} link set p{k} master br0 up",
                # Both directions: what a host sends, and what the switch sends to it.
                *(
                    f"tc -n {where} qdisc add dev {device} root tbf rate {rate} burst 256kb "
                    "latency 50ms"
                    for where, device in ((host.namespace, "eth0"), (switch, f"p{k}"))
                ),
            ):
                _output(*line.split())
        yield hosts
    except subprocess.CalledProcessError as error:
        raise LeftOut(f"network namespaces cannot be had here: {error.stderr}") from None
    finally:
        for name in (*(host.namespace for host in hosts), switch):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _certificates(folder: Path, hosts: Sequence[Host]) -> None:
    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    for host in hosts:
        issued = authority.issue_cert(host.address)
        issued.private_key_pem.write_to_path(str(folder / f"{host.address}.key"))
        issued.cert_chain_pems[0].write_to_path(str(folder / f"{host.address}.pem"))


def _secured(folder: Path, host: Host) -> dict[str, str]:
    return {
        "DEADHEAT_TLS_CERT": str(folder / f"{host.address}.pem"),
        "DEADHEAT_TLS_KEY": str(folder / f"{host.address}.key"),
        "DEADHEAT_TLS_CA": str(folder / "ca.pem"),
    }


@contextmanager
def _daemon(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[None]:
    with open(log, "ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, **environment}
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def cluster(rate: str) -> Iterator[Cluster]:
    """A cluster on three hosts whose links have this rate, like 1gbit; raises LeftOut."""
    if os.getuid() != 0:
        raise LeftOut("network namespaces need root")
    for command in ("ip", "tc", "unshare"):
        if shutil.which(command) is None:
            raise LeftOut(f"network namespaces need the command {command}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="deadheat-hosts-")))
        hosts = stack.enter_context(_switched(rate))
        _certificates(folder, hosts)
        address = f"{hosts[0].address}:7433"
        found = Cluster(hosts, address, _secured(folder, hosts[0]))
        run = (sys.executable, "-m")
        scheduler = (*run, "deadheat.scheduler", "--state-dir", str(folder), "--listen", address)
        commands: list[tuple[Host, tuple[str, ...]]] = [(hosts[0], scheduler)]
        for k, (host, core) in enumerate(zip(hosts[1:], two_cores())):
            agent = ("--scheduler", address, "--name", f"agent{k}", "--cpus", str(core))
            no_cards = ("--gpus", "none")  # A card is one agent's.
            commands.append((host, (*OWN_MEMORY, *run, "deadheat.agent", *agent, *no_cards)))
        for k, (host, arguments) in enumerate(commands):
            started = _daemon(host.command(*arguments), folder / f"{k}.log", _secured(folder, host))
            stack.enter_context(started)
        _wait_until_up(found)
        yield found


def _wait_until_up(found: Cluster) -> None:
    deadline_s = time.monotonic() + READY_S
    while True:
        try:
            if found.client("nodes") == COUNT - 1:
                return
            last = "an agent is missing"
        except RuntimeError as error:
            last = str(error)
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"the hosts were not ready in {READY_S:g} s: {last}")
        time.sleep(0.5)
