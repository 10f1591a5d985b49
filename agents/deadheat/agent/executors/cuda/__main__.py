"""The executor process of one GPU: `python -m deadheat.agent.executors.cuda`."""

from __future__ import annotations

import os
import sys

from deadheat.agent.executors import worker
from deadheat.agent.executors.bounds import CARDS, STREAMS
from deadheat.agent.executors.calibrate import Point
from deadheat.agent.executors.cuda.calibrate import calibrate
from deadheat.agent.executors.cuda.card import Card
from deadheat.agent.executors.cuda.compute import CardCompute
from deadheat.runtime.errors import Unavailable


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
        bounds=CARDS,
        is_card=True,
        map_file=compute.mappings.map,
    )


if __name__ == "__main__":
    worker.main(_device)
    sys.stdout.flush()
    os._exit(0)
