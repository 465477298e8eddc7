"""DoRA: a weight's direction changed by LoRA, its magnitude learned apart (arXiv 2402.09353)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from loralab.adapters.base import Adapter, Layer, plain_weight
from loralab.adapters.lora import LoRA


@dataclass(frozen=True, kw_only=True)
class DoRA(LoRA):
    """W' = m (W + ΔW) / ‖W + ΔW‖, a norm for each output (eq. 5); `dora_scale` is m, (out, 1, …), at first ‖W‖.

    The norm is taken as a constant in the backward pass (section 4.3).
    """

    required: ClassVar = LoRA.required | {"dora_scale"}
    optional: ClassVar = frozenset()

    def create(self, layer: Layer, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
        weight = plain_weight(layer).cpu()
        magnitude = weight.flatten(1).norm(dim=1)
        tensors = super().create(layer, rank, generator)
        return {**tensors, "dora_scale": magnitude.reshape(-1, *(1 for _ in weight.shape[1:]))}

    def add(self, adapter: Adapter, x: Tensor, out: Tensor) -> Tensor:
        bias = adapter.layer.bias
        per_output = (1, -1, 1, 1) if out.dim() == 4 else (-1,)
        scale = (adapter.tensors["dora_scale"].flatten() / row_norms(adapter)).to(out.dtype).reshape(per_output)
        turned = out + self.branch(adapter, x)
        if bias is None:
            return scale * turned
        bias = bias.to(out.dtype).reshape(per_output)
        return scale * (turned - bias) + bias


@torch.no_grad()
def row_norms(adapter: Adapter) -> Tensor:
    """‖W + ΔW‖ of each output, (out), in fp32."""
    up, down = adapter.tensors["lora_up"].flatten(1), adapter.tensors["lora_down"].flatten(1)
    with torch.autocast(up.device.type, enabled=False):
        turned = torch.addmm(plain_weight(adapter.layer).flatten(1), up, down, alpha=adapter.scale)
        return torch.linalg.vector_norm(turned, dim=1)
