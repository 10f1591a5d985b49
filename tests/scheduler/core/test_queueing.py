"""Fair queueing: priorities win, small before big, and nobody starves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deadheat.scheduler.core.queueing import MAX_PRIORITY, FairQueue, rank_of

costs_s = st.floats(0.001, 1_000.0)


def serve(queue: FairQueue, left_s: dict[str, float], tags: dict[str, float], now: float) -> float:
    """The one with the least tag runs to its end, as if there were one device; when that is."""
    job = min(tags, key=lambda name: (tags[name], name))
    now += left_s.pop(job)
    del tags[job]
    queue.leave(job, now)
    return now


@given(costs_s, st.lists(st.floats(0.01, 50.0), min_size=1, max_size=60))
def test_a_big_job_is_served_however_many_small_ones_of_others_keep_coming(
    big_s: float, small_s: list[float]
) -> None:
    """Two users and one device: what goes before the big job is about as much as its own work."""
    queue = FairQueue()
    left_s, tags, now, before_s = (
        {"big": big_s},
        {"big": queue.enter("big", "a", big_s, 0.0)},
        0.0,
        0.0,
    )
    for number, cost_s in enumerate(small_s):
        name = f"small-{number}"
        left_s[name] = cost_s
        tags[name] = queue.enter(name, "b", cost_s, now)
        if "big" in tags and tags["big"] <= min(tags.values()):
            break
        now = serve(queue, left_s, tags, now)
        before_s += cost_s
    assert before_s <= 2.0 * big_s + max(small_s)


@given(st.lists(costs_s, min_size=2, max_size=20))
def test_small_jobs_of_one_user_go_before_big_ones_whatever_came_first(
    costs: list[float],
) -> None:
    queue = FairQueue()
    tags = [queue.enter(f"j{number}", "a", cost_s, 0.0) for number, cost_s in enumerate(costs)]
    smallest = costs.index(min(costs))
    last = queue.enter("last", "a", min(costs) / 2, 0.0)
    assert last <= min(tags)
    assert tags[smallest] >= costs[smallest]


@given(st.integers(1, 50), costs_s)
def test_a_flood_of_one_user_does_not_hold_up_another(flood: int, cost_s: float) -> None:
    queue = FairQueue()
    tags = [queue.enter(f"flood-{number}", "a", cost_s, 0.0) for number in range(flood)]
    other = queue.enter("other", "b", cost_s, 0.0)
    assert sum(tag < other for tag in tags) <= 1


@given(
    st.integers(-MAX_PRIORITY, MAX_PRIORITY - 1),
    st.integers(1, 2 * MAX_PRIORITY),
    st.floats(-1e6, 1e8),
    st.floats(-1e6, 1e8),
)
def test_a_higher_priority_always_wins(low: int, more: int, tag: float, other: float) -> None:
    high = min(MAX_PRIORITY, low + more)
    assert rank_of(high, tag) < rank_of(low, other)


@given(st.lists(st.tuples(st.sampled_from("abc"), costs_s), min_size=1, max_size=20))
def test_who_is_in_a_hurry_goes_before_all_and_who_left_is_forgotten(
    jobs: list[tuple[str, float]],
) -> None:
    queue = FairQueue()
    names = [f"j{number}" for number in range(len(jobs))]
    tags = [queue.enter(name, user, cost_s, 0.0) for name, (user, cost_s) in zip(names, jobs)]
    assert queue.hurry(names[-1]) < min(tags)
    for name in names:
        queue.leave(name, 1.0)
    queue.leave("unknown", 1.0)
    assert queue.enter("next", "a", 1.0, 1.0) == queue.would_be(1.0, 1.0)
