"""The model itself: diffusers' transformer of Stable Diffusion 3, a T5 that reads bytes, and a VAE of 16 channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from loralab.models.family import Family
from loralab.models.text.encoder import Text, TextEncoder
from loralab.types import Conditioning, Fit
from tests.support.own_flow import measure


@dataclass
class Encoder(TextEncoder):
    model: Any
    length: int

    def __call__(self, captions: list[str]) -> Text:
        rows = [caption.encode()[: self.length - 1] for caption in captions]
        ids = [[byte + 3 for byte in row] + [1] + [0] * (self.length - 1 - len(row)) for row in rows]
        hidden = self.model(torch.tensor(ids, device=self.model.device)).last_hidden_state  # (B, T, D)
        return Text(hidden, hidden.mean(1))

    def fit(self, caption: str) -> Fit:
        return measure(self.length).of(caption)[1]

    def tokenizer_id(self) -> str:
        return "bytes"

    def signature(self) -> tuple[Any, ...]:
        return (self.length,)


class OwnFlow(Family):
    def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        assert conditioning.pooled is not None
        given = (noisy, conditioning.hidden, conditioning.pooled, timesteps)
        return self.denoiser(*given, return_dict=False)[0].float()

    def scheduler(self) -> Any:
        return FlowMatchEulerDiscreteScheduler.from_config(self._scheduler)
