"""Held-out images, which show what generalises and what is only memorised."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loralab.data.epoch.draws import BatchGroup, Draws
from loralab.rng import derive
from loralab.schema.ranges import Share
from loralab.types import Draw, Item, Place


@dataclass(frozen=True, slots=True)
class Validation:
    """split: ratio of the training images to hold out. folder: separate images instead."""

    split: Share = 0.0
    folder: str | None = None


def held_out(items: Sequence[Item], share: float) -> list[int]:
    """Positions of the held-out images: chosen by their names, so that adding or removing others changes nothing.

    At least one, and at least one is left. Regularisation images are never held out.
    """
    ranks = {i: _rank(item) for i, item in enumerate(items) if not item.is_reg} if share else {}
    if len(ranks) < 2:
        return []
    first, *_, last = sorted(ranks, key=ranks.__getitem__)
    return [i for i, rank in ranks.items() if (rank < share or i == first) and i != last]


def sample(items: Sequence[Item], positions: Sequence[int], count: int) -> list[int]:
    """`count` of the positions, chosen by the images' names."""
    return sorted(sorted(positions, key=lambda i: _rank(items[i]))[:count])


def fixed_batches(draws: Draws) -> list[list[Place]]:
    """Every draw of epoch 0 in batches of one group, in order."""
    by_group: dict[BatchGroup, list[Place]] = defaultdict(list)
    for index, group in enumerate(draws.group_of):
        by_group[draws.groups[group]].append(Place(Draw(0, index)))
    sizes = {group: draws.batch(group.bucket) for group in by_group}
    return [
        places[start : start + sizes[group]]
        for group, places in by_group.items()
        for start in range(0, len(places), sizes[group])
    ]


def _rank(item: Item) -> float:
    """A number in [0, 1), determined by the names of the file and its folder."""
    path = Path(item.path)
    return derive(0, "validation", path.parent.name, path.name) / 2**63
