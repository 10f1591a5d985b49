"""A program whose every block is streamed. Run as `python -m tests.e2e.streamed_program SCHEDULER`;
fails if a result is wrong."""

from __future__ import annotations

import json
import sys

import numpy as np

from deadheat.client import Client


def main(address: str) -> None:
    rng = np.random.default_rng(9)
    x, w = rng.standard_normal((3000, 400)), rng.standard_normal((400, 300))
    b = rng.standard_normal(300)
    with Client(address) as client:
        assert not client.shares_memory
        hidden = (client.put(x) @ w + b).tanh()
        turned = (hidden - hidden.mean(axis=0)).T
        job = client.submit(
            hidden.softmax(), turned @ hidden, hidden.sum(axis=0), turned[10:20, 5:], hidden.sum(1)
        )
        found = job.result()
        made = np.tanh(x @ w + b)
        e = np.exp(made)
        centred = (made - made.mean(axis=0)).T
        expected = [
            e / e.sum(axis=1, keepdims=True),
            centred @ made,
            made.sum(axis=0),
            centred[10:20, 5:],
            made.sum(axis=1),
        ]
        for one, other in zip(found, expected, strict=True):
            assert one.shape == other.shape
            assert np.allclose(one, other, rtol=1e-9, atol=1e-9)
        report = job.report().as_dict()
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1])
