"""`Client.estimate`: sizes or matrices, on a real cluster, without running anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deadheat.client import Client, Estimate, InvalidInput, TimedOut

KEYS = {
    *("m", "k", "n", "dtype", "flops", "predicted_makespan_s", "bytes_to_move"),
    *("bytes_lower_bound", "pool_flops", "devices", "alternatives", "left_out", "refused", "note"),
    "rounds",
}
DEVICE_KEYS = {
    *("node", "device", "kind", "share", "availability", "speed_flops", "ready_s", "transfer_s"),
    *("compute_s", "predicted_finish_s", "bytes_in", "bytes_out", "memory_bytes"),
    "memory_free_bytes",
}


def test_an_estimate_has_every_key_and_leaves_no_job(client: Client) -> None:
    jobs = len(client.reports())
    found = client.estimate(4000, 3000, 2000)
    document = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert document.keys() == KEYS
    assert {key for device in document["devices"] for key in device} == DEVICE_KEYS
    assert sum(device["share"] for device in found.devices) == pytest.approx(1.0)
    assert found.predicted_makespan_s == pytest.approx(
        max(device["predicted_finish_s"] for device in found.devices)
    )
    assert (found.bytes_to_move, found.refused, found.note) == (0, None, None)
    assert found.rounds == 1
    assert len(client.reports()) == jobs


def test_matrices_and_files_are_looked_at_from_outside(client: Client, tmp_path: Path) -> None:
    a, b = np.ones((300, 500), np.float32), np.ones((400, 500), np.float32).T
    np.save(tmp_path / "a.npy", a)
    np.save(tmp_path / "b.npy", b)

    def shape(found: Estimate) -> tuple[object, ...]:
        return found.m, found.k, found.n, found.dtype

    assert shape(client.estimate(a, b, bias=np.ones(400, np.float32))) == (300, 500, 400, "float32")
    from_files = client.estimate(tmp_path / "a.npy", str(tmp_path / "b.npy"))
    assert shape(from_files) == (300, 500, 400, "float32")
    assert shape(client.estimate(a[0], b)) == (1, 500, 400, "float32")


def test_a_bigger_dtype_takes_longer(client: Client) -> None:
    single = client.estimate(4000, 4000, 4000, dtype="float32", cut="equal")
    double = client.estimate(4000, 4000, 4000, dtype="complex128", cut="equal")
    assert single.predicted_makespan_s is not None
    assert double.predicted_makespan_s is not None
    assert double.predicted_makespan_s > single.predicted_makespan_s


def test_what_is_said_to_be_refused_is_refused(client: Client) -> None:
    a = np.ones((6000, 6000))
    found = client.estimate(a, a, timeout=0.05)
    assert found.refused is not None
    assert found.refused["code"] == TimedOut.code
    assert found.predicted_makespan_s is not None
    jobs = len(client.reports())
    with pytest.raises(TimedOut, match=r"not finished within 0\.05 s, by prediction"):
        client.submit_matmul(a, a, timeout=0.05)
    assert len(client.reports()) == jobs


@pytest.mark.parametrize(
    ("product", "options", "words"),
    [
        ((), {}, "give a, b or m, k, n; 0 values came"),
        ((1, 2, 3, 4), {}, "4 values came"),
        ((1, "2", 3), {}, "k is '2'; it must be a whole number"),
        ((1, 2, 3.0), {}, r"n is 3\.0; it must be a whole number"),
        ((-1, 2, 3), {}, "m is -1; it must be 0 to 9223372036854775807"),
        ((0, 1 << 63, 3), {}, "k is 9223372036854775808"),
        ((0, 10**5000, 3), {}, "k is far too large"),
        ((1 << 40, 1 << 40, 1), {}, "the limit is 9223372036854775807"),
        ((1, 2, 3), {"dtype": "float31"}, "dtype is 'float31'; it may be bool"),
        ((1, 2, 3), {"bias": np.ones(3)}, "bias goes with matrices"),
        ((1, 2, 3), {"cut": "unfair"}, "cut is 'unfair'; it may be balanced"),
        ((1, 2, 3), {"timeout": 0}, "timeout_s is 0"),
        ((np.ones((2, 3)), np.ones((2, 3))), {}, "inner sizes 3 and 2 differ"),
        ((np.ones((2, 2)), np.ones((2, 2))), {"dtype": "int8"}, "matrices have one"),
        ((np.ones((2, 2)), "/nonexistent.npy"), {}, "No such file"),
    ],
)
def test_wrong_input_is_named(
    client: Client, product: tuple[Any, ...], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        client.estimate(*product, **options)
