"""Types of values that constructors take: each a plain type with a valid range.

The config check finds these names in the annotations of constructors, without importing anything heavy.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Annotated


@dataclass(frozen=True, slots=True)
class Range:
    """Valid values are low ≤ x ≤ high, multiples of `step`; low < x where `above` is set, x < high where `below` is."""

    low: float = -inf
    high: float = inf
    above: bool = False
    below: bool = False
    step: int = 0

    def __contains__(self, x: float) -> bool:
        inside = (x > self.low if self.above else x >= self.low) and (x < self.high if self.below else x <= self.high)
        return inside and not (self.step and x % self.step)

    def __str__(self) -> str:
        low = f"{'above' if self.above else 'at least'} {self.low:.12g}" if self.low > -inf else ""
        high = f"{'below' if self.below else 'at most'} {self.high:.12g}" if self.high < inf else ""
        return " and ".join(filter(None, (low, high))) + (f", a multiple of {self.step}" if self.step else "")


# Numbers without a natural limit end where float32 overflows or a run would never finish.

Share = Annotated[float, Range(0, 1)]
"""A probability or a fraction."""

Chance = Annotated[float, Range(0, 1, below=True)]
"""A probability below 1: a dropout rate, the decay of an average."""

Positive = Annotated[float, Range(1e-6, 1e6)]
NonNegative = Annotated[float, Range(0, 1e6)]
Real = Annotated[float, Range(-1e3, 1e3)]

Rate = Annotated[float, Range(0, 1e3)]
"""A learning rate, or a multiple of one."""

Exponent = Annotated[float, Range(0, 10)]
"""A power."""

Count = Annotated[int, Range(0, 10**9)]
"""A whole number, zero included."""

AtLeastOne = Annotated[int, Range(1, 10**9)]
Rank = Annotated[int, Range(1, 4096)]
RankOrNone = Annotated[int, Range(0, 4096)]
"""0: no adapter on that block."""

Repeats = Annotated[int, Range(1, 100_000)]
"""How often an image is used in an epoch."""

Pixels = Annotated[int, Range(8, 4096)]
"""Width or height of an image that a model is given."""

BucketStep = Annotated[int, Range(8, 256)]
"""Bucket sides are multiples of this many pixels."""

Timestep = Annotated[int, Range(0, 1000)]
ModeScale = Annotated[float, Range(-1, 1.75)]
"""Within it the density of Esser et al. 2024, eq. 20, is one: at most 2/(π − 2)."""

Bands = Annotated[int, Range(1, 1000)]
"""Number of bands that the timesteps are divided into."""

SamplingSteps = Annotated[int, Range(1, 1000)]
"""Denoising steps of a picture, at most the 1000 timesteps that models are trained with."""

PictureSide = Annotated[int, Range(8, 4096, step=8)]
"""Pixels."""

Guidance = Annotated[float, Range(0, 100)]
"""The scale of classifier-free guidance."""
