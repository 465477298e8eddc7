"""Pictures of prompts, as many at a time as there is memory for."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from PIL.Image import Image

from loralab.callbacks.contact_sheet import to_image
from loralab.callbacks.prompts import Prompt
from loralab.models.family import Family
from loralab.models.preview import sample

BATCH_PIXELS = 1 << 20
"""Pictures are drawn together up to so many pixels, and up to …"""
BATCH = 8
"""… so many pictures: one of 1024 × 1024 takes all the memory that there may be beside training."""


def sampled(family: Family, prompts: Sequence[Prompt]) -> Generator[Image]:
    """Pictures in the order of the prompts; neighbours of the same size and steps share a batch."""
    for kind, group in groupby(prompts, lambda p: replace(p, prompt="", seed=0)):
        count = together(kind.width, kind.height)
        for batch in _chunks(list(group), count):
            pixels = sample(
                family,
                [prompt.prompt for prompt in batch],
                [prompt.seed for prompt in batch],
                negative=kind.negative,
                width=kind.width,
                height=kind.height,
                steps=kind.steps,
                guidance=kind.guidance,
            )
            yield from map(to_image, pixels)


def together(width: int, height: int) -> int:
    """How many pictures of so many pixels are drawn at a time."""
    return max(1, min(BATCH, BATCH_PIXELS // (width * height)))


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
