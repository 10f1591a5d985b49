"""Which GPUs an agent uses: what it is told, or what its environment leaves to it."""

from __future__ import annotations

import pytest

from deadheat.agent.cardpool import chosen
from deadheat.agent.probes.gpus import Gpu
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.settings import parse_gpus

GPUS = [Gpu("GPU-aa1", "A"), Gpu("GPU-ab2", "B"), Gpu("MIG-c", "C", parent_uuid="GPU-d")]


@pytest.mark.parametrize(
    ("setting", "environment", "names", "missing"),
    [
        ("all", {}, "ABC", ()),
        ("none", {}, "", ()),
        ("1", {}, "B", ()),
        ("GPU-aa,MIG-c", {}, "AC", ()),
        ("GPU-ab2,1", {}, "B", ()),
        ("0,7,GPU-x", {}, "A", ("7", "GPU-x")),
        ("all", {"CUDA_VISIBLE_DEVICES": "2,0"}, "CA", ()),
        ("all", {"CUDA_VISIBLE_DEVICES": "MIG-c"}, "C", ()),
        ("all", {"CUDA_VISIBLE_DEVICES": ""}, "", ()),
        ("all", {"CUDA_VISIBLE_DEVICES": "-1"}, "", ()),
        ("0", {"CUDA_VISIBLE_DEVICES": "1"}, "A", ()),
    ],
)
def test_gpus_are_chosen(
    setting: str, environment: dict[str, str], names: str, missing: tuple[str, ...]
) -> None:
    found, lacking = chosen(GPUS, setting, environment)
    assert "".join(gpu.name for gpu in found) == names
    assert lacking == missing


@pytest.mark.parametrize(
    ("given", "parsed"),
    [("all", "all"), ("none", "none"), ([0, "GPU-a"], "0,GPU-a"), ("0, 1", "0,1"), ([], "none")],
)
def test_settings_are_parsed(given: object, parsed: str) -> None:
    assert parse_gpus(given) == parsed


@pytest.mark.parametrize("given", ["first", "all,0", "-1", ["0", None]])
def test_what_names_no_gpu_is_refused(given: object) -> None:
    with pytest.raises(InvalidInput, match="may be a number"):
        parse_gpus(given)
