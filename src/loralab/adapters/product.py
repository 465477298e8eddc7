"""Frozen linear layers with their LoRAs as few products.

An adapter's products read all of its layer's input and output again; on a GPU, small kernels take longer to start than
to compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from loralab.models import onednn


class Adapted(NamedTuple):
    """A layer and its LoRA: weight (N, K) + scale · up (N, r) · down (r, K), all of one precision."""

    weight: Tensor
    bias: Tensor | None
    """(N,)"""
    down: Tensor
    up: Tensor
    scale: float


DTYPES = {"cuda": (torch.bfloat16, torch.float16), "cpu": (torch.float32,)}
"""In which it is faster, by the kind of device."""
WORTHWHILE = 2**17
"""Numbers in x below which, on a CPU, a function in Python takes longer than it saves."""


def is_adaptable(layer: nn.Module, x: Tensor) -> bool:
    """Whether a layer's product with x is to be computed by `adapted_products`: of a linear layer with plain weights in
    the precision of x, whose kernels are left open."""
    if x.dtype not in DTYPES.get(x.device.type, ()) or (x.device.type == "cpu" and x.numel() < WORTHWHILE):
        return False
    if type(layer) not in (nn.Linear, onednn.FrozenLinear) or not onednn.is_free(layer):
        return False
    weight = layer.weight
    return type(weight) is nn.Parameter and not weight.requires_grad and weight.dtype == x.dtype


def adapted_products(x: Tensor, layers: Sequence[Adapted]) -> tuple[Tensor, ...]:
    """What layers of one input x (…, K) compute: (…, N) each. The sum of layer and adapter is rounded once.

    Weights and biases get no gradient.
    """
    flat = [part for layer in layers for part in layer]
    outputs: Any = _Products.apply(x.reshape(-1, x.shape[-1]), *flat)
    return tuple(out.view(*x.shape[:-1], out.shape[-1]) for out in outputs)


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *flat: Any) -> tuple[Tensor, ...]:
        layers = [Adapted(*flat[first : first + 5]) for first in range(0, len(flat), 5)]
        down = _joined([layer.down for layer in layers])
        hidden = onednn.linear(x, down)  # (M, sum of r)
        parts = hidden.split([len(layer.down) for layer in layers], dim=1)
        for part, layer in zip(parts, layers, strict=True):
            if layer.scale != 1:
                part.mul_(layer.scale)
        ctx.save_for_backward(x, down, hidden, *(each for layer in layers for each in (layer.weight, layer.up)))
        ctx.scales = [layer.scale for layer in layers]
        return tuple(
            onednn.linear(x, layer.weight, layer.bias).addmm_(part, layer.up.t())
            for part, layer in zip(parts, layers, strict=True)
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, down, hidden, *saved = ctx.saved_tensors
        weights, ups = saved[::2], saved[1::2]
        parts = hidden.split([up.shape[1] for up in ups], dim=1)
        of_hidden = [gradient @ up for gradient, up in zip(gradients, ups, strict=True)]
        for part, scale in zip(of_hidden, ctx.scales, strict=True):
            if scale != 1:
                part.mul_(scale)
        of_parts = _joined(of_hidden, dim=1)
        of_downs = (of_parts.t() @ x).split([up.shape[1] for up in ups])
        of_ups = [gradient.t() @ part for gradient, part in zip(gradients, parts, strict=True)]
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = onednn.linear(gradients[0], weights[0].t())
            for gradient, weight in zip(gradients[1:], weights[1:], strict=True):
                if of_x.is_cuda:
                    of_x.addmm_(gradient, weight)
                else:
                    of_x += onednn.linear(gradient, weight.t())
            of_x.addmm_(of_parts, down)
        flat = [(None, None, of_down, of_up, None) for of_down, of_up in zip(of_downs, of_ups, strict=True)]
        return of_x, *(each for layer in flat for each in layer)


def _joined(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tuple(tensors), dim)
