"""`loralab diff RUN RUN`: what differs between two runs in configuration, data, environment and results."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from loralab.files import as_json, printable
from loralab.report.run import Run, read
from loralab.schema.tree import leaves

Differences = dict[str, tuple[Any, Any]]
"""Dotted key → the value of the one and of the other; None where it has none."""

INPUTS = ("inputs",)
ENVIRONMENT = ("versions", "hardware", "git", "device")
RESULTS = ("status", "steps", "epochs", "loss", "metrics", "seconds", "images_per_second", "peak_memory_gb", "digests")


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


def diff(one: Run, other: Run) -> dict[str, Differences]:
    """The differences by part: configuration, data and models, environment, results.

    Defaults of others (`suggested`) are not listed: where they matter, the settings that took them differ.
    """
    config = differences(one.settings, other.settings)
    parts = {"data and models": INPUTS, "environment": ENVIRONMENT, "results": RESULTS}
    return {
        "configuration": {key: pair for key, pair in config.items() if not key.startswith("suggested.")},
        **{part: differences(one.part(names), other.part(names)) for part, names in parts.items()},
    }


def differences(one: Any, other: Any) -> Differences:
    """The leaves that differ between two mappings; what is no mapping has none."""
    a, b = (dict(leaves(tree)) if isinstance(tree, Mapping) else {} for tree in (one, other))
    return {key: (a.get(key), b.get(key)) for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key)}


def in_words(found: Differences) -> Iterator[str]:
    """A line for each difference."""
    yield from (f"{key}: {shown(one)} → {shown(other)}" for key, (one, other) in found.items())


def shown(value: Any) -> str:
    """A value for display; "–" for one that is not there."""
    return "–" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


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
