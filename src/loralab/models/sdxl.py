"""Stable Diffusion XL (arXiv 2307.01952)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from loralab.models.clip import Text
from loralab.models.family import Family, joined
from loralab.schema.ranges import Pixels
from loralab.types import Batch, Conditioning


class StableDiffusionXL(Family):
    """Two text encoders side by side, a pooled text and the image's size and crop as further conditions."""

    name = "sdxl"
    original_names = True
    text_prefixes: ClassVar = {"text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}

    def encode_text(self, captions: list[str], batch: Batch | None = None) -> Conditioning:
        cached = batch.text if batch is not None else None
        text = joined(cached) if cached is not None else self._encode(captions)
        pooled = text.pooled
        assert pooled is not None, "SDXL's second text encoder has a projection"
        times = time_ids(batch) if batch is not None else self._native_time_ids(len(captions))
        return Conditioning(text.hidden.to(self.device), pooled.to(self.device), {"time_ids": times.to(self.device)})

    def _encode(self, captions: list[str]) -> Text:
        first, second = (encoder(captions) for encoder in self.encoders.values())
        return Text(torch.cat([first.hidden, second.hidden], dim=-1), second.pooled)

    def _native_time_ids(self, count: int) -> Tensor:
        side = self.resolution
        return torch.tensor([[side, side, 0, 0, side, side]] * count, dtype=torch.float32)

    def pipeline(self) -> Any:
        from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

        return StableDiffusionXLPipeline(
            vae=self.vae,
            **self.text_encoders,
            tokenizer=self.encoders["text_encoder"].tokenizer,
            tokenizer_2=self.encoders["text_encoder_2"].tokenizer,
            unet=self.unet,
            scheduler=self.scheduler(),
            add_watermarker=False,
        )


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
