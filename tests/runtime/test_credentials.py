"""TLS files are looked at before gRPC is, which says nothing of what is wrong with them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from deadheat.runtime.credentials import TlsFiles
from deadheat.runtime.errors import InvalidInput

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


def certificate(directory: Path, name: str) -> tuple[Path, Path]:
    made, key = directory / f"{name}.pem", directory / f"{name}.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(made)),
        ],
        check=True,
        capture_output=True,
    )
    return made, key


@needs_openssl
def test_good_files_are_read(tmp_path: Path) -> None:
    made, key = certificate(tmp_path, "a")
    assert TlsFiles(made, key, made).read()[1] == key.read_bytes()


@needs_openssl
def test_bad_files_are_named(tmp_path: Path) -> None:
    made, key = certificate(tmp_path, "a")
    _, other = certificate(tmp_path, "b")
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("hello")
    with pytest.raises(InvalidInput, match=r"tls_ca .*garbage\.pem holds no certificate"):
        TlsFiles(made, key, garbage).read()
    for files in (TlsFiles(garbage, key, made), TlsFiles(made, other, made)):
        with pytest.raises(InvalidInput, match=r"tls_cert .* and tls_key .* are no certificate"):
            files.read()
    with pytest.raises(InvalidInput, match=r"tls_key .*: No such file"):
        TlsFiles(made, tmp_path / "none", made).read()
