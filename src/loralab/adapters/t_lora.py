"""T-LoRA: the more noise, the fewer rank components are trained (arXiv 2507.05964)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from loralab.adapters.base import Layer
from loralab.adapters.lora import LoRA
from loralab.diffusion.process import STEPS
from loralab.schema.ranges import AtLeastOne, Exponent


@dataclass(frozen=True, kw_only=True)
class TLoRA(LoRA):
    """A LoRA of whose components the first r(t) count while the denoiser is trained; a file is a plain LoRA, of which
    other programs, and pictures here, use all.
    """

    min_rank: AtLeastOne = 1
    """How many count at the most noise."""
    exponent: Exponent = 1.0
    """Above 1, fewer count at much noise."""
    orthogonal: bool = False
    """Starts with orthonormal rows of `down`, so that the components are independent from the first."""

    def create(self, layer: Layer, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
        tensors = super().create(layer, rank, generator)
        if self.orthogonal:
            nn.init.orthogonal_(tensors["lora_down"], generator=generator)
        return tensors

    def masked(self, hidden: Tensor, timesteps: Tensor | None) -> Tensor:
        if timesteps is None:
            return hidden
        axis = 1 if hidden.dim() == 4 else hidden.dim() - 1
        components = torch.arange(hidden.shape[axis], device=hidden.device)
        mask = components < self.rank_at(timesteps, hidden.shape[axis])[:, None]  # (B, r)
        return hidden * mask.reshape([hidden.shape[i] if i in (0, axis) else 1 for i in range(hidden.dim())])

    def rank_at(self, timesteps: Tensor, rank: int) -> Tensor:
        """r(t) = ⌊((T − t) / T)^exponent · (r − r_min)⌋ + r_min (section 4.1), (B,)."""
        least = min(self.min_rank, rank)
        return (((STEPS - timesteps) / STEPS) ** self.exponent * (rank - least)).floor().long() + least
