"""Stable Diffusion XL (arXiv 2307.01952)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from loralab.models.families.sd.model import StableDiffusion
from loralab.models.text.encoder import Text
from loralab.types import Batch, Conditioning


class StableDiffusionXL(StableDiffusion):
    """Two text encoders side by side, a pooled text and the image's size and crop as further conditions."""

    def encode_text(
        self, captions: list[str], batch: Batch | None = None, size: tuple[int, int] | None = None
    ) -> Conditioning:
        times = time_ids(batch) if batch is not None else self._whole(len(captions), size)
        return replace(super().encode_text(captions, batch), added={"time_ids": times.to(self.device)})

    def read(self, captions: list[str]) -> Text:
        first, second = (encoder(captions) for encoder in self.encoders.values())
        return Text(torch.cat([first.hidden, second.hidden], dim=-1), second.pooled)

    def _whole(self, count: int, size: tuple[int, int] | None) -> Tensor:
        """(B, 6) of images that are not cropped."""
        height, width = size or (self.resolution, self.resolution)
        return torch.tensor([[height, width, 0, 0, height, width]] * count, dtype=torch.float32)


def time_ids(batch: Batch) -> Tensor:
    """(B, 6): original height and width, top and left of the crop, height and width of the bucket, in pixels."""
    return torch.cat([batch.original_size, batch.crop, batch.target_size], dim=1).float()
