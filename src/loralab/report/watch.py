"""`loralab watch [FOLDER…]`: the runs in or below some folders, live in a terminal."""

from __future__ import annotations

import argparse
import math
import os
import signal
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from loralab import signals
from loralab.files import printable
from loralab.report.gather import ROOTS, given_or_usual
from loralab.report.live import Moment, Runs, State

EVERY_SECONDS = 1.0
WIDE = 1000
"""Characters of a line where there is no terminal."""
TEXTS = ("run", "settings")
NUMBERS = ("step", "%", "images/s", "left", "loss", "validation")
HEADS = (*TEXTS, "status", *NUMBERS)
SPARE = ("images/s", "%", "loss", "left")
"""What a narrow terminal does not show, until there is room."""
LEAST = 12
"""Characters of the settings that need room."""
COLOURS = {"running": "cyan", "finished": "green", "interrupted": "yellow"}
"""Of a status; of others, red."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    words = f"folders of runs or sweeps, or that contain some; default: {' and '.join(ROOTS)}"
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help=words)
    words = "print the table once; without a terminal this is always so"
    parser.add_argument("--once", action="store_true", help=words)


def main(args: argparse.Namespace) -> None:
    folders = given_or_usual(args.folders)
    runs, console = Runs(folders), Console()
    if console.is_terminal and not args.once:
        _live(runs, console)
    elif not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=WIDE)
    moment = runs.now()
    if moment.states:
        console.print(_whole(moment))
    else:
        print(f"no runs in {' and '.join(map(str, folders or ROOTS))}")


def _live(runs: Runs, console: Console) -> None:
    """Shows the table on a screen of its own, until nothing runs any more or Ctrl-C."""
    moment = runs.now()
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while not moment.is_over:
                live.update(fitting(moment, console), refresh=True)
                time.sleep(EVERY_SECONDS)
                moment = runs.now()
    except signals.Interrupted as interrupted:
        if interrupted.signal != signal.SIGINT:
            raise


def _whole(moment: Moment) -> Group:
    """All runs, and what the failed ones failed of."""
    why = [Text(f"{printable(state.name)}: {printable(state.why)}", "red") for state in moment.states if state.why]
    return Group(_table(moment.states), Text(_total(moment), "bold"), *why)


def fitting(moment: Moment, console: Console) -> Group:
    """As many runs as there are lines for, in their order; those that run come first, then the newest."""
    room = max(1, console.height - 6)  # of the table's head and foot, and what is below
    places = sorted(range(len(moment.states)), key=lambda place: (not moment.states[place].is_running, -place))
    shown = [moment.states[place] for place in sorted(places[:room])]
    total = _total(moment) if moment.states else "waiting for the first run to start"
    hidden = len(moment.states) - len(shown)
    more = Text(f"and {hidden} more" if hidden else "")
    return Group(_table(shown, console.width), Text(total, "bold", no_wrap=True, overflow="ellipsis"), more)


def _table(states: list[State], width: int | None = None) -> Table:
    """A row a run, of one line where a width is given. Columns that would be empty, or have no room, are not there."""
    rows = [_cells(state) for state in states]
    heads = [head for head in HEADS if any(row[head] for row in rows)]
    widths = {head: max(len(head), *(len(row[head]) for row in rows)) + 2 for head in heads}
    if width is not None:
        widths["settings"] = min(widths.get("settings", 0), LEAST)
        for spare in SPARE:
            if sum(widths[head] for head in heads) > width:
                heads = [head for head in heads if head != spare]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for head in heads:
        justify = "right" if head in NUMBERS else "left"
        table.add_column(head, overflow="fold", no_wrap=head not in TEXTS, justify=justify)
    for state, row in zip(states, rows, strict=True):
        cells = {head: Text(row[head]) for head in heads}
        cells["status"].stylize(COLOURS.get(state.status.partition(" (")[0], "red"))
        if width is not None and "settings" in cells:
            room = width - sum(widths[head] for head in heads if head != "settings") - 2
            cells["settings"].truncate(max(room, LEAST - 2), overflow="ellipsis")
        table.add_row(*cells.values())
    return table


def _cells(state: State) -> dict[str, str]:
    progress = state.progress
    speed, steps = progress.images_per_second, progress.steps
    return {
        "run": printable(state.name),
        "settings": printable(state.settings),
        "status": printable(state.status),
        "step": f"{progress.step}/{steps}" if steps else str(progress.step or ""),
        "%": f"{100 * progress.step // steps}%" if steps else "",
        "images/s": "" if speed is None else f"{speed:.1f}",
        "left": _time(progress.seconds_left),
        "loss": _figure(progress.loss),
        "validation": _figure(progress.validation_loss),
    }


def _total(moment: Moment) -> str:
    """How many runs there are of each status, and how far all are together, those that wait to be as long as others."""
    states = moment.states
    counts = Counter(state.status for state in states) + Counter(waiting=moment.waiting)
    number = counts.total()
    words = [f"{number} run{'s'[: number > 1]}: {', '.join(f'{count} {status}' for status, count in counts.items())}"]
    planned = [state.progress.steps for state in states if state.progress.steps]
    done = sum(state.progress.step for state in states)
    running = [state for state in states if state.is_running]
    left = sum((state.progress.steps or 0) - state.progress.step for state in running)
    left += moment.waiting * (sum(planned) / len(planned) if planned else 0)
    if done + left:
        words.append(f"step {done}/{done + left:.0f} ({done / (done + left):.0%})")
    if running:
        words.append(f"{sum(state.progress.images_per_second or 0 for state in running):.1f} images/s")
        if pace := sum(_steps_per_second(state) for state in running):
            words.append(f"{_time(left / pace)} left")
    return " · ".join(words)


def _steps_per_second(state: State) -> float:
    left, seconds = (state.progress.steps or 0) - state.progress.step, state.progress.seconds_left
    return left / seconds if seconds else 0.0


def _time(seconds: float | None) -> str:
    return "" if seconds is None or not math.isfinite(seconds) else str(timedelta(seconds=round(seconds)))


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
