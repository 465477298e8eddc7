"""`loralab compare RUN…`: runs side by side, as text or JSON; `loralab report` makes a page of them."""

from __future__ import annotations

import argparse
import sys
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="run folders, or folders that contain some"
    )
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write the page of loralab report as this file")


def main(args: argparse.Namespace) -> None:
    if args.html:
        check_place(args.html, "--html")
    runs, damaged = gather(args.folders)
    if not runs:
        raise UserError(*(Problem(folder, why, "give the folder of a run") for folder, why in damaged.items()))
    keys = differing(runs)
    rows = [
        {"run": str(run.folder), "status": run.status, **run.figures, **{key: run.settings.get(key) for key in keys}}
        for run in runs
    ]
    rows += [{"run": folder, "status": f"not compared: {why}"} for folder, why in damaged.items()]
    if args.html:
        from loralab.report.write import write

        print("note: compare --html writes the page of loralab report", file=sys.stderr)
        write(args.html, args.folders, "--html")
    print(as_json(rows)) if args.json else Console().print(_table(rows))


def _table(rows: list[dict[str, Any]]) -> Table:
    """Whichever is more, runs or their columns, becomes the lines."""
    names = dict.fromkeys(name for row in rows for name in row)
    rows = [{**row, "run": name} for row, name in zip(rows, short_names([row["run"] for row in rows]), strict=True)]
    lines = [[name, *(_shown(row.get(name)) for row in rows)] for name in names]
    lines = lines if len(names) > len(rows) else [list(line) for line in zip(*lines, strict=True)]
    table = Table(*(Column(Text(heading), overflow="fold") for heading in lines[0]))
    for line in lines[1:]:
        table.add_row(*map(Text, line))  # as text: brackets would be taken for rich's markup
    return table


def _shown(value: Any) -> str:
    return "" if value is None else "\n".join(map(printable, shown(value).split("\n")))
