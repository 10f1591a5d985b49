"""TLS for servers and channels from given files: mutual, or not at all.

A port beyond loopback is opened only with TLS, or when somebody wrote `--insecure`.
"""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from deadheat.runtime.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: this process's certificate and key, and the CA that signed everybody's."""

    certificate: Path
    key: Path
    authority: Path

    def read(self) -> tuple[bytes, bytes, bytes]:
        """Their contents, in the order certificate, key, authority."""
        contents = []
        for flag, path in (
            ("tls_cert", self.certificate),
            ("tls_key", self.key),
            ("tls_ca", self.authority),
        ):
            try:
                contents.append(path.read_bytes())
            except OSError as error:
                raise InvalidInput(f"{flag} {path}: {error.strerror}", field=flag) from None
        self._check()
        return contents[0], contents[1], contents[2]

    def _check(self) -> None:
        """gRPC says of files that it cannot use only that the port cannot be opened."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_verify_locations(self.authority)
        except ssl.SSLError as error:
            raise InvalidInput(
                f"tls_ca {self.authority} holds no certificate: {_reason(error)}", field="tls_ca"
            ) from None
        try:
            # The answer to a passphrase that would be asked for at a terminal.
            context.load_cert_chain(self.certificate, self.key, password="")
        except (ssl.SSLError, ValueError) as error:
            raise InvalidInput(
                f"tls_cert {self.certificate} and tls_key {self.key} are no certificate and its "
                f"unencrypted key: {_reason(error)}",
                field="tls_cert",
            ) from None


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error)


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials of a server that asks every caller for a certificate of the same CA."""
    certificate, key, authority = files.read()
    return grpc.ssl_server_credentials(
        [(key, certificate)], root_certificates=authority, require_client_auth=True
    )


def channel_credentials(files: TlsFiles) -> grpc.ChannelCredentials:
    certificate, key, authority = files.read()
    return grpc.ssl_channel_credentials(
        root_certificates=authority, private_key=key, certificate_chain=certificate
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host` (an address, "localhost", or a Unix socket)."""
    if host == "localhost" or host.startswith("unix"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, tls: TlsFiles | None, insecure: bool) -> None:
    """Refuses to listen beyond loopback without TLS, unless `insecure` was asked for."""
    if tls is None and not insecure and not is_loopback(host):
        raise InvalidInput(
            f"listen address {host} can be reached from other machines: give --tls-cert, "
            "--tls-key and --tls-ca, or --insecure to do without",
            field="listen",
        )
