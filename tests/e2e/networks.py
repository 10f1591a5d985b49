"""Several hosts on one machine: network namespaces joined by a bridge, and certificates for them.

Needs root and Linux's `ip`; whoever uses it skips elsewhere and says so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

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
