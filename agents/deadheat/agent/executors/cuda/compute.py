"""A panel on a card: operands in, computed, result out, in the stream of the thread that has it.

The pool's threads take panels as on cores. Each has a stream, so that while one panel is computed
the next one's operands are copied in and the last one's result out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from deadheat.agent.executors.bounds import CARDS
from deadheat.agent.executors.cuda.card import Card, Fault
from deadheat.agent.executors.cuda.namespace import Namespace
from deadheat.agent.executors.cuda.pinning import Mappings
from deadheat.agent.executors.cuda.residence import Request, Residence
from deadheat.agent.executors.cuda.staging import Lane
from deadheat.agent.executors.panels import Panel
from deadheat.agent.executors.pool import Task, part_of
from deadheat.runtime.kernels import compute_panel
from deadheat.runtime.programs import needed_blocks

#: Of the memory that is free at the start, what operands may take. The rest is for the results of
#: panels, for what is computed on the way to them, for cuBLAS, and for others who come later.
RESIDENT_SHARE: Final = 0.6


class CardCompute:
    """Computes panels; called by all threads of a pool. `lost` is told why when the card cannot be
    used any more by this process, and does not return."""

    def __init__(
        self, card: Card, lost: Callable[[str], object], limit_bytes: int | None = None
    ) -> None:
        if limit_bytes is None:
            limit_bytes = int(card.memory_free_bytes * RESIDENT_SHARE)
        self._card = card
        self._lost = lost
        self._namespace = Namespace(card)
        self._mine = threading.local()
        self._incoming = card.stream()
        self.residence = Residence(card, limit_bytes)
        #: How large panels on this card are.
        self.bounds = replace(
            CARDS, link_bytes_per_s=card.link_bytes_per_s(), resident_bytes=limit_bytes
        )
        self.mappings = Mappings(card, lambda: self.residence.is_idle)

    def __call__(self, task: Task, panel: Panel) -> None:
        """Raises MemoryError for a panel that has to be smaller."""
        try:
            lane = self._lane()
            try:
                with lane.stream:
                    self._panel(lane, task, panel)
            except BaseException:
                lane.settle()  # Nothing may use its memory any more when this panel is over.
                raise
        except Exception as error:
            self._judge(error)
            raise
        finally:
            if self.residence.is_idle:
                self.mappings.wake()

    def _lane(self) -> Lane:
        if not hasattr(self._mine, "lane"):
            self._mine.lane = Lane(self._card, self._incoming)
        found: Lane = self._mine.lane
        return found

    def _panel(self, lane: Lane, task: Task, panel: Panel) -> None:
        operation, rectangle = task.operation, panel.rectangle
        wanted = needed_blocks(operation, task.types, rectangle)
        spans = needed_blocks(operation, task.types, task.panels.rectangle)
        requests = [
            Request(key or f"{task.id}:{number}", block, part, span)
            for number, (key, block, (_, part), (_, span)) in enumerate(
                zip(self._keys(task), task.operands, wanted, spans, strict=True)
            )
        ]
        target = part_of(task.result, rectangle)
        with self.residence.hold(lane, requests) as parts:
            try:
                made = self._card.cupy.empty(target.shape, target.dtype)
                compute_panel(self._namespace, operation, task.types, rectangle, parts, made)
                lane.download(made, target, is_pinned=task.result.is_pinned())
            except BaseException:
                lane.settle()  # Before operands lose their pins.
                raise

    @staticmethod
    def _keys(task: Task) -> list[str]:
        return list(task.keys) or [""] * len(task.operands)

    def _judge(self, error: Exception) -> None:
        fault = self._card.fault_of(error)
        if fault is Fault.LOST:
            self._lost(f"{type(error).__name__}: {error}")
        elif fault is Fault.MEMORY:
            self.residence.drop_unused()
            self._card.free_unused()
            if not isinstance(error, MemoryError):
                raise MemoryError(str(error)) from error
