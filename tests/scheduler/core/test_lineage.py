"""Lineage: what the store has lost is made again from what is left, and only what is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scheduler.core.harness import Pool, check_cover, state_of
from tests.scheduler.core.test_restore import restarted

from deadheat.runtime.programs import (
    Gemm,
    MatrixType,
    Operand,
    Operation,
    Program,
    Rectangle,
    uncovered,
)
from deadheat.scheduler.core import effects, events
from deadheat.scheduler.core.machine import SubtaskState
from deadheat.scheduler.core.restore import Matrices
from deadheat.scheduler.core.state import Job, Step, Subtask

SIZE = 2048
SQUARE = MatrixType(SIZE, SIZE, "float64")


def products(*reads: tuple[str, str], results: Sequence[str] = ()) -> Program:
    """r1 = x @ x and so on; on the right of a product nothing is joined to a segment."""
    operations = tuple(
        Operation(f"r{number}", names, Gemm()) for number, names in enumerate(reads, 1)
    )
    x = Operand("x", SQUARE, matrix_id="mx")
    return Program((x,), operations, tuple(results) or (operations[-1].result,))


#: Each needs the one before it, whole.
THREE = products(("x", "x"), ("x", "r1"), ("x", "r2"))


def pool_of(*names: str) -> Pool:
    pool = Pool()
    for name in names:
        pool.join(name)
    return pool


def step(job: Job, name: str) -> Step:
    return next(one for one in job.steps if one.operation.result == name)


def finish_all(pool: Pool, job: Job, name: str) -> None:
    while found := [s for s in pool.active(job) if s.operation == step(job, name).index]:
        pool.finish(found[0])


def done_of(job: Job, name: str) -> list[Subtask]:
    return [
        s
        for s in job.subtasks.values()
        if s.operation == step(job, name).index and s.state is SubtaskState.DONE
    ]


def lose(pool: Pool, *matrix_ids: str) -> None:
    """The store is killed and comes back without them."""
    pool.lost |= set(matrix_ids)
    pool.feed(events.StoreRestarted())


def test_a_lost_intermediate_is_made_again_and_nothing_else() -> None:
    pool = pool_of("a", "b")
    job = pool.submit(program=THREE)
    finish_all(pool, job, "r1")
    finish_all(pool, job, "r2")
    assert {s.operation for s in pool.active(job)} == {2}
    lost_id = step(job, "r2").result_id
    lose(pool, lost_id)
    check_cover(job)
    # Nobody reads it before it is there again; what it is made of was left.
    assert {s.operation for s in pool.active(job)} == {1}
    assert step(job, "r2").result_id != lost_id
    assert step(job, "r1").is_done
    assert all(
        s.state is SubtaskState.SUPERSEDED for s in job.subtasks.values() if s.operation == 2
    )
    finish_all(pool, job, "r2")
    finish_all(pool, job, "r3")
    assert state_of(job) == "done"
    check_cover(job)
    assert sum(s.area for s in done_of(job, "r1")) == SIZE * SIZE


def test_what_nobody_will_read_stays_lost() -> None:
    pool = pool_of("a", "b")
    job = pool.submit(program=THREE)
    finish_all(pool, job, "r1")
    finish_all(pool, job, "r2")
    lose(pool, step(job, "r1").result_id)
    assert step(job, "r1").is_done
    assert {s.operation for s in pool.active(job)} == {2}
    finish_all(pool, job, "r3")
    assert state_of(job) == "done"


def test_what_a_lost_one_was_made_of_is_made_again_if_it_is_lost_too() -> None:
    pool = pool_of("a", "b")
    job = pool.submit(program=THREE)
    finish_all(pool, job, "r1")
    finish_all(pool, job, "r2")
    lose(pool, step(job, "r1").result_id, step(job, "r2").result_id)
    assert {s.operation for s in pool.active(job)} == {0}
    for name in ("r1", "r2", "r3"):
        finish_all(pool, job, name)
    assert state_of(job) == "done"


def test_who_has_begun_to_read_goes_on() -> None:
    pool = pool_of("a", "b")
    job = pool.submit(program=THREE)
    finish_all(pool, job, "r1")
    finish_all(pool, job, "r2")
    reading, _ = pool.active(job)
    pool.progress(reading, SIZE, took_s=0.1)
    lose(pool, step(job, "r2").result_id)
    assert reading.state is SubtaskState.RUNNING
    pool.finish(reading)
    finish_all(pool, job, "r2")
    finish_all(pool, job, "r3")
    assert state_of(job) == "done"
    check_cover(job)


def test_a_sub_task_that_does_not_find_its_operand_makes_the_store_be_asked() -> None:
    pool = pool_of("a", "b")
    job = pool.submit(program=THREE)
    finish_all(pool, job, "r1")
    finish_all(pool, job, "r2")
    pool.lost.add(step(job, "r2").result_id)
    pool.fail(pool.active(job)[0], "not_found")
    assert {s.operation for s in pool.active(job)} == {1}
    finish_all(pool, job, "r2")
    finish_all(pool, job, "r3")
    assert state_of(job) == "done"


def test_nothing_is_assigned_while_the_store_is_asked() -> None:
    pool = pool_of("a", "b")
    job = pool.submit(program=THREE)
    finish_all(pool, job, "r1")
    pool.take_sent(effects.SendAssign)
    pool.holds_back = {effects.FindMatrices}
    pool.fail(pool.active(job)[0], "not_found")
    assert pool.take_sent(effects.SendAssign) == []
    pool.release_answers()  # Everything is there: it was an accident.
    assert pool.take_sent(effects.SendAssign)
    assert step(job, "r1").is_done


def test_a_result_that_is_lost_before_it_is_sealed_is_made_again() -> None:
    pool = pool_of("a", "b")
    job = pool.submit(program=THREE)
    pool.lost.add(step(job, "r1").result_id)
    finish_all(pool, job, "r1")
    finish_all(pool, job, "r2")
    finish_all(pool, job, "r3")
    assert state_of(job) == "done"
    assert step(job, "r1").losses == 1


def test_the_seal_of_a_lost_matrix_is_not_that_of_the_new_one() -> None:
    pool = pool_of("a", "b")
    job = pool.submit(program=THREE)
    pool.holds_back = {effects.SealResult}
    old = step(job, "r1").result_id
    for subtask in pool.active(job):
        pool.finish(subtask)
    assert step(job, "r1").is_sealing
    lose(pool, old)
    pool.lost.clear()
    pool.release_answers()
    assert not step(job, "r1").is_done
    for name in ("r1", "r2", "r3"):
        finish_all(pool, job, name)
    assert state_of(job) == "done"


def test_a_result_that_is_lost_before_the_others_are_done_is_made_again() -> None:
    pool = pool_of("a", "b")
    job = pool.submit(program=products(("x", "x"), ("x", "x"), results=("r1", "r2")))
    finish_all(pool, job, "r1")
    assert step(job, "r1").is_done
    lose(pool, step(job, "r1").result_id)
    finish_all(pool, job, "r2")
    assert state_of(job) == "running"
    finish_all(pool, job, "r1")
    assert state_of(job) == "done"
    check_cover(job)


def test_a_lost_operand_of_the_user_fails_the_job() -> None:
    pool = pool_of("a", "b")
    job = pool.submit(program=THREE)
    lose(pool, "mx")
    assert state_of(job) == "failed"
    assert job.failure is not None
    assert job.failure.code == "data_lost"
    assert "operand lost: 'x'" in job.failure.message


def test_a_matrix_that_is_lost_again_and_again_fails_the_job() -> None:
    pool = pool_of("a", "b")
    job = pool.submit(program=THREE)
    for _ in range(2):
        assert state_of(job) == "running"
        lose(pool, step(job, "r1").result_id)
    lose(pool, step(job, "r1").result_id)
    assert state_of(job) == "failed"
    assert job.failure is not None
    assert "'r1' was lost 3 times" in job.failure.message
    assert pool.active(job) == []


def test_after_a_restart_only_what_is_needed_is_made_again(tmp_path: Path) -> None:
    before = pool_of("a", "b")
    job = before.submit(program=THREE)
    finish_all(before, job, "r1")
    finish_all(before, job, "r2")
    names = {one.operation.result: one.result_id for one in job.steps}
    # The first is gone, but nobody will read it any more.
    matrices = Matrices(frozenset({names["r2"], names["r3"]}), frozenset({names["r2"]}))
    after = restarted(before, tmp_path / "db", matrices)
    again = after.jobs[job.id]
    assert [one.is_done for one in again.steps] == [True, True, False]
    after.join("c", cpus=frozenset({7}))
    for _ in range(12):
        after.pass_time(1.0)
        after.sample("c")
    assert {s.operation for s in after.active(again)} == {2}
    check_cover(again)


# Whatever happens


@dataclass
class Content:
    """What was written to one matrix."""

    written: list[Rectangle] = field(default_factory=list)


class Store(Pool):
    """A pool whose store's contents are known: an element may only be made of what is there."""

    def __init__(self) -> None:
        super().__init__()
        self.contents = {"mx": Content([SQUARE.whole()])}
        self.assigned: dict[str, effects.SendAssign] = {}
        self.mapped: dict[str, list[Content]] = {}

    def _answer(self, effect: effects.Effect) -> Callable[[], None] | None:
        if isinstance(effect, effects.MakeResults):
            self.contents |= {matrix_id: Content() for matrix_id, _ in effect.matrices}
        elif isinstance(effect, effects.SendAssign):
            self.assigned[effect.subtask] = effect
        return super()._answer(effect)

    def lose(self, matrix_id: str) -> None:
        self.contents.pop(matrix_id, None)
        self.lost.add(matrix_id)

    def begin(self, subtask: Subtask) -> bool:
        """It maps what it reads and writes; False where something is not found."""
        sent = self.assigned[subtask.id]
        read = [operand.matrix_id for operand in sent.operands]
        ids = [*read, sent.result_id]
        if not all(id_ in self.contents for id_ in ids):
            self.fail(subtask, "not_found")
            return False
        for operand, id_ in zip(sent.operands, read, strict=True):
            assert not uncovered(operand.rectangle, self.contents[id_].written), "not there yet"
        self.mapped[subtask.id] = [self.contents[id_] for id_ in ids]
        self.progress(subtask, 0, took_s=0.0)
        return True

    def end(self, subtask: Subtask) -> None:
        if subtask.id in self.mapped or self.begin(subtask):
            result = self.mapped[subtask.id][-1]
            result.written += subtask.pieces
            self.finish(subtask)


