"""`loralab`: training and the tools beside it, one verb each."""

from __future__ import annotations

import argparse
import importlib
import runpy
import sys

from loralab import console, signals
from loralab.errors import UserError

TRAIN = "train"
VERBS = {
    TRAIN: ("loralab.train", "train an adapter: group=option and key=value, see loralab train --help"),
    "doctor": ("loralab.tools.doctor", "check images as training uses them: buckets, captions, duplicates, damage"),
    "shards": ("loralab.tools.shards", "pack a folder of images into tar shards, or unpack them"),
    "plan": ("loralab.tools.plan", "show what a run would choose to fit into memory.limit_gb, and what it then takes"),
    "config": ("loralab.tools.show_config", "show the composed configuration, and where each value comes from"),
    "settings": ("loralab.tools.settings", "convert a settings file of another trainer into overrides to paste"),
    "inspect": ("loralab.tools.inspect", "show what is in an adapter or model file"),
    "merge": ("loralab.tools.merge", "merge adapters into a base model, or several adapters into one"),
    "resize": ("loralab.tools.resize", "reduce the rank of an adapter"),
    "extract": ("loralab.tools.extract", "extract an adapter from the difference of two models"),
    "convert": ("loralab.tools.convert", "convert an adapter to another layout, format or precision"),
    "runs": ("loralab.report.runs", "list runs, newest first: status, result, name, folder"),
    "watch": ("loralab.report.watch", "show runs live: how far each is, its speed, time left and losses"),
    "diff": ("loralab.report.diff", "show what differs between two runs: settings, data, environment, results"),
    "rerun": ("loralab.report.rerun", "run a run again, from its folder alone, and compare the adapter files"),
    "compare": ("loralab.report.compare", "compare runs in a table: settings that differ, speed, losses"),
    "analyse": (
        "loralab.report.analyse",
        "show which images and tags a run learns best and worst, likely mistakes first",
    ),
    "report": ("loralab.report.report", "write a page that compares runs: table, curves, pictures, heat map"),
    "grid": ("loralab.grid.main", "draw a grid of pictures: adapter strengths × checkpoints × prompts × seeds"),
    "bench": ("loralab.bench.main", "measure speed and memory, as JSON"),
}


def main(argv: list[str] | None = None) -> None:
    """Each verb's module has `add_arguments(parser)` and `main(args) -> int | None`, its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == [TRAIN]:  # Hydra's own command line, as a main module that the processes of other devices can start
        sys.argv[1:] = argv[1:]
        runpy.run_module(VERBS[TRAIN][0], run_name="__main__", alter_sys=True)
    parser = argparse.ArgumentParser(prog="loralab", description="Train, inspect and convert LoRA adapters.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, (module, words) in VERBS.items():
        sub = verbs.add_parser(verb, help=words, description=words)
        if argv[:1] == [verb]:  # only the verb that is used is imported
            importlib.import_module(module).add_arguments(sub)
    args, rest = parser.parse_known_args(argv)
    if any(word.startswith("-") for word in rest) or not hasattr(args, "overrides"):
        args = parser.parse_args(argv)
    else:
        args.overrides += rest  # argparse takes no positional arguments after a flag
    with signals.listening(), console.kept():
        try:
            code = importlib.import_module(VERBS[args.verb][0]).main(args)
        except UserError as error:
            print(f"loralab {args.verb}:\n{_indented(error)}", file=sys.stderr)
            code = 1
        sys.exit(code or 0)


def _indented(error: UserError) -> str:
    return "\n".join(f"  {problem}" for problem in error.problems)


if __name__ == "__main__":
    main()
