"""Weights of samples by how rare their tags are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from loralab.types import Item


@dataclass(frozen=True, slots=True)
class Tags:
    """How often each tag occurs in the training data, repeats counted, and those that an image has."""

    counts: Mapping[str, int] = field(default_factory=dict)
    of: Callable[[Item], Iterable[str]] = lambda item: []


class TagRarity:
    """A tag that occurs n times weighs n**-power, scaled so that the mean over all occurrences is 1.

    With a power of 1 every tag has the same total weight; 0.5 is halfway, 0 has no effect.
    """

    def __init__(self, counts: Mapping[str, int], power: float) -> None:
        occurrences = sum(counts.values())
        mean = sum(n * n**-power for n in counts.values()) / occurrences if occurrences else 1.0
        self.weights = {tag: n**-power / mean for tag, n in counts.items()}

    def weight(self, tags: Iterable[str]) -> float:
        """The mean weight of those of a caption's tags that were counted; 1 where there is none."""
        known = [self.weights[tag] for tag in tags if tag in self.weights]
        return sum(known) / len(known) if known else 1.0
