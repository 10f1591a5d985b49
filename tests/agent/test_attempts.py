"""Attempts: nothing finished is forgotten before it is settled, nothing cancelled is told."""

from __future__ import annotations

from deadheat.agent.core.attempts import (
    Attempts,
    Deliver,
    Drop,
    Effect,
    Fetch,
    Report,
    Run,
    ShrinkRun,
    StopRun,
    TrimFetch,
)
from deadheat.runtime.errors import DataLost
from deadheat.runtime.programs import Rectangle
from deadheat.v1 import agent_pb2 as pb
from deadheat.v1 import types_pb2


def assign(name: str = "s", *, inline: bool = False) -> pb.Assign:
    matrix = types_pb2.MatrixType(rows=100, columns=50, data_type=types_pb2.DATA_TYPE_FLOAT64)
    return pb.Assign(
        subtask_id=name,
        attempt=1,
        result_type=matrix,
        rectangle=types_pb2.Rectangle(row_start=10, row_stop=60, column_stop=50),
        result_matrix_id="" if inline else "m",
    )


def finished(name: str = "s") -> pb.Finished:
    return pb.Finished(progress=pb.SubtaskProgress(subtask_id=name, row_done=60))


def running(*, inline: bool = False) -> Attempts:
    attempts = Attempts()
    attempts.assigned(assign(inline=inline))
    attempts.fetched("s")
    return attempts


def reported(effects: list[Effect]) -> list[str | None]:
    return [e.message.WhichOneof("message") for e in effects if isinstance(e, Report)]


def test_the_usual_course() -> None:
    attempts = Attempts()
    (fetch,) = attempts.assigned(assign())
    assert isinstance(fetch, Fetch)
    assert attempts.fetched("s") == [Run("s")]
    progress = pb.SubtaskProgress(subtask_id="s", row_done=30)
    assert reported(attempts.progressed(progress)) == ["progress"]
    effects = attempts.computed(finished(), must_deliver=False)
    assert reported(effects) == ["finished"]
    assert Drop("s") in effects
    assert len(attempts) == 1
    attempts.settled(["s"])
    assert len(attempts) == 0


def test_an_assignment_that_comes_twice_is_one() -> None:
    attempts = running()
    assert attempts.assigned(assign()) == []


def test_what_is_finished_is_told_again_until_it_is_settled() -> None:
    attempts = running()
    attempts.computed(finished(), must_deliver=False)
    (held,) = attempts.for_registration()
    assert held.finished
    for _ in range(3):
        assert reported(attempts.session_opened()) == ["finished"]
    attempts.settled(["s"])
    assert attempts.session_opened() == []


def test_a_result_counts_when_it_is_delivered() -> None:
    attempts = running()
    whole = Rectangle(10, 60, 0, 50)
    assert attempts.computed(finished(), must_deliver=True) == [Deliver("s", (whole,))]
    assert attempts.session_opened() == []  # It is on its way.
    # The store was away: it is delivered again when the session is opened anew.
    attempts.delivery_broke("s")
    assert attempts.session_opened() == [Deliver("s", (whole,))]
    assert reported(attempts.rows_delivered("s")) == ["finished"]


def test_what_was_given_back_is_not_delivered() -> None:
    attempts = running()
    assert attempts.resize("s", 1000) == [ShrinkRun("s", 1000)]
    released = types_pb2.Rectangle(row_start=30, row_stop=60, column_stop=50)
    effects = attempts.shrunk(pb.Resized(subtask_id="s", released=[released]))
    assert reported(effects) == ["resized"]
    kept = Rectangle(10, 30, 0, 50)
    assert attempts.computed(finished(), must_deliver=True) == [Deliver("s", (kept,))]


def test_rows_not_yet_begun_are_given_back_at_once() -> None:
    attempts = Attempts()
    attempts.assigned(assign())
    (told,) = attempts.resize("s", 20 * 50)
    assert isinstance(told, Report)
    (piece,) = told.message.resized.released
    assert (piece.row_start, piece.row_stop) == (30, 60)
    kept = attempts.assign_of("s")
    assert kept is not None
    assert kept.rectangle.row_stop == 30
    effects = attempts.resize("s", 0)
    assert Drop("s") in effects
    assert attempts.assign_of("s") is None


def test_cancelled_work_is_dropped_and_not_spoken_of() -> None:
    attempts = running()
    assert attempts.cancelled(["s", "unknown"]) == [StopRun("s")]
    assert attempts.computed(finished(), must_deliver=False) == []
    assert attempts.failed("s", "internal", "?", row_done=None) == []
    fetching = Attempts()
    fetching.assigned(assign())
    assert fetching.cancelled(["s"]) == [Drop("s")]
    assert fetching.fetched("s") == [Drop("s")]


def test_a_dead_executor_keeps_the_rows_it_had_reported() -> None:
    attempts = running()
    attempts.progressed(pb.SubtaskProgress(subtask_id="s", row_done=30))
    effects = attempts.executor_died("signal 9")
    (told,) = (effect for effect in effects if isinstance(effect, Report))
    failed = told.message.failed
    assert failed.executor_died
    assert failed.row_done == 30
    assert "signal 9" in failed.failure.message


def test_a_dead_executor_of_an_inline_result_keeps_nothing() -> None:
    attempts = running(inline=True)
    attempts.progressed(pb.SubtaskProgress(subtask_id="s", row_done=30))
    (told,) = (e for e in attempts.executor_died("?") if isinstance(e, Report))
    assert told.message.failed.row_done == 10


