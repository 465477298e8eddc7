"""Anima."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from loralab.models.flow import FlowFamily
from loralab.models.text.encoder import Text
from loralab.types import Conditioning, Fit

STATES = 512
"""The text states that the transformer always reads: zeros follow a shorter caption's, and attention counts them."""


class Anima(FlowFamily):
    """A CosmosTransformer3DModel, for one frame, that reads the states of the text conditioner."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        # diffusers resizes the mask of padding with torchvision; here it is given as it is
        self.denoiser.register_to_config(concat_padding_mask=False)

    def read(self, captions: list[str]) -> Text:
        return self.encoders["text_conditioner"](captions)

    def fit(self, caption: str) -> Fit:
        return self.encoders["text_conditioner"].fit(caption)

    def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        frames = noisy.to(self.denoiser.dtype).unsqueeze(2)  # (B, C, 1, h, w)
        padding = frames.new_zeros(len(frames), 1, *frames.shape[2:])  # there is none
        hidden = conditioning.hidden.to(frames.dtype)
        states = F.pad(hidden, (0, 0, 0, max(0, STATES - hidden.shape[1])))
        out = self.denoiser(frames, timesteps / 1000, states, condition_mask=padding, return_dict=False)[0]
        return out.squeeze(2).float()
