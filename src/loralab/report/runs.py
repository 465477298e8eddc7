"""`loralab runs [FOLDER…]`: the runs in some folders, newest first."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from loralab.errors import UserError
from loralab.files import as_json, printable
from loralab.report.gather import ROOTS, given_or_usual, run_folders
from loralab.report.run import VALIDATION, read, to_optimise
from loralab.training.progress_file import read as progress_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    words = f"folders that contain runs; default: {' and '.join(ROOTS)}"
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help=words)
    parser.add_argument("--tag", action="append", default=[], help="only runs with this tag of run.tags; repeatable")
    parser.add_argument("--json", action="store_true", help="print the list as JSON")


def main(args: argparse.Namespace) -> None:
    folders = given_or_usual(args.folders)
    rows = [_row(folder) for folder in run_folders(folders)]
    rows = sorted((row for row in rows if {*args.tag} <= {*row["tags"]}), key=_age, reverse=True)
    if args.json:
        print(as_json(rows))
    elif rows:
        Console().print(_table(rows))
    else:
        print(f"no runs in {' and '.join(map(str, folders or ROOTS))}")


def _row(folder: Path) -> dict[str, Any]:
    """What is listed of a run; of one that cannot be read, why in the place of its name."""
    try:
        run = read(folder)
    except UserError as error:
        row = {"started": None, "status": "not readable", "name": error.problems[0].found, "tags": []}
        return {**row, "result": None, "figure": None, "progress": None, "folder": str(folder)}
    progress = progress_of(folder) if run.status == "running" else None
    return {
        "started": run.facts.get("started"),
        "status": run.status,
        "name": run.name,
        "tags": run.tags,
        "result": to_optimise(run.facts),
        "figure": VALIDATION if VALIDATION in run.metrics else "loss",
        "progress": progress and asdict(progress),
        "folder": str(folder),
    }


def _age(row: dict[str, Any]) -> tuple[datetime, str]:
    """When a run started; those that cannot be read are the oldest."""
    try:
        started = datetime.strptime(str(row["started"]), "%Y-%m-%dT%H:%M:%S%z")
    except ValueError:
        started = datetime.min.replace(tzinfo=timezone.utc)
    return started, row["folder"]


def _table(rows: list[dict[str, Any]]) -> Table:
    names = [" ".join([row["name"], *(f"#{tag}" for tag in row["tags"])]).strip() for row in rows]
    shown = ["name"] if any(names) else []
    whole = (Column(head, no_wrap=True) for head in ("started", "status", "result"))
    table = Table(*whole, *(Column(head, overflow="fold") for head in (*shown, "folder")))
    for row, name in zip(rows, names, strict=True):
        result = "" if row["result"] is None else f"{row['figure']} {row['result']:.4f}"
        if progress := row["progress"]:
            result = f"step {progress['step']}/{progress['steps'] or '?'}"
        started = str(row["started"] or "")[:19].replace("T", " ")
        cells = (started, row["status"], result, *(name for _ in shown), row["folder"])
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table
