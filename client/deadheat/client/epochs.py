"""Training as one job, an operation for each epoch; and the same in this process.

Rules of this file: what a training has come to is in its newest state, also what was measured, so
whoever follows it needs no other news. A network gets all parameters of a state or none.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from deadheat.client.arrays import Array
from deadheat.client.jobs import Job
from deadheat.client.lowering import Lowered
from deadheat.client.networks import Networks
from deadheat.client.nn.losses import Epoch, Training
from deadheat.client.nn.sequential import Sequential
from deadheat.client.nn.states import epochs_of, packed, unpacked
from deadheat.runtime import descending
from deadheat.runtime.errors import DeadheatError, InvalidInput, LimitReached, NotFound, Unavailable
from deadheat.runtime.programs import UNSENT, Descent, MatrixType, Operand, Operation, Program
from deadheat.v1 import job_pb2, types_pb2

OnEpoch = Callable[[Epoch], object]


@dataclass(frozen=True)
class Lesson:
    """A training, checked: samples and targets as the devices read them, and the orders."""

    network: Sequential
    kind: Descent
    samples: Array
    targets: Array
    order: Array


@dataclass
class Pupil:
    """A network that follows a training: it has the parameters of the newest epoch it has seen."""

    network: Sequential
    on_epoch: OnEpoch | None
    seen: int = 0
    made: tuple[Epoch, ...] = ()

    def take(self, state: Array) -> None:
        """Goes on to a state, if it is a newer one."""
        found = epochs_of(self.network, state)
        if len(found) <= self.seen:
            return
        assign(self.network, unpacked(self.network, state))
        news, self.made = found[self.seen :], tuple(found)
        self.seen = len(found)
        for epoch in news:
            if self.on_epoch is not None:
                self.on_epoch(epoch)

    def diverged(self, error: InvalidInput) -> InvalidInput:
        """What ended it, and what the network has now."""
        has = f"those of epoch {self.seen}" if self.seen else "those it came with"
        return InvalidInput(
            f"{error.message}; the network's parameters are {has}", field=error.field
        )


class Epochs(Networks):
    """The part of `Client` that trains networks epoch by epoch."""

    def follow(
        self, network: Sequential, job_id: str, *, on_epoch: OnEpoch | None = None
    ) -> Training:
        """Waits for a training that goes on as a job, whoever began it: `Training.job` of a report,
        or what `deadheat jobs` lists.

        Args:
            network: With the layers of the one that is trained; it gets the parameters.
            job_id: Of the job, or "last".
            on_epoch: As for `train`; epochs that are over are told at once.

        Raises:
            InvalidInput: The network is another one; or the training stopped, as for `train`.
            NotFound: There is no such job.
            JobFailed, JobCancelled: As for `train`.

        """
        found = self._get(job_id)
        if found.kind != job_pb2.JOB_KIND_TRAIN:
            raise InvalidInput(f"job {found.id} trains nothing", field="job_id")
        return self._followed(self._link.call(self._resumed(found.id)), Pupil(network, on_epoch))

    async def _resumed(self, job_id: str) -> Job:
        job = Job(self, job_id)

        async def collect(results: Sequence[types_pb2.Result]) -> Array:
            # Others may follow it as well.
            return (await self._fetched(results, keep=True))[0]

        self._watch(job, collect)
        return job

    def _descend(self, lesson: Lesson, policy: job_pb2.JobPolicy, pupil: Pupil) -> Training:
        if self._linked is None:
            return descend_here(lesson, pupil)
        given = {
            "X": lesson.samples,
            "y": lesson.targets,
            "order": lesson.order,
            "state": packed(lesson.network, lesson.kind),
        }
        program = program_of(lesson, given["state"])  # What is wrong is said before all else.
        held = {name: self.put(array).node.held for name, array in given.items()}
        lowered = Lowered(
            program, {name: one for name, one in held.items() if one}, program.results
        )
        work = self._submit_lowered(
            lowered, policy, self._final_state, keep=True, kind=job_pb2.JOB_KIND_TRAIN
        )
        return self._followed(self._link.call(work), pupil)

    async def _final_state(self, results: Sequence[types_pb2.Result]) -> Array:
        return (await self._fetched(results, keep=False))[0]

    def _followed(self, job: Job, pupil: Pupil) -> Training:
        """Brings a network on with each state that is made, until the job has ended."""
        job_id = job.id
        try:
            kept = self._brought_on(job, pupil)
            if kept is not None and (job.cancelled() or job.exception() is not None):
                with suppress(DeadheatError):  # The network has it now.
                    self._link.call(self._link.transfers.give_up(kept.matrix_id))
            pupil.take(job.result())
        except InvalidInput as error:
            raise pupil.diverged(error) from None
        finally:
            # What it failed of holds this frame, and callers' with all that was sent.
            del job
        return Training(pupil.made, job_id)

    def _brought_on(self, job: Job, pupil: Pupil) -> types_pb2.Result | None:
        """Follows a job to its end; returns the newest state that it told of."""
        news: queue.SimpleQueue[job_pb2.JobServiceWatchResponse | None] = queue.SimpleQueue()
        job.on_update(news.put)
        job.add_done_callback(lambda _: news.put(None))
        newest: types_pb2.Result | None = None
        try:
            while (update := news.get()) is not None:
                if not update.HasField("checkpoint"):
                    continue
                if newest is None or update.checkpoint.matrix_id != newest.matrix_id:
                    newest = update.checkpoint
                    if (state := self._state(newest)) is not None:
                        pupil.take(state)
        except BaseException:
            with suppress(DeadheatError):
                job.cancel()
            raise
        return newest

    def _state(self, checkpoint: types_pb2.Result) -> Array | None:
        """None where the next one has taken its place meanwhile, or the store is away: whoever
        follows gets that one, or the last."""
        try:
            return self._link.call(self._link.transfers.download(checkpoint))
        except (NotFound, Unavailable):
            return None


def program_of(lesson: Lesson, state: Array) -> Program:
    """An operation for each epoch, which reads the state that the one before made."""
    arrays = {"X": lesson.samples, "y": lesson.targets, "order": lesson.order, "state": state}
    operands = tuple(
        Operand(name, MatrixType(len(array), array.shape[1], array.dtype.name), UNSENT)
        for name, array in arrays.items()
    )
    names = ["state", *(f"epoch{number}" for number in range(1, lesson.kind.epochs + 1))]
    operations = tuple(
        Operation(names[at + 1], ("X", "y", "order", names[at]), replace(lesson.kind, epoch=at))
        for at in range(lesson.kind.epochs)
    )
    program = Program(operands, operations, (names[-1],))
    _ = program.types  # Checked now, before anything is sent.
    return program


def descend_here(lesson: Lesson, pupil: Pupil) -> Training:
    """A whole training in this process."""
    state = packed(lesson.network, lesson.kind)
    made = np.empty_like(state)
    try:
        work = descending.Work.of(np, lesson.kind, lesson.samples)
        for at in range(lesson.kind.epochs):
            kind = replace(lesson.kind, epoch=at)
            parts = (lesson.samples, lesson.targets, lesson.order[at : at + 1], state)
            with np.errstate(all="ignore"):  # What runs away is said by its loss.
                descending.run(np, kind, parts, made, work)
            state, made = made, state
            pupil.take(state)
    except InvalidInput as error:
        raise pupil.diverged(error) from None
    except MemoryError:
        raise LimitReached("no memory here for a step of this training") from None
    return Training(pupil.made)


def assign(network: Sequential, arrays: Sequence[Array]) -> None:
    """All parameters, in the order of `network.parameters` and as `matrix_of` has them."""
    left = iter(arrays)
    for layer in network.weighted:
        layer.weight = next(left).reshape(layer.weight.shape)
        if layer.bias is not None:
            layer.bias = next(left)
