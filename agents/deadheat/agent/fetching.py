"""How a block gets here: from another agent that has it, else from the store.

Rules of this file: every chunk is checked wherever it comes from, what has come stays, and the next
source goes on from there. Each peer is asked once; after one that let us wait, the store is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from deadheat.agent.peers import Peer
from deadheat.runtime import logs
from deadheat.runtime.patience import patiently
from deadheat.runtime.programs import Rectangle
from deadheat.store import transfer

if TYPE_CHECKING:
    from deadheat.v1.matrix_pb2_grpc import MatrixServiceAsyncStub

log = logs.get("fetching")

GetStub = Callable[[], "MatrixServiceAsyncStub"]

#: How long a sub-task waits for the next chunk from a peer, of which the store has a copy.
PEER_PATIENCE_S: Final = 3.0


async def fetched(
    stub: GetStub,
    peers: Sequence[Peer],
    matrix_id: str,
    rectangle: Rectangle,
    into: memoryview,
    *,
    on_arrived: Callable[[int], bool],
) -> None:
    """Reads a rectangle into `into`. `on_arrived` is told how many bytes are there whenever there
    are more, and returns whether to go on."""
    arrived = 0

    def note(done: int) -> bool:
        nonlocal arrived
        arrived = done
        return on_arrived(done)

    for peer in peers:
        try:
            await transfer.get_once(
                peer.stub(),
                matrix_id,
                rectangle,
                into,
                done=arrived,
                on_arrived=note,
                stall_s=PEER_PATIENCE_S,
            )
        except Exception as error:  # noqa: BLE001 - no fault of a peer is one of the sub-task.
            log.debug(
                f"not from the agent at {peer.address}: {error}",
                extra=logs.keys("fetch", matrix=matrix_id),
            )
            if peer.has_failed(error):
                break
        else:
            return
    # While the store is away (killed and started again, or the scheduler's too) work waits.
    async for attempt in patiently():
        with attempt:
            await transfer.get(stub(), matrix_id, rectangle, into, done=arrived, on_arrived=note)
