"""LoRA: a change of low rank (arXiv 2106.09685); on convolutions, LoCon."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loralab.adapters.base import Adapter, Layer, Method, Tensors, apply, pointwise, weight_shape
from loralab.adapters.product import Adapted, adapted_products, is_adaptable


@dataclass(frozen=True, kw_only=True)
class LoRA(Method):
    """ΔW = up · down. A k×k convolution's `down` has its kernel, stride and padding, its `up` is 1×1.

    Files of others may have a `lora_mid` (Tucker form): `down` and `up` are 1×1 then, and `mid` has the kernel.
    """

    required: ClassVar = frozenset({"lora_down", "lora_up"})
    optional: ClassVar = frozenset({"lora_mid"})
    starts_at_zero: ClassVar = frozenset({"lora_up"})
    network_module: ClassVar = "networks.lora"
    in_diffusers: ClassVar = True
    in_layer_precision: ClassVar = True

    def create(self, layer: Layer, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
        out, *inside = weight_shape(layer)
        down = uniform((rank, *inside), generator)
        return {"lora_down": down, "lora_up": torch.zeros(out, rank, *(1 for _ in inside[1:]))}

    def output(self, adapter: Adapter, x: Tensor) -> Tensor:
        outputs = self.joined([adapter], x)
        return adapter.plain(x) + self.branch(adapter, x) if outputs is None else outputs[0]

    def joined(self, adapters: Sequence[Adapter], x: Tensor) -> tuple[Tensor, ...] | None:
        """Where layers and adapters are products: their outputs."""
        if not all(self._is_product(adapter, x) for adapter in adapters):
            return None
        return adapted_products(x, [self._adapted(adapter, x.dtype) for adapter in adapters])

    @staticmethod
    def _adapted(adapter: Adapter, dtype: torch.dtype) -> Adapted:
        down, up = (adapter.tensors[name].to(dtype) for name in ("lora_down", "lora_up"))
        return Adapted(adapter.layer.weight, adapter.layer.bias, down, up, adapter.scale)

    def _is_product(self, adapter: Adapter, x: Tensor) -> bool:
        """Whether layer and adapter are what `adapted_products` computes."""
        is_own = any(getattr(type(self), name) is not getattr(LoRA, name) for name in ("output", "branch", "masked"))
        drops = adapter.training and (self.dropout or self.rank_dropout)
        if is_own or drops or "lora_mid" in adapter.tensors or torch.compiler.is_compiling():
            return False
        return is_adaptable(adapter.layer, x)

    def branch(self, adapter: Adapter, x: Tensor) -> Tensor:
        """What the low-rank path adds to the output."""
        down, up, mid = (adapter.tensors.get(name) for name in ("lora_down", "lora_up", "lora_mid"))
        if mid is not None:
            x, down = pointwise(adapter.layer, x, down), mid
        hidden = apply(adapter.layer, x, down)  # (B, T, r) or (B, r, H, W)
        if adapter.training:
            hidden = self.dropped(hidden)
        return pointwise(adapter.layer, self.masked(hidden, adapter.moment.timesteps) * adapter.scale, up)

    def masked(self, hidden: Tensor, timesteps: Tensor | None) -> Tensor:
        """The rank components (B, …, r) or (B, r, H, W) that count at each sample's timestep: here, all."""
        return hidden

    def dropped(self, hidden: Tensor) -> Tensor:
        """Network dropout of single elements, rank dropout of whole components of a sample."""
        hidden = F.dropout(hidden, self.dropout) if self.dropout else hidden
        if not self.rank_dropout:
            return hidden
        if hidden.dim() == 4:
            return F.dropout2d(hidden, self.rank_dropout)
        mask = F.dropout(
            hidden.new_ones(hidden.shape[0], *(1,) * (hidden.dim() - 2), hidden.shape[-1]), self.rank_dropout
        )
        return hidden * mask

    @staticmethod
    def delta(tensors: Tensors) -> Tensor:
        down, up, mid = tensors["lora_down"], tensors["lora_up"], tensors.get("lora_mid")
        if mid is None:
            return (up.flatten(1) @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])
        return torch.einsum("or, rskl, si -> oikl", up.flatten(1), mid, down.flatten(1))

    @staticmethod
    def fitted(tensors: Tensors, shape: torch.Size) -> Tensors:
        if "lora_mid" in tensors:
            return tensors
        out, *inside = shape
        down, up = tensors["lora_down"], tensors["lora_up"]
        down, up = down.reshape(-1, *inside), up.reshape(out, -1, *(1 for _ in inside[1:]))
        return {**tensors, "lora_down": down, "lora_up": up}

    @staticmethod
    def rank_of(tensors: Tensors) -> int:
        return tensors["lora_down"].shape[0]

    @classmethod
    def norm(cls, tensors: Tensors) -> Tensor:
        """‖BA‖² = tr(BᵀB · AAᵀ): products of rank × rank only."""
        if tensors.get("lora_mid") is not None:
            return cls.delta(tensors).norm()
        up, down = tensors["lora_up"].flatten(1), tensors["lora_down"].flatten(1)
        return ((up.T @ up) * (down @ down.T)).sum().clamp(min=0).sqrt()

    @classmethod
    def peft_form(cls, name: str, tensors: Tensors, scale: float) -> dict[str, Tensor]:
        """The core of a Tucker form, which PEFT has not, is multiplied into `lora_A`."""
        down, up, mid = tensors["lora_down"], tensors["lora_up"], tensors.get("lora_mid")
        if mid is not None:
            down = LoRA.delta({"lora_down": down, "lora_up": torch.eye(len(mid)), "lora_mid": mid})
        return {"lora_A.weight": down, "lora_B.weight": scaled(up, scale)}


def uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """He's uniform start with a = √5, as torch's own layers have it: within ±1/√(fan in)."""
    return nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5), generator=generator)


def scaled(up: Tensor, scale: float) -> Tensor:
    """In the precision of `up` where nothing is lost by that, else in fp32."""
    wide = up.float() * scale
    narrow = wide.to(up.dtype)
    return narrow if torch.equal(unscaled(narrow, scale, up), up) else wide


def unscaled(scaled: Tensor, scale: float, like: Tensor) -> Tensor:
    return (scaled.float() / scale).to(like.dtype)
