"""The executor process of one GPU: `python -m deadheat.agent.executors.cuda`."""

from __future__ import annotations

import os
import sys
from typing import Final

from deadheat.agent.executors import worker
from deadheat.agent.executors.bounds import STREAMS
from deadheat.agent.executors.calibrate import Point
from deadheat.agent.executors.cuda.calibrate import calibrate
from deadheat.agent.executors.cuda.card import Card
from deadheat.agent.executors.cuda.compute import CardCompute
from deadheat.runtime.errors import Unavailable

#: Its threads ask for copies and wait for them. One that has something to ask for is not to wait
#: for the interpreter while a card has nothing to do.
SWITCH_S: Final = 0.0005


def _calibrated(compute: CardCompute) -> list[Point]:
    points = calibrate(compute)
    compute.residence.drop_unused()
    return points


def _device(end: worker.End) -> worker.Device:
    try:
        card = Card.open()
    except Unavailable as error:
        end(error.message)
    compute = CardCompute(card, lambda reason: end(f"the card is lost to it: {reason}"))
    return worker.Device(
        threads=STREAMS,
        library=card.library,
        compute=compute,
        calibrate=lambda _shapes: _calibrated(compute),
        bounds=compute.bounds,
        is_card=True,
        map_file=compute.mappings.map,
    )


if __name__ == "__main__":
    sys.setswitchinterval(SWITCH_S)
    worker.main(_device)
    sys.stdout.flush()
    os._exit(0)
