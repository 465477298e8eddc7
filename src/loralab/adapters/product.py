"""A frozen linear layer with its LoRA as few products, for GPUs: small kernels take longer to start than to compute."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from loralab.models import onednn


def is_adaptable(layer: nn.Module, dtype: torch.dtype) -> bool:
    """Whether a layer's product in a precision can be computed by `adapted_product`: a linear one with plain weights
    of that precision, whose kernels are left open."""
    if type(layer) not in (nn.Linear, onednn.FrozenLinear) or not onednn.is_free(layer):
        return False
    weight = layer.weight
    is_plain = type(weight) is nn.Parameter and not weight.requires_grad
    return is_plain and weight.dtype == dtype and dtype in (torch.bfloat16, torch.float16)


def adapted_product(x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """x (…, K) by a frozen weight (N, K) and bias (N,), plus scale · up (N, r) · down (r, K) · x: (…, N).

    The sum is rounded once.
    """
    out: Any = _Adapted.apply(x.reshape(-1, x.shape[-1]), weight, bias, down, up, scale)
    return out.view(*x.shape[:-1], len(weight))


class _Adapted(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        hidden = _scaled(x @ down.t(), scale)
        ctx.save_for_backward(x, weight, down, up, hidden)
        ctx.scale = scale
        return F.linear(x, weight, bias).addmm_(hidden, up.t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, down, up, hidden = ctx.saved_tensors
        of_x, _, _, of_down, of_up, _ = ctx.needs_input_grad
        of_hidden = _scaled(gradient @ up, ctx.scale)
        return (
            (gradient @ weight).addmm_(of_hidden, down) if of_x else None,
            *(None, None),
            of_hidden.t() @ x if of_down else None,
            gradient.t() @ hidden if of_up else None,
            None,
        )


def _scaled(x: Tensor, scale: float) -> Tensor:
    return x if scale == 1 else x.mul_(scale)
