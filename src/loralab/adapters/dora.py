"""DoRA: a weight's direction changed by an adapter, its magnitude learned apart (arXiv 2402.09353)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from loralab.adapters.base import LYCORIS, Adapter, Layer, Method, Tensors, apply, plain_weight, weight_shape
from loralab.adapters.loha import LoHa
from loralab.adapters.lokr import LoKr
from loralab.adapters.lora import LoRA
from loralab.errors import user_error

MAGNITUDE = "dora_scale"
"""Its tensor's name, whatever the adapter that changes the direction."""


class WeightDecomposed(Method):
    """W' = m (W + ΔW) / ‖W + ΔW‖ (eq. 5); `dora_scale` is m, (out, 1, …) or (1, in, …), the norm over all but the axis
    along which m extends.
    """

    needs_weight: ClassVar = True
    in_layer_precision: ClassVar = False

    def output(self, adapter: Adapter, x: Tensor) -> Tensor:
        return adapter.plain(x) + apply(adapter.layer, x, adapter.delta())

    @classmethod
    def change(cls, tensors: Tensors, scale: float, shape: torch.Size, weight: Tensor | None) -> Tensor:
        assert weight is not None, "a change of the direction needs the weight"
        magnitude, weight = tensors[MAGNITUDE], weight.float()
        turned = weight + super().change(tensors, scale, shape, None)
        return magnitude_form(magnitude, shape) * turned / norm_like(turned, magnitude) - weight

    @classmethod
    def shape_of(cls, tensors: Tensors) -> torch.Size:
        """One magnitude for each output, or for each input of a kernel that may be folded into them."""
        shape = super().shape_of(tensors)
        inputs = {shape[1], shape[1] // 9} if len(shape) == 2 else {shape[1]}
        if tensors[MAGNITUDE].numel() not in {1, shape[0], *inputs}:
            raise RuntimeError("magnitudes of another layer")
        return shape

    @classmethod
    def factors(cls, tensors: Tensors) -> dict[str, Any]:
        return {name: tensor for name, tensor in tensors.items() if name != MAGNITUDE}

    @classmethod
    def peft_form(cls, name: str, tensors: Tensors, scale: float) -> dict[str, Tensor]:
        """Magnitudes are (out) of a linear layer, (1, out, 1, 1) of a convolution."""
        magnitude, shape = tensors[MAGNITUDE], cls.shape_of(tensors)
        if magnitude_form(magnitude, shape).shape[0] == 1 != shape[0]:
            found = f"the diffusers layout needs a magnitude for each output, but {name} has one for each input"
            raise user_error("output.layout", found, "set output.layout=kohya or adapter.magnitude=output")
        magnitude = magnitude.reshape(1, -1, 1, 1) if len(shape) == 4 else magnitude.flatten()
        return super().peft_form(name, tensors, scale) | {"lora_magnitude_vector.weight": magnitude}


@dataclass(frozen=True, kw_only=True)
class DoRA(WeightDecomposed, LoRA):
    """ΔW is a LoRA's, m at first ‖W‖. The norm is taken as a constant in the backward pass (section 4.3)."""

    magnitude: Literal["output", "input"] = "output"
    """Whether each output has a magnitude, as in the paper and in PEFT, or each input, as A1111 takes it."""

    required: ClassVar = LoRA.required | {MAGNITUDE}
    optional: ClassVar = frozenset()
    network_module: ClassVar = LYCORIS
    network_args: ClassVar = {"algo": "lora", "dora_wd": True}

    def create(self, layer: Layer, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
        weight = plain_weight(layer).cpu()
        kept = 0 if self.magnitude == "output" else 1
        others = [dim for dim in range(weight.dim()) if dim != kept]
        magnitude = torch.linalg.vector_norm(weight, dim=others, keepdim=True)
        return {**super().create(layer, rank, generator), MAGNITUDE: magnitude}

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


def _of_other_trainers(kind: type[Method]) -> type[Method]:
    """Adapters of this kind with magnitudes beside them, which LyCORIS trains."""

    def recognises(cls: type[Method], tensors: Tensors) -> bool:
        return MAGNITUDE in tensors and kind.recognises({n: t for n, t in tensors.items() if n != MAGNITUDE})

    facts = {"required": kind.required | {MAGNITUDE}, "recognises": classmethod(recognises), "can_be_trained": False}
    return type(f"{kind.__name__} with magnitudes", (WeightDecomposed, kind), facts)


OF_OTHER_TRAINERS = tuple(map(_of_other_trainers, (LoRA, LoHa, LoKr)))


def magnitude_form(magnitude: Tensor, shape: torch.Size) -> Tensor:
    """A magnitude vector of any shape that files have, as (out, 1, …) or (1, in, …), to multiply a weight with."""
    axis = 0 if magnitude.numel() == shape[0] and (magnitude.dim() < 2 or magnitude.shape[0] != 1) else 1
    return magnitude.float().reshape([-1 if i == axis else 1 for i in range(len(shape))])


def norm_like(weight: Tensor, magnitude: Tensor) -> Tensor:
    """Norms of a weight's rows or columns, shaped as the magnitude that they divide."""
    form = magnitude_form(magnitude, weight.shape)
    dims = [i for i in range(weight.dim()) if form.shape[i] == 1]
    if form.numel() == 1:
        dims = list(range(1, weight.dim()))
    return torch.linalg.vector_norm(weight, dim=dims, keepdim=True)


def stretch(adapter: Adapter) -> Tensor:
    """m / ‖W + ΔW‖ in fp32, shaped to multiply the weight."""
    up, down = adapter.tensors["lora_up"].flatten(1), adapter.tensors["lora_down"].flatten(1)
    magnitude, shape = adapter.tensors[MAGNITUDE], weight_shape(adapter.layer)
    with torch.no_grad(), torch.autocast(up.device.type, enabled=False):
        turned = torch.addmm(plain_weight(adapter.layer).flatten(1), up, down, alpha=adapter.scale)
        norms = norm_like(turned.reshape(shape), magnitude)
    return magnitude_form(magnitude, shape) / norms
