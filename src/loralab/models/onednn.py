"""Products with frozen weights on a CPU, by oneDNN.

torch multiplies fp32 matrices by MKL, which uses half the vector width on processors that are not Intel's; there
oneDNN, which uses what there is, takes its place. On Intel's it does where few rows meet a large weight, in forward.
oneDNN's convolutions lay the weights out anew at every call: where images are small and weights large, as in the lower
levels of a UNet, that takes longer than the convolution, and a product with the images' patches is faster.
"""

from __future__ import annotations

import itertools
import platform
from collections.abc import Callable, Iterator
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
FEW_ROWS, LARGE_WEIGHT = 256, 2**20
"""Rows of x up to which, and size of a weight from which on, oneDNN is faster than MKL on Intel's processors."""
FEW_PIXELS = 256
"""Pixels of a batch up to which a k×k convolution is faster as a product, which needs k² times the memory of x."""

_INFO = Path("/proc/cpuinfo")
IS_INTEL = "GenuineIntel" in (_INFO.read_text() if _INFO.exists() else platform.processor())
"""MKL does its best on its maker's processors. A constant: torch.compile sees no function that was called before."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (…, K) times the transpose of weight (N, K), plus bias (N,): (…, N); as torch's function, up to rounding.

    The bias gets no gradient where oneDNN computes it.
    """
    if x.device.type != "cpu":
        return F.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])  # of more dimensions, torch may copy the weight
    is_fp32 = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if is_fp32 and WORKS and _pays(rows, weight) and not (bias is not None and bias.requires_grad):
        out: Tensor = _Product.apply(rows, weight, bias)  # pyright: ignore[reportAssignmentType]
    else:
        out = F.linear(rows, weight, bias)
    return out.view(*x.shape[:-1], len(weight))


def _pays(rows: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is faster than MKL, forward and backward together."""
    if IS_INTEL:
        return len(rows) <= FEW_ROWS and _may_pay(weight)
    return rows.numel() * len(weight) >= WORTHWHILE


def _may_pay(weight: Tensor) -> bool:
    """Whether it pays for some number of rows."""
    return weight.numel() >= LARGE_WEIGHT or not IS_INTEL


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
        out = linear(self._patches(input.to(dtype)), self.weight.flatten(1), self.bias)
        return out.unflatten(0, (-1, height, width)).permute(0, 3, 1, 2).contiguous()

    def _patches(self, x: Tensor) -> Tensor:
        """Of x (B, C, H, W) what each pixel of the output is made of: (B·h·w, C·kh·kw)."""
        high, wide = self._around
        around = F.pad(x.permute(0, 2, 3, 1), (0, 0, wide, wide, high, high))
        places: Tensor = _Places.apply(around, self.kernel_size, self.stride)  # pyright: ignore[reportAssignmentType]
        return places.transpose(3, 4).flatten(0, 2).flatten(1)

    @property
    def _around(self) -> tuple[int, int]:
        assert isinstance(self.padding, tuple)
        return self.padding[0], self.padding[1]


class _Places(torch.autograd.Function):
    """The pixels of x (B, H, W, C) at the places of a kernel, for each pixel of the output: (B, h, w, kh·kw, C).

    As torch's unfold, but channels stay together in memory, so that both directions copy and add rows.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: tuple[int, int], stride: tuple[int, int]) -> Tensor:
        ctx.size, ctx.kind = x.shape, (kernel, stride)
        return torch.stack(list(_shifted(x, kernel, stride)), dim=3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        of_x = gradient.new_zeros(ctx.size)
        for part, of_part in zip(_shifted(of_x, *ctx.kind), gradient.contiguous().unbind(3), strict=True):
            part += of_part
        return of_x, None, None


def _shifted(x: Tensor, kernel: tuple[int, int], stride: tuple[int, int]) -> Iterator[Tensor]:
    """Views of x (B, H, W, C): for each place of a kernel the pixels that it meets, (B, h, w, C)."""
    height, width = ((size - k) // step * step + 1 for size, k, step in zip(x.shape[1:3], kernel, stride, strict=True))
    for top, left in itertools.product(range(kernel[0]), range(kernel[1])):
        yield x[:, top : top + height : stride[0], left : left + width : stride[1]]


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
    if IS_INTEL and not weight.is_contiguous():
        return x @ weight.t() if bias is None else torch.addmm(bias, x, weight.t())
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
        if type(layer) is nn.Linear and WORKS and _may_pay(layer.weight):
            layer.__class__ = FrozenLinear
        elif type(layer) is nn.Conv2d and _can_be_product(layer):
            layer.__class__ = FrozenConv2d


def linear_of(layer: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """`linear` where `set_kernels` had the layer computed so, else torch's: for what is added to its output, by smaller
    weights."""
    return linear if is_free(layer) and not IS_INTEL else F.linear


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
