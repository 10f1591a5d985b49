"""The steps of a job, and which of them something can happen to now.

Rules of this file: a training has thousands of steps, and every one of them brings events. So what
an event costs must not depend on their number: whoever handles one looks at the steps that are
`live`, and at all of them only when the program changes, something was lost, or the job ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import overload

from deadheat.runtime.programs import Operation, Program
from deadheat.scheduler.core.state import Gap, Step


class Steps(Sequence[Step]):
    """The steps of one program, by the numbers of its operations.

    A step is live from when all that it reads is there until it is done. One whose operand is lost
    meanwhile stays live, but is not ready.
    """

    def __init__(self, steps: Sequence[Step] = ()) -> None:
        self._steps = tuple(steps)
        #: The step that makes each result.
        self.made_by: Mapping[str, Step] = {step.operation.result: step for step in steps}
        self._read_by: dict[str, list[Step]] = {}
        for step in steps:
            for name in dict.fromkeys(step.operation.operands):
                self._read_by.setdefault(name, []).append(step)
        self._live = {step.index: step for step in steps if self.is_ready(step)}
        self._in_order: tuple[Step, ...] | None = None
        #: Room was asked for, for all results but the states of a training.
        self.has_rooms = False
        #: No step from this number on was ever done.
        self.reached = 0
        #: The work in those that are done.
        self.done_flops = 0.0

    @staticmethod
    def of(program: Program, result_ids: Sequence[str]) -> Steps:
        """Those of a program of which nothing was done yet."""
        numbered = enumerate(zip(program.operations, result_ids, strict=True))
        return Steps([_new(program, index, *each) for index, each in numbered])

    @overload
    def __getitem__(self, index: int) -> Step: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Step]: ...
    def __getitem__(self, index: int | slice) -> Step | Sequence[Step]:
        return self._steps[index]

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self._steps)

    def __repr__(self) -> str:
        return f"Steps({self._steps})"

    @property
    def live(self) -> Sequence[Step]:
        """In their order. None are left when all steps are done."""
        if self._in_order is None:  # It changes when steps end, and is asked for at every event.
            self._in_order = tuple(self._live[index] for index in sorted(self._live))
        return self._in_order

    def is_ready(self, step: Step) -> bool:
        """Whether everything that the step reads is there."""
        made_by = self.made_by
        return all(name not in made_by or made_by[name].is_done for name in step.operation.operands)

    def is_read(self, step: Step) -> bool:
        """Whether somebody has yet to use its result."""
        return any(not reader.is_done for reader in self._read_by.get(step.operation.result, ()))

    def makers(self, step: Step) -> list[Step]:
        """The steps that make what it reads."""
        names = dict.fromkeys(step.operation.operands)
        return [self.made_by[name] for name in names if name in self.made_by]

    def note_done(self, step: Step, flops: float) -> list[Step]:
        """Its result is there; returns the steps that were waiting for nothing else."""
        if not step.is_done:
            self.done_flops += flops
        step.is_done = True
        self._live.pop(step.index, None)
        self.reached = max(self.reached, step.index + 1)
        readers = self._read_by.get(step.operation.result, ())
        waiting = (one for one in readers if not one.is_done and one.index not in self._live)
        found = [reader for reader in waiting if self.is_ready(reader)]
        self._live |= {reader.index: reader for reader in found}
        self._in_order = None
        return found

    def note_lost(self, step: Step, flops: float) -> None:
        """Its result has to be made again, or made on."""
        if step.is_done:
            self.done_flops -= flops
        step.is_done = step.is_sealing = step.is_dropped = False
        self._live[step.index] = step
        self._in_order = None


def _new(program: Program, index: int, operation: Operation, result_id: str) -> Step:
    matrix = program.types[operation.result]
    whole = matrix.whole()
    return Step(
        index=index,
        operation=operation,
        type=matrix,
        result_id=result_id,
        gaps=[Gap(whole)] if whole.area else [],
        inline=None if result_id else bytearray(matrix.size_bytes),
    )
