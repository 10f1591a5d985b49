"""Files of matrices that somebody removes, or cuts short, under a store that lives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.store.running import MIB, running_store

from deadheat.runtime import rpc
from deadheat.runtime.errors import NotFound
from deadheat.runtime.programs import MatrixType
from deadheat.store import transfer

VALUES = np.random.default_rng(3).random((512, 512))
TYPE = MatrixType(512, 512, "float64")


def cut_short(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(MIB)


@pytest.mark.parametrize("is_mapped", [True, False])
@pytest.mark.parametrize("harm", [Path.unlink, cut_short])
def test_a_matrix_whose_file_is_gone_is_not_found_and_others_are(
    tmp_path: Path, harm: Callable[[Path], None], is_mapped: bool
) -> None:
    async def test() -> None:
        async with running_store(tmp_path) as store:
            kept = await store.fill(VALUES, durable=True)
            lost = await store.fill(VALUES, durable=True)
            harm(tmp_path / "state" / "matrices" / f"{lost}.npy")
            shared = store.share()

            async def read() -> None:
                if is_mapped:
                    await asyncio.to_thread(shared.map, lost)
                    return
                target = memoryview(bytearray(TYPE.size_bytes))
                with rpc.translated("test"):
                    await transfer.get(store.stub, lost, TYPE.whole(), target)

            for _ in range(2):  # Then it is forgotten, and still not found.
                with pytest.raises(NotFound, match=lost):
                    await read()
            assert [info.id for info in (await store.listing()).matrices] == [kept]
            mapping = await asyncio.to_thread(shared.map, kept)
            assert bytes(mapping.buffer) == VALUES.tobytes()
            del mapping
            shared.close()

    asyncio.run(test())
