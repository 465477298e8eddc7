"""Products with frozen weights on a CPU, by oneDNN.

torch multiplies fp32 matrices by MKL, which uses half the vector width on processors that are not Intel's; there
oneDNN, which uses what there is, takes its place. oneDNN's convolutions lay the weights out anew at every call: where
images are small and weights large, as in the lower levels of a UNet, that takes longer than the convolution, and a
product with the images' patches is faster.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Kernels = Literal["auto", "torch"]
DTYPES = (torch.float32, torch.bfloat16)
WORTHWHILE = 2**21
"""Multiplications below which a product takes less time than choosing how to compute it."""
LARGE_POINTWISE, LARGE_KERNEL = 2**16, 2**21
"""Weights of a 1×1 and of a k×k convolution below which torch's own is as fast."""
FEW_PIXELS = 256
"""Pixels of a batch up to which a k×k convolution is faster as a product, which needs k² times the memory of x."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (…, K) times the transpose of weight (N, K), plus bias (N,): (…, N); as torch's function, up to rounding.

    The bias gets no gradient where oneDNN computes it.
    """
    if x.device.type != "cpu":
        return F.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])  # of more dimensions, torch may copy the weight
    is_fp32 = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    is_large = x.numel() * len(weight) >= WORTHWHILE
    if is_fp32 and is_large and not (bias is not None and bias.requires_grad) and IS_FASTER:
        out: Tensor = _Product.apply(rows, weight, bias)  # pyright: ignore[reportAssignmentType]
    else:
        out = F.linear(rows, weight, bias)
    return out.view(*x.shape[:-1], len(weight))


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A 1×1 convolution of x (B, C, H, W) by weight (O, C, 1, 1), as the product that it is."""
    out = linear(x.flatten(2).transpose(1, 2), weight.flatten(1), bias)
    return out.transpose(1, 2).unflatten(2, x.shape[2:]).contiguous()


class FrozenLinear(nn.Linear):
    """A linear layer of a frozen weight."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


class FrozenConv2d(nn.Conv2d):
    """A convolution of a frozen weight. As a product where that is faster: on a CPU, of few pixels, or if 1×1."""

    def forward(self, input: Tensor) -> Tensor:
        sides = zip(input.shape[2:], self.kernel_size, self.stride, self._around, strict=True)
        height, width = ((size + 2 * pad - kernel) // step + 1 for size, kernel, step, pad in sides)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
        if input.device.type != "cpu" or dtype not in DTYPES or self.weight.requires_grad:
            return super().forward(input)
        if self.kernel_size == self.stride == (1, 1):
            return pointwise(input, self.weight, self.bias)
        if len(input) * height * width > FEW_PIXELS:
            return super().forward(input)
        patches = F.unfold(input.to(dtype), self.kernel_size, padding=self._around, stride=self.stride)
        out = linear(patches.transpose(1, 2), self.weight.flatten(1), self.bias)  # (B, H·W, O)
        return out.transpose(1, 2).unflatten(2, (height, width)).contiguous()

    @property
    def _around(self) -> tuple[int, int]:
        assert isinstance(self.padding, tuple)
        return self.padding[0], self.padding[1]


class _Product(torch.autograd.Function):
    """x (M, K) times the transpose of weight (N, K), plus bias (N,)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x = product(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        if x is None:
            return of_x, None, None
        if len(weight) <= x.shape[1]:  # the rows of the smaller side: those are laid out anew
            return of_x, product(gradient.t(), x.t()), None
        return of_x, product(x.t(), gradient.t()).t(), None


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (M, K) times the transpose of weight (N, K), plus bias (N,): (M, N), without gradients."""
    return (torch.ops.loralab.product if torch.compiler.is_compiling() else _computed)(x, weight, bias)


def _computed(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    bias = None if bias is None else bias.contiguous()  # the operation ignores how it is strided
    return torch.ops.mkldnn._linear_pointwise(_dense(x), _dense(weight), bias, "none", [], "")


# opaque to torch.compile, which knows oneDNN's operation of constant weights only
torch.library.custom_op(
    "loralab::product", _computed, mutates_args=(), schema="(Tensor x, Tensor weight, Tensor? bias) -> Tensor"
).register_fake(lambda x, weight, bias: x.new_empty(len(x), len(weight)))


def _dense(matrix: Tensor) -> Tensor:
    """Gaps between rows or columns would take a hundred times as long."""
    return matrix if matrix.is_contiguous() or matrix.t().is_contiguous() else matrix.contiguous()


def set_kernels(model: nn.Module, kernels: Kernels) -> None:
    """Has the layers of a frozen model computed in the faster way, unless `torch`."""
    for layer in model.modules() if kernels == "auto" else ():
        vars(layer)["kernels"] = kernels
        if type(layer) is nn.Linear and IS_FASTER:
            layer.__class__ = FrozenLinear
        elif type(layer) is nn.Conv2d and _can_be_product(layer):
            layer.__class__ = FrozenConv2d


def linear_of(layer: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """`linear` where `set_kernels` had the layer computed so, else torch's: for what is added to its output."""
    return linear if is_free(layer) and IS_FASTER else F.linear


def is_free(layer: nn.Module) -> bool:
    """Whether `set_kernels` left open how the layer is computed."""
    return getattr(layer, "kernels", "torch") == "auto"


def _can_be_product(layer: nn.Conv2d) -> bool:
    usual = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    is_large = layer.weight.numel() >= (LARGE_POINTWISE if layer.kernel_size == (1, 1) else LARGE_KERNEL)
    return usual and is_large and isinstance(layer.padding, tuple)


def _works() -> bool:
    """Whether this torch has the operation, which is not public, and it does what it should."""
    x, weight, bias = torch.linspace(-1, 1, 48).view(6, 8), torch.linspace(-1, 1, 32).view(4, 8), torch.ones(4)
    try:
        return torch.allclose(product(x, weight, bias), x @ weight.t() + bias, atol=1e-5)
    except (AttributeError, RuntimeError, NotImplementedError, TypeError):
        return False


WORKS = _works()


def _is_faster() -> bool:
    info = Path("/proc/cpuinfo")
    maker = info.read_text() if info.exists() else platform.processor()
    return "GenuineIntel" not in maker and WORKS


IS_FASTER = _is_faster()
"""Whether oneDNN multiplies matrices in fp32 faster than MKL, which does its best on its maker's processors. A
constant: torch.compile sees no function that was called before."""
