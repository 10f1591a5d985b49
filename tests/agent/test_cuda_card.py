"""On a real card: as with the stub, and what a stub cannot say. Skips where there is none."""

from __future__ import annotations

import queue
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.agent.card_kinds import KINDS, given
from tests.agent.test_cuda import Bench, as_numpy_does, by_numpy, close, pools
from tests.agent.test_pinning import files, product

from deadheat.agent.executors.bounds import STREAMS
from deadheat.agent.executors.cardpanels import CardPanels
from deadheat.agent.executors.cuda.card import Card
from deadheat.agent.executors.cuda.compute import CardCompute
from deadheat.agent.executors.pool import Pool
from deadheat.runtime.dtypes import BY_NAME
from deadheat.runtime.errors import Unavailable
from deadheat.runtime.programs import Activation, Gemm, Operation, work_shape

pytestmark = pytest.mark.gpu


class CardBench(Bench):
    """The same, on the card that this process sees."""

    def __init__(self, card: Card) -> None:
        self.cupy = card.cupy
        self.lost: queue.Queue[str] = queue.Queue()
        self.compute = CardCompute(card, self.lost.put, 1 << 30)
        self.said: queue.Queue[Any] = queue.Queue()
        self.pool = Pool(STREAMS, self.said.put, self.compute, counts_cpu=False)
        pools.append(self.pool)


@pytest.fixture(scope="module")
def card() -> Iterator[Card]:
    try:
        yield Card.open()
    except Unavailable as error:
        pytest.skip(error.message)


@pytest.mark.parametrize("dtype", BY_NAME)
def test_products_are_numpys(card: Card, dtype: str) -> None:
    arrays = [given(dtype, 300, 170), given(dtype, 170, 260)]
    operation = Operation("C", ("A", "B"), Gemm())
    bench = CardBench(card)
    task = bench.task(operation, arrays)
    assert bench.run(task) == "finished"
    close(task.result.array, by_numpy(operation, arrays))


def test_every_kind_is_numpys(card: Card) -> None:
    for kind, arrays in KINDS:
        as_numpy_does(CardBench(card), kind, arrays)


def test_float32_is_strict(card: Card) -> None:
    """TF32 would be wrong by a thousandth of the sum of magnitudes, this is not by a millionth."""
    a, b = given("float32", 512, 512), given("float32", 512, 512)
    bench = CardBench(card)
    task = bench.task(Operation("C", ("A", "B"), Gemm()), (a, b))
    assert bench.run(task) == "finished"
    exact, magnitude = a.astype(float) @ b.astype(float), np.abs(a) @ np.abs(b)
    assert (np.abs(task.result.array - exact) <= 2e-6 * magnitude).all()


@pytest.mark.parametrize("predicted_s", [1e-4, 10.0], ids=["bands", "strips"])
def test_panels_as_large_as_a_card_wants_them(card: Card, predicted_s: float) -> None:
    a, b = given("float16", 5000, 3000), given("float16", 3000, 5500)
    operation = Operation("C", ("A", "B"), Gemm(activation=Activation.GELU))
    bench = CardBench(card)
    task = bench.task(operation, (a, b), keys=("a", "b"))
    whole = task.panels.rectangle
    shape, bounds = work_shape(operation, task.types), bench.compute.bounds
    task.panels = CardPanels(whole, shape, STREAMS, predicted_s, bounds=bounds)
    assert bench.run(task) == "finished"
    close(task.result.array, by_numpy(operation, (a, b)))
    assert bench.residence.copied_bytes == a.nbytes + b.nbytes


def test_what_is_pinned_is_copied_as_it_lies(card: Card) -> None:
    """On a tmpfs, as a store's memory is: read-only for operands, writable for the result."""
    bench = CardBench(card)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        arrays, found = files(Path(folder))
        for name in ("first", "second"):
            product(bench, found, arrays, name)
            found[2].write(np.zeros_like(arrays[0]))
        assert bench.compute.mappings.pinned_bytes == 3 * arrays[0].nbytes
