"""A core with everything around it played by the test: agents, store, planner, time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tests.scheduler.planner.builders import model, product

from deadheat.runtime.errors import DeadheatError, NotFound
from deadheat.runtime.programs import Program, Rectangle, uncovered
from deadheat.scheduler.core import effects, events
from deadheat.scheduler.core.core import Core
from deadheat.scheduler.core.events import DeviceFacts, Failure, JobPolicy
from deadheat.scheduler.core.machine import JobState, SubtaskState
from deadheat.scheduler.core.state import Job, Node, Subtask
from deadheat.scheduler.planner.availability import Sample
from deadheat.scheduler.planner.inputs import Cut
from deadheat.scheduler.planner.plan import Plan
from deadheat.scheduler.planner.planner import plan

HOST = "host"

E = TypeVar("E")


class Pool:
    """Feeds events and keeps what came of them. The store and the planner answer at once, unless
    their answers are held back."""

    def __init__(self) -> None:
        self.core = Core(HOST)
        self.now = 100.0
        self.sent: list[effects.Effect] = []
        self.committed: list[effects.Change] = []
        self.held_back: list[Callable[[], None]] = []
        self.holds_back: set[type[object]] = set()
        #: Ids of matrices that the store has lost.
        self.lost: set[str] = set()
        self._jobs = 0

    # Feeding

    def feed(self, event: events.Event) -> None:
        for effect in self.core.handle(event, self.now):
            if isinstance(effect, effects.Commit):
                self.committed += effect.changes
            elif answer := self._answer(effect):
                if type(effect) in self.holds_back:
                    self.held_back.append(answer)
                else:
                    answer()
            else:
                self.sent.append(effect)

    def _answer(self, effect: effects.Effect) -> Callable[[], None] | None:
        match effect:
            case effects.MakePlan(job, ticket, given):

                def make_plan() -> None:
                    outcome: Plan | Failure
                    try:
                        outcome = plan(given, now=self.now)
                    except DeadheatError as error:
                        outcome = Failure(error.code, error.message)
                    self.feed(events.PlanMade(job, ticket, outcome, 0.001))

                return make_plan
            case effects.MakeResults(job):
                made = effect.matrix_ids
                return lambda: self.feed(events.ResultsMade(job, made))
            case effects.SealResult(job, operation, matrix_id):
                return lambda: self.feed(
                    events.ResultSealed(job, operation, self._not_found(matrix_id), matrix_id)
                )
            case effects.FindMatrices(job, matrix_ids):
                return lambda: self.feed(
                    events.MatricesFound(job, [one for one in matrix_ids if one in self.lost])
                )
        return None

    def _not_found(self, matrix_id: str) -> Failure | None:
        return Failure(NotFound.code, "no such matrix") if matrix_id in self.lost else None

    def release_answers(self) -> None:
        self.holds_back.clear()
        held, self.held_back = self.held_back, []
        for answer in held:
            answer()

    def pass_time(self, seconds: float) -> None:
        """Time goes by, and every deadline in it is kept."""
        end = self.now + seconds
        while (due := self.core.next_deadline_s()) is not None and due <= end:
            self.now = max(self.now, due)
            self.feed(events.Ticked())
        self.now = end

    def take_sent(self, kind: type[E]) -> list[E]:
        """What was sent of one kind, once."""
        found: list[E] = [effect for effect in self.sent if isinstance(effect, kind)]
        self.sent = [effect for effect in self.sent if not isinstance(effect, kind)]
        return found

    # Agents

    def join(
        self,
        name: str,
        gflops: float = 50.0,
        *,
        instance: str = "1",
        host: str = HOST,
        cpus: frozenset[int] | None = None,
        held: tuple[events.HeldSubtask, ...] = (),
        peer_address: str = "",
        memory_bytes: int = 1 << 34,
    ) -> None:
        facts = DeviceFacts(f"{name}/cpu", "cpu", "test", 1, memory_bytes, model(gflops).points)
        taken = {cpu for node in self.nodes.values() for cpu in node.cpus}
        self.feed(
            events.NodeRegistered(
                node=name,
                instance=instance,
                host=host,
                cpus=frozenset({max(taken, default=-1) + 1}) if cpus is None else cpus,
                shares_cpus=False,
                shares_memory=host == HOST,
                version="test",
                devices=[facts],
                held=held,
                peer_address=peer_address,
            )
        )

    def sample(self, name: str, foreign: float = 0.0) -> None:
        runnable = 1.0 if foreign else 0.0
        sample = Sample(self.now, 1.0, foreign, 0.0, foreign, foreign_runnable=runnable)
        device = events.DeviceSampled(f"{name}/cpu", sample, 1 << 34)
        self.feed(events.NodeSampled(name, [device]))

    def progress(self, subtask: Subtask, area: int, *, took_s: float) -> None:
        """The sub-task is so far after so many seconds of work that end now."""
        columns = subtask.rectangle.columns
        row = subtask.rectangle.row_start + area // columns
        made = events.Progress(
            subtask.id, row, area, self.now - took_s, self.now, took_s, took_s, 1.0
        )
        self.feed(events.SubtasksProgressed(subtask.node, [made]))

    def finish(self, subtask: Subtask, *, took_s: float = 1.0) -> None:
        job = self.jobs[subtask.job]
        step = job.steps[subtask.operation]
        inline = b""
        if step.inline is not None:
            inline = bytes(subtask.area * step.type.element.itemsize)
        made = events.Progress(
            subtask.id,
            subtask.pieces[-1].row_stop,
            subtask.area,
            self.now - took_s,
            self.now,
            took_s,
            took_s,
            job.flops_of(subtask.operation, subtask.area),
        )
        self.feed(events.SubtaskFinished(subtask.node, made, self.now, inline=inline))

    def fail(self, subtask: Subtask, code: str = "internal", row_done: int | None = None) -> None:
        done = subtask.rectangle.row_start if row_done is None else row_done
        failure = Failure(code, "it broke")
        self.feed(events.SubtaskFailed(subtask.node, subtask.id, failure, True, done))

    def give_up(self, request: effects.SendResize) -> list[Rectangle]:
        """Answers a resize as an agent would that has started nothing beyond what it reported."""
        subtask = self.core.world.subtasks[request.subtask]
        whole = subtask.pieces[0]
        rows = -(-max(request.keep_area, subtask.area_done) // whole.columns)
        released = [whole.with_rows(min(whole.row_start + rows, whole.row_stop), whole.row_stop)]
        self.feed(events.SubtaskResized(subtask.node, subtask.id, released))
        return released

    # Jobs

    def submit(
        self,
        m: int = 4096,
        k: int = 4096,
        n: int = 4096,
        *,
        cut: Cut = Cut.BALANCED,
        timeout_s: float | None = None,
        inline: bool = False,
        user: str = "tester",
        priority: int = 0,
        program: Program | None = None,
        model: str = "",
    ) -> Job:
        self._jobs += 1
        made = program or product(m, k, n)
        job_id = f"j{self._jobs}"
        self.feed(
            events.JobSubmitted(
                job=job_id,
                request_id=f"r{self._jobs}",
                user=user,
                kind="matmul",
                program=made,
                policy=JobPolicy(cut=cut, timeout_s=timeout_s, priority=priority),
                result_ids=[
                    "" if inline else f"result{self._jobs}" + f"-{index}" * bool(index)
                    for index in range(len(made.operations))
                ],
                model=model,
            )
        )
        return self.jobs[job_id]

    @property
    def jobs(self) -> dict[str, Job]:
        return self.core.world.jobs

    @property
    def nodes(self) -> dict[str, Node]:
        return self.core.world.nodes

    def active(self, job: Job) -> list[Subtask]:
        return [subtask for subtask in job.subtasks.values() if subtask.state.is_active]

    def on(self, job: Job, node: str) -> Subtask:
        """The one active sub-task of a job on a node."""
        (found,) = (subtask for subtask in self.active(job) if subtask.node == node)
        return found


def state_of(thing: Job | Node | Subtask) -> str:
    """The state's name, asked for afresh."""
    return str(thing.state.value)


def check_cover(job: Job) -> None:
    """The invariant of every job: done and active pieces and gaps are the result, exactly once."""
    for step in job.steps:
        pieces = [
            piece
            for subtask in job.subtasks.values()
            if subtask.operation == step.index
            and (subtask.state is SubtaskState.DONE or subtask.state.is_active)
            for piece in subtask.pieces
        ]
        pieces += [gap.rectangle for gap in step.gaps]
        if job.state in (JobState.FAILED, JobState.CANCELLED):
            continue
        assert uncovered(step.type.whole(), pieces) == []
        assert sum(piece.area for piece in pieces) == step.type.whole().area
