"""The unit files themselves: without a word from systemd's own critic, and well shut in.

The scores are a gate: whoever opens something says in the unit why, and stays below them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.cli.running import deadheat

from deadheat.cli.installation import GPU_DROP_IN, UNITS, drop_ins

ANALYZE = shutil.which("systemd-analyze")
pytestmark = pytest.mark.skipif(ANALYZE is None, reason="needs systemd-analyze (Debian: systemd)")
#: Exposure, from 0 for a prison to 10 for an open field, times 10 as systemd-analyze wants it.
THRESHOLDS = {"deadheat-scheduler.service": 15, "deadheat-agent.service": 20}
#: Somebody's instance of the template.
INSTANCE = "deadheat-agent@zero.service"


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert ANALYZE is not None
    environment = {**os.environ, "XDG_RUNTIME_DIR": os.environ.get("XDG_RUNTIME_DIR", "/tmp")}
    return subprocess.run(
        [ANALYZE, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


def installed(root: Path, *options: str) -> Path:
    """Installs below `root`; the directory of the system units, the template with an instance."""
    made = deadheat("install-units", "--root", str(root), "--exec", "/usr/bin/true", *options)
    assert made.returncode == 0, made.stderr
    found = root / "usr/local/lib/systemd/system"
    if found.exists():
        shutil.copy(found / "deadheat-agent@.service", found / INSTANCE)
    return found


@pytest.mark.parametrize("unit", [*UNITS, INSTANCE])
@pytest.mark.parametrize("gpu", ["--gpu", "--no-gpu"])
def test_the_critic_is_silent(tmp_path: Path, unit: str, gpu: str) -> None:
    found = analyze("verify", str(installed(tmp_path, gpu) / unit))
    # A key that it does not know is only a line on stderr and no error.
    assert (found.stderr, found.stdout, found.returncode) == ("", "", 0)


@pytest.mark.parametrize("unit", UNITS)
def test_the_critic_is_silent_about_user_units(
    tmp_path: Path, unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    made = deadheat("install-units", "--user", "--exec", "/usr/bin/true")
    assert made.returncode == 0, made.stderr
    found = analyze("verify", "--user", str(tmp_path / "data/systemd/user" / unit))
    assert (found.stderr, found.stdout, found.returncode) == ("", "", 0)


@pytest.mark.parametrize("gpu", ["--no-gpu", "--gpu"])
@pytest.mark.parametrize("unit", ["deadheat-scheduler.service", "deadheat-agent.service", INSTANCE])
def test_exposure_stays_below_its_threshold(tmp_path: Path, unit: str, gpu: str) -> None:
    directory = installed(tmp_path, gpu)
    if gpu == "--gpu" and unit == INSTANCE:
        shutil.copytree(directory / "deadheat-agent@.service.d", directory / f"{INSTANCE}.d")
    threshold = THRESHOLDS.get(unit, THRESHOLDS["deadheat-agent.service"])
    found = analyze(
        *("security", "--offline=yes", "--no-pager", f"--threshold={threshold}"),
        str(directory / unit),
    )
    assert found.returncode == 0, found.stdout.splitlines()[-1:]
    assert "Overall exposure level" in found.stdout


def test_an_agent_sees_what_it_has_to_measure(tmp_path: Path) -> None:
    """All of /proc, and every process in it."""
    for unit in UNITS[1:]:
        text = (installed(tmp_path) / unit).read_text()
        assert "ProtectProc=default\n" in text
        assert "ProcSubset=all\n" in text


def test_a_gpu_drop_in_opens_gpus_and_no_other_device(tmp_path: Path) -> None:
    directory = installed(tmp_path, "--gpu")
    for path in drop_ins(GPU_DROP_IN):
        assert (tmp_path / path.relative_to("/")).exists()
    shown = analyze(
        *("security", "--offline=yes", "--json=short", str(directory / "deadheat-agent.service"))
    )
    checks = {entry["json_field"]: entry for entry in json.loads(shown.stdout)}
    devices = checks["DeviceAllow"]["description"]
    assert "char-nvidia" in devices
    assert "char-drm" not in devices
