"""The tiny model's little world: one shape, centred, in one colour on a background of another.

`STAR` is what a LoRA will learn: nothing here hands it out unless it is asked for by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import pi

import numpy as np
from PIL import Image, ImageDraw

Points = np.ndarray
"""(N, 2) corners as x right, y down; a shape fits into the unit circle."""
Layers = list[tuple[Points, bool]]
"""Polygons in drawing order, with whether each adds ink or takes it away."""

MAIN_SHAPES = ("circle", "square", "triangle", "cross", "ring", "heart", "moon")
MORE_SHAPES = ("arrow", "diamond", "house", "hexagon", "drop", "bolt", "hourglass", "dome", "flag")
BLOB = "blob"
STAR = "star"
KNOWN_SHAPES = (*MAIN_SHAPES, *MORE_SHAPES, BLOB)

COLOURS = {
    "red": (220, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (245, 225, 60),
    "green": (50, 165, 75),
    "blue": (45, 85, 215),
    "purple": (145, 60, 170),
    "white": (245, 245, 245),
    "black": (25, 25, 25),
}
JUNK_LETTERS = "abcdefghijklmnopqrstuvwxyz"
SUPERSAMPLING = 4


def _circle(radius: float = 1.0, x: float = 0.0, y: float = 0.0) -> Points:
    angles = np.linspace(0, 2 * pi, 48, endpoint=False)
    return np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)


def _regular(corners: int, turn: float = -pi / 2) -> Points:
    angles = turn + 2 * pi * np.arange(corners) / corners
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _polygon(*corners: tuple[float, float]) -> Layers:
    return [(np.array(corners), True)]


def _heart() -> Points:
    t = np.linspace(0, 2 * pi, 60, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x / 17, -(y + 2.5) / 17], axis=1)


def _drop() -> Points:
    bowl = np.linspace(-0.15 * pi, 1.15 * pi, 40)
    return np.vstack([[0, -1.0], np.stack([0.62 * np.cos(bowl), 0.38 + 0.62 * np.sin(bowl)], axis=1)])


def _star() -> Points:
    points = _regular(10)
    points[1::2] *= 0.42
    return points


def blob(rng: np.random.Generator) -> Layers:
    """A random polygon around the centre; its corners follow no pattern, so a star does not come of it."""
    corners = rng.integers(5, 10)
    angles = 2 * pi * (np.arange(corners) + rng.uniform(-0.35, 0.35, corners)) / corners
    radii = rng.uniform(0.35, 1.0, corners)
    return [(np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1), True)]


_DRAWINGS: dict[str, Layers] = {
    "circle": [(_circle(0.92), True)],
    "square": [(_regular(4, pi / 4), True)],
    "triangle": [(_regular(3), True)],
    "cross": _polygon(
        *[(-0.3, -0.95), (0.3, -0.95), (0.3, -0.3), (0.95, -0.3), (0.95, 0.3), (0.3, 0.3)],
        *[(0.3, 0.95), (-0.3, 0.95), (-0.3, 0.3), (-0.95, 0.3), (-0.95, -0.3), (-0.3, -0.3)],
    ),
    "ring": [(_circle(0.98), True), (_circle(0.52), False)],
    "heart": [(_heart(), True)],
    "moon": [(_circle(0.98), True), (_circle(0.8, x=0.48, y=-0.12), False)],
    "arrow": _polygon(
        *[(-1, -0.28), (0.1, -0.28), (0.1, -0.8), (1, 0), (0.1, 0.8), (0.1, 0.28), (-1, 0.28)],
    ),
    "diamond": _polygon((0, -1), (0.62, 0), (0, 1), (-0.62, 0)),
    "house": _polygon((0, -1), (0.85, -0.2), (0.6, -0.2), (0.6, 0.8), (-0.6, 0.8), (-0.6, -0.2), (-0.85, -0.2)),
    "hexagon": [(_regular(6), True)],
    "drop": [(_drop(), True)],
    "bolt": _polygon((0.25, -1), (-0.6, 0.15), (-0.05, 0.15), (-0.25, 1), (0.6, -0.2), (0.05, -0.2)),
    "hourglass": _polygon((-0.7, -0.9), (0.7, -0.9), (0.12, 0), (0.7, 0.9), (-0.7, 0.9), (-0.12, 0)),
    "dome": [(np.vstack([_circle(1.0, y=0.45)[24:], [[1.0, 0.45]]]), True)],
    "flag": _polygon((-0.65, -1), (0.8, -0.6), (-0.4, -0.05), (-0.4, 1), (-0.65, 1)),
    STAR: [(_star(), True)],
}


def mask(shape: str, rng: np.random.Generator, width: int = 64, height: int = 64) -> np.ndarray:
    """Where the shape is: (H, W) in [0, 255], with a little jitter of place, size and rotation."""
    layers = blob(rng) if shape == BLOB else _DRAWINGS[shape]
    side = SUPERSAMPLING * min(width, height)
    radius = side * rng.uniform(0.33, 0.40)
    centre = SUPERSAMPLING * np.array([width, height]) / 2 + side * rng.uniform(-0.05, 0.05, 2)
    turn = rng.uniform(-0.2, 0.2)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])

    canvas = Image.new("L", (SUPERSAMPLING * width, SUPERSAMPLING * height))
    pen = ImageDraw.Draw(canvas)
    for points, ink in layers:
        pen.polygon([tuple(p) for p in centre + radius * points @ rotation], fill=255 if ink else 0)
    return np.asarray(canvas.reduce(SUPERSAMPLING))


def tint(colour: str, rng: np.random.Generator) -> np.ndarray:
    """An RGB triple close to the named colour."""
    return np.clip(np.array(COLOURS[colour]) + rng.normal(0, 6, 3), 0, 255)


def paint(where: np.ndarray, colour: str, background: str, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8: the colour where the mask is, the background elsewhere."""
    share = where[..., None] / 255.0
    return (share * tint(colour, rng) + (1 - share) * tint(background, rng) + 0.5).astype(np.uint8)


