"""`-o OUT.npy` where there is no room for it."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import pytest
from tests.filesystems import needs_mounts, tmpfs

from deadheat.cli.output import OutputFile


@pytest.mark.root
@needs_mounts
def test_a_result_that_does_not_fit_leaves_what_was_there(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small", 1 << 20) as directory:
        path = directory / "C.npy"
        with OutputFile(str(path)) as output:
            output.write(np.ones((10, 10)))
        with (
            pytest.raises(click.ClickException, match=r"No space left on device: 2.* needed, "),
            OutputFile(str(path)) as output,
        ):
            output.write(np.zeros((512, 512)))
        assert np.array_equal(np.load(path), np.ones((10, 10)))
        assert [one.name for one in directory.iterdir()] == ["C.npy"]
