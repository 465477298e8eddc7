"""`loralab bench WHAT`: measures speed and memory, as JSON."""

from __future__ import annotations

import argparse
import importlib
import json

KINDS = {name: f"loralab.bench.{name}" for name in ("train", "start", "growth", "memory", "scale", "all")}
"""Each module has `add_arguments(parser)` and `measure(args)`, which returns JSON data."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="WHAT")
    for kind, module in KINDS.items():
        found = importlib.import_module(module)
        found.add_arguments(kinds.add_parser(kind, help=found.__doc__))


def main(args: argparse.Namespace) -> None:
    print(json.dumps(importlib.import_module(KINDS[args.kind]).measure(args), indent=1))
