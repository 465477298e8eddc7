"""DoRA: a weight's direction changed by LoRA, its magnitude learned apart (arXiv 2402.09353)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from loralab.adapters.base import Adapter, Layer, magnitude_form, norm_like, plain_weight, weight_shape
from loralab.adapters.lora import LoRA


@dataclass(frozen=True, kw_only=True)
class DoRA(LoRA):
    """W' = m (W + ΔW) / ‖W + ΔW‖ (eq. 5); `dora_scale` is m, (out, 1, …) or (1, in, …), at first ‖W‖.

    The norm is taken as a constant in the backward pass (section 4.3).
    """

    magnitude: Literal["output", "input"] = "output"
    """Whether each output has a magnitude, as in the paper and in PEFT, or each input, as A1111 takes it."""

    required: ClassVar = LoRA.required | {"dora_scale"}
    optional: ClassVar = frozenset()

    def create(self, layer: Layer, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
        weight = plain_weight(layer).cpu()
        kept = 0 if self.magnitude == "output" else 1
        others = [dim for dim in range(weight.dim()) if dim != kept]
        magnitude = torch.linalg.vector_norm(weight, dim=others, keepdim=True)
        return {**super().create(layer, rank, generator), "dora_scale": magnitude}

    def output(self, adapter: Adapter, x: Tensor) -> Tensor:
        scale = stretch(adapter)  # (out, 1, …) or (1, in, …)
        of_inputs = scale.shape[0] == 1
        features = (1, -1, 1, 1) if x.dim() == 4 else (-1,)
        scale = scale.to(x.dtype).reshape(features)
        if of_inputs:
            x = scale * x
            return adapter.plain(x) + self.branch(adapter, x)
        turned = adapter.plain(x) + self.branch(adapter, x)
        if adapter.layer.bias is None:
            return scale * turned
        bias = adapter.layer.bias.to(x.dtype).reshape(features)
        return scale * (turned - bias) + bias


def stretch(adapter: Adapter) -> Tensor:
    """m / ‖W + ΔW‖ in fp32, shaped to multiply the weight."""
    up, down = adapter.tensors["lora_up"].flatten(1), adapter.tensors["lora_down"].flatten(1)
    magnitude, shape = adapter.tensors["dora_scale"], weight_shape(adapter.layer)
    with torch.no_grad(), torch.autocast(up.device.type, enabled=False):
        turned = torch.addmm(plain_weight(adapter.layer).flatten(1), up, down, alpha=adapter.scale)
        norms = norm_like(turned.reshape(shape), magnitude)
    return magnitude_form(magnitude, shape) / norms
