"""The catalog by itself, on a clock that the test turns."""

from __future__ import annotations

from pathlib import Path

import pytest

from deadheat.runtime.errors import Conflict, InvalidInput, NotFound
from deadheat.runtime.programs import MatrixType
from deadheat.store.arenas import ArenaPool
from deadheat.store.catalog import SEALED_TTL_S, WRITING_TTL_S, Catalog, InMemory, Matrix


class Bench:
    """A catalog and its clock."""

    def __init__(self, directory: Path) -> None:
        self.now = 0.0
        (directory / "shm").mkdir(exist_ok=True)
        (directory / "disk").mkdir(exist_ok=True)
        pool = ArenaPool(directory / "shm", 1 << 20)
        self.catalog = Catalog(pool, directory / "disk", 1 << 20, clock=lambda: self.now)

    def matrix(self, name: str, *, holder: str = "", ttl_s: float = SEALED_TTL_S) -> Matrix:
        arena = self.catalog.pool.take(100)
        holders = {holder} if holder else set()
        matrix = Matrix(
            name,
            MatrixType(2, 2, "float64"),
            InMemory(arena),
            "me",
            0.0,
            ttl_s,
            f"r-{name}",
            holders=holders,
        )
        self.catalog.add(matrix)
        return matrix

    def reclaimable(self) -> list[str]:
        return [matrix.id for matrix in self.catalog.reclaimable()]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_an_upload_of_a_dead_client_expires(bench: Bench) -> None:
    bench.matrix("m")
    bench.now = WRITING_TTL_S - 1
    assert bench.reclaimable() == []
    bench.catalog.get("m")  # A chunk arrives.
    bench.now = WRITING_TTL_S + 1
    assert bench.reclaimable() == []
    bench.now = 2 * WRITING_TTL_S
    assert bench.reclaimable() == ["m"]


def test_a_sealed_matrix_lives_from_its_last_use(bench: Bench) -> None:
    bench.catalog.seal(bench.matrix("m"))
    bench.now = SEALED_TTL_S - 1
    bench.catalog.sealed("m")
    bench.now += SEALED_TTL_S - 1
    assert bench.reclaimable() == []
    bench.now += 2
    assert bench.reclaimable() == ["m"]


def test_what_is_held_or_mapped_does_not_expire(bench: Bench) -> None:
    held, mapped = bench.matrix("held", holder="job:1"), bench.matrix("mapped")
    mapped.grants = 1
    held.is_given_up = mapped.is_given_up = True
    bench.now = 10 * SEALED_TTL_S
    assert bench.reclaimable() == []
    assert [matrix.id for matrix in bench.catalog.release("job:1")] == ["held"]
    mapped.grants = 0
    assert set(bench.reclaimable()) == {"held", "mapped"}


def test_room_comes_back_and_the_name_is_gone(bench: Bench) -> None:
    matrix = bench.matrix("m")
    bench.catalog.free(bench.catalog.remove(matrix))
    assert bench.catalog.pool.used_bytes == 0
    with pytest.raises(NotFound, match="never was, given up, or expired"):
        bench.catalog.get("m")
    assert bench.catalog.by_request("r-m") is None


@pytest.mark.parametrize("name", ["", "../../etc/shadow", "a/b", "x" * 65, "a b"])
def test_ids_are_never_paths(bench: Bench, name: str) -> None:
    with pytest.raises(InvalidInput, match="letters and digits"):
        bench.catalog.check_new(name)


def test_an_id_is_given_once(bench: Bench) -> None:
    bench.matrix("m")
    with pytest.raises(Conflict, match="exists already"):
        bench.catalog.check_new("m")


def test_holders_and_states_survive_a_restart(bench: Bench, tmp_path: Path) -> None:
    bench.catalog.seal(bench.matrix("sealed", holder="job:7"))
    bench.matrix("open")
    again = Bench(tmp_path)
    assert again.catalog.rebuild() == []
    assert {m.id: (m.is_sealed, m.holders) for m in again.catalog} == {
        "sealed": (True, {"job:7"}),
        "open": (False, set()),
    }
    assert again.catalog.by_request("r-open") is not None
