"""How the weights of convolutions lie in memory."""

from __future__ import annotations

import torch
from torch import nn


def set_memory_format(model: nn.Module, format: torch.memory_format) -> None:
    """Of the weights of two-dimensional convolutions. The parameters stay the same objects, which others may hold."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=format)
