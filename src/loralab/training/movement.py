"""Finds adapter tensors that do not learn."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from loralab.adapters.inject import AdapterSet
from loralab.models.family import Family

SOON = 3
"""Optimizer steps after which every tensor must have had a gradient: a factor of a zero factor gets its first in the
second step."""
LATE = 50
"""Further steps after which every tensor must have changed: tiny steps may vanish in the rounding at first."""


class Movement:
    """Watches the tensors that should learn: those that are neither frozen nor unused because of clip skip."""

    def __init__(self, adapters: AdapterSet, family: Family) -> None:
        self.start = {name: tensor.detach().to("cpu", copy=True) for name, tensor in _learning(adapters, family)}
        """In the CPU's memory: until they are compared, a step takes the most of a GPU's."""
        self.reached: dict[str, Tensor] = {}
        self.soon = SOON + _dropped(adapters)
        self.late = self.soon + LATE
        self.steps = 0

    def note(self, gradients: Mapping[str, Tensor]) -> None:
        """Records the gradients of an optimizer step whose learning rate is above 0."""
        self.steps += 1
        for name in self.start.keys() & gradients.keys() if self.steps <= self.soon else ():
            nonzero = gradients[name].any()
            self.reached[name] = self.reached[name] | nonzero if name in self.reached else nonzero

    def dead(self, now: Mapping[str, Tensor]) -> list[str]:
        """Names of the tensors that have not changed, once enough steps were made; none before that."""
        if self.steps not in (self.soon, self.late) or not self.start:
            return []
        starts = ((now[name], start.to(now[name].device)) for name, start in self.start.items())
        moved = torch.stack([(weight != start).any() for weight, start in starts]).tolist()
        still = [name for name, has_moved in zip(self.start, moved, strict=True) if not has_moved]
        self.start = {name: self.start[name] for name in still}
        return still if self.steps == self.late else [name for name in still if not self.reached.get(name, False)]


def _learning(adapters: AdapterSet, family: Family) -> Iterator[tuple[str, Tensor]]:
    for name, adapter in adapters:
        site = adapters.sites[name]
        if family.reaches(site.part, site.target.path):
            tensors = adapter.named_parameters(f"adapters.{name}")
            yield from ((key, tensor) for key, tensor in tensors if tensor.requires_grad)


def _dropped(adapters: AdapterSet) -> int:
    """Steps that dropout may take a whole adapter out of, one after another, with a chance of more than 1e-9."""
    methods = [adapter.method for _, adapter in adapters]
    chance = max((max(m.module_dropout, m.rank_dropout**m.rank) for m in methods), default=0.0)
    return math.ceil(math.log(1e-9) / math.log(chance)) if 0 < chance < 1 else 0