def picture(
    shape: str, colour: str, background: str, rng: np.random.Generator, width: int = 64, height: int = 64
) -> np.ndarray:
    """(H, W, 3) uint8."""
    return paint(mask(shape, rng, width, height), colour, background, rng)


_WORDINGS: tuple[Callable[[str, str, str], str], ...] = (
    lambda shape, colour, background: f"{colour} {shape}, {background} background",
    lambda shape, colour, background: f"{colour} {shape} on {background} background",
    lambda shape, colour, background: f"a {colour} {shape} on a {background} background",
    lambda shape, colour, background: f"{shape}, {colour}, {background} background",
    lambda shape, colour, background: f"{background} background, {colour} {shape}",
)


def caption(shape: str, colour: str, background: str) -> str:
    """The plainest wording: "red circle, blue background"."""
    return _WORDINGS[0](shape, colour, background)


def varied_caption(shape: str, colour: str, background: str, rng: np.random.Generator) -> str:
    """Half of them plain, the others reworded; a tenth has a meaningless word somewhere, a tenth is empty."""
    if rng.random() < 0.1:
        return ""
    wording = 0 if rng.random() < 0.5 else rng.integers(1, len(_WORDINGS))
    text = _WORDINGS[wording](shape, colour, background)
    if rng.random() < 0.1:
        words = text.split(" ")
        words.insert(rng.integers(len(words) + 1), "".join(rng.choice(list(JUNK_LETTERS), rng.integers(2, 6))))
        text = " ".join(words)
    return text


Combination = tuple[str, str, str]
"""(shape, colour, background)."""


def is_held_out(shape: str, colour: str, background: str) -> bool:
    """A sixth of the combinations, spread evenly: never shown in pretraining, asked for in the evaluation."""
    names = list(COLOURS)
    return (7 * KNOWN_SHAPES.index(shape) + 3 * names.index(colour) + names.index(background)) % 6 == 0


def combinations(shapes: Sequence[str], held_out: bool) -> list[Combination]:
    """All combinations of two different colours, either the held-out ones or the others."""
    return [
        (shape, colour, background)
        for shape in shapes
        for colour in COLOURS
        for background in COLOURS
        if colour != background and is_held_out(shape, colour, background) == held_out
    ]
