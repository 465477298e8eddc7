"""Gradient checkpointing: activations that are computed again in backward rather than kept (arXiv 1604.06174)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

LISTS = (
    *("resnets", "transformer_blocks", "single_transformer_blocks"),
    *("layers", "noise_refiner", "context_refiner"),  # of Z-Image
)
"""The lists of modules that diffusers' models compute again one by one."""
LEVELS = ("down_blocks", "mid_block", "up_blocks")
"""Of a UNet, in the order of computation."""


def checkpoint_gradients(denoiser: Any, text_encoders: Iterable[Any], blocks: bool | int) -> None:
    """Has blocks computed again in backward: of the denoiser so many, the outermost first; all blocks of all models
    where `blocks` is true. The gradients are the same to the last bit."""
    chosen = set(outermost(denoiser) if blocks is True else outermost(denoiser)[:blocks])

    def computed(module: nn.Module, *given: Any) -> Any:
        return recomputed(module, *given) if module in chosen else module(*given)

    denoiser.enable_gradient_checkpointing(computed)
    for encoder in text_encoders if blocks is True else ():
        if hasattr(encoder, "enable_gradient_checkpointing"):  # one of diffusers
            encoder.enable_gradient_checkpointing(recomputed)
            continue
        # newer versions of transformers call it activation checkpointing
        enable = getattr(encoder, "activation_checkpointing_enable", None) or encoder.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        encoder.train()  # transformers recomputes in training mode only; text encoders have no dropout


def recomputed(module: Any, *given: Any) -> Any:
    """A module's output, computed again in backward with the same random numbers; in a CUDA graph, which cannot look at
    the generator, without any."""
    has_random = not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())
    return checkpoint(module, *given, use_reentrant=False, preserve_rng_state=has_random)


def outermost(denoiser: nn.Module) -> list[nn.Module]:
    """The blocks that can be computed again, from both ends of the denoiser inwards: those of a UNet that see the most
    pixels come first, which keep the most for the time that it takes to compute them again."""
    found = blocks_of(denoiser)
    return [found.pop(-1 if turn % 2 == 0 else 0) for turn in range(len(found))]


def blocks_of(denoiser: nn.Module) -> list[nn.Module]:
    """The same from its input to its output."""
    named = [(name.split("."), module) for name, module in denoiser.named_modules()]
    found = [(names[0], module) for names, module in named if len(names) > 1 and names[-2] in LISTS]
    found.sort(key=lambda each: LEVELS.index(each[0]) if each[0] in LEVELS else 0)
    return [module for _, module in found]
