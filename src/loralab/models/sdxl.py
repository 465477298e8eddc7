"""Stable Diffusion XL (arXiv 2307.01952)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from loralab.models.family import joined
from loralab.models.text import Text
from loralab.models.unet import UNetFamily
from loralab.schema.ranges import Pixels
from loralab.types import Batch, Conditioning


class StableDiffusionXL(UNetFamily):
    """Two text encoders side by side, a pooled text and the image's size and crop as further conditions."""

    name = "sdxl"

    def encode_text(
        self, captions: list[str], batch: Batch | None = None, size: tuple[int, int] | None = None
    ) -> Conditioning:
        cached = batch.text if batch is not None else None
        text = joined(cached) if cached is not None else self._encode(captions)
        pooled = text.pooled
        assert pooled is not None, "SDXL's second text encoder has a projection"
        times = time_ids(batch) if batch is not None else self._whole(len(captions), size)
        return Conditioning(text.hidden.to(self.device), pooled.to(self.device), {"time_ids": times.to(self.device)})

    def _encode(self, captions: list[str]) -> Text:
        first, second = (encoder(captions) for encoder in self.encoders.values())
        return Text(torch.cat([first.hidden, second.hidden], dim=-1), second.pooled)

    def _whole(self, count: int, size: tuple[int, int] | None) -> Tensor:
        """(B, 6) of images that are not cropped."""
        height, width = size or (self.resolution, self.resolution)
        return torch.tensor([[height, width, 0, 0, height, width]] * count, dtype=torch.float32)


def time_ids(batch: Batch) -> Tensor:
    """(B, 6): original height and width, top and left of the crop, height and width of the bucket, in pixels."""
    return torch.cat([batch.original_size, batch.crop, batch.target_size], dim=1).float()


def load(
    base: str,
    *,
    vae: str | None = None,
    tokenizer: str | None = None,
    max_token_length: Literal[75, 150, 225] = 75,
    emphasis: bool = False,
    prediction_type: Literal["epsilon", "v_prediction"] | None = None,
    zero_terminal_snr: bool | None = None,
    resolution: Pixels = 1024,
    gradient_checkpointing: bool = False,
    attention: Literal["auto", "sdpa", "xformers", "eager"] = "auto",
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
    quantize: Literal["nf4", "int8"] | None = None,
) -> StableDiffusionXL:
    """An SDXL model from a diffusers folder, a Hub id, or a single file; see `loralab.models.sd.load`.

    Both text encoders give the states of their last layer but one, without the final norm. In a single file the empty
    keys `v_pred` and `ztsnr` decide where `prediction_type` and `zero_terminal_snr` are None.
    """
    from loralab.models.load import encoders, load_base, prepare

    loaded = load_base(base, "sdxl", vae, tokenizer, prediction_type, zero_terminal_snr, dtype)
    prepare(loaded, attention, gradient_checkpointing, quantize, dtype)
    texts = encoders(loaded, max_token_length, emphasis, clip_skip=2, final_norm=False)
    return StableDiffusionXL(loaded, encoders=texts, resolution=resolution)
