"""The manifests against Kubernetes' own schemas, and what a schema does not say."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from click import Command
from click.testing import CliRunner

from deadheat.cli.commands.daemons import agent, scheduler

FOLDER = Path(__file__).parents[2] / "deploy/kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))
#: The oldest that is still kept up, and the newest that the schemas are there for.
VERSIONS = ("1.33", kubernetes_validate.latest_version())
IMAGE_USER = 7433


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in FILES:
        for document in yaml.safe_load_all(path.read_text()):
            yield f"{path.name}: {document['kind']} {document['metadata']['name']}", document


DOCUMENTS = dict(documents())
PODS = {
    name: document["spec"]["template"]
    for name, document in DOCUMENTS.items()
    if document["kind"] in ("StatefulSet", "DaemonSet")
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_each_is_what_the_api_takes_to_the_letter(name: str, version: str) -> None:
    # Strict: a field that the API does not know would be dropped without a word.
    kubernetes_validate.validate(DOCUMENTS[name], version, strict=True)


def test_the_schemas_are_really_asked() -> None:
    broken = yaml.safe_load((FOLDER / "agents.yaml").read_text().partition("\n---")[0])
    broken["spec"]["template"]["spec"]["hostPid"] = True
    with pytest.raises(kubernetes_validate.ValidationError, match="hostPid"):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


def test_there_are_one_scheduler_and_agents_everywhere() -> None:
    kinds = sorted(name.split(": ")[1] for name in DOCUMENTS)
    assert kinds == [
        "DaemonSet deadheat-agent",
        "PriorityClass deadheat-agent",
        "Service deadheat-scheduler",
        "StatefulSet deadheat-scheduler",
    ]
    (stateful,) = (one for one in DOCUMENTS.values() if one["kind"] == "StatefulSet")
    assert stateful["spec"]["replicas"] == 1
    assert stateful["spec"]["serviceName"] == "deadheat-scheduler"


@pytest.mark.parametrize("name", PODS)
def test_selectors_volumes_and_ports_are_those_that_exist(name: str) -> None:
    spec = PODS[name]["spec"]
    chosen = DOCUMENTS[name]["spec"]["selector"]["matchLabels"]
    assert chosen.items() <= PODS[name]["metadata"]["labels"].items()
    claims = DOCUMENTS[name]["spec"].get("volumeClaimTemplates", [])
    volumes = {one["name"] for one in spec["volumes"]} | {one["metadata"]["name"] for one in claims}
    (container,) = spec["containers"]
    assert {one["name"] for one in container["volumeMounts"]} == volumes
    ports = {one["name"] for one in container.get("ports", [])}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        if probe in container:
            assert container[probe]["tcpSocket"]["port"] in ports


@pytest.mark.parametrize("name", PODS)
def test_pods_meet_the_restricted_standard_but_for_what_an_agent_has_to_see(name: str) -> None:
    spec = PODS[name]["spec"]
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["runAsUser"] == IMAGE_USER
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "memory" in container["resources"]["limits"]
    assert "cpu" not in container["resources"]["limits"]
    assert spec.get("hostPID", False) == (DOCUMENTS[name]["kind"] == "DaemonSet")
    for forbidden in ("hostNetwork", "hostIPC"):
        assert forbidden not in spec
    assert not any("hostPath" in volume for volume in spec["volumes"])
    # Readable by the group that fsGroup makes ours, and by nobody else.
    for volume in spec["volumes"]:
        if "secret" in volume:
            assert volume["secret"]["defaultMode"] == stat.S_IRUSR | stat.S_IRGRP


@pytest.mark.parametrize("name", PODS)
def test_what_the_containers_are_told_is_what_the_command_knows(name: str) -> None:
    (container,) = PODS[name]["spec"]["containers"]
    command, *arguments = container["args"]
    chosen: Command = {"scheduler": scheduler, "agent": agent}[command]
    options = {option for parameter in chosen.params for option in parameter.opts}
    assert {word for word in arguments if word.startswith("--")} <= options
    names = {parameter.name for parameter in chosen.params}
    for variable in container["env"]:
        if variable["name"].startswith("DEADHEAT_"):
            assert variable["name"].removeprefix("DEADHEAT_").lower() in names
    assert CliRunner().invoke(chosen, ["--help"]).exit_code == 0
