"""The denoiser's repeated blocks by torch.compile, which joins what lies between the large products.

Blocks of one structure share their kernels. Every shape has its own, chosen without timing them: which ones compute a
batch does not depend on those before it, so a resumed run computes the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from loralab.models.checkpointing import blocks_of

UNLIMITED = 2**20
"""Recompilations of a block's code: one for each shape, and beyond a limit torch would go on uncompiled."""
OPTIONS = {
    "deterministic": True,
    "fallback_random": True,  # the numbers that plain blocks draw
    "triton.mix_order_reduction": False,  # whose gradients of modulated norms are wrong (pytorch issue 193061)
}
"""Of inductor, as far as a version has them."""


class CompiledBlocks:
    """The blocks of a denoiser, compiled where gradients are computed: pictures and validation have other shapes.

    Hooks, of offloading and gradient checkpointing, stay outside.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        import torch._dynamo
        import torch._inductor.config as inductor

        torch._dynamo.config.recompile_limit = UNLIMITED
        torch._dynamo.config.accumulated_recompile_limit = UNLIMITED
        known = inductor.get_config_copy()
        options: Any = {name: value for name, value in OPTIONS.items() if name in known}
        self.is_used = False
        self._forwards = {
            block: _with_gradients(torch.compile(block.forward, dynamic=False, options=options), block.forward)
            for block in blocks_of(denoiser)
        }

    def use(self) -> None:
        self.is_used = True
        for block, forward in self._forwards.items():
            block.forward = forward

    def drop(self) -> None:
        """The blocks compute as they did."""
        self.is_used = False
        for block in self._forwards:
            vars(block).pop("forward", None)


def _with_gradients(compiled: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    def forward(*given: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return plain(*given, **named)
        return compiled(*map(_straight, given), **named)

    return forward


def _straight(given: Any) -> Any:
    """On a CPU inductor's vectors get the gradients of transposed inputs wrong, seen with torch 2.13 and AVX-512."""
    return given.contiguous() if isinstance(given, Tensor) and given.device.type == "cpu" else given
