"""A progress bar on a terminal, with the moment at which everybody should finish."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from deadheat.runtime.units import format_seconds

if TYPE_CHECKING:
    from deadheat.client.jobs import Job
    from deadheat.v1 import job_pb2


@contextmanager
def shown(job: Job, wanted: bool | None = None) -> Iterator[None]:
    """Shows a job's progress on stderr while the block runs, if that is a terminal."""
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(job.id, total=1.0, note="")

        def tell(update: job_pb2.JobServiceWatchResponse) -> None:
            note = update.note
            if update.HasField("predicted_remaining_s"):
                note = f"all done in {format_seconds(update.predicted_remaining_s)}"
            bar.update(task, completed=update.progress, note=note)

        job.on_update(tell)
        yield
