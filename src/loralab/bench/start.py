"""Start: seconds from the start of a process to its first step, compared with a plain diffusers and PEFT loop."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from statistics import median
from typing import Any

from loralab.bench import ways

RUNS = ("first", "next", "plain")
"""loralab with nothing cached; again, with what the first one cached on disk; the plain loop, which caches nothing."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    ways.add_arguments(parser)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Of each kind of run the seconds of each stage, and in total; and the ratio of loralab's total to the plain
    loop's. Of several rounds these are medians, and the lowest and the highest ratio."""
    ways.check(args)
    with ways.scratch(args) as scratch:
        rounds = [_round(args, scratch) for _ in range(args.rounds)]
    return {**ways.settings(args), **compared(rounds)}


def _round(args: argparse.Namespace, scratch: Path) -> dict[str, dict[str, float]]:
    shutil.rmtree(scratch / "cache", ignore_errors=True)
    first, again = (ways.start_seconds(ways.ours(args, scratch, 1, "data.cache.latents=disk")) for _ in range(2))
    plain = ways.theirs(args, scratch, steps=1, warmup=0)["start_seconds"]
    return dict(zip(RUNS, (first, again, plain), strict=True))


def compared(rounds: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """What `measure` returns of rounds, each the stages of each run."""
    totals = {run: [sum(each[run].values()) for each in rounds] for run in RUNS}
    found: dict[str, Any] = {
        run: {
            "stages": {stage: round(median(each[run][stage] for each in rounds), 2) for stage in rounds[0][run]},
            "seconds": round(median(totals[run]), 2),
        }
        for run in RUNS
    }
    for run in RUNS[:-1]:
        ratios = [ours / theirs for ours, theirs in zip(totals[run], totals["plain"], strict=True)]
        spread = [round(min(ratios), 3), round(max(ratios), 3)]
        found[run] |= {"ratio": round(median(ratios), 3), "ratios": spread}
    return found
