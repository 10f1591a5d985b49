"""What documents say runs: the README's example as a script and in a notebook, links, freshness."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DOCUMENTS = sorted([README, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


def example() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    return str(code)


def test_the_readme_example_runs_as_a_plain_script(tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(example())
    assert "__main__" not in script.read_text()
    found = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert found.returncode == 0, found.stderr
    first, second = found.stdout.splitlines()
    assert first == "True (3000, 2500)"
    assert 0 <= float(second) <= 1


def test_the_readme_example_runs_in_a_notebook(tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(example())])
    nbclient.NotebookClient(notebook, timeout=170, kernel_name="python3").execute()
    (output,) = notebook.cells[0].outputs
    assert output["text"].startswith("True (3000, 2500)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target


def test_generated_documents_are_fresh() -> None:
    found = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "make_docs.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_commands_in_the_readme_exist() -> None:
    from deadheat.cli.main import _COMMANDS

    names = {name for name, _, _ in _COMMANDS}
    (*shells,) = re.findall(r"```sh\n(.*?)```", README.read_text(), re.DOTALL)
    used = set(re.findall(r"^deadheat (\w+)", "\n".join(shells), re.MULTILINE))
    assert used
    assert used <= names
