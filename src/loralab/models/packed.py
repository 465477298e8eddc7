"""Frozen layers whose weights are stored in eight bits with a scale for each output, and unpacked where they are used.

fp8: floats of four bits of exponent and three of mantissa, e4m3 (arXiv 2209.05433): each weight is within 1/16 of its
size, or within 2⁻¹⁹ of the largest of its row. int8: whole numbers, each weight within 1/254 of the largest of its row.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input

Packing = Literal["fp8", "int8"]
LARGEST = {"fp8": 448.0, "int8": 127.0}
LARGE_CONV = 2**18
"""Weights of a convolution from which on it is packed."""


def pack(weight: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
    """(weights in the same shape, a byte each; scales (out, 1, …) in fp32)."""
    rows = weight.detach().float()
    scale = rows.flatten(1).abs().amax(1).clamp(min=1e-30).div_(LARGEST[packing]).view(-1, *[1] * (rows.dim() - 1))
    numbers = rows / scale
    if packing == "int8":
        return numbers.round_().to(torch.int8), scale
    return numbers.to(torch.float8_e4m3fn).view(torch.uint8), scale  # not as floats, which others would compute with


def unpack(packed: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The weights."""
    numbers = packed if packed.dtype == torch.int8 else packed.view(torch.float8_e4m3fn)
    return numbers.to(dtype).mul_(scale.to(dtype))


class PackedLinear(nn.Linear):
    """A linear layer of a packed weight. It has no gradient, its input has one."""

    scale: Tensor
    compute_dtype: torch.dtype

    def forward(self, input: Tensor) -> Tensor:
        x, bias = _ready(input, self.bias)
        return _Linear.apply(x, self.weight, self.scale, bias)  # pyright: ignore[reportReturnType]


class PackedConv2d(nn.Conv2d):
    """A convolution of one."""

    scale: Tensor
    compute_dtype: torch.dtype

    def forward(self, input: Tensor) -> Tensor:
        x, bias = _ready(input, self.bias)
        how = (self.stride, self.padding, self.dilation, self.groups)
        return _Convolution.apply(x, self.weight, self.scale, bias, how)  # pyright: ignore[reportReturnType]


def can_be_packed(layer: nn.Module) -> bool:
    """Whether it is a plain linear layer, or a convolution for which it pays."""
    return type(layer) is nn.Linear or is_large_conv(layer)


def is_large_conv(layer: nn.Module) -> bool:
    if not isinstance(layer, nn.Conv2d) or isinstance(layer, PackedConv2d) or isinstance(layer.padding, str):
        return False
    return layer.padding_mode == "zeros" and layer.weight.numel() >= LARGE_CONV


@torch.no_grad()
def pack_layer(layer: nn.Linear | nn.Conv2d, packing: Packing, dtype: torch.dtype) -> None:
    """Has a layer keep its weight packed, in place. dtype: what it was in."""
    packed, scale = pack(layer.weight, packing)
    layer.weight = nn.Parameter(packed, requires_grad=False)
    layer.register_buffer("scale", scale)
    kind = PackedLinear if isinstance(layer, nn.Linear) else PackedConv2d
    layer.__class__ = kind  # pyright: ignore[reportAttributeAccessIssue]
    vars(layer)["compute_dtype"] = dtype  # which diffusers asks for where weights are not floats


def _ready(x: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    kind = x.device.type
    x = x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x
    return x, None if bias is None else bias.to(x.dtype)


class _Linear(torch.autograd.Function):
    """Keeps the packed weight for backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(packed, scale)
        return F.linear(x, unpack(packed, scale, x.dtype), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        packed, scale = ctx.saved_tensors
        return gradient @ unpack(packed, scale, gradient.dtype), None, None, None


class _Convolution(torch.autograd.Function):
    """Keeps the packed weight for backward. how: stride, padding, dilation, groups."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, scale: Tensor, bias: Tensor | None, how: Any) -> Tensor:
        ctx.save_for_backward(packed, scale)
        ctx.shape, ctx.how = x.shape, how
        return F.conv2d(x, unpack(packed, scale, x.dtype), bias, *how)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        packed, scale = ctx.saved_tensors
        weight = unpack(packed, scale, gradient.dtype)
        return conv2d_input(ctx.shape, weight, gradient, *ctx.how), None, None, None, None
