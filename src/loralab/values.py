"""Kinds of values that constructors take: a type with the range it must lie in.

The config check reads these names from the annotations of a constructor; nothing heavy is imported for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Annotated


@dataclass(frozen=True, slots=True)
class Range:
    """Valid values are low ≤ x ≤ high; low < x where `above` is set, x < high where `below` is."""

    low: float = -inf
    high: float = inf
    above: bool = False
    below: bool = False

    def __contains__(self, x: float) -> bool:
        return (x > self.low if self.above else x >= self.low) and (x < self.high if self.below else x <= self.high)

    def __str__(self) -> str:
        low = f"{'above' if self.above else 'at least'} {self.low:g}" if self.low > -inf else ""
        high = f"{'below' if self.below else 'at most'} {self.high:g}" if self.high < inf else ""
        return " and ".join(filter(None, (low, high)))


Share = Annotated[float, Range(0, 1)]
"""A probability or a fraction."""

Positive = Annotated[float, Range(0, above=True)]
NonNegative = Annotated[float, Range(0)]

Count = Annotated[int, Range(0)]
"""A whole number, zero included."""

AtLeastOne = Annotated[int, Range(1)]
Timestep = Annotated[int, Range(0, 1000)]
