"""Several devices against one: images a second, and what each process waits for."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

from loralab.at_least import at_least
from loralab.bench import ways
from loralab.bench.machine import machine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    ways.add_arguments(parser)
    parser.add_argument("--devices", type=at_least(2), default=2, help="processes, each on a device of its own")
    parser.add_argument("--trainer", choices=["ddp", "fsdp"], default="ddp", help="fsdp: with shares of the base model")
    parser.add_argument("--steps", type=at_least(1), default=20, help="steps that are measured")
    parser.add_argument("--warmup", type=at_least(1), default=3, help="steps before them that are not measured")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of one device, of each of several with as large a batch each, and their efficiency: images a second
    of all, by those of as many that wait for nobody. Of several rounds these are medians."""
    ways.check(args)
    with ways.scratch(args) as scratch:
        rounds = [(_figures(args, scratch, 1), _figures(args, scratch, args.devices)) for _ in range(args.rounds)]
    one = _medians([alone[0] for alone, _ in rounds])
    ranks = [_medians([together[rank] for _, together in rounds]) for rank in range(args.devices)]
    rate = sum(figures["images_per_second"] for figures in ranks)
    return {
        **ways.settings(args),
        **machine(),
        "one": one,
        "ranks": ranks,
        "images_per_second": round(rate, 3),
        "efficiency": round(rate / args.devices / one["images_per_second"], 3),
    }


def _figures(args: argparse.Namespace, scratch: Path, devices: int) -> list[dict[str, float]]:
    """Of each process of a run on so many devices."""
    folder = scratch / f"figures{devices}"
    folder.mkdir(exist_ok=True)
    clock = {"_target_": "loralab.bench.exchange.Exchange", "folder": folder, "warmup": args.warmup}
    words = [f"+callbacks.clock.{key}={value}" for key, value in clock.items()]
    words += ["data.cache.latents=memory", "trainer.profiler=simple"]
    words += [f"trainer={args.trainer}", f"trainer.devices={devices}"]
    ways.ours(args, scratch, args.steps + args.warmup, *words)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(devices)]


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: median(each[name] for each in rounds) for name in rounds[0]}
