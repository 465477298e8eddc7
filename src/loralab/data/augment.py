"""Random augmentations of an image, each determined by its generator."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np

HUE = math.radians(16)
"""Largest hue rotation, radians."""
SATURATION = BRIGHTNESS = 0.1
"""Largest relative change."""


@dataclass(frozen=True, slots=True)
class Augment:
    """Which augmentations are applied, drawn anew for each sample and epoch.

    color: hue, saturation and brightness jitter. flip: half of the samples are mirrored.
    random_crop: the crop is at a random position instead of the centre.
    """

    color: bool = False
    flip: bool = False
    random_crop: bool = False


def jitter(pixels: np.ndarray, rng: random.Random) -> np.ndarray:
    """RGB (H, W, 3) uint8 with its hue rotated by up to 16°, its saturation and brightness scaled by 0.9 … 1.1."""
    angle = rng.uniform(-HUE, HUE)
    saturation = 1 + rng.uniform(-SATURATION, SATURATION)
    brightness = 1 + rng.uniform(-BRIGHTNESS, BRIGHTNESS)
    matrix = brightness * (_GREY + saturation * (_turn(angle) - _GREY))
    return np.rint(pixels @ matrix.T.astype(np.float32)).clip(0, 255).astype(np.uint8)


_GREY = np.full((3, 3), 1 / 3)
"""Projects a colour on the grey axis."""


def _turn(angle: float) -> np.ndarray:
    """The rotation of RGB space about the grey axis (Rodrigues' formula)."""
    axis = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    return np.eye(3) * math.cos(angle) + axis * math.sin(angle) + _GREY * (1 - math.cos(angle))
