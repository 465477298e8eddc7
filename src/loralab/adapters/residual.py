"""LoRA that starts from parts of the weight itself: PiSSA (arXiv 2404.02948) and OLoRA (arXiv 2406.01775).

Both take the start out of the base, which then is no longer the one that people have. Here the base stays as it is and
the start is subtracted beside it, which is the same; the file has the difference, a LoRA of twice the rank.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from loralab.adapters.base import Adapter, Layer, Method, Tensors, apply, plain_weight, pointwise
from loralab.adapters.lora import LoRA
from loralab.models.target import Target
from loralab.schema.ranges import Count


@dataclass(frozen=True, kw_only=True)
class Residual(LoRA):
    """ΔW = up · down − start_up · start_down: zero at first, though no factor is."""

    max_norm: None = None
    weights: None = None

    constants: ClassVar = frozenset({"start_down", "start_up"})

    def at(self, target: Target, alpha: float) -> Method:
        return replace(self, alpha=alpha)

    def create(self, layer: Layer, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
        """A rank beyond the weight's own starts as in LoRA."""
        tensors = super().create(layer, rank, generator)
        down, up = tensors["lora_down"].flatten(1), tensors["lora_up"].flatten(1)
        count = min(rank, len(up), down.shape[1])
        scale = self.effective_alpha(self.alpha or rank, rank) / rank
        down[:count], up[:, :count] = self.start(plain_weight(layer).flatten(1).cpu(), count, scale, generator)
        return {**tensors, "start_down": tensors["lora_down"].clone(), "start_up": tensors["lora_up"].clone()}

    @abstractmethod
    def start(self, weight: Tensor, rank: int, scale: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """down (rank, in) and up (out, rank) for a weight (out, in), on whose product `scale` is applied."""

    def branch(self, adapter: Adapter, x: Tensor) -> Tensor:
        """Dropout is of what is trained alone, as where the start is out of the base."""
        hidden = apply(adapter.layer, x, adapter.get_buffer("start_down")) * adapter.scale
        return super().branch(adapter, x) - pointwise(adapter.layer, hidden, adapter.get_buffer("start_up"))

    @staticmethod
    def delta(tensors: Tensors) -> Tensor:
        return LoRA.delta(as_lora(tensors))

    @classmethod
    def norm(cls, tensors: Tensors) -> Tensor:
        return LoRA.norm(as_lora(tensors))

    @classmethod
    def in_file(cls, tensors: Tensors, alpha: Tensor) -> dict[str, Tensor]:
        """A LoRA of twice the rank and alpha."""
        return {"alpha": alpha * 2, **as_lora(tensors)}


def as_lora(tensors: Tensors) -> dict[str, Any]:
    """The difference of two products as one product."""
    if "start_up" not in tensors:
        return dict(tensors.items())
    down, up = (torch.cat([tensors["lora_down"], tensors["start_down"]]), (tensors["lora_up"], -tensors["start_up"]))
    return {"lora_down": down, "lora_up": torch.cat(up, 1)}


@dataclass(frozen=True, kw_only=True)
class PiSSA(Residual):
    """Starts with the weight's largest singular values and vectors (eq. 2 and 3), by roots of the values each."""

    iterations: Count | None = None
    """Of a randomised decomposition, which is faster; null = an exact one."""

    def start(self, weight: Tensor, rank: int, scale: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        left, values, right = self._largest(weight, rank, generator)
        root = (values / scale).sqrt()
        return root[:, None] * right, left * root

    def _largest(self, weight: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        if self.iterations is None:
            left, values, right = torch.linalg.svd(weight, full_matrices=False)
            return left[:, :rank], values[:rank], right[:rank]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator.initial_seed())
            left, values, right = torch.svd_lowrank(weight, rank, self.iterations)
        return left, values, right.T


@dataclass(frozen=True, kw_only=True)
class OLoRA(Residual):
    """Starts with the first columns of Q and rows of R of the weight's QR decomposition."""

    def start(self, weight: Tensor, rank: int, scale: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        orthogonal, triangular = torch.linalg.qr(weight)
        return triangular[:rank], orthogonal[:, :rank]
