"""An exponential moving average of the adapter's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from loralab.schema.ranges import Chance


class EMA:
    """average ← decay·average + (1 − decay)·weights after every optimizer step, in fp32.

    With `warmup` the decay starts low and rises, (1 + n)/(10 + n) after n steps up to `decay`, so that the start is
    soon forgotten.
    """

    def __init__(self, decay: Chance = 0.999, warmup: bool = True) -> None:
        self.decay = decay
        self.warmup = warmup
        self.steps = 0
        self.average: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor]) -> None:
        """Takes in the weights after an optimizer step; the first call starts from them."""
        if not self.average:
            self.average = {name: weight.detach().float().clone() for name, weight in weights.items()}
            return
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps)) if self.warmup else self.decay
        self.average = {name: tensor.to(weights[name].device) for name, tensor in self.average.items()}
        current = [weights[name].detach().float() for name in self.average]
        torch._foreach_lerp_(list(self.average.values()), current, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    @contextmanager
    def swapped(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """The average in the place of the weights; they come back bit for bit."""
        saved = {name: weight.detach().clone() for name, weight in weights.items()}
        _copy(self.average, weights)
        try:
            yield
        finally:
            _copy(saved, weights)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "average": dict(self.average)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]
        self.average = {name: tensor.clone() for name, tensor in state["average"].items()}


@torch.no_grad()
def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    for name, tensor in source.items():
        target[name].copy_(tensor)
