"""`loralab compare RUN…`: runs side by side, as text or JSON; `loralab report` makes a page of them.

Runs that differ by their seed only are one, with the mean of each figure and its standard deviation between seeds.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from loralab.errors import Problem, UserError
from loralab.files import as_json, printable
from loralab.places import check_place
from loralab.report.diff import shown
from loralab.report.gather import differing, gather, short_names
from loralab.report.run import LOSS, VALIDATION, Run, is_finite
from loralab.report.seeds import SEED, groups, mean_and_spread, standings

Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="run folders, or folders that contain some"
    )
    words = "show each run; default: those that differ by their seed only as one, with mean ± spread (number of seeds)"
    parser.add_argument("--each", action="store_true", help=words)
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write the page of loralab report as this file")


def main(args: argparse.Namespace) -> None:
    if args.html:
        check_place(args.html, "--html")
    runs, damaged = gather(args.folders)
    if not runs:
        raise UserError(*(Problem(folder, why, "give the folder of a run") for folder, why in damaged.items()))
    keys = differing(runs)
    rows = [_row(run, keys) for run in runs] if args.each else _over_seeds(runs, keys)
    rows += [{"run": folder, "status": f"not compared: {why}"} for folder, why in damaged.items()]
    if args.html:
        from loralab.report.write import write

        print("note: compare --html writes the page of loralab report", file=sys.stderr)
        write(args.html, args.folders, "--html")
    print(as_json(rows)) if args.json else Console().print(_table(rows))


def _row(run: Run, keys: list[str]) -> Row:
    settings = {key: run.settings.get(key) for key in keys}
    return {"run": str(run.folder), "status": run.status, **run.figures, **settings}


def _over_seeds(runs: list[Run], keys: list[str]) -> list[Row]:
    """A row for each group of runs that differ by their seed only, and how sure their differences are."""
    found: dict[int, list[Run]] = {}
    for number, run in zip(groups([run.settings for run in runs]), runs, strict=True):
        found.setdefault(number, []).append(run)
    rows = [_row(group[0], keys) if len(group) == 1 else _joint(group, keys) for group in found.values()]
    metric = VALIDATION if any(is_finite(run.figures.get(VALIDATION)) for run in runs) else LOSS
    among = standings([_by_seed(group, metric) for group in found.values()])
    if len(rows) > 1 and any(len(standing.values) > 1 for standing in among):
        for row, standing in zip(rows, among, strict=True):
            row[f"{metric} above the lowest"] = standing.verdict("lowest")
    return rows


def _by_seed(group: list[Run], metric: str) -> dict[str, float]:
    values = ((str(run.settings.get(SEED)), run.figures.get(metric)) for run in group)
    return {seed: value for seed, value in values if value is not None and is_finite(value)}


def _joint(group: list[Run], keys: list[str]) -> Row:
    """One row for several runs: of a figure {mean, spread, n}, of settings in which they differ a list."""
    statuses = Counter(run.status for run in group)
    row: Row = {"run": [str(run.folder) for run in group], "status": next(iter(statuses))}
    if len(statuses) > 1:
        row["status"] = ", ".join(f"{count} {status}" for status, count in statuses.items())
    for name in dict.fromkeys(name for run in group for name in run.figures):
        values = [value for run in group if is_finite(value := run.figures.get(name)) and value is not None]
        mean, spread = mean_and_spread(values) if values else (None, None)
        row[name] = {"mean": mean, "spread": spread, "n": len(values)}
    for key in keys:
        values = [run.settings.get(key) for run in group]
        row[key] = values[0] if all(value == values[0] for value in values) else values
    return row


def _table(rows: list[Row]) -> Table:
    """Whichever is more, runs or their columns, becomes the lines."""
    names = dict.fromkeys(name for row in rows for name in row)
    folders = [row["run"] if isinstance(row["run"], list) else [row["run"]] for row in rows]
    short = iter(short_names([folder for some in folders for folder in some]))
    rows = [{**row, "run": ", ".join(next(short) for _ in some)} for row, some in zip(rows, folders, strict=True)]
    lines = [[name, *(_shown(row.get(name)) for row in rows)] for name in names]
    lines = lines if len(names) > len(rows) else [list(line) for line in zip(*lines, strict=True)]
    table = Table(*(Column(Text(heading), overflow="fold") for heading in lines[0]))
    for line in lines[1:]:
        table.add_row(*map(Text, line))  # as text: brackets would be taken for rich's markup
    return table


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        value = _with_spread(**value)
    elif isinstance(value, list):
        value = ", ".join(map(shown, value))
    return "" if value is None else "\n".join(map(printable, shown(value).split("\n")))


def _with_spread(mean: float | None, spread: float | None, n: int) -> str | None:
    if mean is None:
        return None
    words = f"{mean:.4g}" if abs(mean) < 10_000 else f"{mean:.0f}"
    return f"{words} ± {spread:.2g} ({n})" if spread else f"{words} ({n})"
