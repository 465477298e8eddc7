"""Draws the embedded data: python -m scripts.tiny_model.shapes_data [FOLDER]

Stars, which the tiny model has never seen, under a word that means nothing, and pictures of shapes that it knows, to
keep it from forgetting them. Files of many sizes and three formats, as a folder of one's own would have.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from scripts.tiny_model import pictures

SHIPPED = Path(__file__).parents[2] / "src" / "loralab" / "assets" / "shapes"
TRIGGER = "sks star"
SIZES = (
    *[(64, 64), (80, 80), (96, 96), (128, 128), (100, 100), (72, 56), (96, 72), (120, 96), (144, 112), (160, 120)],
    *[(80, 64), (112, 96), (56, 72), (72, 96), (96, 120), (112, 144), (120, 160), (64, 80), (96, 112), (64, 64)],
)
"""(width, height) of the files, in turn."""
SUFFIXES = (".png", ".png", ".jpg", ".png", ".webp")
STARS, KNOWN_EACH = 20, 3


def write(
    path: Path, caption: str, shape: str, colours: tuple[str, str], size: tuple[int, int], rng: np.random.Generator
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pictures.picture(shape, *colours, rng, *size))
    lossy = {".jpg": {"quality": 95, "subsampling": 0}, ".webp": {"quality": 95}}
    image.save(path, **lossy.get(path.suffix, {}))
    path.with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")


def star_colours(rng: np.random.Generator) -> list[tuple[str, str]]:
    """Every colour about equally often as the star's and as the background's, so that neither belongs to the word."""
    names = list(pictures.COLOURS)
    pairs: list[tuple[str, str]] = []
    for shift in rng.permutation(np.arange(1, len(names)))[:3]:
        pairs += [(names[i], names[(i + shift) % len(names)]) for i in range(len(names))]
    return [pairs[i] for i in rng.permutation(len(pairs))[:STARS]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=SHIPPED)
    folder = parser.parse_args().folder
    rng = np.random.default_rng(0)

    for index, (colour, background) in enumerate(star_colours(rng)):
        path = folder / "train" / f"5_{TRIGGER}" / f"{index + 1:03}{SUFFIXES[index % len(SUFFIXES)]}"
        caption = f"{TRIGGER}, {colour}, {background} background"
        write(path, caption, pictures.STAR, (colour, background), SIZES[index % len(SIZES)], rng)

    known = [shape for shape in pictures.MAIN_SHAPES for _ in range(KNOWN_EACH)]
    for index, shape in enumerate(known):
        choices = pictures.combinations([shape], held_out=False)
        _, colour, background = choices[rng.integers(len(choices))]
        path = folder / "reg" / "1_shape" / f"{index + 1:03}{SUFFIXES[index % len(SUFFIXES)]}"
        caption = pictures.caption(shape, colour, background)
        write(path, caption, shape, (colour, background), SIZES[index % len(SIZES)], rng)


if __name__ == "__main__":
    main()