WIDE = types_pb2.MatrixType(rows=100, columns=100_000, data_type=types_pb2.DATA_TYPE_FLOAT64)


def streaming() -> Attempts:
    """A running sub-task whose rows are 800 kB each and have to be delivered."""
    attempts = Attempts()
    attempts.assigned(
        pb.Assign(
            subtask_id="s",
            result_type=WIDE,
            rectangle=types_pb2.Rectangle(row_start=10, row_stop=60, column_stop=100_000),
            result_matrix_id="m",
        )
    )
    attempts.fetched("s")
    return attempts


def computed_to(attempts: Attempts, row: int) -> list[Effect]:
    return attempts.progressed(pb.SubtaskProgress(subtask_id="s", row_done=row), must_deliver=True)


def rows_told(effects: list[Effect]) -> list[int]:
    return [
        e.message.progress.subtasks[0].row_done
        for e in effects
        if isinstance(e, Report) and e.message.WhichOneof("message") == "progress"
    ]


def test_rows_are_delivered_while_later_ones_are_computed() -> None:
    attempts = streaming()
    effects = computed_to(attempts, 12)
    assert rows_told(effects) == [10]
    assert len(effects) == 1  # Too few to be worth a journey.
    told, deliver = computed_to(attempts, 20)
    assert rows_told([told]) == [10]
    assert deliver == Deliver("s", (Rectangle(10, 20, 0, 100_000),))
    assert len(computed_to(attempts, 40)) == 1  # One run at a time.
    told, deliver = attempts.rows_delivered("s")
    assert rows_told([told]) == [20]
    assert deliver == Deliver("s", (Rectangle(20, 40, 0, 100_000),))
    assert attempts.computed(finished(), must_deliver=True) == []
    assert attempts.rows_delivered("s") == [Deliver("s", (Rectangle(40, 60, 0, 100_000),))]
    assert reported(attempts.rows_delivered("s")) == ["finished"]


def test_what_was_given_back_of_a_band_is_not_delivered_with_it() -> None:
    attempts = streaming()
    gone = [
        types_pb2.Rectangle(row_start=20, row_stop=30, column_start=500, column_stop=100_000),
        types_pb2.Rectangle(row_start=30, row_stop=60, column_stop=100_000),
    ]
    effects = attempts.shrunk(pb.Resized(subtask_id="s", released=gone))
    assert reported(effects) == ["resized"]
    assert TrimFetch("s", 30) in effects
    _, deliver = computed_to(attempts, 30)
    pieces = (Rectangle(10, 20, 0, 100_000), Rectangle(20, 30, 0, 500))
    assert deliver == Deliver("s", pieces)


def test_delivered_rows_stay_when_the_rest_fails() -> None:
    attempts = streaming()
    computed_to(attempts, 20)
    attempts.rows_delivered("s")
    computed_to(attempts, 40)
    told, stop = attempts.given_up("s", DataLost("a block is gone"))
    assert isinstance(told, Report)
    assert told.message.failed.row_done == 20
    assert stop == StopRun("s")
    # What the executor and the journey under way say now is too late.
    assert attempts.rows_delivered("s") == []
    assert attempts.computed(finished(), must_deliver=True) == []
    assert computed_to(attempts, 60) == []


def test_a_dead_executor_keeps_only_what_was_delivered() -> None:
    attempts = streaming()
    computed_to(attempts, 20)
    attempts.rows_delivered("s")
    computed_to(attempts, 50)
    (told,) = (e for e in attempts.executor_died("?") if isinstance(e, Report))
    assert told.message.failed.row_done == 20


def test_what_travels_inline_is_given_back_before_it_runs_or_not_at_all() -> None:
    attempts = Attempts()
    attempts.assigned(assign(inline=True))
    effects = attempts.give_back("s")
    assert reported(effects) == ["resized"]
    assert Drop("s") in effects
    attempts = running(inline=True)
    # A part of it would be refused: it is small, and ends.
    assert attempts.give_back("s") == []
    assert reported(attempts.computed(finished(), must_deliver=False)) == ["finished"]
    assert running().give_back("s") == [ShrinkRun("s", 0)]


def test_sub_tasks_are_known_by_their_devices() -> None:
    attempts = Attempts()
    for name, device in (("s", "n/cpu"), ("t", "n/gpu0"), ("u", "n/cpu")):
        message = assign(name)
        message.device = device
        attempts.assigned(message)
        attempts.fetched(name)
    attempts.computed(finished("u"), must_deliver=False)
    assert attempts.unfinished_on("n/cpu") == ["s"]
    assert attempts.unfinished_on("n/gpu0") == ["t"]


def test_what_was_given_up_while_nobody_listened_is_told_before_the_end() -> None:
    attempts = running()
    gone = types_pb2.Rectangle(row_start=30, row_stop=60, column_stop=50)
    # The report of it is lost, and so is that of the end.
    attempts.shrunk(pb.Resized(subtask_id="s", released=[gone]))
    attempts.computed(finished(), must_deliver=False)
    again = attempts.session_opened()
    assert reported(again) == ["resized", "finished"]
    (resized, _) = (effect.message for effect in again if isinstance(effect, Report))
    assert list(resized.resized.released) == [gone]
    # One that was still fetching gave up some of its rows, too.
    attempts = Attempts()
    attempts.assigned(assign())
    attempts.resize("s", 20 * 50)
    (told,) = attempts.session_opened()
    assert isinstance(told, Report)
    assert list(told.message.resized.released) == [gone]
