"""Progress of long work: a bar on a terminal, else a line from time to time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

LINE_EVERY_SECONDS = 15.0


class _Speed(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f} {self.unit}/s")


@contextmanager
def progress(title: str, total: int | None, unit: str) -> Iterator[Callable[[float], None]]:
    """A bar on stderr that vanishes when done; yields the function that advances it by so many units."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Speed(unit), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)
        next_line = time.monotonic() + LINE_EVERY_SECONDS

        def advance(count: float) -> None:
            nonlocal next_line
            bar.advance(task, count)
            if bar.disable and time.monotonic() >= next_line:
                next_line = time.monotonic() + LINE_EVERY_SECONDS
                of = "" if total is None else f" of {total}"
                print(f"{title}: {bar.tasks[0].completed:.0f}{of} {unit}", file=sys.stderr)

        yield advance
