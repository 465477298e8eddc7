"""Samples of an epoch as an objective gets them, without a model."""

from __future__ import annotations

from typing import Any

import torch

from loralab.types import Batch, Draw, Item

LATENTS = torch.randn(12, 4, 8, 6, generator=torch.Generator().manual_seed(1))


def batch(indices: list[int], **fields: Any) -> Batch:
    """Samples of an epoch, by their indices."""
    sizes = torch.zeros(len(indices), 2)
    given: dict[str, Any] = {
        "items": [Item(f"{i}.png", 64, 48, "") for i in indices],
        "mask": None,
        "weight": torch.ones(len(indices)),
        "is_reg": torch.zeros(len(indices), dtype=torch.bool),
        **fields,
    }
    return Batch(
        draws=[Draw(2, i) for i in indices],
        captions=[""] * len(indices),
        pixels=None,
        latent_mean=None,
        latent_std=None,
        original_size=sizes,
        crop=sizes,
        target_size=sizes,
        **given,
    )
