"""The model itself: diffusers' transformer of Stable Diffusion 3, a T5 that reads bytes, and a VAE of 16 channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from torch import Tensor
from transformers import T5Config, T5EncoderModel

from loralab.diffusion.process import Flow
from loralab.models.family import Base, Family, joined
from loralab.models.text import Text
from loralab.types import Batch, Conditioning, Fit
from tests.support.tiny_flow import TEXT, TRANSFORMER

VAE = {
    "block_out_channels": (8, 8, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 16,
    "scaling_factor": 1.5,
    "shift_factor": 0.06,
}


@dataclass
class Bytes:
    """Every byte of a caption is a token."""

    model: Any
    length: int

    def __call__(self, captions: list[str]) -> Text:
        rows = [caption.encode()[: self.length - 1] for caption in captions]
        ids = [[byte + 3 for byte in row] + [1] + [0] * (self.length - 1 - len(row)) for row in rows]
        hidden = self.model(torch.tensor(ids, device=self.model.device)).last_hidden_state  # (B, T, D)
        return Text(hidden, hidden.mean(1))

    def fit(self, caption: str) -> Fit:
        return Fit(1, max(0, len(caption.encode()) - self.length + 1))

    def reaches(self, path: str) -> bool:
        return True

    def tokenizer_id(self) -> str:
        return "bytes"

    def signature(self) -> tuple[Any, ...]:
        return (self.length,)


class TinyFlow(Family):
    name = "tiny_flow"

    def encode_text(
        self, captions: list[str], batch: Batch | None = None, size: tuple[int, int] | None = None
    ) -> Conditioning:
        cached = batch.text if batch is not None else None
        text = joined(cached) if cached is not None else self.encoders["text_encoder"](captions)
        assert text.pooled is not None
        return Conditioning(text.hidden.to(self.device), text.pooled.to(self.device))

    def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        assert conditioning.pooled is not None
        given = (noisy, conditioning.hidden, conditioning.pooled, timesteps)
        return self.denoiser(*given, return_dict=False)[0].float()

    def scheduler(self) -> Any:
        return FlowMatchEulerDiscreteScheduler.from_config(self._scheduler)


def made(seed: int, resolution: int, length: int) -> TinyFlow:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser, vae = SD3Transformer2DModel(**TRANSFORMER).eval(), AutoencoderKL(**VAE).eval()
        text = T5EncoderModel(T5Config(**TEXT)).eval()
    base = Base(f"tiny-flow-{seed}", denoiser, vae, {"text_encoder": text}, {}, {}, Flow())
    return TinyFlow(base, {"text_encoder": Bytes(text, length)}, resolution)
