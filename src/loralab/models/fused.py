"""Norms and gates of a frozen UNet on a GPU, in half precision: each as one operation.

Under autocast torch computes a norm and SiLU in fp32, each as kernels of its own between copies in other precisions and
layouts, which takes more than half of the time of a step. Here they compute in fp32, too, but read half precision and
round once, to half precision, which is what the next product is computed in.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

log = logging.getLogger(__name__)

HALF = (torch.bfloat16, torch.float16)
_has_shapes_alone = ContextVar("has_shapes_alone", default=False)


@contextmanager
def shapes_alone() -> Iterator[None]:
    """Within it tensors on a CPU are taken as if on a GPU, and results have shapes alone: what memory a GPU needs."""
    before = _has_shapes_alone.set(True)
    try:
        yield
    finally:
        _has_shapes_alone.reset(before)


class _Shapes:
    """What fused_kernels has, without values."""

    @staticmethod
    def moments(x: Tensor, groups: int, eps: float) -> Tensor:
        return x.new_empty(2, len(x), groups, dtype=torch.float32)

    @staticmethod
    def normalized(x: Tensor, *_: Any) -> Tensor:
        return torch.empty_like(x)

    @staticmethod
    def normalized_backward(gradient: Tensor, x: Tensor, *_: Any) -> Tensor:
        return torch.empty_like(x)

    @staticmethod
    def gated(x: Tensor) -> Tensor:
        return x.new_empty(*x.shape[:-1], x.shape[-1] // 2)

    @staticmethod
    def gated_backward(gradient: Tensor, x: Tensor) -> Tensor:
        return torch.empty_like(x)


def _kernels() -> Any:
    if _has_shapes_alone.get():
        return _Shapes
    from loralab.models import fused_kernels

    return fused_kernels


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, silu: bool) -> Tensor:
    """Of x (B, C, …), and SiLU of it if so: as x, with the channels last in memory. Weight and bias get no gradient."""
    out: Tensor = _GroupNorm.apply(x, groups, weight, bias, eps, silu)  # pyright: ignore[reportAssignmentType]
    return out


def geglu(x: Tensor) -> Tensor:
    """The first half of x (…, 2D) times gelu of the second: (…, D)."""
    out: Tensor = _Geglu.apply(x)  # pyright: ignore[reportAssignmentType]
    return out


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, silu: bool) -> Tensor:
        x = _channels_last(x)
        mean, scale = _kernels().moments(x, groups, eps)
        ctx.save_for_backward(x, mean, scale, weight, bias)
        ctx.silu = silu
        return _kernels().normalized(x, mean, scale, weight, bias, silu).movedim(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, scale, weight, bias = ctx.saved_tensors
        of_x = _kernels().normalized_backward(_channels_last(gradient), x, mean, scale, weight, bias, ctx.silu)
        return of_x.movedim(-1, 1), None, None, None, None, None


class _Geglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x)
        return _kernels().gated(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _kernels().gated_backward(gradient.contiguous(), *ctx.saved_tensors)


def _channels_last(x: Tensor) -> Tensor:
    """x (B, C, …) as (B, …, C), dense: a view, where it lies so."""
    return x.movedim(1, -1).contiguous()


class FrozenGroupNorm(nn.GroupNorm):
    """A group norm of frozen weights."""

    silu = False

    def forward(self, input: Tensor) -> Tensor:
        if _is_in_half(input, self.weight, self.bias) and works(input.device):
            return group_norm(input, self.num_groups, self.weight, self.bias, self.eps, self.silu)
        out = super().forward(input)
        return F.silu(out) if self.silu else out


class FrozenGroupNormSiLU(FrozenGroupNorm):
    """One with SiLU after it."""

    silu = True


class SiLUOfEmbedding(nn.Module):
    """That of a residual block, which has its norms compute it, but for the time's embedding."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x) if x.ndim == 2 else x


class FrozenLayerNorm(nn.LayerNorm):
    """A layer norm of frozen weights before a product: torch's own, which computes in fp32 and rounds once."""

    def forward(self, input: Tensor) -> Tensor:
        if self.weight.dtype != input.dtype or not _is_in_half(input, self.weight, self.bias):
            return super().forward(input)
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input)


