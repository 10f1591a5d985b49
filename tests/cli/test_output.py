"""Results to files: complete or not there at all, and nothing but a file is ever replaced."""

from __future__ import annotations

import os
from pathlib import Path

import click
import numpy as np
import pytest

from deadheat.cli.output import OutputFile


def test_a_file_is_replaced_and_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "C.npy").write_text("old")
    (tmp_path / "link").symlink_to("C.npy")
    with OutputFile(str(tmp_path / "link")) as output:
        assert (tmp_path / "C.npy").read_text() == "old"
        output.write(np.ones((2, 2)))
    assert (tmp_path / "link").is_symlink()
    assert np.array_equal(np.load(tmp_path / "C.npy"), np.ones((2, 2)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["C.npy", "link"]


def test_without_a_result_nothing_changes(tmp_path: Path) -> None:
    (tmp_path / "C.npy").write_text("old")
    with OutputFile(str(tmp_path / "C.npy")):
        pass
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, words in ((str(tmp_path / "pipe"), "is not a regular file"), ("", "-o is empty")):
        with pytest.raises(click.ClickException, match=words):
            OutputFile(path)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_write_protected_file_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "C.npy").touch(0o444)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # What anybody but root is told.
    with pytest.raises(click.ClickException, match="Permission denied"):
        OutputFile(str(tmp_path / "C.npy"))
    assert [path.name for path in tmp_path.iterdir()] == ["C.npy"]
