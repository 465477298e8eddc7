"""(IA)³: a factor for each output, or input, of a layer (arXiv 2205.05638), as LyCORIS has it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from loralab.adapters.base import LYCORIS, Layer, Method, Tensors, weight_shape
from loralab.adapters.multiplied import Multiplied
from loralab.models.target import Target

SECOND = re.compile(r"(\.net\.2|\.fc2|\.down_proj|\.w2)$")
"""Paths of the second layers of feed-forward blocks: their inputs are what the paper scales."""


@dataclass(frozen=True, kw_only=True)
class IA3(Multiplied):
    """W' = W ∘ (1 + l). On a layer l is (out, 1, …) or (1, in, …); in files `weight` is flat, (1, n, 1, 1) of a
    convolution, and `on_input` says which of the two.
    """

    rank: Literal[1] = 1
    conv_rank: Literal[1] | None = None
    on_input: bool | None = None
    """Scales inputs rather than outputs; null = those of feed-forward blocks' second layers, as in the paper."""

    required: ClassVar = frozenset({"weight", "on_input"})
    flags: ClassVar = frozenset({"on_input"})
    network_module: ClassVar = LYCORIS
    network_args: ClassVar = {"algo": "ia3"}

    def at(self, target: Target, alpha: float) -> Method:
        if self.on_input is not None:
            return self
        return replace(self, on_input=target.kind == "feed_forward" and bool(SECOND.search(target.path)))

    def create(self, layer: Layer, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
        out, inside, *kernel = weight_shape(layer)
        return {"weight": torch.zeros(*((1, inside) if self.on_input else (out, 1)), *(1 for _ in kernel))}

    @classmethod
    def product(cls, tensors: Tensors, weight: Tensor) -> Tensor:
        return weight * (1 + cls.fitted(tensors, weight.shape)["weight"])

    @staticmethod
    def delta(tensors: Tensors) -> Tensor:
        """l."""
        return tensors["weight"]

    @staticmethod
    def fitted(tensors: Tensors, shape: torch.Size) -> Tensors:
        if "on_input" not in tensors:
            return tensors
        side = 1 if tensors["on_input"].item() else 0
        return {"weight": tensors["weight"].reshape([-1 if axis == side else 1 for axis in range(len(shape))])}

    @classmethod
    def shape_of(cls, tensors: Tensors) -> torch.Size:
        width = tensors["weight"].numel()
        return torch.Size((0, width) if tensors["on_input"].item() else (width, 0))

    @classmethod
    def size(cls, tensors: Tensors) -> str:
        return "one factor each"

    @classmethod
    def in_file(cls, tensors: Tensors, alpha: Tensor) -> dict[str, Tensor]:
        factors = tensors["weight"]
        told = torch.tensor(int(factors.shape[0] == 1))
        return {"weight": factors.reshape(1, -1, 1, 1) if factors.dim() == 4 else factors.flatten(), "on_input": told}
