"""Convolutions of frozen weights on a CPU.

oneDNN computes with weights in a layout of its own. torch.nn.Conv2d keeps them in torch's and has them laid out anew at
every call, forward and backward: where the images are small and the weights large, as in the lower levels of a UNet,
that takes longer than the convolution. A frozen weight is laid out once.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Convolutions = Literal["auto", "plain"]
DTYPES = (torch.float32, torch.bfloat16)
FEWEST = 16
"""Channels below which a packed weight is slower: oneDNN's blocks of channels would be mostly empty."""


class FrozenConv2d(nn.Conv2d):
    """A convolution that computes with a packed weight where that is faster: on a CPU, its weight frozen.

    The packed weights are no part of its state dict. They are made at the first use, in the precision of that.
    """

    _packed: tuple[Any, Tensor, Tensor | None] | None = None

    def forward(self, input: Tensor) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
        if input.device.type != "cpu" or dtype not in DTYPES or self.weight.requires_grad or not can_pack():
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            x = input.to(dtype)
            bias = None if self.bias is None else self.bias.to(dtype)
            if self.kernel_size == (1, 1):
                return pointwise(x, self.weight.to(dtype), bias)
            return _Packed.apply(x, bias, self.packed(dtype), self)  # type: ignore[return-value]

    def __getstate__(self) -> dict[str, Any]:
        """For copies, which pack their own: such tensors cannot be copied."""
        return {name: value for name, value in vars(self).items() if name != "_packed"}

    @torch.no_grad()
    def packed(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """The weight laid out for the forward convolution, and for that which takes a gradient back to its input.

        With a stride the latter is None: it is no convolution.
        """
        made_of = dtype, self.weight.data_ptr(), self.weight._version
        if self._packed is None or self._packed[0] != made_of:
            weight = self.weight.to(dtype)
            turned = weight.transpose(0, 1).flip(2, 3) if self.stride == (1, 1) else None
            self._packed = made_of, self._pack(weight), None if turned is None else self._pack(turned)
        return self._packed[1:]

    def _pack(self, weight: Tensor) -> Tensor:
        laid_out = weight.contiguous().to_mkldnn()
        kernel = self.padding, self.stride, self.dilation, 1
        return torch._C._nn.mkldnn_reorder_conv2d_weight(laid_out, *kernel, None)  # pyright: ignore[reportAttributeAccessIssue]


class _Packed(torch.autograd.Function):
    """A convolution with packed weights, and its gradient with regard to the input."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bias: Tensor | None, packed: tuple[Tensor, Tensor | None], layer: FrozenConv2d
    ) -> Tensor:
        ctx.layer, ctx.turned, ctx.like = layer, packed[1], (x.shape, x.dtype)
        return convolve(x, packed[0], bias, layer.padding, layer.stride)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        layer, (shape, dtype) = ctx.layer, ctx.like
        gradient = gradient.contiguous()
        if ctx.turned is not None:
            padding = [size - 1 - before for size, before in zip(layer.kernel_size, layer.padding, strict=True)]
            return convolve(gradient, ctx.turned, None, padding, (1, 1)), None, None, None
        sizes = (layer.stride, layer.padding, layer.dilation, False, (0, 0), 1)
        weight, like = layer.weight.to(dtype), gradient.new_empty(1).expand(shape)
        back = torch.ops.aten.convolution_backward(gradient, like, weight, None, *sizes, (True, False, False))
        return back[0], None, None, None


def convolve(x: Tensor, packed: Tensor, bias: Tensor | None, padding: Any, stride: Any) -> Tensor:
    """The convolution of x (B, C, H, W) with a packed weight."""
    return torch.ops.mkldnn._convolution_pointwise(x, packed, bias, padding, stride, (1, 1), 1, "none", [], "")


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A 1×1 convolution of x (B, C, H, W) as the product of matrices that it is; torch's own kernel is slower."""
    matrices, pixels = weight.flatten(1).expand(len(x), -1, -1), x.flatten(2)
    out = matrices @ pixels if bias is None else torch.baddbmm(bias[:, None], matrices, pixels)
    return out.unflatten(2, x.shape[2:])


def set_convolutions(model: nn.Module, convolutions: Convolutions) -> None:
    """Has the convolutions of a frozen model computed in the faster way, unless `plain`."""
    for layer in model.modules() if convolutions == "auto" else ():
        if type(layer) is nn.Conv2d and _is_faster(layer):
            layer.__class__ = FrozenConv2d


def _is_faster(layer: nn.Conv2d) -> bool:
    usual = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    sides = isinstance(layer.padding, tuple) and all(
        before < size for before, size in zip(layer.padding, layer.kernel_size, strict=True)
    )
    is_product = layer.kernel_size == (1, 1) and layer.stride == (1, 1)
    return usual and sides and (is_product or (layer.kernel_size > (1, 1) and min(layer.weight.shape[:2]) >= FEWEST))


@cache
def can_pack() -> bool:
    """Whether this torch has the operations, which are not public, and they do what they should."""
    with torch.random.fork_rng(devices=[]), torch.autocast("cpu", enabled=False):  # it is asked within a training step
        layer = FrozenConv2d(FEWEST, FEWEST, 3, padding=1).requires_grad_(False)
        x = torch.linspace(-1, 1, FEWEST * 16).reshape(1, FEWEST, 4, 4)
        try:
            found = convolve(x, layer.packed(torch.float32)[0], layer.bias, layer.padding, layer.stride)
        except (AttributeError, RuntimeError, NotImplementedError, TypeError):
            return False
        return torch.allclose(found, F.conv2d(x, layer.weight, layer.bias, 1, 1), atol=1e-4)
