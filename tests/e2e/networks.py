"""Several hosts on one machine: network namespaces joined by a bridge, and certificates for them.

Needs root and Linux's `ip`; whoever uses it skips elsewhere and says so.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.conftest import CORES
from tests.waiting import wait_until

needs_namespaces = pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("ip") is None,
    reason="network namespaces need root and the ip command (Debian: iproute2)",
)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@dataclass(frozen=True)
class Host:
    """One namespace with an address of its own, and nothing shared but the file system."""

    namespace: str
    address: str

    def command(self, *arguments: str) -> list[str]:
        return ["ip", "netns", "exec", self.namespace, *arguments]

    def sent_bytes(self) -> int:
        """What has left it since it was made, whatever for."""
        shown = ["ip", "-n", self.namespace, "-json", "-statistics", "link", "show", "eth0"]
        found = subprocess.run(shown, check=True, capture_output=True, text=True)
        return int(json.loads(found.stdout)[0]["stats64"]["tx"]["bytes"])


@contextmanager
def hosts(count: int, *, rate: str = "") -> Iterator[list[Host]]:
    """That many hosts on one switch; `rate` (like 1gbit) bounds what each can send."""
    prefix = f"dh{os.getpid()}"
    switch = f"{prefix}-sw"
    found = [Host(f"{prefix}-{k}", f"10.77.0.{k + 1}") for k in range(count)]
    try:
        ip("netns", "add", switch)
        ip("-n", switch, "link", "add", "br0", "type", "bridge")
        ip("-n", switch, "link", "set", "br0", "up")
        for k, host in enumerate(found):
            _plug_in(host, switch, f"p{k}", rate)
        yield found
    finally:
        for name in (*(host.namespace for host in found), switch):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _plug_in(host: Host, switch: str, port: str, rate: str) -> None:
    ip("netns", "add", host.namespace)
    ip("-n", host.namespace, "link", "set", "lo", "up")
    ip(
        "-n",
        host.namespace,
        "link",
        "add",
        "eth0",
        "type",
        "veth",
        "peer",
        "name",
        port,
        "netns",
        switch,
    )
    ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
    ip("-n", host.namespace, "link", "set", "eth0", "up")
    ip("-n", switch, "link", "set", port, "master", "br0", "up")
    if rate:
        for namespace, device in ((host.namespace, "eth0"), (switch, port)):
            subprocess.run(
                [
                    "tc",
                    "-n",
                    namespace,
                    "qdisc",
                    "add",
                    "dev",
                    device,
                    "root",
                    "tbf",
                    "rate",
                    rate,
                    "burst",
                    "256kb",
                    "latency",
                    "50ms",
                ],
                check=True,
                capture_output=True,
            )


@dataclass(frozen=True)
class Certificates:
    """A private CA, and a certificate of it for each address."""

    directory: Path

    @staticmethod
    def issue(directory: Path, addresses: Sequence[str], *, name: str = "ca") -> Certificates:
        import trustme

        directory.mkdir(exist_ok=True)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(directory / "ca.pem"))
        for address in addresses:
            issued = authority.issue_cert(address)
            issued.private_key_pem.write_to_path(str(directory / f"{address}.key"))
            issued.cert_chain_pems[0].write_to_path(str(directory / f"{address}.pem"))
        del name
        return Certificates(directory)

    def flags(self, address: str) -> list[str]:
        return [
            *("--tls-cert", str(self.directory / f"{address}.pem")),
            *("--tls-key", str(self.directory / f"{address}.key")),
            *("--tls-ca", str(self.directory / "ca.pem")),
        ]

    def environment(self, address: str) -> dict[str, str]:
        return {
            "DEADHEAT_TLS_CERT": str(self.directory / f"{address}.pem"),
            "DEADHEAT_TLS_KEY": str(self.directory / f"{address}.key"),
            "DEADHEAT_TLS_CA": str(self.directory / "ca.pem"),
        }


#: Each daemon gets mounts of its own with an empty shared memory, as on a host of its own.
OWN_MEMORY = 'mount -t tmpfs tmpfs /dev/shm && exec "$@"'


@contextmanager
def daemon(
    host: Host, log: Path, module: str, *arguments: str
) -> Iterator[subprocess.Popen[bytes]]:
    with open(log, "ab") as output:
        process = subprocess.Popen(
            host.command(
                *("unshare", "--mount", "sh", "-c", OWN_MEMORY, "sh"),
                *(sys.executable, "-m", module, *arguments),
            ),
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def command(
    host: Host, certificates: Certificates, *arguments: str, module: str = "deadheat.cli"
) -> str:
    found = subprocess.run(
        host.command(
            *("unshare", "--mount", "sh", "-c", OWN_MEMORY, "sh"),
            *(sys.executable, "-m", module, *arguments),
        ),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **certificates.environment(host.address)},
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


@dataclass(frozen=True)
class Cluster:
    """A scheduler on the first of some hosts and agents on the others, all with certificates."""

    address: str
    first: Host
    #: The last one, for whoever wants to ask for something from there.
    third: Host
    certificates: Certificates
    agents: Sequence[subprocess.Popen[bytes]]

    def command(self, *arguments: str, module: str = "deadheat.cli") -> str:
        """On the last host."""
        return command(self.third, self.certificates, *arguments, module=module)


@contextmanager
def cluster(
    tmp_path: Path, *, agents: int = 2, rate: str = "", flags: Sequence[str] = ()
) -> Iterator[Cluster]:
    """Its hosts send at most at that rate (like 1gbit); `flags` are for all agents."""
    with hosts(agents + 1, rate=rate) as machines, ExitStack() as running:
        first = machines[0]
        certificates = Certificates.issue(tmp_path / "pki", [host.address for host in machines])
        address = f"{first.address}:7433"
        scheduler = ("--state-dir", str(tmp_path / "state"), "--listen", address)
        parts: list[tuple[Host, str, tuple[str, ...]]] = [(first, "scheduler", scheduler)]
        for k, host in enumerate(machines[1:]):
            core = CORES[k % len(CORES)]
            own = ("--scheduler", address, "--name", f"agent{k}", "--cpus", str(core), *flags)
            parts.append((host, "agent", (*own, "--gpus", "none")))
        processes: list[subprocess.Popen[bytes]] = []
        for number, (host, name, arguments) in enumerate(parts):
            log, security = tmp_path / f"{name}{number}.log", certificates.flags(host.address)
            started = daemon(host, log, f"deadheat.{name}", *arguments, *security)
            processes.append(running.enter_context(started))
        third = machines[-1]

        def all_up() -> bool:
            try:
                found = command(third, certificates, "nodes", "--json", "--scheduler", address)
            except AssertionError:
                return False
            return [node["state"] for node in json.loads(found)["nodes"]] == ["up"] * agents

        wait_until(all_up, "all agents", timeout_s=150)
        yield Cluster(address, first, third, certificates, processes[1:])
