"""Many pictures at once: masks are drawn beforehand, colours are filled in on the fly."""

from __future__ import annotations

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from scripts.tiny_model import pictures

SIZES = ((64, 64), (56, 72), (72, 56), (48, 80), (80, 48))
"""(width, height): square ones, and the shapes of image that buckets make of other files."""


def known_counts(each: int) -> dict[str, int]:
    """Masks per shape: main shapes get `each`, the others half as many, blobs, which all differ, five times as many."""
    main, more = dict.fromkeys(pictures.MAIN_SHAPES, each), dict.fromkeys(pictures.MORE_SHAPES, each // 2)
    return {**main, **more, pictures.BLOB: 5 * each}


class MaskBank:
    """Drawn masks of one size, found by shape."""

    def __init__(self, width: int, height: int, counts: dict[str, int], rng: np.random.Generator) -> None:
        self.masks = {
            shape: torch.from_numpy(np.stack([pictures.mask(shape, rng, width, height) for _ in range(count)]))
            for shape, count in track(counts.items(), f"drawing {width}×{height}")
        }

    def paint(self, combinations: list[pictures.Combination], rng: np.random.Generator) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1], each with a random mask of its shape."""
        chosen = [self.masks[shape][rng.integers(len(self.masks[shape]))] for shape, _, _ in combinations]
        share = torch.stack(chosen)[:, None].float() / 255
        colours = _tints([colour for _, colour, _ in combinations], rng)
        backgrounds = _tints([background for _, _, background in combinations], rng)
        return backgrounds + share * (colours - backgrounds)


def _tints(names: list[str], rng: np.random.Generator) -> Tensor:
    """(B, 3, 1, 1) in [-1, 1]."""
    rgb = np.stack([pictures.tint(name, rng) for name in names])
    return torch.from_numpy(rgb / 127.5 - 1).float()[:, :, None, None]


class Chooser:
    """Draws combinations that are not held out: main shapes most of the time, then the others, then blobs."""

    def __init__(self, main: float, more: float) -> None:
        self.kinds = (pictures.MAIN_SHAPES, pictures.MORE_SHAPES, (pictures.BLOB,))
        self.shares = (main, more, 1 - main - more)
        self.pools = [pictures.combinations(shapes, held_out=False) for shapes in self.kinds]

    def __call__(self, count: int, rng: np.random.Generator) -> list[pictures.Combination]:
        kinds = rng.choice(len(self.pools), count, p=self.shares)
        return [self.pools[kind][rng.integers(len(self.pools[kind]))] for kind in kinds]
