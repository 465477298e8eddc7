"""The gradients that an optimizer step has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Gradients:
    """Those of the weights that have one."""

    by_name: dict[str, Tensor]
    norms: Tensor
    """(N,) in the same order, on their device."""

    @classmethod
    def of(cls, weights: Mapping[str, nn.Parameter]) -> Gradients:
        found = {name: weight.grad for name, weight in weights.items() if weight.grad is not None}
        norms = torch._foreach_norm(list(found.values()))  # pyright: ignore[reportPrivateImportUsage]
        return cls(found, torch.stack([*norms]))
