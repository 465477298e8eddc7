"""`loralab config OVERRIDE…`: the composed and checked configuration, and where each value comes from."""

from __future__ import annotations

import argparse
import json

from loralab.command.flags import add_places, use_places_of
from loralab.command.prepare import prepare
from loralab.schema.sources import Sources
from loralab.schema.tree import leaves


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as for train.py: group=option, key=value")
    add_places(parser)
    parser.add_argument("--json", action="store_true", help="the composed configuration as JSON")


def main(args: argparse.Namespace) -> None:
    use_places_of(args)
    prepared = prepare(args.overrides)
    tree = prepared.composed.tree
    if args.json:
        print(json.dumps(tree, indent=2, ensure_ascii=False))
        return
    sources = Sources(prepared.composed, prepared.origins)
    for key, value in leaves(tree):
        print(f"{key}: {json.dumps(value, ensure_ascii=False)}  #{sources.where(key) or ' derived'}")
    for warning in prepared.warnings:
        print(f"note: {warning}")
