"""Where a service manager has put what belongs to this process: configuration and credentials."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

CONFIG_NAME: Final = "deadheat.toml"
#: What a unit sets for a credential whose file is not there (SetCredential= wants some text).
NO_CREDENTIAL: Final = b"none"


def config_file(environment: Mapping[str, str]) -> Path | None:
    """`deadheat.toml` in systemd's configuration directories; of several the last one that has it,
    since an instance's directory is named after the one that all instances share."""
    named = environment.get("CONFIGURATION_DIRECTORY", "")
    found = [Path(part) / CONFIG_NAME for part in named.split(":") if part]
    there = [path for path in found if path.exists()]
    return there[-1] if there else None


def credential(environment: Mapping[str, str], name: str) -> Path | None:
    """The file of a credential that the service manager has loaded for this process."""
    directory = environment.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return None
    path = Path(directory) / name
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError:
        return path  # Whoever reads it says what is wrong with it.
    return None if content.strip() in (b"", NO_CREDENTIAL) else path
