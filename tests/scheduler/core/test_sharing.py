"""Which agents are named to one that needs a block."""

from __future__ import annotations

from tests.scheduler.core.harness import Pool

from deadheat.scheduler.core import effects, events
from deadheat.scheduler.core.sharing import MAX_PEERS
from deadheat.scheduler.planner.availability import Sample
from deadheat.scheduler.planner.inputs import Cut


def named(assign: effects.SendAssign, name: str) -> tuple[str, ...]:
    return next(one.peers for one in assign.operands if one.name == name)


def tell_held(pool: Pool, node: str, *matrices: str) -> None:
    sample = Sample(pool.now, 1.0, 0.0, 0.0, 0.0)
    device = events.DeviceSampled(f"{node}/cpu", sample, 1 << 34, matrices)
    pool.feed(events.NodeSampled(node, [device]))


def far_pool(count: int) -> Pool:
    pool = Pool()
    for number in range(count):
        pool.join(f"n{number}", host=f"host{number}", peer_address=f"10.0.0.{number}:7434")
    return pool


def test_those_who_need_the_same_block_form_a_chain() -> None:
    pool = far_pool(3)
    pool.submit(cut=Cut.EQUAL)
    assigns = pool.take_sent(effects.SendAssign)
    assert len(assigns) == 3
    earlier: list[str] = []
    for assign in assigns:
        assert named(assign, "B") == tuple(reversed(earlier))
        assert named(assign, "A") == ()  # Rows of their own.
        earlier.append(pool.nodes[assign.node].peer_address)


def test_holders_are_named_in_turns_and_never_too_many() -> None:
    pool = far_pool(8)
    for number in range(6):
        tell_held(pool, f"n{number}", "mb", "unknown")
    pool.submit(cut=Cut.EQUAL)
    for assign in pool.take_sent(effects.SendAssign):
        peers = named(assign, "B")
        assert len(peers) == MAX_PEERS
        assert pool.nodes[assign.node].peer_address not in peers
    assert pool.core.world.holders["mb"].keys() == {f"n{number}/cpu" for number in range(6)}
    for number in range(6):
        tell_held(pool, f"n{number}")
    assert pool.core.world.holders == {}


def test_nobody_is_named_who_cannot_help() -> None:
    pool = Pool()
    pool.join("near", peer_address="10.0.0.9:1")  # On the store's own host.
    pool.join("mute", host="h1")
    pool.join("slow", host="h2", peer_address="10.0.0.2:1")
    pool.join("tunnel", host="h3", peer_address="127.0.0.1:1")
    pool.join("gone", host="h4", peer_address="10.0.0.4:1")
    for node in ("near", "mute", "slow", "tunnel", "gone"):
        tell_held(pool, node, "mb")
    pool.nodes["slow"].devices["slow/cpu"].bandwidth_bytes_per_s = 1e6
    pool.feed(events.SessionBroken("gone", "1"))
    pool.join("asks", gflops=500.0, host="h5")
    pool.submit(cut=Cut.EQUAL)
    (assign,) = (one for one in pool.take_sent(effects.SendAssign) if one.node == "asks")
    assert named(assign, "B") == ()


def test_those_on_the_host_of_the_store_ask_nobody() -> None:
    pool = Pool()
    pool.join("far", host="h1", peer_address="10.0.0.1:1")
    tell_held(pool, "far", "mb")
    pool.join("near")
    pool.submit(cut=Cut.EQUAL)
    for assign in pool.take_sent(effects.SendAssign):
        assert named(assign, "B") == ()
