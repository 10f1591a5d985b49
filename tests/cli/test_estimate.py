"""`deadheat estimate`, as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.cli.running import deadheat
from tests.client.test_estimates import DEVICE_KEYS, KEYS

from deadheat.client import LocalCluster

REFERENCE = (
    *("estimate", "cycles", "--inputs", "256", "--outputs", "256", "--clock-ghz", "2.5"),
    *("--register-cycles", "1+1", "--multiply-cycles", "20", "--add-cycles", "1"),
    *("--samples", "2000000"),
)
NOBODY = {"DEADHEAT_SCHEDULER": "127.0.0.1:9"}


def test_the_reference_layer_needs_no_scheduler() -> None:
    found = deadheat(*REFERENCE, environment=NOBODY)
    assert found.returncode == 0, found.stderr
    assert "23 cycles: 1 read from registers + 20 multiply + 1 add + 1 write" in found.stdout
    assert "65,536 of them, 1,507,328 cycles, 603 microseconds" in found.stdout
    assert "1,206 s, 1.4 % of a day" in found.stdout
    document = json.loads(deadheat(*REFERENCE, "--json", environment=NOBODY).stdout)
    assert document["cycles_per_multiply_accumulate"] == 23
    assert document["cycles_per_sample"] == 1_507_328
    assert document["seconds_per_sample"] == pytest.approx(602.9312e-6)
    assert document["total_s"] == pytest.approx(1205.8624)
    assert document["share_of_day"] == pytest.approx(0.013957, rel=1e-4)


def test_operands_in_memory_cost_a_read_from_memory() -> None:
    found = deadheat(*REFERENCE, "--operands", "memory", "--memory-cycles", "100", "--json")
    assert json.loads(found.stdout)["cycles_per_multiply_accumulate"] == 122


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        (("--inputs", "0"), 1, "error: inputs is 0; it must be 1 to"),
        (("--samples", "x"), 2, "'x' is not a valid integer"),
        (("--clock-ghz", "0"), 1, "error: clock_hz is 0; it must be above 0"),
        (("--clock-ghz", "nan"), 1, "error: clock_hz is nan"),
        (("--register-cycles", "1"), 1, "give a read and a write, like 1+1"),
        (("--multiply-cycles", "-1"), 1, "multiply_cycles is -1; it must be 0 to"),
        (("--operands", "cache"), 1, "cache_cycles is not given; operands in cache need it"),
        (("--operands", "disk"), 2, "'disk' is not one of"),
    ],
)
def test_descriptions_that_cannot_be_get_one_clear_line(
    changes: tuple[str, ...], code: int, words: str
) -> None:
    found = deadheat(*REFERENCE, *changes)
    assert (found.returncode, words in found.stderr) == (code, True), found.stderr
    assert found.stdout == ""
    assert "Traceback" not in found.stderr


def test_a_product_by_sizes_is_told_by_device(cluster: LocalCluster) -> None:
    at = {"DEADHEAT_SCHEDULER": cluster.address}
    sizes = ("estimate", "matmul", "8000", "4000", "2000")
    found = deadheat(*sizes, environment=at)
    assert found.returncode == 0, found.stderr
    assert "8000 x 4000 by 4000 x 2000 float64: 128.0 GFLOP" in found.stdout
    for words in ("predicted", "moves", "DEVICE", "local-0/cpu", "instead, the best single device"):
        assert words in found.stdout
    document = json.loads(deadheat(*sizes, "--dtype", "float32", "--json", environment=at).stdout)
    assert document.keys() == KEYS
    assert {key for device in document["devices"] for key in device} == DEVICE_KEYS
    assert document["dtype"] == "float32"
    refused = deadheat(*sizes, "--timeout", "0.001", environment=at)
    assert refused.returncode == 0
    assert "would be refused: not finished within 0.001 s" in refused.stdout


def test_of_files_only_the_headers_are_read(cluster: LocalCluster, tmp_path: Path) -> None:
    # A sparse file: a terabyte that nobody could read, with an honest header.
    header = np.lib.format.open_memmap(tmp_path / "A.npy", "w+", np.float64, (1, 1)).offset
    with open(tmp_path / "A.npy", "wb") as file:
        fields = {"descr": "<f8", "fortran_order": False, "shape": (1 << 20, 1 << 17)}
        np.lib.format.write_array_header_1_0(file, fields)
        assert file.tell() == header
        file.truncate(header + (1 << 40))
    np.save(tmp_path / "B.npy", np.ones((1 << 17, 8)))
    found = deadheat(
        *("estimate", "matmul", str(tmp_path / "A.npy"), str(tmp_path / "B.npy"), "--json"),
        *("--scheduler", cluster.address),
    )
    assert found.returncode == 0, found.stderr
    document = json.loads(found.stdout)
    assert (document["m"], document["k"], document["n"]) == (1 << 20, 1 << 17, 8)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("1",), 2, "give M K N or A.npy B.npy; 1 values came"),
        (("1", "2", "3", "4"), 2, "4 values came"),
        (("1", "x", "3"), 2, "K is 'x'; it must be a whole number, 0 or more"),
        (("1", "2", "9" * 5000), 2, "N is '9999"),
        (("1", "2", "9" * 30), 1, "n is 9999"),
        (("1", "2", "3", "--dtype", "float31"), 1, "dtype is 'float31'"),
        (("1", "2", "3", "--cut", "unfair"), 2, "'unfair' is not one of"),
        (("1", "2", "3", "--timeout", "soon"), 1, "--timeout is 'soon'"),
        (("nowhere/A.npy", "B.npy"), 1, "nowhere/A.npy: No such file"),
        ((), 2, "Missing argument"),
    ],
)
def test_wrong_products_get_one_clear_line(
    cluster: LocalCluster, arguments: tuple[str, ...], code: int, words: str
) -> None:
    at = {"DEADHEAT_SCHEDULER": cluster.address}
    found = deadheat("estimate", "matmul", *arguments, environment=at)
    assert (found.returncode, words in found.stderr) == (code, True), found.stderr
    assert found.stdout == ""
    assert "Traceback" not in found.stderr


def test_without_a_scheduler_it_is_one_line() -> None:
    found = deadheat("estimate", "matmul", "1", "2", "3", environment=NOBODY)
    assert found.returncode == 1
    assert found.stderr.startswith("error: no scheduler answers at 127.0.0.1:9")