NAMES = st.integers(1, 5).flatmap(
    lambda count: st.tuples(
        *(st.sampled_from(["x", *(f"r{k}" for k in range(1, n))]) for n in range(1, count + 1))
    )
)


@settings(max_examples=150, deadline=None)
@given(seen=NAMES, data=st.data())
def test_whatever_is_lost_whenever_no_element_is_made_of_what_is_not_there(
    seen: tuple[str, ...], data: st.DataObject
) -> None:
    program = products(*(("x", name) for name in seen))
    pool = Store()
    nodes = ["a", "b"]
    for name in nodes:
        pool.join(name)
    job = pool.submit(program=program)
    for _ in range(data.draw(st.integers(0, 12))):
        active = pool.active(job)
        match data.draw(st.sampled_from(["begin", "end", "end", "lose", "quietly", "node"])):
            case "begin" if fresh := [s for s in active if s.id not in pool.mapped]:
                pool.begin(data.draw(st.sampled_from(fresh)))
            case "end" if active:
                pool.end(data.draw(st.sampled_from(active)))
            case "lose" | "quietly" as how:
                pool.lose(data.draw(st.sampled_from(job.steps)).result_id)
                if how == "lose":
                    pool.feed(events.StoreRestarted())
            case "node":
                gone = data.draw(st.sampled_from(nodes))
                pool.feed(events.NodeLeft(gone, "1", "test"))
                pool.join(gone, cpus=frozenset({nodes.index(gone)}))
        if job.state.is_final:
            break
        check_cover(job)
    while not job.state.is_final:
        pool.end(pool.active(job)[0])
        check_cover(job)
    if state_of(job) == "failed":
        assert job.failure is not None
        assert "was lost 3 times" in job.failure.message
        return
    for name in program.results:
        content = pool.contents.get(step(job, name).result_id)
        # A result that was lost after it was sealed is for its user to find out.
        assert content is None or not uncovered(SQUARE.whole(), content.written)
