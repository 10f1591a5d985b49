"""The house: source roots, namespaces, walls, generated files."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PORTIONS = {
    "proto": "v1",
    "runtime": "runtime",
    "store": "store",
    "scheduler": "scheduler",
    "agents": "agent",
    "client": "client",
    "cli": "cli",
    "migrations": "migrations",
}
is_checkout = (ROOT / "pyproject.toml").exists() and (ROOT / "runtime").exists()
pytestmark = pytest.mark.skipif(not is_checkout, reason="needs the source tree")


@pytest.mark.parametrize(("folder", "portion"), PORTIONS.items())
def test_portion_is_the_only_child_of_a_namespace(folder: str, portion: str) -> None:
    namespace = ROOT / folder / "deadheat"
    # A stray __init__.py would hide every other portion at once.
    assert not (namespace / "__init__.py").exists()
    children = {path.name for path in namespace.iterdir() if path.name != "__pycache__"}
    assert children == {portion}
    assert (namespace / portion / "py.typed").exists()


def test_every_portion_is_shipped() -> None:
    import tomllib

    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert set(build["dev-mode-dirs"]) == set(PORTIONS)
    assert set(build["targets"]["wheel"]["packages"]) == {f"{f}/deadheat" for f in PORTIONS}


def test_stubs_are_fresh() -> None:
    pytest.importorskip("grpc_tools")
    command = [sys.executable, str(ROOT / "tools" / "make_stubs.py"), "--check"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


def test_no_message_of_the_wire_is_recursive() -> None:
    """A recursive message can be nested until the parser's stack is used up."""
    from google.protobuf import descriptor

    from deadheat.v1 import agent_pb2, cluster_pb2, job_pb2, local_pb2, matrix_pb2, types_pb2

    def check(message: descriptor.Descriptor, path: tuple[str, ...]) -> None:
        assert message.full_name not in path, " -> ".join([*path, message.full_name])
        for field in message.fields:
            if field.message_type is not None:
                check(field.message_type, (*path, message.full_name))

    for module in (agent_pb2, cluster_pb2, job_pb2, local_pb2, matrix_pb2, types_pb2):
        for message in module.DESCRIPTOR.message_types_by_name.values():
            check(message, ())


def test_mutating_calls_carry_a_request_id() -> None:
    from deadheat.v1 import cluster_pb2, job_pb2, matrix_pb2

    asking = {
        "Get",
        "List",
        "Watch",
        "Explain",
        "Estimate",
        "GetCluster",
        "ListNodes",
        "Stat",
        "Put",
    }
    for module in (cluster_pb2, job_pb2, matrix_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                names = {field.name for field in method.input_type.fields}
                assert method.name in asking or "request_id" in names, method.full_name


@pytest.mark.parametrize("folder", PORTIONS)
def test_functions_and_files_stay_short(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        if "_pb2" in path.name or "versions" in path.parts:
            continue
        text = path.read_text()
        assert text.count("\n") <= 400, f"{path} has {text.count(chr(10))} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                assert length <= 70, f"{path}:{node.lineno} {node.name} has {length} lines"
