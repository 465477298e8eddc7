"""Growth: seconds per step of the embedded model by images of the data set, images per batch, pixels, and tokens."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from loralab.at_least import at_least
from loralab.bench import train, ways

IMAGES = (16, 128, 1024)
BATCHES = (1, 2, 4, 8, 16)
SIDES = (64, 96, 128, 192, 256)
TOKENS = (75, 150, 225)
"""What `model.max_token_length` can be."""
CAPTION = "star, " * 120
"""Longer than all of them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=at_least(1), default=20, help="steps that are measured")
    parser.add_argument("--warmup", type=at_least(1), default=5, help="steps before them that are not measured")
    parser.add_argument("--points", type=at_least(2), default=5, help="only the first so many values of each")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Of each quantity rows of its value and the median seconds per step, all else being the same."""
    kinds = {
        "images": [(count, _seconds(args, images=count)) for count in IMAGES[: args.points]],
        "batch": [(size, _seconds(args, f"--batch-size={size}")) for size in BATCHES[: args.points]],
        "pixels": [(side**2, _seconds(args, f"--resolution={side}")) for side in SIDES[: args.points]],
        "tokens": [(length, _seconds(args, f"model.max_token_length={length}")) for length in TOKENS[: args.points]],
    }
    rows = {kind: [{"value": value, "seconds_per_step": s} for value, s in found] for kind, found in kinds.items()}
    return {"steps": args.steps, **rows}


def _seconds(args: argparse.Namespace, *words: str, images: int = max(BATCHES)) -> float:
    """Per step of a training with these words for `loralab bench train`."""
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    given = parser.parse_args([f"--steps={args.steps}", f"--warmup={args.warmup}", *words])
    given.resolution = given.resolution or 64
    with tempfile.TemporaryDirectory() as scratch:
        ways.prepare(Path(scratch), "tiny", given.resolution, min(images, max(BATCHES)), CAPTION)
        _multiply(Path(scratch) / "pictures", images)
        return train.ours(given, Path(scratch))["seconds_per_step"]


def _multiply(folder: Path, images: int) -> None:
    """Hard links to the images of a folder and their captions, until there are so many."""
    files = sorted(folder.glob("*.png"))
    for number in range(len(files), images):
        for source in (files[number % len(files)], files[number % len(files)].with_suffix(".txt")):
            os.link(source, folder / f"{number}{source.suffix}")
