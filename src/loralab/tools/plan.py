"""`loralab plan OVERRIDE…`: what a run would choose to fit into memory, without training or loading weights."""

from __future__ import annotations

import argparse

from loralab.command.flags import add_places, use_places_of
from loralab.command.memory_plan import with_plan
from loralab.command.prepare import prepare
from loralab.errors import user_error
from loralab.memory.limit import SETTING


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as for train.py: group=option, key=value")
    add_places(parser)


def main(args: argparse.Namespace) -> None:
    use_places_of(args)
    plan, prepared = with_plan(prepare(args.overrides), args.overrides, False)
    if plan is None:
        raise user_error(SETTING, "is not set", f"add {SETTING}=8, or {SETTING}=auto for what the device has free")
    print(plan.told(prepared.composed.tree))
