"""`loralab diff RUN RUN`: what differs between two runs in configuration, data, environment and results."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from loralab.files import as_json, printable
from loralab.report.manifest import ENVIRONMENT, INPUTS, RESULTS, Differences, Manifest, differences, read, shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs=2, type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument("--json", action="store_true", help="print part → key → [one value, the other]")


def main(args: argparse.Namespace) -> None:
    one, other = map(read, args.runs)
    found = diff(one, other)
    if args.json:
        print(as_json(found))
    elif any(found.values()):
        Console().print(_table(found, *map(str, args.runs)))
    else:
        print("the two runs do not differ")


def diff(one: Manifest, other: Manifest) -> dict[str, Differences]:
    """The differences by part: configuration, data and models, environment, results.

    Defaults of others (`suggested`) are not listed: where they matter, the settings that took them differ.
    """
    config = differences(one.settings, other.settings)
    parts = {"data and models": INPUTS, "environment": ENVIRONMENT, "results": RESULTS}
    return {
        "configuration": {key: pair for key, pair in config.items() if not key.startswith("suggested.")},
        **{part: differences(one.part(names), other.part(names)) for part, names in parts.items()},
    }


def _table(found: dict[str, Differences], *runs: str) -> Table:
    heads = (Column(Text(printable(head)), overflow="fold") for head in ("", *runs))
    table = Table(*heads)
    for part, pairs in found.items():
        if pairs:
            table.add_section()
            table.add_row(Text(part, style="bold"))
        for key, pair in pairs.items():
            table.add_row(*(Text(printable(cell)) for cell in (key, *map(shown, pair))))
    return table
