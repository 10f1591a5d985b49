"""Random programs through the core and the planner, computed for real: NumPy's results, whatever
the cuts, whoever is lost, whatever is given to others in the middle, whatever the store loses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.client.expressions import values
from tests.client.test_lazy import HERE
from tests.client.test_segments import lowered
from tests.scheduler.core.harness import Pool, check_cover, state_of

from deadheat.runtime.dtypes import numpy_dtype
from deadheat.runtime.kernels import compute_panel
from deadheat.runtime.programs import Operand, Program, Rectangle, needed_blocks
from deadheat.scheduler.core import effects, events
from deadheat.scheduler.core.state import Job, Subtask
from deadheat.scheduler.planner.inputs import Cut

Array = np.ndarray[Any, Any]
#: So slow that sharing the smallest product pays.
SLOW_GFLOPS = 1e-8
MOST_STEPS = 30


class Cluster(Pool):
    """Devices that compute, and a store that keeps and loses matrices."""

    def __init__(self, operands: dict[str, Array]) -> None:
        super().__init__()
        self.contents: dict[str, Array] = dict(operands)
        self.assigned: dict[str, effects.SendAssign] = {}
        self.mapped: dict[str, list[Array]] = {}

    def _answer(self, effect: effects.Effect) -> Callable[[], None] | None:
        if isinstance(effect, effects.MakeResults):
            for matrix_id, matrix in effect.matrices:
                # What nobody has written must be seen in the end.
                made = np.empty((matrix.rows, matrix.columns), numpy_dtype(matrix.dtype))
                made.view(np.uint8)[...] = 0xAA
                self.contents[matrix_id] = made
        elif isinstance(effect, effects.SendAssign):
            self.assigned[effect.subtask] = effect
        return super()._answer(effect)

    def lose(self, matrix_id: str, *, is_told: bool) -> None:
        if self.contents.pop(matrix_id, None) is not None:
            self.lost.add(matrix_id)
            if is_told:
                self.feed(events.StoreRestarted())

    def begin(self, subtask: Subtask) -> bool:
        sent = self.assigned[subtask.id]
        ids = [*(operand.matrix_id for operand in sent.operands), sent.result_id]
        if not all(id_ in self.contents for id_ in ids):
            self.fail(subtask, "not_found")
            return False
        self.mapped[subtask.id] = [self.contents[id_] for id_ in ids]
        self.progress(subtask, 0, took_s=0.0)
        return True

    def compute(self, subtask: Subtask, types: Any) -> None:
        if subtask.id not in self.mapped and not self.begin(subtask):
            return
        *operands, result = self.mapped[subtask.id]
        operation = self.assigned[subtask.id].operation
        for piece in subtask.pieces:
            wanted = needed_blocks(operation, types, piece)
            parts = [_part(array, block) for array, (_, block) in zip(operands, wanted)]
            compute_panel(np, operation, types, piece, parts, _part(result, piece))
        self.finish(subtask)

    def give_back(self, subtask: Subtask) -> None:
        """Half of its rows, as for a re-balance."""
        piece = subtask.pieces[-1]
        row = (piece.row_start + piece.row_stop) // 2
        released = [piece.with_rows(row, piece.row_stop)]
        self.feed(events.SubtaskResized(subtask.node, subtask.id, released))


def _part(array: Array, r: Rectangle) -> Array:
    return array[r.row_start : r.row_stop, r.column_start : r.column_stop]


@settings(max_examples=250, deadline=None)
@given(
    data=st.data(),
    cut=st.sampled_from(Cut),
    wanted=st.integers(1, 3),
    speeds=st.lists(st.floats(0.2, 5.0), min_size=2, max_size=5),
)
def test_whatever_happens_random_programs_are_numpys(
    data: st.DataObject, cut: Cut, wanted: int, speeds: list[float]
) -> None:
    made = data.draw(values(HERE))[-wanted:]
    program, found, names = lowered(*(value.lazy for value in made))
    if program is not None:
        held = {f"m-{name}": array for name, array in found.items()}
        stored = tuple(Operand(o.name, o.type, matrix_id=f"m-{o.name}") for o in program.operands)
        pool = Cluster(held)
        for number, speed in enumerate(speeds):
            pool.join(f"n{number}", SLOW_GFLOPS * speed)
        job = pool.submit(program=Program(stored, program.operations, program.results), cut=cut)
        with np.errstate(all="ignore"):
            _disturbed(pool, job, data, len(speeds))
            while not job.state.is_final:
                pool.compute(pool.active(job)[0], job.program.types)
                check_cover(job)
        assert state_of(job) == "done", job.failure
        ids = {step.operation.result: step.result_id for step in job.steps}
        found |= {name: pool.contents[ids[name]] for name in program.results}
    for value, name in zip(made, names, strict=True):
        value.check(np.asarray(found[name]).reshape(value.array.shape))


def _disturbed(pool: Cluster, job: Job, data: st.DataObject, count: int) -> None:
    """Some of it is computed, while everything else happens too."""
    losses = 0
    for _ in range(data.draw(st.integers(0, MOST_STEPS))):
        active = pool.active(job)
        if job.state.is_final or not active:
            return
        subtask = data.draw(st.sampled_from(active))
        match data.draw(st.sampled_from(["compute", "compute", "begin", "give", "node", "lose"])):
            case "compute":
                pool.compute(subtask, job.program.types)
            case "begin" if subtask.id not in pool.mapped:
                pool.begin(subtask)
            case "give":
                pool.give_back(subtask)
            case "node":
                number = data.draw(st.integers(0, count - 1))
                pool.feed(events.NodeLeft(f"n{number}", "1", "test"))
                pool.join(f"n{number}", SLOW_GFLOPS, cpus=frozenset({number}))
            case "lose" if losses < 2:
                # Those that the user wants are whole at the end, so nothing of them is lost here.
                inner = [
                    step.result_id
                    for step in job.steps
                    if step.operation.result not in job.program.results
                ]
                if inner:
                    losses += 1
                    pool.lose(data.draw(st.sampled_from(inner)), is_told=data.draw(st.booleans()))
        check_cover(job)