class FusedGEGLU(GEGLU):
    """A projection, then the gate as one operation."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if hidden_states.device.type == "npu":  # which has a kernel of its own
            return super().forward(hidden_states, *args, **kwargs)
        x = self.proj(hidden_states)
        if _is_in_half(x) and works(x.device):
            return geglu(x)
        hidden, gate = x.chunk(2, dim=-1)
        return hidden * self.gelu(gate)


class ChannelsLastTransformer(Transformer2DModel):
    """One that leaves the channels last in memory, where diffusers copies them to the front."""

    def _get_output_for_continuous_inputs(
        self, hidden_states: Tensor, residual: Tensor, batch_size: int, height: int, width: int, inner_dim: int
    ) -> Tensor:
        if not _is_in_half(hidden_states):
            return super()._get_output_for_continuous_inputs(
                hidden_states, residual, batch_size, height, width, inner_dim
            )
        if self.use_linear_projection:
            hidden_states = self.proj_out(hidden_states)
        image = hidden_states.unflatten(1, (height, width)).movedim(-1, 1)
        return (image if self.use_linear_projection else self.proj_out(image)) + residual


ChannelsLastTransformer.__name__ = Transformer2DModel.__name__  # by which other programs, such as LyCORIS, find it


def _is_in_half(x: Tensor, *weights: Tensor | None) -> bool:
    """Whether x is computed with in half precision on a GPU, with frozen weights, and by torch's eager mode."""
    is_there, kind = x.is_cuda or _has_shapes_alone.get(), x.device.type
    if not is_there or x.dtype not in HALF or torch.compiler.is_compiling():
        return False
    is_used = not torch.is_autocast_enabled(kind) or torch.get_autocast_dtype(kind) == x.dtype
    return is_used and not any(weight is not None and weight.requires_grad for weight in weights)


@functools.cache
def works(device: torch.device) -> bool:
    """Whether Triton can be used on a GPU: it wants one that it knows, and a C compiler."""
    if device.type == "cpu":  # shapes alone
        return True
    if find_spec("triton") is None:
        return False
    try:
        x = torch.linspace(-3, 3, 64, device=device).view(2, 32)
        hidden, gate = x.chunk(2, dim=-1)
        return all(torch.allclose(geglu(x.to(half)).float(), hidden * F.gelu(gate), atol=0.1) for half in HALF)
    except Exception as error:  # of its compiler, of the driver, of a build for another torch: each its own class
        log.warning("norms and gates are computed by torch, as Triton does not work here (%s)", error)
        return False


def set_fused(denoiser: nn.Module) -> None:
    """Has the norms and gates of a frozen UNet computed in the faster way, where they are in half precision on a GPU.

    Names of weights stay as they are. Its convolutions should have the channels last in memory.
    """
    for layer in list(denoiser.modules()):
        if type(layer) is ResnetBlock2D and layer.time_embedding_norm == "default":
            if type(layer.nonlinearity) is nn.SiLU and type(layer.norm1) is type(layer.norm2) is nn.GroupNorm:
                layer.norm1.__class__ = layer.norm2.__class__ = FrozenGroupNormSiLU
                layer.nonlinearity = SiLUOfEmbedding()
        elif type(layer) is UNet2DConditionModel:
            if type(layer.conv_norm_out) is nn.GroupNorm and type(layer.conv_act) is nn.SiLU:
                layer.conv_norm_out.__class__ = FrozenGroupNormSiLU
                layer.conv_act = nn.Identity()
        elif type(layer) is Transformer2DModel and layer.is_input_continuous:
            layer.__class__ = ChannelsLastTransformer
            layer.norm.__class__ = FrozenGroupNorm
        elif type(layer) is BasicTransformerBlock and layer.norm_type == "layer_norm":
            for norm in layer.children():
                if type(norm) is nn.LayerNorm and norm.elementwise_affine:
                    norm.__class__ = FrozenLayerNorm
        elif type(layer) is GEGLU:
            layer.__class__ = FusedGEGLU
