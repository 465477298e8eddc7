"""Training: seconds per step and memory, compared with a plain diffusers and PEFT loop on the same model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

from loralab.at_least import at_least
from loralab.bench import ways

WAYS = ("loralab", "plain")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    ways.add_arguments(parser)
    parser.add_argument("--steps", type=at_least(1), default=20, help="steps that are measured")
    parser.add_argument("--warmup", type=at_least(1), default=3, help="steps before them that are not measured")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of each way (see laps), and the ratio of loralab's seconds per step to the plain loop's.

    Of several rounds these are medians; see `compared`.
    """
    ways.check(args)
    with ways.scratch(args) as scratch:
        rounds = [_round(args, scratch, number) for number in range(args.rounds)]
    return {**ways.settings(args), **compared(rounds, _peak(args))}


def _round(args: argparse.Namespace, scratch: Path, number: int) -> dict[str, dict[str, float]]:
    """The figures of each way, measured one after the other; which is first changes from round to round."""
    run = {"loralab": lambda: ours(args, scratch), "plain": lambda: _theirs(args, scratch)}
    return {way: run[way]() for way in (WAYS if number % 2 == 0 else WAYS[::-1])}


def ours(args: argparse.Namespace, scratch: Path, *overrides: str) -> dict[str, float]:
    """The train command itself, with a Clock callback."""
    figures = scratch / "figures.json"
    clock = {"_target_": "loralab.bench.clock.Clock", "file": figures, "warmup": args.warmup}
    words = [f"+callbacks.clock.{key}={value}" for key, value in clock.items()]
    words += ["data.cache.latents=memory", "trainer.profiler=simple", *overrides]
    run = ways.ours(args, scratch, args.steps + args.warmup, *words)
    facts = json.loads((run / "run.json").read_text())
    return {**json.loads(figures.read_text()), "seconds_to_first_step": _total(facts["start_seconds"]), **found(facts)}


def found(facts: dict[str, Any]) -> dict[str, float]:
    """What a run.json says of the memory that was planned and of compiled blocks, where there is such."""
    memory, compiled = facts.get("memory"), facts.get("compiled")
    said = {name: memory[name] for name in ("estimated_gb", "measured_gb")} if memory else {}
    return said | ({f"compile_{name}": compiled[name] for name in ("seconds", "ratio", "kept")} if compiled else {})


def _theirs(args: argparse.Namespace, scratch: Path) -> dict[str, float]:
    found = ways.theirs(args, scratch, args.steps, args.warmup)
    total = _total(found.pop("start_seconds"))
    return {**found, "seconds_to_first_step": total}


def _total(stages: dict[str, float]) -> float:
    return round(sum(stages.values()), 2)


def compared(rounds: list[dict[str, dict[str, float]]], peak: float) -> dict[str, Any]:
    """The median of each figure, and of the ratio of the seconds per step within a round, with the lowest and the
    highest ratio: two ways that are measured close together in time had the same machine.

    peak: floating-point operations a second that the device can do; those of a step are counted in the plain loop.
    """
    found = {way: {name: median(each[way][name] for each in rounds) for name in rounds[0][way]} for way in WAYS}
    flops = found["plain"].pop("flops")
    for figures in found.values():
        figures["share_of_peak"] = round(flops / figures["seconds_per_step"] / peak, 3)
    ratios = [each["loralab"]["seconds_per_step"] / each["plain"]["seconds_per_step"] for each in rounds]
    facts = {"tflop_per_step": round(flops / 1e12, 6), "peak_tflops": round(peak / 1e12, 4)}
    spread = [round(min(ratios), 3), round(max(ratios), 3)]
    return {**found, **facts, "ratio": round(median(ratios), 3), "ratios": spread}


def _peak(args: argparse.Namespace) -> float:
    """The peak of the dtype that the products are computed in."""
    import torch

    from loralab.bench.peak import peak_flops
    from loralab.models.load import DTYPES

    mixed = {"16-mixed": "fp16", "bf16-mixed": "bf16"}
    return peak_flops(torch.device(args.device), DTYPES[mixed.get(args.precision) or args.dtype])
