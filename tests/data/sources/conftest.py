"""A set of images, as a folder and as what it is turned into."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen images of two shapes with tags, most of them twice in an epoch, and a mask for each."""
    folder = tmp_path_factory.mktemp("images") / "set"
    numbers = random.Random(0)
    for name in [*(f"2_star/{i}" for i in range(10)), *(f"3_dot/deep/{i}" for i in range(3)), "z"]:
        size = (64, 64) if numbers.random() < 0.7 else (96, 64)
        place = folder / f"{name}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.frombytes("RGB", size, numbers.randbytes(3 * size[0] * size[1])).save(place)
        place.with_suffix(".txt").write_text(", ".join(numbers.sample(["red", "star", "sks", "old", "big", "wet"], 4)))
        mask = folder / "masks" / f"{name}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.frombytes("L", size, numbers.randbytes(size[0] * size[1])).save(mask)
    return folder
